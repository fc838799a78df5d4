"""From a finished tour to its report.html and its metrics.jsonl."""

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import torch

import danlu
from danlu.commands.pages.parts import TableData
from danlu.commands.tour.charts import Series, loss_chart
from danlu.commands.tour.evaluation import Scores, models_of, read_scores, scores_file
from danlu.commands.tour.page import LifeStep, ReportData, Sample, render
from danlu.commands.tour.paths import TourPaths
from danlu.commands.tour.state import TourState
from danlu.commands.tour.steps import STEPS
from danlu.files import size_text, write_text
from danlu.train.metrics import read_metrics

NUM_SAMPLES = 12
LABELS = {
    "before": "pre-trained",
    "after": "fine-tuned",
    "merged": "merged",
    "int8": "int8",
    "int4": "int4",
}


def write_report(paths: TourPaths, state: TourState) -> None:
    """Write report.html and metrics.jsonl of a tour whose steps are all finished."""
    write_text(paths.metrics, "".join(_metric_lines(paths, state)))
    write_text(paths.report, render(report_data(paths, state)))


def report_data(paths: TourPaths, state: TourState) -> ReportData:
    """Return what the report shows."""
    scores = {name: read_scores(scores_file(paths, name)) for name in models_of(paths)}
    before, after = scores["before"], scores["after"]
    parameters = state.facts("pretrain")["parameters"]
    seconds = sum(record.seconds for record in state.steps.values())
    return ReportData(
        summary=(
            f"From raw text to a chat, quantized and measured, in {minutes_text(seconds)} "
            "on this machine, with nothing downloaded."
        ),
        tiles=(
            ("parameters, trained from scratch", f"{parameters / 1e6:.1f} M"),
            (
                "exactly right, before and after fine-tuning",
                f"{_percent(before['accuracy'])} -> {_percent(after['accuracy'])}",
            ),
            ("perplexity of held-out text", _perplexity(before)),
            (
                "size of the weights, as int4",
                f"{size_text(scores['merged']['weight_bytes'])} -> "
                f"{size_text(scores['int4']['weight_bytes'])}",
            ),
        ),
        life=[_life_step(step.title, state, step.name) for step in STEPS],
        charts=[
            _chart(paths, "pretrain", "Pre-training"),
            _chart(paths, "finetune", "Fine-tuning"),
        ],
        tokenizer=TableData(
            ("", "one token per byte", "this tokenizer"), state.facts("tokenizer")["table"]
        ),
        models=TableData(MODEL_HEADER, model_rows(state, scores)),
        models_note=_models_note(state),
        kinds=kind_table(scores),
        samples=pick_samples(before["samples"], after["samples"]),
        commands=how_to_go_on(paths),
        facts=_facts(paths, state),
    )


MODEL_HEADER = ("", "exactly right", "perplexity", "KL", "size", "tokens/s", "speed-up")


def model_rows(state: TourState, scores: Mapping[str, Scores]) -> list[list[str]]:
    """Return a row for each model: accuracy, perplexity, KL, size, speed."""
    quantized = state.facts("quantize")
    distances = {
        "merged": state.facts("merge")["comparison"]["kl_mean"],
        **{name: quantized[name]["comparison"]["kl_mean"] for name in ("int8", "int4")},
    }
    reference = scores["merged"]["speed"]["decode_tokens_per_s"]
    return [
        _model_row(LABELS[name], score, distances.get(name), reference)
        for name, score in scores.items()
    ]


def _model_row(label: str, score: Scores, kl: float | None, reference: float) -> list[str]:
    speed = score["speed"]["decode_tokens_per_s"]
    return [
        label,
        _percent(score["accuracy"]),
        _perplexity(score),
        "-" if kl is None else f"{kl:.1e}",
        size_text(score["weight_bytes"]),
        f"{speed:,.0f}",
        f"{speed / reference:.2f}x",
    ]


def _models_note(state: TourState) -> str:
    world = state.facts("world")
    note = (
        f"{world['test_instructions']} held-out instructions, answered greedily and compared "
        "character by character; perplexity of held-out text; KL of the merged model against base "
        "and adapter, of the quantized ones against the merged; decoding one sequence in bfloat16."
    )
    if world["own_text"] and not world["own_instructions"]:
        note += (
            " The instructions ask for the rest of a line of your text. Few lines have only one "
            "continuation, so exact matches are rare however well it learned."
        )
    return note


def kind_table(scores: Mapping[str, Scores]) -> TableData:
    """Return the share of right answers for each kind of instruction; empty without kinds."""
    kinds = sorted(scores["after"]["by_kind"])
    rows = [[kind, *(_kind_share(score, kind) for score in scores.values())] for kind in kinds]
    return TableData(("", *(LABELS[name] for name in scores)), rows)


def _kind_share(score: Scores, kind: str) -> str:
    tally = score["by_kind"][kind]
    return f"{100 * tally['correct'] / tally['total']:.0f} %"


def pick_samples(
    before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]
) -> list[Sample]:
    """Return answers before and after: of every kind in turn, and wrong ones are not left out."""
    pairs = list(zip(before, after, strict=True))
    by_kind: dict[str, list[tuple[Any, Any]]] = {}
    for pair in pairs:
        by_kind.setdefault(pair[1]["kind"], []).append(pair)
    rounds = max((len(group) for group in by_kind.values()), default=0)
    in_turn = [g[number] for number in range(rounds) for g in by_kind.values() if number < len(g)]
    chosen = in_turn[:NUM_SAMPLES]
    wrong = [pair for pair in pairs if not pair[1]["correct"] and pair not in chosen]
    return [_sample(*pair) for pair in [*chosen, *wrong[:2]]]


def _sample(before: Mapping[str, Any], after: Mapping[str, Any]) -> Sample:
    return Sample(
        prompt=after["prompt"],
        expected=after["expected"],
        before=before["got"],
        after=after["got"],
        before_is_right=before["correct"],
        after_is_right=after["correct"],
    )


def _life_step(title: str, state: TourState, name: str) -> LifeStep:
    record = state.steps[name]
    return LifeStep(title, record.proof, minutes_text(record.seconds))


def _chart(paths: TourPaths, run: str, title: str) -> tuple[str, str]:
    lines = read_metrics(paths.folder / run / "metrics.jsonl")
    trained = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    held_out = [(line["step"], line["held_out_loss"]) for line in lines if "held_out_loss" in line]
    series = (
        Series("training", trained, "train"),
        Series("held out", held_out, "held", dots=True),
    )
    return title, loss_chart(title, series)


def how_to_go_on(paths: TourPaths) -> list[tuple[str, str]]:
    """Return what to try next, each with its exact command."""
    folder = paths.folder
    test = paths.material.instructions_test
    return [
        ("talk with it", f"danlu chat {paths.model}"),
        ("ask it one thing", f'danlu generate {paths.model} --chat --prompt "..." --temperature 0'),
        ("measure it again", f"danlu eval {paths.quantized(4)} --instructions {test}"),
        ("see what int4 changed", f"danlu compare {paths.model} {paths.quantized(4)}"),
        (
            "fine-tune longer",
            f"danlu finetune {folder}/finetune/run.json train.steps=1000 out=longer",
        ),
        ("start over with your own text", "danlu tour --corpus my-text/ --out my-tour"),
    ]


def _facts(paths: TourPaths, state: TourState) -> dict[str, str]:
    shape = state.plan.model
    pretrain, finetune = state.facts("pretrain"), state.facts("finetune")
    return {
        "folder": str(paths.folder),
        "finished": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "seed": str(state.choices["seed"]),
        "text": state.choices["corpus"] or "the tiny world, written by Danlu itself",
        "model": (
            f"Llama style, {shape.num_layers} layers of {shape.hidden_size}, "
            f"{shape.num_heads} heads ({shape.num_kv_heads} key/value), "
            f"{pretrain['parameters']:,} parameters"
        ),
        "pre-training": _phase(pretrain),
        "fine-tuning": f"{_phase(finetune)}, LoRA rank {state.plan.adapter.lora_rank}",
        "machine": f"{platform.platform()}, {torch.get_num_threads()} threads",
        "versions": f"danlu {danlu.__version__}, torch {torch.__version__}, "
        f"Python {platform.python_version()}",
    }


def _phase(facts: Mapping[str, Any]) -> str:
    speed = f"{facts['tokens_per_s']:,.0f} per second"
    return f"{facts['steps']:,} steps, {facts['tokens']:,} tokens, {speed}"


def _metric_lines(paths: TourPaths, state: TourState) -> Iterator[str]:
    for run in ("pretrain", "finetune"):
        for line in read_metrics(paths.folder / run / "metrics.jsonl"):
            yield json.dumps({"run": run, **line}) + "\n"
    for name, scores in state.facts("evaluate").items():
        kept = {key: scores[key] for key in ("accuracy", "perplexity", "weight_bytes")}
        yield json.dumps({"run": "evaluate", "model": name, **kept}) + "\n"


def minutes_text(seconds: float) -> str:
    """Return seconds as 4.2 s or 5:06 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{round(seconds) // 60}:{round(seconds) % 60:02} min"


def _perplexity(score: Scores) -> str:
    value = score["perplexity"]
    return "infinite" if value is None else f"{value:.3f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
