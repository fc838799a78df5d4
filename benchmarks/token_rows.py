"""Memory of LoRA with trained token rows, beside LoRA and LoRA with embedding and head whole.

A random Qwen2 of 0.5B shape, untied, with the whole vocabulary, is fine-tuned in bf16 by LoRA;
by LoRA and the rows of embedding and head that belong to the control tokens of its chat format; and
by LoRA and both matrices whole ("LoRA (emb)"), as one had to before single rows could be trained.
peft does the same three (`trainable_token_indices`, `modules_to_save`). Each side makes a few steps
of one block of 1024 tokens in a new process every round; memory is the largest resident set of that
process. Aim: at most 5 % more than LoRA alone.

    python -m benchmarks.token_rows [--rounds 3] [--steps 2] [--data FOLDER] [--tokenizer FOLDER]
        [--chat-format chatml] [--work FOLDER] [--out FILE.md] [--tiny]
"""

import argparse
import sys
from functools import partial
from typing import Any

from benchmarks.checkpoint import add_work_option
from benchmarks.facts import shown_command
from benchmarks.finetuning_material import add_material_options, make_material
from benchmarks.measuring import Samples, Spread, paired_rounds, ratio_text, verdict
from benchmarks.results import Report, Table, add_output_options, publish
from benchmarks.worker import Worker

METHODS = ("lora", "token rows", "lora (emb)")
OUR_WORKER, PEER_WORKER = "benchmarks.finetuners", "benchmarks.finetuning_peer"
AIM = 1.05
LENGTH, TINY_LENGTH = 1024, 128
SEED = 0

Memory = dict[str, int]


def sides_of(options: argparse.Namespace, about: dict[str, Any]) -> dict[str, tuple[str, Any]]:
    """Return name -> (worker's module, its options)."""
    folder = options.work / folder_name(options)
    common = {
        "precision": "bf16",
        "model": str(folder / "model"),
        "rows": 1,
        "micro_batches": 1,
        "max_seq_len": TINY_LENGTH if options.tiny else LENGTH,
        "warm_ups": 1,
    }
    ours = {"sources": about["sources"], "cache": str(folder / "cache"), "batching": "packed"}
    theirs = {
        "documents": str(folder / "documents.npz"),
        "batching": "blocks",
        "token_rows": about["control_ids"],
    }
    stacks = {"danlu": (OUR_WORKER, ours), "peft": (PEER_WORKER, theirs)}
    return {
        f"{stack}, {method}": (module, {**common, **chosen, "method": method})
        for stack, (module, chosen) in stacks.items()
        for method in METHODS
    }


def folder_name(options: argparse.Namespace) -> str:
    """Return the name of the folder of the material."""
    return "token-rows-tiny" if options.tiny else "token-rows"


def one_run(module: str, chosen: dict[str, Any], steps: int, found: list[Memory]) -> float:
    """Return the peak bytes of one process that makes some steps; append what it tells."""
    with Worker(module, chosen) as worker:
        speeds = worker.ask("measure", steps=steps, seed=SEED)
        memory: Memory = worker.ask("memory")
    found.append({**memory, "ms_per_step": round(1000 * speeds["s_per_step"])})
    return float(memory["peak"])


def table_of(peaks: Samples, told: dict[str, list[Memory]]) -> Table:
    """Return peaks, and what is trained and kept for it."""
    table = Table(
        "Peak memory in MB",
        (
            "stack",
            "peak: median (min to max)",
            "ratio to the same stack's LoRA",
            "aim",
            "trained weights, M",
            "optimizer state, MB",
            "s per step",
        ),
    )
    for name, peak in peaks.items():
        stack, _, method = name.partition(", ")
        alone = peaks[f"{stack}, lora"]
        is_ours = (stack, method) == ("danlu", "token rows")
        seconds = Spread(tuple(each["ms_per_step"] / 1000 for each in told[name]))
        table.rows.append(
            (
                name,
                Spread(tuple(value / 1e6 for value in peak.values)).text(",.0f"),
                ratio_text(peak, alone),
                verdict(peak.median / alone.median, AIM, at_least=False) if is_ours else "",
                f"{told[name][0]['trained'] / 1e6:,.2f}",
                f"{told[name][0]['optimizer'] / 1e6:,.1f}",
                seconds.text(".2f"),
            )
        )
    return table


def parse() -> argparse.Namespace:
    """Return the options; --tiny shortens everything."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_work_option(parser)
    add_output_options(parser)
    add_material_options(parser)
    parser.add_argument("--rounds", type=int, default=3, help="rounds that count")
    parser.add_argument("--steps", type=int, default=2, help="steps of a round that count")
    options = parser.parse_args()
    if options.tiny:
        options.rounds, options.steps = 1, 1
    return options


def main() -> None:
    """Measure and publish."""
    options = parse()
    report = Report(
        "token-rows",
        "Token rows beside LoRA and LoRA (emb): memory of fine-tuning on the CPU",
        shown_command("benchmarks.token_rows", sys.argv[1:]),
        how=__doc__.split("\n\n")[1],
    )
    about = make_material(
        options.work / folder_name(options),
        options,
        shape="tiny" if options.tiny else "0.5b",
        tied=False,
        max_seq_len=TINY_LENGTH if options.tiny else LENGTH,
    )
    report.facts["model"] = (
        f"{about['parameters'] / 1e6:,.0f} M parameters, vocabulary {about['vocabulary']:,}"
    )
    report.facts["token rows"] = f"{len(about['control_ids'])} in each matrix"
    sides = sides_of(options, about)
    told: dict[str, list[Memory]] = {name: [] for name in sides}
    peaks = paired_rounds(
        {name: partial(one_run, *side, options.steps, told[name]) for name, side in sides.items()},
        options.rounds,
        warm_ups=0,
    )
    report.tables.append(table_of(peaks, told))
    report.add_samples("peak bytes", peaks)
    report.samples["memory"] = told
    publish(report, options)


if __name__ == "__main__":
    main()
