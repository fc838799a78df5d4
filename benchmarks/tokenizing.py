"""Tokens per second on mixed text: Danlu beside tiktoken, transformers and sentencepiece.

10 MB of English, Chinese and code in equal parts (a kind with less text repeats itself), in
documents, brought to NFC. Every side has the same vocabulary, lives in its own process, and is
measured in turns with the others: one text after the other, and all as a batch, pinned to one core
and with all cores. Tokens are those that Danlu makes; "same ids" is the share of documents for
which a side makes the same. One text after the other uses one core everywhere.

    python -m benchmarks.tokenizing [--megabytes 10] [--rounds 5] [--kinds qwen1,llama2]
        [--text zh=FILE ...] [--tokenizers FOLDER] [--work FOLDER] [--out FILE.md] [--tiny]

Texts and tokenizers are those of a folder `shared` beside the repository; without it, the tiny
world, and a tokenizer trained on it.
"""

import argparse
import json
import sys
import tempfile
import unicodedata
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from itertools import chain, cycle
from pathlib import Path

from benchmarks.facts import ROOT, shown_command
from benchmarks.measuring import Samples, Spread, best_of, paired_rounds, ratio_text, verdict
from benchmarks.results import Report, Table, add_output_options, publish
from benchmarks.worker import Worker
from danlu.commands.compression import documents_by_kind
from danlu.data.tiny_world import TinyWorld
from danlu.tokenizer import train_bpe

DATA = ROOT.parent / "shared" / "data"
ENGLISH = ("wiki_demo.txt", "tinyshakespeare.txt", "c4_demo.jsonl")
CHINESE = ("chinese_classics.txt", "quatrains_zh.jsonl")
CODE = ("danlu", "tests", "scripts", "benchmarks")  # this repository's own
OWN_OPTIONS = ("--text", "--tokenizers")  # name folders of this machine
LIBRARIES = ("tokenizers", "tiktoken", "sentencepiece", "transformers")
TINY_KINDS = "gpt2,llama2"
AIM = 1.0
ONE_BY_ONE, BATCH = "one by one", "batch"


@dataclass(frozen=True)
class Kind:
    """A vocabulary: its folder's name, what it is, and the sides that can hold it."""

    name: str
    title: str
    sides: tuple[str, ...]


KINDS = (
    Kind("qwen1", "tiktoken ranks, Qwen-1", ("danlu", "tiktoken", "transformers")),
    Kind("qwen2", "byte-level BPE, Qwen2", ("danlu", "tiktoken", "transformers")),
    Kind("gpt2", "byte-level BPE, GPT-2", ("danlu", "tiktoken", "transformers")),
    Kind("llama2", "sentencepiece, LLaMA 2", ("danlu", "sentencepiece", "transformers")),
    Kind("baichuan2", "sentencepiece, Baichuan 2", ("danlu", "sentencepiece")),
)
TRAINED = Kind("trained", "tokenizer.json, trained on the tiny world", ("danlu", "transformers"))
ROUTES = (  # title, route, is it pinned to one core
    ("One text after the other, one core", ONE_BY_ONE, True),
    ("Batch, one core", BATCH, True),
    ("Batch, all cores", BATCH, False),
)


def default_texts() -> list[str]:
    """Return the texts beside the repository with their kinds; none where there are none."""
    if not DATA.is_dir():
        return []
    folder = DATA / "train" / "pretrain"
    code = chain.from_iterable(sorted((ROOT / part).rglob("*.py")) for part in CODE)
    filled = [path for path in code if path.read_text(encoding="utf-8").strip()]
    return [
        *(f"en={folder / name}" for name in ENGLISH),
        *(f"zh={folder / name}" for name in CHINESE),
        *(f"code={path}" for path in filled),
    ]


def mixed_texts(sources: Sequence[str], num_bytes: int) -> list[str]:
    """Return documents of so many bytes, the kinds by turns and in equal parts."""
    found: dict[str, list[str]] = {}
    for kind, text in documents_by_kind(sources):
        found.setdefault(kind, []).append(unicodedata.normalize("NFC", text))
    share = num_bytes // len(found)
    queues = [_filled(texts, share) for texts in found.values()]
    longest = max(map(len, queues))
    return [queue[index] for index in range(longest) for queue in queues if index < len(queue)]


def _filled(texts: list[str], num_bytes: int) -> list[str]:
    filled: list[str] = []
    size = 0
    for text in cycle(texts):
        if size >= num_bytes:
            break
        filled.append(text)
        size += len(text.encode())
    return filled


def found_kinds(folder: Path | None, wanted: str | None, work: Path) -> list[tuple[Kind, Path]]:
    """Return the kinds there are and where; one trained on the tiny world if there is no folder.

    Raises:
        SystemExit: if a wanted kind is unknown or not there.
    """
    folder = folder or DATA / "tokenizers"
    if not folder.is_dir():
        train_bpe(TinyWorld().stories(2000), 2000).save(work / "trained")
        return [(TRAINED, work / "trained")]
    names = wanted.split(",") if wanted else [kind.name for kind in KINDS]
    there = {kind.name: kind for kind in KINDS if (folder / kind.name).is_dir()}
    missing = [name for name in names if name not in there]
    if missing and wanted:
        raise SystemExit(f"No tokenizers {missing} in '{folder}'; found {sorted(there)}.")
    return [(there[name], folder / name) for name in names if name in there]


@dataclass(frozen=True)
class Measured:
    """One kind on one route: tokens per second of each side, and the share of equal texts."""

    speeds: Samples
    equal: dict[str, float]


def measure(
    kind: Kind, folder: Path, texts: Path, route: str, one_core: bool, rounds: int
) -> Measured:
    """Load all sides of a kind and measure them in turns."""
    options = {"kind": kind.name, "folder": str(folder), "texts": str(texts), "one_core": one_core}
    with ExitStack() as stack:
        workers = {
            side: stack.enter_context(
                Worker("benchmarks.tokenizers_at_work", {"side": side, **options})
            )
            for side in kind.sides
        }
        about = {side: worker.ask("describe", route=route) for side, worker in workers.items()}
        ours = about["danlu"]
        sides = {side: partial(_seconds, worker, route) for side, worker in workers.items()}
        times = paired_rounds(sides, rounds)
    speeds = {
        side: Spread(tuple(ours["tokens"] / seconds for seconds in spread.values))
        for side, spread in times.items()
    }
    equal = {side: _share(ours["digests"], about[side]["digests"]) for side in kind.sides}
    return Measured(speeds, equal)


def _seconds(worker: Worker, route: str) -> float:
    return float(worker.ask("measure", route=route)["seconds"])


def _share(ours: list[str], theirs: list[str]) -> float:
    return sum(a == b for a, b in zip(ours, theirs, strict=True)) / len(ours)


def rows_of(kind: Kind, measured: Measured) -> list[tuple[str, ...]]:
    """Return the lines of a table: speed, our ratio to it, the aim at the fastest, equal ids."""
    speeds = measured.speeds
    rows: list[tuple[str, ...]] = []
    fastest = best_of(speeds, kind.sides[1:])
    for side in kind.sides:
        ratio = speeds["danlu"].median / speeds[side].median
        millions = Spread(tuple(value / 1e6 for value in speeds[side].values))
        rows.append(
            (
                kind.title,
                side,
                millions.text(".2f"),
                "" if side == "danlu" else ratio_text(speeds["danlu"], speeds[side]),
                verdict(ratio, AIM) if side == fastest else "",
                f"{measured.equal[side]:.1%}",
            )
        )
    return rows


def measure_all(
    report: Report, kinds: Sequence[tuple[Kind, Path]], texts: Path, rounds: int
) -> None:
    """Measure every kind on every route and put the tables into the report."""
    header = (
        "vocabulary",
        "side",
        "million tokens/s, median (min to max)",
        "danlu to this",
        "aim, to the fastest",
        "same ids",
    )
    for title, route, one_core in ROUTES:
        table = Table(title, header)
        for kind, folder in kinds:
            measured = measure(kind, folder, texts, route, one_core, rounds)
            table.rows += rows_of(kind, measured)
            report.add_samples(f"{title}: {kind.name}, tokens/s", measured.speeds)
        report.tables.append(table)


def _without_folders(arguments: Sequence[str]) -> list[str]:
    """Return the arguments without the options that name folders, and their values."""
    kept, skip = [], False
    for argument in arguments:
        name, _, value = argument.partition("=")
        if not skip and name not in OWN_OPTIONS:
            kept.append(argument)
        skip = not skip and name in OWN_OPTIONS and not value
    return kept


def _facts_of(texts: Sequence[str]) -> dict[str, str]:
    found = ", ".join(f"{name} {metadata.version(name)}" for name in LIBRARIES)
    size = sum(len(text.encode()) for text in texts)
    return {
        "tokenizer packages": found,
        "text": f"{len(texts):,} documents, {size / 1e6:.1f} MB, "
        f"{sum(map(len, texts)) / 1e6:.1f} million characters",
    }


def options_of_command() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--megabytes", type=float, default=10.0, help="of text")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count")
    parser.add_argument("--kinds", help="names with commas between; default: all there are")
    parser.add_argument("--text", action="append", metavar="KIND=FILE", help="en=, zh= or code=")
    parser.add_argument("--tokenizers", type=Path, help="folder of tokenizer folders")
    parser.add_argument("--work", type=Path, help="folder for texts in passing")
    add_output_options(parser)
    return parser.parse_args()


def main() -> None:
    """Measure and publish."""
    options = options_of_command()
    rounds, megabytes = (1, 0.1) if options.tiny else (options.rounds, options.megabytes)
    report = Report(
        "tokenizing",
        "Tokens per second beside tiktoken, transformers and sentencepiece",
        shown_command("benchmarks.tokenizing", _without_folders(sys.argv[1:])),
        how=__doc__.split("\n\n")[1],
    )
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        work = Path(folder)
        texts = mixed_texts(options.text or default_texts(), int(megabytes * 1e6))
        (work / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
        report.facts |= _facts_of(texts)
        names = options.kinds or (TINY_KINDS if options.tiny else None)
        kinds = found_kinds(options.tokenizers, names, work)
        measure_all(report, kinds, work / "texts.json", rounds)
    publish(report, options)


if __name__ == "__main__":
    main()
