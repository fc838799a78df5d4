"""Decoding in few bits on an accelerator, and keys and values in 8 bits by batch and length.

The tables of Qwen's README (A100-80G, 2023) on the accelerator at hand: random Qwens of the 1.8B
and the 7B shape, in bf16 and rounded as they are loaded; `benchmarks.gpu` adds them to its page.
The products of a block by rows of input show where another way of multiplying would be faster.
"""

import argparse
from collections import Counter

from benchmarks.checkpoint import checkpoint
from benchmarks.results import Report, Table
from benchmarks.worker import Answer, Worker

QUANTIZED = ("int8", "int4", "nf4", "w8a8")
SIZES, CACHE_SIZE = ("qwen-1.8b", "qwen-7b"), "qwen-7b"
TINY = "qwen-tiny"
PROMPT, NEW_TOKENS = 1, 2048
BATCHES, CACHE_TOKENS = (1, 4, 16, 32, 64, 100), 1024
LENGTHS = (512, 1024, 2048, 4096, 8192)
ROWS = (1, 4, 16, 64, 512)
# tokens/s and GB while 2048 tokens are generated; of Int8 and Int4 by AutoGPTQ.
PUBLISHED = {
    "qwen-1.8b": {"bf16": "54.09 4.23", "int8": "55.56 3.48", "int4": "71.07 2.91"},
    "qwen-7b": {"bf16": "40.93 16.99", "int8": "37.47 11.20", "int4": "50.09 8.21"},
}
PUBLISHED_CACHE = {  # GB; by batch at 1024 tokens, and by tokens at batch 1
    "bf16": ("16.3 24.1 31.7 48.7 OOM OOM", "15.2 16.3 17.6 19.5 23.2"),
    "int8": ("15.5 17.2 22.3 30.2 48.2 72.4", "15.0 15.5 15.8 16.6 17.6"),
}
FROM = "Published: Qwen's README, A100-80G SXM, PyTorch 2.0"


def add_decoding(report: Report, device: str, options: argparse.Namespace) -> None:
    """Measure every size in bf16 and in few bits, each in its own process, and add its tables.

    Args:
        report: gets the tables.
        device: where.
        options: `tiny` and `work`.
    """
    new_tokens = 8 if options.tiny else NEW_TOKENS
    for size in (TINY,) if options.tiny else SIZES:
        folder = str(checkpoint(size, options.work, device))
        speeds = Table(
            f"Decoding, {size}: {new_tokens} tokens, batch 1. {FROM}, AutoGPTQ",
            ("weights", "tokens/s", "GB at the peak", "ratio to bf16", "published", "operators"),
        )
        products = Table(
            f"Products of one block, {size}: milliseconds by rows of input",
            ("weights", *map(str, ROWS)),
        )
        baseline: float | None = None
        for name in ("bf16", *QUANTIZED):
            with Worker("benchmarks.gpu_decoders", _options(folder, device, name)) as worker:
                found = worker.ask("measure", batch=1, prompt_tokens=PROMPT, new_tokens=new_tokens)
                baseline = baseline or found.get("tokens_per_s")
                published = PUBLISHED.get(size, {}).get(name, "")
                about = worker.ask("describe")
                speeds.rows.append((name, *_speed(found, baseline), published, _operators(about)))
                times = worker.ask("products", rows=list(ROWS))
                products.rows.append((name, *(f"{times[str(rows)]:.3f}" for rows in ROWS)))
        report.tables += [speeds, products]


def add_cache(report: Report, device: str, options: argparse.Namespace) -> None:
    """Measure memory with plain keys and values and with 8 bits, and add two tables.

    Args:
        report: gets the tables.
        device: where.
        options: `tiny` and `work`.
    """
    size = TINY if options.tiny else CACHE_SIZE
    folder = str(checkpoint(size, options.work, device))
    batches, lengths = ((1, 2), (8, 16)) if options.tiny else (BATCHES, LENGTHS)
    tokens = 8 if options.tiny else CACHE_TOKENS
    how = f"{size}, bf16 weights: GB at the peak / tokens per second. {FROM}"
    by_batch = Table(
        f"Keys and values by batch, {tokens} tokens each; {how}",
        ("keys and values", *map(str, batches)),
    )
    by_length = Table(
        f"Keys and values by tokens, batch 1; {how}", ("keys and values", *map(str, lengths))
    )
    for name, kv_cache in (("bf16", None), ("int8", "int8")):
        chosen = {**_options(folder, device, "bf16"), "kv_cache": kv_cache}
        with Worker("benchmarks.gpu_decoders", chosen) as worker:
            by_batch.rows.append((name, *(_memory(worker, each, tokens) for each in batches)))
            by_length.rows.append((name, *(_memory(worker, 1, each) for each in lengths)))
        if not options.tiny:
            batched, long = PUBLISHED_CACHE[name]
            by_batch.rows.append((f"{name}, published", *batched.split()))
            by_length.rows.append((f"{name}, published", *long.split()))
    report.tables += [by_batch, by_length]


def _options(folder: str, device: str, name: str) -> dict[str, str | None]:
    quantize = None if name == "bf16" else name
    return {"path": folder, "device": device, "quantize": quantize, "kv_cache": None}


def _speed(found: Answer, baseline: float | None) -> tuple[str, str, str]:
    if not found:
        return "out of memory", "", ""
    speed = found["tokens_per_s"]
    ratio = f"{speed / baseline:.2f}x" if baseline else ""
    return f"{speed:.1f}", f"{found['peak'] / 1e9:.2f}", ratio


def _memory(worker: Worker, batch: int, new_tokens: int) -> str:
    found = worker.ask("measure", batch=batch, prompt_tokens=PROMPT, new_tokens=new_tokens)
    return f"{found['peak'] / 1e9:.1f}/{found['tokens_per_s']:.0f}" if found else "out of memory"


def _operators(about: Answer) -> str:
    return "; ".join(f"{label}: {count}" for label, count in Counter(about).most_common())
