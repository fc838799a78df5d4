"""Fine-tuning on real conversations beside Trainer, peft and bitsandbytes: tokens/s and memory.

Every side fine-tunes the same random Qwen2 (of 0.1B layers, with the tokenizer's whole vocabulary)
on the same English and Chinese conversations, in its own process, in turns with the others; a round
is some steps of a fresh optimizer on rows of its own choice, and its first step does not count.
Danlu runs the code of `danlu finetune`, packed (its default) and padded with similar lengths
together; Trainer gets the same token documents padded with similar lengths together, and joined and
cut into full blocks, as those do who have no flash attention. Packed rows and blocks come 2 of 1024
tokens in a batch; padded conversations 4 in a micro-batch, as many micro-batches in a step as come
near those tokens. Real tokens are those of texts, padding is none. Peak memory is the largest
resident set of the whole process, imports included; *loaded* is what is resident before the first
step. The best transformers counts: the faster one for speed, the leaner one for memory. bf16 means
Trainer(bf16=True), with a bf16 base under an adapter. Q-LoRA is NF4 with double quantization, with
bitsandbytes on the other side, in an environment that DANLU_BNB_PYTHON names.

    python -m benchmarks.finetuning [--methods full lora qlora] [--precision bf16] [--rounds 3]
        [--steps 3] [--data FOLDER] [--tokenizer FOLDER] [--chat-format chatml] [--work FOLDER]
        [--out FILE.md] [--tiny]
"""

import argparse
import os
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from benchmarks.checkpoint import add_work_option
from benchmarks.facts import shown_command
from benchmarks.finetuning_material import add_material_options, make_material
from benchmarks.measuring import Samples, Spread, best_of, paired_rounds, ratio_text, verdict
from benchmarks.results import Report, Table, add_output_options, publish
from benchmarks.speed_tables import NOT_MEASURED
from benchmarks.worker import Worker

INTERPRETER = "DANLU_BNB_PYTHON"
METHODS = ("full", "lora", "qlora")
OURS = "danlu, packed"
SPEED_AIM, MEMORY_AIM = 2.0, 0.7
PADDED_ROWS, TINY_LENGTH = 4, 128
SEED = 0


@dataclass
class Found:
    """What the rounds of one method gave, by side; memory is in bytes."""

    tokens: Samples
    targets: dict[str, list[float]] = field(default_factory=dict)
    memory: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def peers(self) -> list[str]:
        """The sides that are not Danlu's."""
        return [name for name in self.tokens if not name.startswith("danlu")]

    def peak(self, name: str, what: str = "peak") -> int:
        """Return the peak of a side; "growth" is what of it came after loading."""
        memory = self.memory[name]
        return memory["peak"] - (memory["loaded"] if what == "growth" else 0)

    def smallest(self, what: str) -> int:
        """Return the smallest peak of the peers."""
        return min(self.peak(name, what) for name in self.peers)


def sides_of(method: str, options: argparse.Namespace, about: dict[str, Any]) -> dict[str, Any]:
    """Return name -> (worker's module, its options)."""
    folder = options.work / folder_name(options)
    common = {
        "method": method,
        "precision": options.precision,
        "model": str(folder / "model"),
        "max_seq_len": options.max_seq_len,
        "warm_ups": options.warm_ups,
    }
    full = {"rows": options.rows, "micro_batches": 1}
    conversations = options.rows * options.max_seq_len * about["conversations"] / about["tokens"]
    in_step = max(1, round(conversations / PADDED_ROWS))
    padded = {"rows": PADDED_ROWS, "micro_batches": in_step, "batching": "grouped"}
    ours = {**common, "sources": about["sources"], "cache": str(folder / "cache")}
    theirs = {**common, "documents": str(folder / "documents.npz"), "token_rows": []}
    peer = {"full": "transformers", "lora": "peft", "qlora": "bitsandbytes"}[method]
    peer_worker, our_worker = "benchmarks.finetuning_peer", "benchmarks.finetuners"
    return {
        OURS: (our_worker, {**ours, **full, "batching": "packed"}),
        "danlu, padded": (our_worker, {**ours, **padded}),
        f"{peer}, padded": (peer_worker, {**theirs, **padded}),
        f"{peer}, joined blocks": (peer_worker, {**theirs, **full, "batching": "blocks"}),
    }


def folder_name(options: argparse.Namespace) -> str:
    """Return the name of the folder of the material."""
    return "finetuning-tiny" if options.tiny else "finetuning"


def measure(
    method: str, options: argparse.Namespace, about: dict[str, Any], python: str | None
) -> Found:
    """Return speeds and memory of all sides of a method; `python` runs the peers of Q-LoRA."""
    targets: dict[str, list[float]] = {}
    workers: dict[str, Worker] = {}
    with ExitStack() as stack:
        measures = {}
        for name, (module, chosen) in sides_of(method, options, about).items():
            other = python if method == "qlora" and module.endswith("peer") else None
            workers[name] = stack.enter_context(Worker(module, chosen, other))
            targets[name] = []
            measures[name] = partial(_round, workers[name], options.steps, targets[name])
        tokens = paired_rounds(measures, options.rounds, warm_ups=0)
        memory = {name: worker.ask("memory") for name, worker in workers.items()}
    return Found(tokens, targets, memory)


def _round(worker: Worker, steps: int, targets: list[float]) -> float:
    answer = worker.ask("measure", steps=steps, seed=SEED + len(targets))
    targets.append(answer["targets_per_s"])
    return float(answer["tokens_per_s"])


def speed_table(title: str, found: Found) -> Table:
    """Return the tokens per second of a method."""
    table = Table(
        f"{title}: tokens/s",
        (
            "stack",
            "real tokens/s: median (min to max)",
            "ratio to the faster peer",
            "aim",
            "learned tokens/s",
            "ratio",
        ),
    )
    tokens, reference = found.tokens, best_of(found.tokens, found.peers)
    targets = {name: Spread(tuple(values)) for name, values in found.targets.items()}
    for name in tokens:
        reached = verdict(tokens[name].median / tokens[reference].median, SPEED_AIM)
        table.rows.append(
            (
                name,
                tokens[name].text(",.0f"),
                ratio_text(tokens[name], tokens[reference]),
                reached if name == OURS else "",
                targets[name].text(",.0f"),
                ratio_text(targets[name], targets[reference]),
            )
        )
    return table


def memory_table(title: str, found: Found) -> Table:
    """Return the memory of a method."""
    table = Table(
        f"{title}: memory in MB",
        (
            "stack",
            "peak",
            "ratio to the leaner peer",
            "aim",
            "of it loaded",
            "above it",
            "ratio",
            "optimizer state",
        ),
    )
    for name, memory in found.memory.items():
        ratio = found.peak(name) / found.smallest("peak")
        growth = found.peak(name, "growth")
        table.rows.append(
            (
                name,
                _megabytes(found.peak(name)),
                f"{ratio:.2f}x",
                verdict(ratio, MEMORY_AIM, at_least=False) if name == OURS else "",
                _megabytes(memory["loaded"]),
                _megabytes(growth),
                f"{growth / found.smallest('growth'):.2f}x",
                _megabytes(memory["optimizer"]),
            )
        )
    return table


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f}"


def bnb_python() -> tuple[str | None, str]:
    """Return the interpreter that has bitsandbytes (None: none), and its version."""
    python = os.environ.get(INTERPRETER, sys.executable)
    command = "from importlib.metadata import version; print(version('bitsandbytes'))"
    done = subprocess.run([python, "-c", command], capture_output=True, text=True, check=False)
    return (None, "") if done.returncode else (python, done.stdout.strip())


def parse() -> argparse.Namespace:
    """Return the options; --tiny shortens everything."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_work_option(parser)
    add_output_options(parser)
    add_material_options(parser)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--rounds", type=int, default=3, help="rounds that count")
    parser.add_argument("--steps", type=int, default=3, help="steps of a round that count")
    parser.add_argument("--warm-ups", type=int, default=1, help="steps of a round before them")
    parser.add_argument("--rows", type=int, default=2, help="packed rows in a batch")
    parser.add_argument("--max-seq-len", type=int, default=1024, help="tokens of a row")
    options = parser.parse_args()
    if options.tiny:
        options.rounds, options.steps, options.max_seq_len = 1, 1, TINY_LENGTH
    return options


def main() -> None:
    """Measure and publish."""
    options = parse()
    report = Report(
        "finetuning",
        "Fine-tuning on the CPU beside transformers' Trainer, peft and bitsandbytes",
        shown_command("benchmarks.finetuning", sys.argv[1:]),
        how=__doc__.split("\n\n")[1],
    )
    about = make_material(
        options.work / folder_name(options),
        options,
        shape="tiny" if options.tiny else "0.1b",
        tied=True,
        max_seq_len=options.max_seq_len,
    )
    report.facts["model"] = (
        f"{about['parameters'] / 1e6:,.0f} M parameters, vocabulary {about['vocabulary']:,}, tied"
    )
    report.facts["data"] = (
        f"{about['conversations']:,} conversations, {about['tokens']:,} tokens, the longest "
        f"{about['longest']:,}"
    )
    python, version = bnb_python()
    report.facts["bitsandbytes"] = version or "not installed"
    for method in options.methods:
        title = f"{method}, {options.precision}"
        if method == "qlora" and python is None:
            reason = f"{NOT_MEASURED}: {INTERPRETER} names no python that has bitsandbytes"
            report.tables.append(Table(title, ("result",), [(reason,)]))
            continue
        found = measure(method, options, about, python)
        report.tables += [speed_table(title, found), memory_table(title, found)]
        report.add_samples(f"{title} tokens/s", found.tokens)
        report.samples[f"{title} memory"] = found.memory
    publish(report, options)


if __name__ == "__main__":
    main()
