"""`danlu data build`: text into a folder of token ids that any run with its tokenizer reads."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from danlu.config.data import DataSource
from danlu.data.encoded.built_corpus import corpus_encoder, corpus_facts
from danlu.data.encoded.cache import write_examples
from danlu.data.encoded.store import MANIFEST, ArrayStore, verify
from danlu.data.encoded.store_writing import StoreWriter
from danlu.data.ledger import LedgerEntry
from danlu.data.sources import read_corpus
from danlu.errors import DataError, OutputError
from danlu.files import only_holder, refuse_existing, size_text
from danlu.progress import Progress
from danlu.tokenizer import load_tokenizer


@dataclass(frozen=True)
class BuildReport:
    """A built corpus.

    Attributes:
        folder: where it is.
        documents, tokens: how many it has.
        num_bytes: of all its files.
        dtype: of the ids.
        dropped: documents that are not in it, with the reason.
        already_built: it was there before, whole, and nothing was done.
        resumed_at: how many documents an earlier, killed build had done.
    """

    folder: Path
    documents: int
    tokens: int
    num_bytes: int
    dtype: str
    dropped: list[LedgerEntry]
    already_built: bool = False
    resumed_at: int = 0

    def rows(self) -> list[tuple[str, str]]:
        """Return labels and values to print."""
        width = {"<u2": "2 bytes", "<u4": "4 bytes"}[self.dtype]
        rows = [
            ("documents", f"{self.documents:,}"),
            ("tokens", f"{self.tokens:,}, {width} each"),
            ("size", size_text(self.num_bytes)),
        ]
        if self.dropped:
            listed = [f"{entry.origin}: {entry.reason}" for entry in self.dropped[:10]]
            more = [f"(+{len(self.dropped) - 10} more)"] if len(self.dropped) > 10 else []
            rows.append((f"left out, {len(self.dropped):,}", "\n".join(listed + more)))
        if self.already_built:
            rows.append(("note", "it was built before from the same files; nothing was done"))
        if self.resumed_at:
            rows.append(("note", f"went on after {self.resumed_at:,} documents of a build before"))
        return rows


def build_corpus(
    sources: Sequence[DataSource],
    tokenizer: str,
    out: Path,
    *,
    family: str | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    seconds_between_notes: float = 5.0,
) -> BuildReport:
    """Encode text into the new folder `out`; a killed build goes on where it was.

    Args:
        sources: of text.
        tokenizer: folder, or id, of a tokenizer or of a model with one.
        out: the folder; it is whole or absent.
        family: of the tokenizer, where its folder does not tell it.
        workers: processes that encode; None: one for each core, if it pays.
        progress: told the bytes of text that are encoded.
        seconds_between_notes: how much work a kill may cost.

    Raises:
        DataError: if texts are malformed, or none is left.
        OutputError: if the folder holds something else, is in use, or cannot be written.
    """
    loaded = load_tokenizer(tokenizer, family)
    about = corpus_facts(sources, loaded)
    with only_holder(out):
        if (out / MANIFEST).exists():
            return _report(_same(out, about), already_built=True)
        refuse_existing(out)
        encoder, examples = corpus_encoder(loaded), chain.from_iterable(map(read_corpus, sources))
        with StoreWriter(out, encoder.columns, _key(about), seconds_between_notes) as writer:
            resumed_at = writer.examples
            write_examples(writer, examples, encoder, about, workers, progress)
            if not writer.rows:
                writer.discard()
                raise DataError(
                    f"None of {writer.examples} documents has a token to learn; expected at least "
                    "one. Check the text and the tokenizer."
                )
            writer.finish(about)
        return _report(ArrayStore(out), resumed_at=resumed_at)


def _same(out: Path, about: dict[str, Any]) -> ArrayStore:
    """Return the corpus in `out`, if it is the one that would be built."""
    verify(out)
    store = ArrayStore(out)
    different = [key for key, value in about.items() if store.about.get(key) != value]
    if different:
        raise OutputError(
            f"'{out}' holds a corpus that was built from something else; different: "
            f"{', '.join(different)}. Nothing was changed. Choose another folder with --out, or "
            "remove this one."
        )
    return store


def _report(store: ArrayStore, already_built: bool = False, resumed_at: int = 0) -> BuildReport:
    return BuildReport(
        store.folder,
        len(store),
        int(store.lengths("ids").sum()),
        sum(file.stat().st_size for file in store.folder.iterdir()),
        store.columns["ids"],
        store.fate.ledger().dropped,
        already_built,
        resumed_at,
    )


def _key(about: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
