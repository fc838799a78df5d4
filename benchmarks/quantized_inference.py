"""Decode and prefill in few bits beside llama.cpp and bitsandbytes, at equal bits.

One random model (bf16) is opened by Danlu in bf16 and rounded while loading to int8, int4 (groups
of 32), nf4 and w8a8; by llama.cpp as bf16, q8_0 and q4_0 files that Danlu and llama.cpp's own tool
wrote; by transformers with bitsandbytes as int8 and nf4. Every engine lives in its own process with
the same number of threads, loads once, and is measured in turns with the others (order turned
around each round). Ratios are of each Danlu row to llama.cpp at equal bits, and of its prefill to
Danlu's own bf16. Interpreters: DANLU_LLAMA_PYTHON, DANLU_BNB_PYTHON; without them those rows are
not measured.

    python -m benchmarks.quantized_inference [--rounds 5] [--new-tokens 48]
        [--only ENGINE ...] [--size 0.5b] [--work FOLDER] [--out FILE.md] [--tiny]
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.checkpoint import SIZES, add_work_option, checkpoint
from benchmarks.facts import shown_command
from benchmarks.measuring import Samples, ratio_text, verdict
from benchmarks.results import Report, Table, add_output_options, publish
from benchmarks.speed_tables import NOT_MEASURED, Lengths, Side, Speeds, measure_speeds

LLAMA, BITSANDBYTES = "DANLU_LLAMA_PYTHON", "DANLU_BNB_PYTHON"
OURS = {
    "danlu bf16": (None, False),
    "danlu int8": ("int8", False),
    "danlu int8, compiled": ("int8", True),
    "danlu int4": ("int4", False),
    "danlu nf4": ("nf4", False),
    "danlu w8a8": ("w8a8", False),
}
GGUF = {"llama.cpp bf16": "bf16", "llama.cpp q8_0": "q8_0", "llama.cpp q4_0": "q4_0"}
ROUNDED = {"bitsandbytes int8": "int8", "bitsandbytes nf4": "nf4"}
EQUAL_BITS = {
    "danlu bf16": "llama.cpp bf16",
    "danlu int8": "llama.cpp q8_0",
    "danlu int8, compiled": "llama.cpp q8_0",
    "danlu int4": "llama.cpp q4_0",
    "danlu nf4": "bitsandbytes nf4",
    "danlu w8a8": "bitsandbytes int8",
}
DECODE_AIM, PREFILL_AIM, OWN_PREFILL_AIM = 1.0, 1.3, 0.9
Q4_0 = 2  # llama.cpp's number of the type
TINY = Lengths(decode_prompt=4, new_tokens=6, prefill_prompt=16, rounds=1)


def gguf_file(model: Path, dtype: str) -> Path:
    """Return the GGUF file of a model, made if it is not there."""
    path = model.with_name(f"{model.name}-{dtype}.gguf")
    if path.exists():
        return path
    if dtype != "q4_0":
        command = [sys.executable, "-m", "danlu", "export", str(model), str(path), "--to", "gguf"]
        subprocess.run([*command, "--dtype", dtype], check=True, stdout=sys.stderr)
        return path
    script = (
        "import llama_cpp, sys\n"
        "parameters = llama_cpp.llama_model_quantize_default_params()\n"
        f"parameters.ftype = {Q4_0}\n"
        "sys.exit(llama_cpp.llama_model_quantize(*(x.encode() for x in sys.argv[1:]), parameters))"
    )
    source = str(gguf_file(model, "bf16"))
    python = os.environ[LLAMA]
    subprocess.run([python, "-c", script, source, str(path)], check=True, stdout=sys.stderr)
    return path


def sides_of(model: Path) -> list[Side]:
    """Return every engine that is installed."""
    place = {"engine": "danlu", "path": str(model), "device": "cpu"}
    sides = [
        Side(name, {**place, "quantize": quantize, "compiled": compiled})
        for name, (quantize, compiled) in OURS.items()
    ]
    worker = "benchmarks.quantized_engines"
    if python := os.environ.get(LLAMA):
        for name, dtype in GGUF.items():
            options = {"engine": "llama.cpp", "path": str(gguf_file(model, dtype))}
            sides.append(Side(name, options, worker, python))
    if python := os.environ.get(BITSANDBYTES):
        for name, bits in ROUNDED.items():
            options = {"engine": "bitsandbytes", "path": str(model), "bits": bits}
            sides.append(Side(name, options, worker, python))
    return sides


def table(title: str, samples: Samples, aim: float, *, is_prefill: bool) -> Table:
    """Return a row for each engine, with the ratio to the peer of equal bits."""
    header = ["engine", "tokens/s: median (min to max)", "peer", "ratio to it", "aim"]
    made = Table(title, [*header, *(["ratio to danlu bf16", "aim"] if is_prefill else [])])
    for name in [*OURS, *GGUF, *ROUNDED]:
        found = _measured(name, samples)
        if found is None:
            made.rows.append([name, NOT_MEASURED, *[""] * (len(made.header) - 2)])
            continue
        peer = _measured(EQUAL_BITS.get(name, ""), samples)
        row = [name, samples[found].text(), peer or "", "", ""]
        if peer is not None:
            aimed = peer.startswith("llama.cpp q")
            row[3] = ratio_text(samples[found], samples[peer])
            ratio = samples[found].median / samples[peer].median
            row[4] = verdict(ratio, aim) if aimed else ""
        if is_prefill:
            row += _beside_bf16(name, samples)
        made.rows.append(row)
    return made


def _measured(name: str, samples: Samples) -> str | None:
    """Return the fastest route of an engine, None if it was not measured."""
    routes = [route for route in samples if route == name or route.startswith(f"{name}, ")]
    exact = [route for route in routes if route == name] or routes
    return max(exact, key=lambda route: samples[route].median) if exact else None


def _beside_bf16(name: str, samples: Samples) -> list[str]:
    if name not in OURS or name == "danlu bf16":
        return ["", ""]
    ours, dense = samples[name], samples["danlu bf16"]
    return [ratio_text(ours, dense), verdict(ours.median / dense.median, OWN_PREFILL_AIM)]


def add_tables(report: Report, what: str, speeds: Speeds) -> None:
    """Add decode, prefill, and what each engine reads and takes."""
    lengths = speeds.lengths
    decode = (
        f"Decode, {what}: tokens/s after a prompt of {lengths.decode_prompt}, "
        f"{lengths.new_tokens} new tokens, batch 1"
    )
    prefill = f"Prefill, {what}: prompt tokens/s, {lengths.prefill_prompt} tokens, batch 1"
    report.tables.append(table(decode, speeds.decode, DECODE_AIM, is_prefill=False))
    report.tables.append(table(prefill, speeds.prefill, PREFILL_AIM, is_prefill=True))
    taken = Table(
        f"Memory; reading gives {speeds.bandwidth / 1e9:,.1f} GB/s",
        ("engine", "weights read per token", "peak memory of its process", "operators: layers"),
    )
    for name, about in speeds.about.items():
        operators = ", ".join(f"{label}: {n}" for label, n in about["operators"].items())
        read_mb, peak_mb = about["bytes_per_token"] / 1e6, about["peak_bytes"] / 1e6
        taken.rows.append((name, f"{read_mb:,.0f} MB", f"{peak_mb:,.0f} MB", operators))
    report.tables.append(taken)
    report.add_samples(f"decode {what}", speeds.decode)
    report.add_samples(f"prefill {what}", speeds.prefill)


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_work_option(parser)
    add_output_options(parser)
    parser.add_argument("--size", choices=[*SIZES], default="0.5b", help="of the model")
    parser.add_argument("--only", nargs="+", metavar="ENGINE", help="beside danlu bf16")
    parser.add_argument("--new-tokens", type=int, default=48, help="written after each prompt")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count")
    options = parser.parse_args()
    size = "tiny" if options.tiny else options.size
    report = Report(
        "quantized-inference",
        "Inference in few bits on the CPU beside llama.cpp and bitsandbytes",
        shown_command("benchmarks.quantized_inference", sys.argv[1:]),
        how=__doc__.split("\n\n")[1],
    )
    lengths = Lengths(new_tokens=options.new_tokens, rounds=options.rounds)
    lengths = TINY if options.tiny else lengths
    sides = sides_of(checkpoint(size, options.work))
    if options.only:
        sides = [side for side in sides if side.name in ("danlu bf16", *options.only)]
    speeds = measure_speeds(sides, lengths, "cpu", 1 << 26 if options.tiny else 1 << 30)
    add_tables(report, f"random Llama {size}", speeds)
    publish(report, options)


if __name__ == "__main__":
    main()
