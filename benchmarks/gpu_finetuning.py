"""What fine-tuning costs on an accelerator: memory and seconds per step, by method and length.

The table of Qwen's README (A100-80G, 2023) on the accelerator at hand: random Qwens of the 1.8B and
the 7B shape, rows of 256 to 8192 tokens, batch 1, 8 micro-batches in a step, bf16, activations
recomputed; `benchmarks.gpu` adds it to its page.
"""

import argparse

from benchmarks.checkpoint import checkpoint
from benchmarks.results import Report, Table
from benchmarks.worker import Worker

LENGTHS, TINY_LENGTHS = (256, 512, 1024, 2048, 4096, 8192), (32, 64)
HOW = (
    "GB at the peak / seconds per step of 8 rows; bf16, activations recomputed in the backward "
    "pass. Published: Qwen's README, A100-80G SXM, PyTorch 2.0, batch 1, accumulation 8"
)
# GB / seconds by length.
PUBLISHED = {
    ("qwen-1.8b", "lora"): "6.7/1.0 7.4/1.0 8.4/1.1 11.0/1.7 16.2/3.3 21.8/6.8",
    ("qwen-1.8b", "lora (emb)"): "13.7/1.0 14.0/1.0 14.0/1.1 15.1/1.8 19.7/3.4 27.7/7.0",
    ("qwen-1.8b", "qlora"): "5.8/1.4 6.0/1.4 6.6/1.4 7.8/2.0 10.2/3.4 15.8/6.5",
    ("qwen-1.8b", "full"): "43.5/2.1 43.5/2.2 43.5/2.2 43.5/2.3 47.1/2.8 48.3/5.6",
    ("qwen-7b", "lora"): "20.1/1.2 20.4/1.5 21.5/2.8 23.8/5.2 29.7/10.1 36.6/21.3",
    ("qwen-7b", "lora (emb)"): "33.7/1.4 34.1/1.6 35.2/2.9 35.1/5.3 39.2/10.3 48.5/21.7",
    ("qwen-7b", "qlora"): "11.5/3.0 11.5/3.0 12.3/3.5 13.9/7.0 16.9/11.6 23.5/22.3",
}
SIZES = {
    "qwen-1.8b": ("lora", "token rows", "lora (emb)", "qlora", "full"),
    "qwen-7b": ("lora", "token rows", "lora (emb)", "qlora"),
}
TINY_SIZES = {"qwen-tiny": SIZES["qwen-1.8b"]}


def add_finetuning(report: Report, device: str, options: argparse.Namespace) -> None:
    """Measure all sizes and methods, each in its own process, and add a table for each size.

    Args:
        report: gets the tables.
        device: where.
        options: `tiny`, `work` and `steps`.
    """
    lengths = TINY_LENGTHS if options.tiny else LENGTHS
    for size, methods in (TINY_SIZES if options.tiny else SIZES).items():
        folder = str(checkpoint(size, options.work, device))
        table = Table(f"Fine-tuning, {size}: {HOW}", ("method", *map(str, lengths)))
        for method in methods:
            chosen = {"method": method, "model": folder, "device": device}
            with Worker("benchmarks.gpu_finetuners", chosen) as worker:
                cells = [_cell(worker, length, options.steps) for length in lengths]
            table.rows.append((method, *cells))
            if (size, method) in PUBLISHED:
                table.rows.append((f"{method}, published", *PUBLISHED[size, method].split()))
        report.tables.append(table)


def _cell(worker: Worker, length: int, steps: int) -> str:
    found = worker.ask("measure", length=length, steps=steps)
    return f"{found['peak'] / 1e9:.1f}/{found['s_per_step']:.2g}" if found else "out of memory"
