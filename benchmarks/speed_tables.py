"""Decode and prefill of several engines, round by round, and the tables made of it."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from benchmarks.measuring import Samples, best_of, paired_rounds, ratio_text, verdict
from benchmarks.results import Report, Table
from benchmarks.worker import Worker

BANDWIDTH = "memory bandwidth"
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Side:
    """An engine: its name in the tables, its worker and interpreter (None: this one)."""

    name: str
    options: dict[str, Any]
    worker: str = "benchmarks.engines"
    python: str | None = None


@dataclass(frozen=True)
class Lengths:
    """Tokens of prompts and answers, and how many rounds."""

    decode_prompt: int = 16
    new_tokens: int = 48
    prefill_prompt: int = 512
    rounds: int = 5


@dataclass
class Speeds:
    """What the rounds gave, and what the engines tell of themselves."""

    lengths: Lengths
    decode: Samples = field(default_factory=dict)
    prefill: Samples = field(default_factory=dict)
    about: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def bandwidth(self) -> float:
        """The median bytes per second of reading memory."""
        return self.decode[BANDWIDTH].median

    def reference(self, samples: Samples) -> str | None:
        """Return the fastest route of transformers, None if it was not measured."""
        routes = [name for name in self.about if name.startswith("transformers")]
        return best_of(samples, routes) if routes else None


def measure_speeds(sides: Sequence[Side], lengths: Lengths, device: str, size: int) -> Speeds:
    """Load all sides, each in its own process, and measure them in turns.

    Args:
        sides: the engines.
        lengths: what to measure.
        device: where the bandwidth is measured.
        size: bytes that the bandwidth is measured with.
    """
    speeds = Speeds(lengths)
    with ExitStack() as stack:
        reader = stack.enter_context(
            Worker("benchmarks.bandwidth", {"device": device, "size": size})
        )
        routes: dict[str, tuple[Worker, str]] = {}
        for side in sides:
            worker = stack.enter_context(Worker(side.worker, side.options, side.python))
            about = worker.ask("describe")
            for route in about["routes"]:
                name = f"{side.name}, {route}" if len(about["routes"]) > 1 else side.name
                routes[name] = (worker, route)
                speeds.about[name] = about
        decode = {name: partial(_decode, *route, lengths) for name, route in routes.items()}
        prefill = {name: partial(_prefill, *route, lengths) for name, route in routes.items()}
        read = {BANDWIDTH: lambda: float(reader.ask("measure")["bytes_per_s"])}
        speeds.decode = paired_rounds({**read, **decode}, lengths.rounds)
        speeds.prefill = paired_rounds(prefill, lengths.rounds)
        for name, (worker, _) in routes.items():
            speeds.about[name] = {**speeds.about[name], **worker.ask("memory")}
    return speeds


def _decode(worker: Worker, route: str, lengths: Lengths) -> float:
    answer = worker.ask(
        "measure",
        route=route,
        prompt_tokens=lengths.decode_prompt,
        new_tokens=lengths.new_tokens,
    )
    return float((lengths.new_tokens - 1) / answer["decode_s"])


def _prefill(worker: Worker, route: str, lengths: Lengths) -> float:
    answer = worker.ask("measure", route=route, prompt_tokens=lengths.prefill_prompt, new_tokens=1)
    return float(lengths.prefill_prompt / answer["first_s"])


def add_speeds(report: Report, what: str, speeds: Speeds, aims: dict[str, float]) -> None:
    """Add the tables of `speeds` to a report.

    Args:
        report: gets two tables and all samples.
        what: the model.
        speeds: the measurements.
        aims: least ratio to transformers by name of a side, for decoding.
    """
    lengths = speeds.lengths
    report.tables.append(
        _table(
            f"Decode, {what}: tokens/s after a prompt of {lengths.decode_prompt}, "
            f"{lengths.new_tokens} new tokens, batch 1",
            speeds,
            speeds.decode,
            aims,
            limited=True,
        )
    )
    report.tables.append(
        _table(
            f"Prefill, {what}: prompt tokens/s until the first token, {lengths.prefill_prompt} "
            "tokens, batch 1",
            speeds,
            speeds.prefill,
            dict.fromkeys(aims, 1.0),
            limited=False,
        )
    )
    report.tables.append(_about_table(what, speeds))
    report.add_samples(f"decode {what}", speeds.decode)
    report.add_samples(f"prefill {what}", speeds.prefill)


def _table(
    title: str, speeds: Speeds, samples: Samples, aims: dict[str, float], *, limited: bool
) -> Table:
    reference = speeds.reference(samples)
    header = ["engine", "tokens/s: median (min to max)", "ratio to the faster transformers", "aim"]
    table = Table(title, [*header, *(["memory limit, tokens/s", "reached"] if limited else [])])
    for name in speeds.about:
        row = [name, samples[name].text(), NOT_MEASURED, ""]
        if reference is not None:
            row[2] = ratio_text(samples[name], samples[reference])
            if name in aims:
                row[3] = verdict(samples[name].median / samples[reference].median, aims[name])
        if limited:
            limit = speeds.bandwidth / speeds.about[name]["bytes_per_token"]
            row += [f"{limit:,.1f}", f"{samples[name].median / limit:.0%}"]
        table.rows.append(row)
    return table


def _about_table(what: str, speeds: Speeds) -> Table:
    read = speeds.decode[BANDWIDTH]
    low, high = min(read.values) / 1e9, max(read.values) / 1e9
    table = Table(
        f"Weights and memory, {what}: reading gives {read.median / 1e9:,.1f} GB/s "
        f"({low:,.1f} to {high:,.1f})",
        ("engine", "weights read per token", "peak memory of its process", "operators: layers"),
    )
    for name, about in speeds.about.items():
        operators = ", ".join(f"{label}: {n}" for label, n in about["operators"].items())
        read_mb, peak_mb = about["bytes_per_token"] / 1e6, about["peak_bytes"] / 1e6
        table.rows.append((name, f"{read_mb:,.0f} MB", f"{peak_mb:,.0f} MB", operators))
    return table
