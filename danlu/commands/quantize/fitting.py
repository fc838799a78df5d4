"""How a model was made to fit a budget: the choice, and what the report says about it."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from danlu.calibration.fitting.candidates import Candidate
from danlu.calibration.fitting.fit import NEAR, Choice, Fitted, fit_run
from danlu.commands.pages.parts import TableData
from danlu.commands.quantize.charts import percent
from danlu.config.quantize.run import QuantizeRun, plain
from danlu.files import size_text
from danlu.progress import Progress

FOLDER = "fit"  # in the work folder


def fitted_run(
    run: QuantizeRun, rows: Sequence[Sequence[int]], work: Path, progress: Progress
) -> Fitted | None:
    """Return how the model of a run fits its budget; None if it has none. See `fit_run`.

    Args:
        run: as it applies to what is quantized.
        rows: calibration text.
        work: folder that keeps what was measured.
        progress: of the blocks.
    """
    if run.fit is None:
        return None
    return fit_run(run.model, run, rows, work / FOLDER, progress)


def fit_values(fitted: Fitted) -> dict[str, Any]:
    """Return the choice as plain values."""
    budget = fitted.budget
    return {
        "budget_bytes": budget.total,
        "weight_bytes": fitted.weight_bytes,
        "cache_bytes": budget.cache,
        "cache_tokens": budget.cache_tokens,
        "used": fitted.used,
        "choices": [
            {
                "layers": list(choice.layers),
                "scheme": None if choice.scheme is None else plain(choice.scheme),
                "num_bytes": choice.num_bytes,
                "block_error": choice.error,
            }
            for choice in fitted.choices
        ],
    }


def fit_rows(fitted: Fitted) -> list[tuple[str, str]]:
    """Return labels and values for a table in the terminal."""
    budget = fitted.budget
    told = (
        f"{size_text(fitted.weight_bytes + budget.cache)} of {size_text(budget.total)} "
        f"({fitted.used:.1%}): weights {size_text(fitted.weight_bytes)}, keys and values of "
        f"{budget.cache_tokens} tokens {size_text(budget.cache)}"
    )
    counts = Counter(_said(choice.scheme) for choice in fitted.choices for _ in choice.layers)
    chosen = [("chosen", f"{scheme}: {count} layers") for scheme, count in counts.most_common()]
    return [("fits", told), *chosen, *(("note", note) for note in fit_notes(fitted))]


def fit_notes(fitted: Fitted) -> list[str]:
    """Return what is worth knowing about a choice."""
    few = any(choice.scheme is not None and choice.scheme.bits < 4 for choice in fitted.choices)
    notes = ["layers of 2 or 3 bits are read by Danlu and transformers, not by vLLM"] * few
    if fitted.used < 1 - NEAR:
        left = size_text(round(fitted.budget.total * (1 - fitted.used)))
        notes.append(f"{left} of the budget are left: no group of layers gains bits for so little")
    return notes


def fit_table(fitted: Fitted) -> TableData:
    """Return the choice for each group of layers."""
    header = ("layers", "scheme", "size", "error of the block")
    return TableData(header, [_row(choice) for choice in fitted.choices])


def _row(choice: Choice) -> list[str]:
    names = choice.layers[0] if len(choice.layers) == 1 else _together(choice.layers)
    error = "" if choice.scheme is None else percent(choice.error)
    return [names, _said(choice.scheme), size_text(choice.num_bytes), error]


def _together(layers: tuple[str, ...]) -> str:
    """Return layers as model.layers.0.mlp: gate_proj, up_proj; experts by their number."""
    parents = dict.fromkeys(name.rpartition(".")[0] for name in layers)
    if len(parents) > 1:
        return f"{next(iter(parents)).rpartition('.')[0]}: {len(layers)} layers"
    return f"{next(iter(parents))}: {', '.join(name.rpartition('.')[2] for name in layers)}"


def _said(scheme: Candidate) -> str:
    return "left alone" if scheme is None else scheme.summary
