"""GPTQ of a whole model beside gptqmodel and llmcompressor: time, peak memory, what it costs.

Every side quantizes the same random model (bf16) to symmetric int4 in groups of 128 on the same
token rows, in a fresh process each time, in turns with the others: it opens the folder, quantizes
block by block and writes a folder. The time is of all that, without imports; memory is the largest
resident set of the process. gptqmodel runs as it is by default (groups ordered by activation),
llmcompressor with its default order (static), Danlu with its own defaults; all damp by the same
share. What it costs is measured by Danlu, which opens every written folder: the relative difference
of logits, and KL, from the original on rows that nobody calibrated on. The peers live in
environments that DANLU_GPTQMODEL_PYTHON and DANLU_LLMCOMPRESSOR_PYTHON name.

    python -m benchmarks.quantizing [--size 0.5b] [--rows 32] [--length 512] [--rounds 2]
        [--work FOLDER] [--out FILE.md] [--tiny]
"""

import argparse
import json
import os
import random
import shutil
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.checkpoint import SIZES, add_work_option, checkpoint
from benchmarks.facts import shown_command
from benchmarks.measuring import Samples, Spread, paired_rounds, ratio_text, verdict
from benchmarks.results import Report, Table, add_output_options, publish
from benchmarks.speed_tables import NOT_MEASURED
from benchmarks.worker import Worker

OURS = "danlu"
PEERS = {"gptqmodel": "DANLU_GPTQMODEL_PYTHON", "llmcompressor": "DANLU_LLMCOMPRESSOR_PYTHON"}
TIME_AIM, ERROR_AIM = 0.5, 1.0
SEED, HELD_OUT_ROWS = 0, 4
SCHEME = {"bits": 4, "group_size": 128, "damping": 0.05}


@dataclass
class Found:
    """What the rounds gave, by side; memory in bytes, costs as Danlu measured them."""

    seconds: Samples = field(default_factory=dict)
    memory: dict[str, list[float]] = field(default_factory=dict)
    costs: dict[str, dict[str, float]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


def token_rows(count: int, length: int, vocab_size: int) -> list[list[int]]:
    """Return rows of token ids of which small ones are frequent, as in text."""
    chance = random.Random(SEED)
    return [[int(vocab_size ** chance.random()) - 1 for _ in range(length)] for _ in range(count)]


def sides_of(found: Found) -> dict[str, tuple[str, str | None]]:
    """Return name -> (worker's module, interpreter), of those that are installed."""
    sides: dict[str, tuple[str, str | None]] = {OURS: ("benchmarks.quantizers", None)}
    for name, variable in PEERS.items():
        if variable in os.environ:
            sides[name] = ("benchmarks.quantizing_peer", os.environ[variable])
        else:
            found.versions[name] = f"{NOT_MEASURED}: {variable} names no python"
    return sides


def measure(model: Path, rows: Path, work: Path, rounds: int) -> Found:
    """Return what every side took and cost.

    Args:
        model: folder of the original.
        rows: JSON file with the rows to calibrate on, and those held out.
        work: a folder for what is written; emptied at the end.
        rounds: that count; there is no warm-up, since every process is a fresh one.
    """
    found = Found()
    sides = sides_of(found)
    measures = {
        name: partial(_quantize, name, *side, model, rows, work, found)
        for name, side in sides.items()
    }
    found.seconds = paired_rounds(measures, rounds, warm_ups=0)
    for name in sides:
        with Worker("benchmarks.quantizers", {"name": OURS, "rows": str(rows)}) as worker:
            found.costs[name] = worker.ask("cost", model=str(model), out=str(work / name))
        shutil.rmtree(work / name)
    return found


def _quantize(
    name: str, module: str, python: str | None, model: Path, rows: Path, work: Path, found: Found
) -> float:
    shutil.rmtree(work / name, ignore_errors=True)
    with Worker(module, {"name": name, "rows": str(rows)}, python) as worker:
        answer = worker.ask("quantize", model=str(model), out=str(work / name), **SCHEME)
    found.memory.setdefault(name, []).append(answer["peak"])
    found.versions[name] = answer["version"]
    return float(answer["seconds"])


def table(found: Found, weights: int) -> Table:
    """Return one row for each side; the aims are of Danlu against gptqmodel."""
    columns = ("tool", "seconds", "ratio", "aim", "peak MB", "above the weights", "ratio")
    made = Table(
        f"Symmetric int4 by GPTQ, groups of 128; the weights are {weights / 1e6:,.0f} MB",
        (*columns[:6], "memory ratio", "logit error", "aim for the error", "KL in nats"),
    )
    reference = next((name for name in PEERS if name in found.seconds), OURS)
    for name, seconds in found.seconds.items():
        peak, cost = Spread(tuple(found.memory[name])), found.costs[name]
        compared = name == OURS and reference != OURS
        error = cost["logit_error"] / found.costs[reference]["logit_error"]
        time = seconds.median / found.seconds[reference].median
        made.rows.append(
            (
                f"{name} {found.versions[name]}",
                seconds.text(",.1f"),
                ratio_text(seconds, found.seconds[reference]),
                verdict(time, TIME_AIM, at_least=False) if compared else "",
                f"{peak.median / 1e6:,.0f}",
                f"{(peak.median - weights) / 1e6:,.0f}",
                f"{peak.median / Spread(tuple(found.memory[reference])).median:.2f}x",
                f"{cost['logit_error']:.4f}",
                verdict(error, ERROR_AIM, at_least=False) if compared else "",
                f"{cost['kl']:.2e}",
            )
        )
    missing = [name for name in PEERS if name not in found.seconds]
    made.rows += [(name, found.versions[name], *[""] * 8) for name in missing]
    return made


def write_rows(path: Path, options: argparse.Namespace, size: str) -> None:
    """Write the rows that everybody calibrates on, and those held out."""
    vocabulary = SIZES[size]["vocab_size"]
    rows = token_rows(options.rows + HELD_OUT_ROWS, options.length, vocabulary)
    kept = {"calibration": rows[HELD_OUT_ROWS:], "held_out": rows[:HELD_OUT_ROWS]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(kept), encoding="utf-8")


def parse() -> argparse.Namespace:
    """Return the options; --tiny shortens everything."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_work_option(parser)
    add_output_options(parser)
    parser.add_argument("--size", choices=[*SIZES], default="0.5b", help="of the model")
    parser.add_argument("--rows", type=int, default=32, help="rows to calibrate on")
    parser.add_argument("--length", type=int, default=512, help="tokens of a row")
    parser.add_argument("--rounds", type=int, default=2, help="rounds that count")
    options = parser.parse_args()
    if options.tiny:
        options.size, options.rows, options.length, options.rounds = "tiny", 4, 64, 1
    return options


def main() -> None:
    """Measure and publish."""
    options = parse()
    report = Report(
        "quantizing",
        f"GPTQ on the CPU beside gptqmodel and llmcompressor, random {options.size} in bf16",
        shown_command("benchmarks.quantizing", sys.argv[1:]),
        how=__doc__.split("\n\n")[1],
    )
    work = options.work / f"quantizing-{options.size}"
    model = checkpoint(options.size, options.work)
    write_rows(work / "rows.json", options, options.size)
    report.facts["calibration"] = f"{options.rows} rows of {options.length} tokens"
    found = measure(model, work / "rows.json", work, options.rounds)
    weights = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    report.tables.append(table(found, weights))
    report.add_samples("seconds", found.seconds)
    kept: dict[str, Any] = {"peak bytes": found.memory, "costs": found.costs}
    report.samples |= kept
    publish(report, options)


if __name__ == "__main__":
    main()
