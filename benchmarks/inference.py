"""Decode and prefill on the CPU: Danlu in bf16, int8 and int4 beside transformers in bf16.

Every engine lives in its own process, loads once, and is measured in turns with the others (order
turned around each round), so all see the same minutes. Danlu runs the loop behind `LLM.generate`;
transformers runs `generate` and a bare loop, with eager and sdpa attention, and the fastest of
these counts. The memory limit is the bandwidth measured between them, over the bytes of weights
that one token reads.

    python -m benchmarks.inference [--rounds 7] [--work FOLDER] [--out FILE.md] [--tiny]
"""

import argparse
import sys

from benchmarks.checkpoint import add_work_option, checkpoint
from benchmarks.facts import shown_command
from benchmarks.results import Report, add_output_options, publish
from benchmarks.speed_tables import Lengths, Side, add_speeds, measure_speeds

AIMS = {"danlu bf16": 1.6, "danlu int8": 2.5, "danlu int4": 3.5}
TINY = Lengths(decode_prompt=4, new_tokens=6, prefill_prompt=16, rounds=2)


def engine_sides(path: str, device: str, *, with_transformers: bool = True) -> list[Side]:
    """Return all engines on one checkpoint."""
    place = {"path": path, "device": device}
    sides = [
        Side(f"danlu {name}", {"engine": "danlu", **place, "quantize": quantize})
        for name, quantize in (("bf16", None), ("int8", "int8"), ("int4", "int4"))
    ]
    stock = [
        Side(f"transformers bf16 {name}", {"engine": "transformers", **place, "attention": name})
        for name in ("eager", "sdpa")
    ]
    return sides + stock if with_transformers else sides


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_work_option(parser)
    add_output_options(parser)
    parser.add_argument("--rounds", type=int, default=7, help="rounds that count")
    options = parser.parse_args()
    size = "tiny" if options.tiny else "0.5b"
    lengths = TINY if options.tiny else Lengths(rounds=options.rounds)
    report = Report(
        "inference",
        "Inference on the CPU beside transformers",
        shown_command("benchmarks.inference", sys.argv[1:]),
        how=__doc__.split("\n\n")[1],
    )
    folder = checkpoint(size, options.work)
    sides = engine_sides(str(folder), "cpu")
    speeds = measure_speeds(sides, lengths, "cpu", 1 << 26 if options.tiny else 1 << 30)
    add_speeds(report, f"random Llama {size}", speeds, AIMS)
    publish(report, options)


if __name__ == "__main__":
    main()
