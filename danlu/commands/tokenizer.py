"""`danlu tokenizer train`: a tokenizer of one's own corpus, in a folder."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from danlu.commands.manifest import write_manifest
from danlu.data.sources import Document, read_corpus
from danlu.files import atomic_folder, refuse_existing
from danlu.progress import Progress, Silent
from danlu.tokenizer import train_bpe


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
    control: Sequence[str] = (),
) -> TokenizerReport:
    """Train a byte-level BPE tokenizer on a corpus and write it to a new folder.

    Args:
        corpus: text, JSONL, or folders of them.
        out: the new folder; it is complete or absent.
        vocab_size: tokens wanted, control tokens and the 256 bytes included.
        chat_format: built-in chat format, or template file, whose template is saved with it.
        progress: hears how far it is.
        control: control tokens beyond the usual three, for the chat format say.

    Raises:
        DataError: if the corpus is missing, empty or not UTF-8.
        OutputError: if `out` exists.
        TokenizerError: if the vocabulary is too small or the format unknown.
    """
    refuse_existing(out)
    counted = _Counted(chain.from_iterable(read_corpus(path) for path in corpus))
    tokenizer = train_bpe(counted, vocab_size, chat_format, progress or Silent(), control=control)
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
            "control": list(control),
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
