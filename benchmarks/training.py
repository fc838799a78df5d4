"""Pre-training and LoRA in tokens/s on the tour's model and data, beside transformers' Trainer.

Both sides start from the same weights and the same token documents, with the tour's numbers
(batch, row length, rank, fused AdamW, clipping), and are measured in turns, each in its own
process; a round is some steps of a fresh optimizer, and its first steps do not count. Danlu runs
the loop of `danlu pretrain` and `danlu finetune` on packed rows. Trainer gets joined text in full
blocks for pre-training; for LoRA (peft) it gets padded conversations, once as many per batch as
Danlu has rows, once as many as fit into Danlu's rows, and the faster counts. Padding is no token:
only real ones are counted. bf16 means Trainer(bf16=True), with a bf16 base for LoRA, against
Danlu's precision bf16.

    python -m benchmarks.training [--rounds 5] [--steps 8] [--work FOLDER] [--out FILE.md] [--tiny]
"""

import argparse
import json
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.checkpoint import add_work_option
from benchmarks.facts import shown_command
from benchmarks.measuring import Samples, Spread, best_of, paired_rounds, ratio_text, verdict
from benchmarks.results import Report, Table, add_output_options, publish
from benchmarks.worker import Worker

AIM = 1.5
OURS, THEIRS = "danlu", "transformers"
SEED = 0


def write_material(folder: Path, stories: int) -> None:
    """Write the tour's random model with its tokenizer, and its data as token documents."""
    import torch

    from danlu.commands.tour.plan import default_plan
    from danlu.data.encoded.encoding import ChatEncoder, TextEncoder
    from danlu.data.examples import Document
    from danlu.data.tiny_world import TinyWorld
    from danlu.files import atomic_folder
    from danlu.loading import new_decoder, save_decoder
    from danlu.tokenizer import train_bpe

    plan, world = default_plan(), TinyWorld(SEED)
    texts = list(world.stories(stories))
    tokenizer = train_bpe(texts, plan.vocab_size)
    decoder = new_decoder(plan.model, tokenizer.vocab_size)
    decoder.init_weights(torch.Generator().manual_seed(SEED))
    instructions = world.instructions(min(plan.num_instructions, stories))
    with atomic_folder(folder, replace=True) as temporary:
        save_decoder(decoder, temporary)
        tokenizer.save(temporary)
        rows = TextEncoder(tokenizer)([Document(text, "") for text in texts])
        _write_documents(temporary / "pretrain.json", rows)
        rows = ChatEncoder(tokenizer, plan.model.max_seq_len)(instructions)
        _write_documents(temporary / "lora.json", rows)


def _write_documents(path: Path, rows: Iterable[Any]) -> None:
    from danlu.data.encoded.encoding import as_document
    from danlu.data.packing import IGNORE

    documents = [as_document(row) for row in rows if row.arrays is not None]
    masked = [
        (
            document.ids.tolist(),
            None if document.labels is None else (document.labels != IGNORE).tolist(),
        )
        for document in documents
    ]
    path.write_text(json.dumps(masked), encoding="utf-8")


def conversations_per_batch(folder: Path) -> int:
    """Return how many conversations Danlu's rows of one batch hold, on average."""
    from danlu.commands.tour.plan import default_plan

    plan = default_plan()
    lengths = [len(ids) for ids, _ in json.loads((folder / "lora.json").read_text())]
    room = plan.finetune.micro_batch_size * plan.max_seq_len
    return round(room * len(lengths) / sum(lengths))


def sides_of(task: str, folder: Path) -> dict[str, dict[str, Any]]:
    """Return name -> options of the stacks that do a task."""
    if task == "pretrain":
        return {OURS: {"stack": OURS}, THEIRS: {"stack": THEIRS}}
    many = conversations_per_batch(folder)
    return {
        OURS: {"stack": OURS},
        f"{THEIRS}, peft": {"stack": THEIRS},
        f"{THEIRS}, peft, {many} conversations": {"stack": THEIRS, "rows": many},
    }


def measure(
    task: str, precision: str, folder: Path, options: argparse.Namespace
) -> tuple[Samples, Samples]:
    """Return real and learned tokens per second of all stacks."""
    learned: dict[str, list[float]] = {}
    with ExitStack() as stack:
        measures = {}
        for name, chosen in sides_of(task, folder).items():
            about = {
                "task": task,
                "precision": precision,
                "model": str(folder),
                "data": str(folder / f"{task}.json"),
                "rows": None,
                "warm_ups": options.warm_ups,
            }
            worker = stack.enter_context(Worker("benchmarks.trainers", {**about, **chosen}))
            learned[name] = []
            measures[name] = partial(_round, worker, options.steps, learned[name])
        tokens = paired_rounds(measures, options.rounds)
    rounds = {name: Spread(tuple(found[-options.rounds :])) for name, found in learned.items()}
    return tokens, rounds


def _round(worker: Worker, steps: int, learned: list[float]) -> float:
    answer = worker.ask("measure", steps=steps)
    learned.append(answer["targets_per_s"])
    return float(answer["tokens_per_s"])


def table_of(task: str, precision: str, tokens: Samples, targets: Samples) -> Table:
    """Return the table of one task in one precision."""
    table = Table(
        f"{task}, {precision}",
        (
            "stack",
            "real tokens/s: median (min to max)",
            "ratio to the faster transformers",
            "aim",
            "learned tokens/s",
            "ratio",
        ),
    )
    others = [name for name in tokens if name != OURS]
    reference = best_of(tokens, others)
    for name in tokens:
        reached = verdict(tokens[name].median / tokens[reference].median, AIM)
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


def parse() -> argparse.Namespace:
    """Return the options; --tiny shortens everything."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_work_option(parser)
    add_output_options(parser)
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count")
    parser.add_argument("--steps", type=int, default=8, help="steps of a round that count")
    parser.add_argument("--warm-ups", type=int, default=3, help="steps of a round before them")
    parser.add_argument("--task", choices=("pretrain", "lora"), help="only this one")
    parser.add_argument("--precision", choices=("bf16", "fp32"), help="only this one")
    options = parser.parse_args()
    if options.tiny:
        options.rounds, options.steps, options.warm_ups = 1, 1, 1
    return options


def main() -> None:
    """Measure and publish."""
    options = parse()
    report = Report(
        "training",
        "Training on the CPU beside transformers' Trainer and peft",
        shown_command("benchmarks.training", sys.argv[1:]),
        how=__doc__.split("\n\n")[1],
    )
    folder = options.work / ("training-tiny" if options.tiny else "training")
    write_material(folder, 300 if options.tiny else 6000)
    for task in [options.task] if options.task else ("pretrain", "lora"):
        for precision in [options.precision] if options.precision else ("bf16", "fp32"):
            tokens, targets = measure(task, precision, folder, options)
            report.tables.append(table_of(task, precision, tokens, targets))
            report.add_samples(f"{task} {precision} tokens/s", tokens)
            report.add_samples(f"{task} {precision} learned tokens/s", targets)
    publish(report, options)


if __name__ == "__main__":
    main()
