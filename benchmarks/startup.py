"""From the start of a process to its first token, and the peak of its memory, on the CPU.

Cold python processes, alternating, with the checkpoint in the page cache: `danlu.LLM(path,
dtype="bf16")` and one token, beside transformers' `from_pretrained` in bf16 and one token. Time
runs from just before the process is started until it has said that its token is there; imports
count. Memory is the largest resident set that the kernel noted for the process (`os.wait4`), mapped
pages of the checkpoint included.

    python -m benchmarks.startup [--rounds 7] [--work FOLDER] [--out FILE.md] [--tiny]
"""

import argparse
import os
import subprocess
import sys
import time
from functools import partial

from benchmarks.checkpoint import add_work_option, checkpoint, weight_bytes
from benchmarks.facts import ROOT, shown_command
from benchmarks.measuring import Samples, Spread, paired_rounds, ratio_text, verdict
from benchmarks.results import Report, Table, add_output_options, publish
from benchmarks.worker import QUIET, WorkerError

ENGINES = ("danlu", "transformers")
TIME_AIM, SPARE_BYTES = 0.6, 400e6


def first_token(engine: str, path: str, peaks: list[float]) -> float:
    """Return the seconds to the first token; append the peak bytes of the process to `peaks`.

    The peak is only the child's own because this process is small: the kernel's figure starts from
    the size of the process that a child is forked from.
    """
    start = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.first_token", engine, path],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, **QUIET},
    )
    with child:
        assert child.stdout is not None
        line = child.stdout.readline()
        seconds = time.perf_counter() - start
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if line != b"token\n" or child.returncode:
        raise WorkerError(f"{engine} ended with {child.returncode} and wrote {line!r}.")
    peaks.append(usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
    return seconds


def measure(path: str, rounds: int) -> tuple[Samples, Samples]:
    """Return seconds and peak bytes of both engines."""
    peaks: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    sides = {engine: partial(first_token, engine, path, peaks[engine]) for engine in ENGINES}
    times = paired_rounds(sides, rounds)
    return times, {engine: Spread(tuple(found[-rounds:])) for engine, found in peaks.items()}


def tables(times: Samples, peaks: Samples, weights: int) -> list[Table]:
    """Return the tables of times and of memory."""
    time_table = Table(
        "Seconds to the first token", ("engine", "median (min to max)", "ratio", "aim")
    )
    megabytes = {e: Spread(tuple(v / 1e6 for v in s.values)) for e, s in peaks.items()}
    memory = Table(
        f"Peak memory in MB; the weights are {weights / 1e6:,.0f} MB",
        ("engine", "median (min to max)", "above the weights", "ratio", "aim"),
    )
    for engine in ENGINES:
        ratio, above = _ratio(times), peaks[engine].median - weights
        ours = engine == "danlu"
        time_table.rows.append(
            (
                engine,
                times[engine].text(".2f"),
                ratio_text(times[engine], times["transformers"]),
                verdict(ratio, TIME_AIM, at_least=False) if ours else "",
            )
        )
        memory.rows.append(
            (
                engine,
                megabytes[engine].text(",.0f"),
                f"{above / 1e6:,.0f}",
                ratio_text(peaks[engine], peaks["transformers"]),
                _memory_verdict(_ratio(peaks), above) if ours else "",
            )
        )
    return [time_table, memory]


def _ratio(samples: Samples) -> float:
    return samples["danlu"].median / samples["transformers"].median


def _memory_verdict(ratio: float, above: float) -> str:
    spare = verdict(above / 1e6, SPARE_BYTES / 1e6, at_least=False)
    return f"ratio {verdict(ratio, 1.0, at_least=False)}; MB above the weights {spare}"


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_work_option(parser)
    add_output_options(parser)
    parser.add_argument("--rounds", type=int, default=7, help="rounds that count")
    options = parser.parse_args()
    size, rounds = ("tiny", 1) if options.tiny else ("0.5b", options.rounds)
    report = Report(
        "startup",
        f"Process start to first token, random Llama {size} in bf16",
        shown_command("benchmarks.startup", sys.argv[1:]),
        how=__doc__.split("\n\n")[1],
    )
    folder = checkpoint(size, options.work)
    times, peaks = measure(str(folder), rounds)
    report.tables += tables(times, peaks, weight_bytes(folder))
    report.add_samples("seconds", times)
    report.add_samples("peak bytes", peaks)
    publish(report, options)


if __name__ == "__main__":
    main()
