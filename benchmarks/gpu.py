"""The accelerator: parity with the golden vectors first, then inference, then fine-tuning.

Parity: every family in `tests/golden-small` on the accelerator, in float32 (logits within 1e-4 of
the largest expected value, the same greedy ids) and in bf16 (within a tenth of it: these models of
random weights are sensitive; on the CPU the difference is up to 0.05).
Speed: Danlu in bf16, int8 and int4, by whatever operators it chooses there (the tables name them),
beside transformers where that is installed; models of the 0.5B and the 7B shape, each engine in its
own process, measured in turns.
Decoding in few bits and keys and values in 8: `benchmarks.gpu_decoding`. Cost of fine-tuning:
`benchmarks.gpu_finetuning`. Without an accelerator the page says "not measured".

    python -m benchmarks.gpu [--parts inference decoding cache finetuning] [--sizes 0.5b 7b]
        [--rounds 5] [--steps 3] [--work FOLDER] [--out FILE.md] [--tiny]
"""

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.checkpoint import SIZES, add_work_option, checkpoint
from benchmarks.facts import ROOT, shown_command
from benchmarks.gpu_decoding import add_cache, add_decoding
from benchmarks.gpu_finetuning import add_finetuning
from benchmarks.inference import TINY, engine_sides
from benchmarks.results import Report, Table, add_output_options, publish
from benchmarks.speed_tables import NOT_MEASURED, Lengths, add_speeds, measure_speeds
from danlu.engine.generator import Generator
from danlu.engine.sampling import SamplingParams
from danlu.engine.sequence import Request
from danlu.loading import load_decoder
from danlu.models.decoder import Decoder

GOLDEN = ROOT / "tests" / "golden-small"
FP32_BOUND, BF16_BOUND = 1e-4, 1e-1
READ_BYTES = 8 << 30
PARTS = ("inference", "decoding", "cache", "finetuning")


def parity_table(device: torch.device) -> tuple[Table, bool]:
    """Return a row for each golden family, and whether all of them agree."""
    table = Table(
        "Parity with the golden vectors on the accelerator",
        ("family", "fp32 difference", "greedy ids", "bf16 difference", "verdict"),
    )
    agreed = True
    for folder in sorted(path.parent for path in GOLDEN.glob("*/config.json")):
        expected = load_file(folder / "expected.safetensors")
        decoder = load_decoder(folder, torch.float32, device)
        fp32 = _difference(decoder, expected)
        same = _greedy_ids(decoder, expected["prompt_ids"]) == expected["greedy_ids"].tolist()
        bf16 = _difference(load_decoder(folder, torch.bfloat16, device), expected)
        good = fp32 <= FP32_BOUND and same and bf16 <= BF16_BOUND
        agreed &= good
        ids, verdict = "equal" if same else "DIFFERENT", "equal" if good else "DIFFERENT"
        table.rows.append((folder.name, f"{fp32:.1e}", ids, f"{bf16:.1e}", verdict))
    return table, agreed


def _difference(decoder: Decoder, expected: dict[str, Tensor]) -> float:
    """Return the largest difference of logits, in units of the largest expected one (or of 1)."""
    device = decoder.device
    with torch.inference_mode():
        found = decoder(expected["input_ids"].to(device), expected["attention_mask"].to(device))
    mask, wanted = expected["compare_mask"], expected["logits"]
    largest = max(1.0, float(wanted[mask].abs().max()))
    return float((found.float().cpu()[mask] - wanted[mask]).abs().max()) / largest


def _greedy_ids(decoder: Decoder, prompts: Tensor, new_tokens: int = 8) -> list[list[int]]:
    params = SamplingParams(temperature=0, max_tokens=new_tokens, ignore_eos=True)
    requests = [
        Request(prompt, params, new_tokens, frozenset(), seed=0) for prompt in prompts.tolist()
    ]
    return [group[0].token_ids for group in Generator(decoder).run(requests)]


def add_size(report: Report, size: str, device: str, work: Path, lengths: Lengths) -> None:
    """Measure one model size and add its tables."""
    folder = checkpoint(size, work, device)
    sides = engine_sides(
        str(folder), device, with_transformers=find_spec("transformers") is not None
    )
    read = 1 << 26 if size == "tiny" else READ_BYTES
    add_speeds(report, f"random Llama {size}", measure_speeds(sides, lengths, device, read), {})


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_work_option(parser)
    add_output_options(parser)
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--steps", type=int, default=3, help="steps of fine-tuning that count")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["0.5b", "7b"])
    parser.add_argument("--device", help="instead of the accelerator; cpu tries the script")
    return parser.parse_args()


def measure(report: Report, device: torch.device, options: argparse.Namespace) -> None:
    """Add parity to the report, and the parts if it holds."""
    if device.type == "cuda":
        report.facts["accelerator"] = torch.cuda.get_device_name(device)
    table, agreed = parity_table(device)
    report.tables.append(table)
    if not agreed:
        report.tables.append(Table("Speed", ("result",), [("not measured: parity failed",)]))
        return
    lengths = TINY if options.tiny else Lengths(new_tokens=128, rounds=options.rounds)
    sizes = ["tiny"] if options.tiny else options.sizes
    for size in sizes if "inference" in options.parts else []:
        add_size(report, size, str(device), options.work, lengths)
    if "decoding" in options.parts:
        add_decoding(report, str(device), options)
    if "cache" in options.parts:
        add_cache(report, str(device), options)
    if "finetuning" in options.parts:
        add_finetuning(report, str(device), options)


def main() -> None:
    """Measure and publish, or say that there is no accelerator."""
    options = parse()
    report = Report(
        "gpu",
        "Parity, inference and fine-tuning on the accelerator",
        shown_command("benchmarks.gpu", sys.argv[1:]),
        how=__doc__.split("\n\n")[1],
    )
    found = torch.accelerator.current_accelerator(check_available=True)
    device = torch.device(options.device) if options.device else found
    if device is None:
        reason = f"{NOT_MEASURED}: torch finds no accelerator on this machine"
        report.tables.append(Table("Parity, speed and memory", ("result",), [(reason,)]))
    else:
        measure(report, device, options)
    publish(report, options, keep=device is not None)


if __name__ == "__main__":
    main()
