"""Opening abandoned checkpoints: process start to first token and peak memory, beside transformers.

A Qwen-1 and a Baichuan of 0.5B-like shape (random weights) are stored as safetensors and as `.bin`,
in bfloat16 and in float16 (which Danlu casts to bfloat16 on the way), and opened by
`danlu.LLM(path, dtype="bf16")` in cold processes. transformers opens neither family; beside each
stands its own export to a living architecture (Qwen2, Llama; bfloat16 safetensors), which computes
the same, opened by transformers. Time, memory and order are those of `benchmarks.startup`.

    python -m benchmarks.opening [--rounds 5] [--work FOLDER] [--out FILE.md] [--tiny]
"""

import argparse
import multiprocessing
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.checkpoint import SEED, add_work_option, write_tokenizer
from benchmarks.facts import shown_command
from benchmarks.measuring import Samples, Spread, paired_rounds, ratio_text, verdict
from benchmarks.results import Report, Table, add_output_options, publish
from benchmarks.startup import SPARE_BYTES, TIME_AIM, first_token

SIZES: dict[str, tuple[int, int, int]] = {  # hidden size, layers, intermediate size
    "0.5b": (1024, 24, 2816),
    "tiny": (64, 2, 176),
}
HEADS = 16
PEER = "transformers"
STORED = (("safetensors", "bfloat16"), ("bin", "bfloat16"), ("bin", "float16"))


def qwen1(size: str) -> dict[str, Any]:
    """Return the config.json of a Qwen-1, as the later releases spell it."""
    hidden, layers, intermediate = SIZES[size]
    return {
        "architectures": ["QWenLMHeadModel"],
        "model_type": "qwen",
        "vocab_size": 151936 if size != "tiny" else 4096,
        "hidden_size": hidden,
        "intermediate_size": 2 * intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "kv_channels": hidden // HEADS,
        "seq_length": 2048,
        "max_position_embeddings": 8192,
        "torch_dtype": "bfloat16",
    }


def baichuan(size: str) -> dict[str, Any]:
    """Return the config.json of a Baichuan-7B at this size."""
    hidden, layers, intermediate = SIZES[size]
    return {
        "architectures": ["BaiChuanForCausalLM"],
        "model_type": "baichuan",
        "vocab_size": 64000 if size != "tiny" else 4096,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "torch_dtype": "bfloat16",
    }


FAMILIES = {"Qwen-1": qwen1, "Baichuan": baichuan}


def folders(family: str, size: str, work: Path) -> dict[str, Path]:
    """Return the folders of a family by what is in them; those that are missing are made."""
    made = {
        f"{kind}, {dtype}": work / f"opening-{family.lower()}-{size}-{kind}-{dtype}"
        for kind, dtype in STORED
    }
    made[PEER] = work / f"opening-{family.lower()}-{size}-export"
    if not all(folder.is_dir() for folder in made.values()):
        # In a process of its own: the kernel's peak of a child starts from the size of its parent.
        made_by = multiprocessing.get_context("spawn").Process(
            target=_make, args=(FAMILIES[family](size), list(made.values()))
        )
        made_by.start()
        made_by.join()
    return made


def _make(values: dict[str, Any], targets: list[Path]) -> None:
    import torch

    from danlu.commands.export import export
    from danlu.loading import decoder_from_config, save_decoder

    for folder in targets:
        shutil.rmtree(folder, ignore_errors=True)
    decoder = decoder_from_config(values).to(torch.bfloat16).to_empty(device="cpu")
    decoder.init_weights(torch.Generator().manual_seed(SEED))
    plain, in_bin, half, exported = targets
    for folder, dtype in ((plain, torch.bfloat16), (in_bin, torch.bfloat16), (half, torch.float16)):
        save_decoder(decoder, folder, dtype)
        write_tokenizer(folder)
    export(plain, exported, "transformers")
    for folder in (in_bin, half):
        _as_bin(folder)


def _as_bin(folder: Path) -> None:
    import torch
    from safetensors.torch import load_file

    source = folder / "model.safetensors"
    torch.save(load_file(source), folder / "pytorch_model.bin")
    source.unlink()


def measure(made: dict[str, Path], rounds: int) -> tuple[Samples, Samples]:
    """Return seconds and peak bytes of each way to open a family."""
    peaks: dict[str, list[float]] = {name: [] for name in made}
    sides = {
        name: partial(first_token, _engine(name), str(folder), peaks[name])
        for name, folder in made.items()
    }
    times = paired_rounds(sides, rounds)
    return times, {name: Spread(tuple(found[-rounds:])) for name, found in peaks.items()}


def _engine(name: str) -> str:
    return "transformers" if name == PEER else "danlu"


def table(family: str, times: Samples, peaks: Samples, weights: int) -> Table:
    """Return the rows of one family."""
    found = Table(
        f"{family}: seconds to the first token, peak MB; the weights are {weights / 1e6:,.0f} MB",
        ("stored as", "seconds", "ratio", "aim", "peak MB", "above the weights", "aim"),
    )
    for name, seconds in times.items():
        ratio = seconds.median / times[PEER].median
        above = (peaks[name].median - weights) / 1e6
        ours = name != PEER
        found.rows.append(
            (
                name if ours else f"{PEER}, on the export",
                seconds.text(".2f"),
                ratio_text(seconds, times[PEER]),
                verdict(ratio, TIME_AIM, at_least=False) if ours else "",
                Spread(tuple(value / 1e6 for value in peaks[name].values)).text(",.0f"),
                f"{above:,.0f}",
                verdict(above, SPARE_BYTES / 1e6, at_least=False) if ours else "",
            )
        )
    return found


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_work_option(parser)
    add_output_options(parser)
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count")
    options = parser.parse_args()
    size, rounds = ("tiny", 1) if options.tiny else ("0.5b", options.rounds)
    report = Report(
        "opening",
        f"Abandoned families opened: process start to first token, random {size} in bf16",
        shown_command("benchmarks.opening", sys.argv[1:]),
        how=__doc__.split("\n\n")[1],
    )
    for family in FAMILIES:
        made = folders(family, size, options.work)
        times, peaks = measure(made, rounds)
        first = next(iter(made.values()))
        weights = sum(file.stat().st_size for file in first.glob("*.safetensors"))
        report.tables.append(table(family, times, peaks, weights))
        report.add_samples(f"{family} seconds", times)
        report.add_samples(f"{family} peak bytes", peaks)
    publish(report, options)


if __name__ == "__main__":
    main()
