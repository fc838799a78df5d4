"""Conversations encoded per second, beside `datasets.map` with the stock tokenizer.

The same English and Chinese conversations, as rows of `messages`, are encoded with the same
tokenizer and chat template, in one process and in as many as there are cores; each side lives in a
process of its own and is measured in turns with the others, without a cache. Danlu does what
`danlu finetune` does with new data: it reads and checks the file, renders, masks what is not
learned, and writes a verified store. `datasets` has read the file before its clock starts, and
makes ids and the mask of answers, by `apply_chat_template` in `map` with the same template and
marks for the mask, row by row or a thousand rows at a time; the faster one counts. *Same ids* is
the share of rows with the ids that Danlu makes.

    python -m benchmarks.encoding [--rounds 3] [--repeat 4] [--data FOLDER] [--tokenizer FOLDER]
        [--chat-format chatml] [--work FOLDER] [--out FILE.md] [--tiny]
"""

import argparse
import os
import sys
from contextlib import ExitStack
from functools import partial

from benchmarks.checkpoint import add_work_option
from benchmarks.facts import shown_command
from benchmarks.finetuning_material import add_material_options, make_material
from benchmarks.measuring import Samples, best_of, paired_rounds, ratio_text, verdict
from benchmarks.results import Report, Table, add_output_options, publish
from benchmarks.worker import Worker

OURS = "danlu"
SIDES = {
    OURS: "danlu",
    "datasets.map": "datasets",
    "datasets.map, batched": "datasets batched",
}
AIM = 1.0
LENGTH = 1024

Digests = dict[str, list[str]]


def measure(options: argparse.Namespace, processes: int) -> tuple[Samples, Digests]:
    """Return rows per second of all sides, and what their rows are."""
    folder, digests = options.work / folder_name(options), {}
    with ExitStack() as stack:
        measures = {}
        for name, side in SIDES.items():
            about = {
                "stack": side,
                "model": str(folder / "model"),
                "data": str(folder / "messages.jsonl"),
                "processes": processes,
                "chat_format": options.chat_format,
            }
            worker = stack.enter_context(Worker("benchmarks.encoders", about))
            measures[name] = partial(_round, worker, name, digests)
        return paired_rounds(measures, options.rounds), digests


def _round(worker: Worker, name: str, digests: Digests) -> float:
    answer = worker.ask("measure")
    digests[name] = answer["digests"]
    return float(answer["rows_per_s"])


def folder_name(options: argparse.Namespace) -> str:
    """Return the name of the folder of the material."""
    return "encoding-tiny" if options.tiny else "encoding"


def table_of(processes: int, speeds: Samples, digests: Digests) -> Table:
    """Return the table of one number of processes."""
    table = Table(
        f"Rows/s with {processes} {'process' if processes == 1 else 'processes'}",
        ("stack", "median (min to max)", "ratio to the faster peer", "aim", "same ids"),
    )
    reference = best_of(speeds, [name for name in speeds if name != OURS])
    for name in speeds:
        pairs = list(zip(digests[OURS], digests[name], strict=True))
        same = sum(ours == theirs for ours, theirs in pairs) / len(pairs)
        reached = verdict(speeds[name].median / speeds[reference].median, AIM)
        table.rows.append(
            (
                name,
                speeds[name].text(",.0f"),
                ratio_text(speeds[name], speeds[reference]),
                reached if name == OURS else "",
                f"{same:.1%}",
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
    parser.add_argument("--repeat", type=int, default=4, help="how often each row comes")
    options = parser.parse_args()
    if options.tiny:
        options.rounds, options.repeat = 1, 1
    return options


def main() -> None:
    """Measure and publish."""
    options = parse()
    report = Report(
        "encoding",
        "Conversations to token ids beside datasets.map",
        shown_command("benchmarks.encoding", sys.argv[1:]),
        how=__doc__.split("\n\n")[1],
    )
    about = make_material(
        options.work / folder_name(options),
        options,
        shape="tiny",
        tied=True,
        max_seq_len=LENGTH,
        repeat=options.repeat,
    )
    report.facts["data"] = (
        f"{about['conversations']:,} conversations, {about['tokens']:,} tokens, each "
        f"{options.repeat} times"
    )
    for processes in sorted({1, len(os.sched_getaffinity(0))}):
        speeds, digests = measure(options, processes)
        report.tables.append(table_of(processes, speeds, digests))
        report.add_samples(f"rows/s with {processes}", speeds)
    publish(report, options)


if __name__ == "__main__":
    main()
