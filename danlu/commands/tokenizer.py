"""Train a tokenizer into a folder, and count what tokenizers make of Chinese, English and code."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from danlu.commands.manifest import write_manifest
from danlu.data.sources import Document, read_corpus
from danlu.files import atomic_folder, refuse_existing
from danlu.progress import Progress, Silent
from danlu.tokenizer import CompressionRow, compare_tokenizers, load_tokenizer, train_bpe

CHINESE, ENGLISH, CODE = "Chinese", "English", "code"
_CHINESE_CHARACTER = re.compile(r"[\u3400-\u9fff]")


@dataclass(frozen=True)
class TokenizerReport:
    """A trained tokenizer: its folder, its size, the corpus it saw."""

    folder: Path
    vocab_size: int
    num_documents: int
    num_characters: int
    fingerprint: str

    def rows(self) -> list[tuple[str, str]]:
        """Return labels and values to print."""
        return [
            ("vocabulary", f"{self.vocab_size:,} tokens"),
            ("trained on", f"{self.num_documents:,} documents"),
            ("characters", f"{self.num_characters:,}"),
            ("fingerprint", self.fingerprint[:16]),
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return {
            "vocab_size": self.vocab_size,
            "num_documents": self.num_documents,
            "num_characters": self.num_characters,
            "fingerprint": self.fingerprint,
        }


def train_tokenizer(
    corpus: Sequence[Path],
    out: Path,
    vocab_size: int = 4096,
    chat_format: str = "chatml",
    progress: Progress | None = None,
) -> TokenizerReport:
    """Train a byte-level BPE tokenizer on a corpus and write it to a new folder.

    Args:
        corpus: text, JSONL, or folders of them.
        out: the new folder; it is complete or absent.
        vocab_size: tokens wanted, control tokens and the 256 bytes included.
        chat_format: built-in chat format whose template is saved with it.
        progress: hears how far it is.

    Raises:
        DataError: if the corpus is missing, empty or not UTF-8.
        OutputError: if `out` exists.
        TokenizerError: if the vocabulary is too small or the format unknown.
    """
    refuse_existing(out)
    counted = _Counted(chain.from_iterable(read_corpus(path) for path in corpus))
    tokenizer = train_bpe(counted, vocab_size, chat_format, progress or Silent())
    with atomic_folder(out) as temporary:
        tokenizer.save(temporary)
        report = TokenizerReport(
            folder=out,
            vocab_size=tokenizer.vocab_size,
            num_documents=counted.num_documents,
            num_characters=counted.num_characters,
            fingerprint=tokenizer.fingerprint(),
        )
        options = {
            "corpus": [str(path) for path in corpus],
            "vocab_size": vocab_size,
            "chat_format": chat_format,
        }
        write_manifest(temporary, "tokenizer train", {}, options, report.as_dict())
    return report


class _Counted:
    """The texts of documents, counted while they are read."""

    def __init__(self, documents: Iterable[Document]) -> None:
        self._documents = documents
        self.num_documents = 0
        self.num_characters = 0

    def __iter__(self) -> Iterator[str]:
        for document in self._documents:
            self.num_documents += 1
            self.num_characters += len(document.text)
            yield document.text


@dataclass(frozen=True)
class CompressionTable:
    """Average tokens per document: a row for each kind of text, a column for each tokenizer."""

    names: tuple[str, ...]
    kinds: tuple[CompressionRow, ...]

    def header(self) -> list[str]:
        """Return the names of the columns."""
        return ["", "documents", "one token per byte", *self.names]

    def rows(self) -> list[list[str]]:
        """Return the cells of the table."""
        return [
            [
                kind.kind,
                f"{kind.num_documents:,}",
                f"{kind.bytes_per_document:,.1f}",
                *(f"{kind.tokens_per_document[name]:,.1f}" for name in self.names),
            ]
            for kind in self.kinds
        ]


def compare_token_counts(
    tokenizers: Sequence[str | Path], text: Sequence[Path], code: Sequence[Path] = ()
) -> CompressionTable:
    """Return what tokenizers make of Chinese and English text, and of code.

    A document's lines with Chinese characters count as Chinese, its others as English.

    Args:
        tokenizers: folders with a tokenizer; their names become those of the columns.
        text: corpora of text.
        code: corpora of code.

    Raises:
        DataError: if a corpus is missing, empty or not UTF-8.
        TokenizerError: if a folder has no tokenizer.
    """
    paths = [Path(path) for path in tokenizers]
    are_unique = len({path.name for path in paths}) == len(paths)
    opened = {path.name if are_unique else str(path): load_tokenizer(path) for path in paths}
    samples: dict[str, list[str]] = {CHINESE: [], ENGLISH: [], CODE: []}
    for document in chain.from_iterable(read_corpus(path) for path in text):
        for kind, part in parts_by_language(document.text):
            samples[kind].append(part)
    samples[CODE] = [document.text for path in code for document in read_corpus(path)]
    found = {kind: texts for kind, texts in samples.items() if texts}
    return CompressionTable(tuple(opened), tuple(compare_tokenizers(found, opened)))


def parts_by_language(text: str) -> list[tuple[str, str]]:
    """Return the Chinese lines of a text as one part, and its other lines as another."""
    chinese: list[str] = []
    others: list[str] = []
    for line in text.splitlines():
        (chinese if _CHINESE_CHARACTER.search(line) else others).append(line)
    parts = ((CHINESE, "\n".join(chinese)), (ENGLISH, "\n".join(others)))
    return [(kind, part) for kind, part in parts if part.strip()]
