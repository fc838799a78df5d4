"""`danlu tokenizer compare`: what tokenizers make of Chinese, English and code."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from danlu.data.reading.opening import read_lines
from danlu.data.reading.problems import Problems, raise_problems
from danlu.data.sources import EXTENSIONS, read_corpus
from danlu.data.text_kinds import CHINESE, CODE, ENGLISH, parts_by_kind
from danlu.data.tiny_world import TinyWorld
from danlu.errors import ConfigError
from danlu.loading import load_tokenizer
from danlu.tokenizer import CompressionRow, Tokenizer, compare_tokenizers

KINDS = {"en": ENGLISH, "zh": CHINESE, "code": CODE}
SAMPLE_STORIES, SAMPLE_CODE = 300, 100


@dataclass(frozen=True)
class CompressionTable:
    """What each tokenizer needs for the same documents.

    Attributes:
        vocab_sizes: of each tokenizer, by name.
        kinds: the measurements, one for each kind of text.
    """

    vocab_sizes: dict[str, int]
    kinds: tuple[CompressionRow, ...]

    def tables(self) -> list[tuple[str, list[str], list[list[str]]]]:
        """Return titled tables (title, names of the columns, cells), a line for each tokenizer."""
        names = [kind.kind for kind in self.kinds]
        in_bytes = [f"{kind.bytes_per_document:,.1f}" for kind in self.kinds]
        counts = [f"{kind.num_documents:,}" for kind in self.kinds]
        lengths = [["(documents)", "", *counts], ["(one token per byte)", "256", *in_bytes]]
        lengths += [
            [name, f"{size:,}", *(f"{kind.tokens_per_document[name]:,.1f}" for kind in self.kinds)]
            for name, size in self.vocab_sizes.items()
        ]
        return [
            ("Average tokens per document", ["", "vocabulary", *names], lengths),
            (
                "Characters per token",
                ["", *names],
                self._quotients(CompressionRow.characters_per_token),
            ),
            ("Bytes per token", ["", *names], self._quotients(CompressionRow.bytes_per_token)),
        ]

    def _quotients(self, per: Callable[[CompressionRow, str], float]) -> list[list[str]]:
        return [
            [name, *(f"{per(kind, name):.2f}" for kind in self.kinds)] for name in self.vocab_sizes
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values, the two quotients included."""
        names = list(self.vocab_sizes)
        return {
            "vocab_sizes": self.vocab_sizes,
            "kinds": [
                {
                    **asdict(kind),
                    "characters_per_token": {n: kind.characters_per_token(n) for n in names},
                    "bytes_per_token": {n: kind.bytes_per_token(n) for n in names},
                }
                for kind in self.kinds
            ],
        }


def compare_token_counts(
    tokenizers: Sequence[str | Path], texts: Sequence[str | Path] = ()
) -> CompressionTable:
    """Return what tokenizers make of English and Chinese text, and of code.

    Args:
        tokenizers: folders with a tokenizer; their names become those in the table.
        texts: corpora, or files of plain text or code. What each document holds is seen from its
            lines (see `parts_by_kind`), or said in front: "zh=FILE", "en=FILE", "code=FILE".
            Without any: stories and code of the tiny world.

    Raises:
        ConfigError: for an unknown kind in front of a file.
        DataError: if a corpus is missing, empty or not UTF-8.
        TokenizerError: if a folder has no tokenizer.
    """
    opened = open_tokenizers(tokenizers)
    samples: dict[str, list[str]] = {kind: [] for kind in KINDS.values()}
    for kind, text in documents_by_kind(texts):
        samples[kind].append(text)
    found = {kind: documents for kind, documents in samples.items() if documents}
    sizes = {name: tokenizer.vocab_size for name, tokenizer in opened.items()}
    return CompressionTable(sizes, tuple(compare_tokenizers(found, opened)))


def open_tokenizers(folders: Sequence[str | Path]) -> dict[str, Tokenizer]:
    """Return the tokenizers by the names of their folders, by their paths if names are equal."""
    names = [Path(folder).name for folder in folders]
    are_unique = len(set(names)) == len(names)
    return {
        name if are_unique else str(folder): load_tokenizer(folder)
        for name, folder in zip(names, folders, strict=True)
    }


def documents_by_kind(texts: Sequence[str | Path]) -> Iterator[tuple[str, str]]:
    """Yield kind and text of every document of `texts`, as `compare_token_counts` takes them."""
    if not texts:
        yield from _tiny_world()
        return
    sources = [_source(text) for text in texts]  # a wrong one is said before any is read
    for kind, path in sources:
        for text in _documents(path):
            yield from [(kind, text)] if kind else parts_by_kind(text)


def _tiny_world() -> Iterator[tuple[str, str]]:
    world = TinyWorld()
    for story in world.held_out_stories(SAMPLE_STORIES):
        yield from parts_by_kind(story)
    for code in world.code_samples(SAMPLE_CODE):
        yield CODE, code


def _source(text: str | Path) -> tuple[str | None, Path]:
    """Return (kind or None, path) of "zh=FILE" or of a path."""
    name, equals, path = str(text).partition("=")
    if not equals or Path(text).exists() or "/" in name:
        return None, Path(text)
    if name not in KINDS:
        raise ConfigError(
            f"There is no kind of text {name!r} (in {str(text)!r}); expected one of "
            f"{', '.join(KINDS)} in front of '=', or the path of a file alone."
        )
    return KINDS[name], Path(path)


def _documents(path: Path) -> Iterator[str]:
    """Yield the documents of a corpus; a file of another kind, of code say, is one document."""
    if not path.is_file() or path.suffix in EXTENSIONS:
        yield from (document.text for document in read_corpus(path))
        return
    problems = Problems()
    text = "\n".join(line for _, line in read_lines(path, problems))
    if not problems and not text.strip():
        problems.append(f"{path}: the file is empty")
    raise_problems(problems, path, "Expected text in UTF-8. Convert the file, or leave it out.")
    yield text
