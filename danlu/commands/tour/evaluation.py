"""The scores of the tour's five models, each kept as soon as it is there."""

import json
from pathlib import Path
from typing import Any

from danlu.commands.evaluate import evaluate
from danlu.commands.tour.paths import TourPaths
from danlu.progress import Progress, working

Scores = dict[str, Any]


def models_of(paths: TourPaths) -> dict[str, tuple[Path, Path | None]]:
    """Return each model's name, folder and adapter, in the order of its life."""
    return {
        "before": (paths.base, None),
        "after": (paths.base, paths.adapter),
        "merged": (paths.model, None),
        "int8": (paths.quantized(8), None),
        "int4": (paths.quantized(4), None),
    }


def evaluate_models(paths: TourPaths, progress: Progress) -> dict[str, Scores]:
    """Return the scores of every model; those that a killed tour left are taken over."""
    models = models_of(paths)
    files = paths.material
    scores: dict[str, Scores] = {}
    with working(progress, "evaluate", len(models)):
        for name, (model, adapter) in models.items():
            file = scores_file(paths, name)
            if not file.exists():
                evaluate(
                    model,
                    files.instructions_test,
                    files.held_out,
                    adapter,
                    with_speed=True,
                    out=file,
                    progress=progress,
                )
            scores[name] = {k: v for k, v in read_scores(file).items() if k != "samples"}
            progress.advance(1, name)
    return scores


def scores_file(paths: TourPaths, name: str) -> Path:
    """Return where the scores and answers of a model are."""
    return paths.evaluate / f"{name}.json"


def read_scores(file: Path) -> Scores:
    """Return the scores and answers of a model."""
    scores: Scores = json.loads(file.read_text(encoding="utf-8"))
    return scores
