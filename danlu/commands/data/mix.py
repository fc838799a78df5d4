"""`danlu data mix`: what a mixture is made of, and the mixture itself as one file."""

import json
import math
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from danlu.config.data import DataSource
from danlu.data.conversations import read_conversations
from danlu.data.documents import Numbers
from danlu.data.encoded.cache import Reader, encoded_store
from danlu.data.encoded.store import ArrayStore, Encoded
from danlu.data.examples import Conversation, Document
from danlu.data.mixing.mixture import Mixture, Share, shares_of
from danlu.data.sources import read_corpus
from danlu.errors import ConfigError, OutputError
from danlu.files import atomic_file
from danlu.progress import Progress
from danlu.tokenizer import Tokenizer, load_tokenizer

Kind = Literal["conversations", "text"]
BYTES, TOKENS = "bytes", "tokens"


@dataclass(frozen=True)
class MixReport:
    """A mixture.

    Attributes:
        shares: how often each source is seen.
        unit: of its sizes, bytes or tokens.
        out: the file that was written, None if none was.
        written: rows in it.
    """

    shares: list[Share]
    unit: str
    out: Path | None
    written: int

    def header(self) -> list[str]:
        """Return the heads of the columns of `table`."""
        return ["source", "weight", "rows", self.unit, "times per pass", f"share of {self.unit}"]

    def table(self) -> list[list[str]]:
        """Return a line for each source."""
        return [
            [
                share.source,
                f"{share.weight:g}",
                f"{share.documents:,}",
                f"{share.tokens:,}",
                f"{share.times:.3g}",
                f"{share.share:.1%}",
            ]
            for share in self.shares
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        sources = [share.as_json() for share in self.shares]
        return {"unit": self.unit, "sources": sources, "rows": self.written}


@dataclass(frozen=True)
class _RowEncoder:
    """Examples as lines of JSON, each with its size."""

    kind: Kind
    tokenizer: Tokenizer | None
    chat_format: str | None

    @property
    def columns(self) -> Mapping[str, str]:
        return {"line": "u1", "size": "<i8"}

    def identity(self) -> dict[str, Any]:
        known = self.tokenizer.fingerprint() if self.tokenizer else None
        return {
            "encoder": f"lines of {self.kind}",
            "tokenizer": known,
            "format": self.chat_format,
        }

    def size(self, example: Conversation | Document) -> int:
        return 1024

    def __call__(self, examples: Sequence[Conversation | Document]) -> list[Encoded]:
        return [self._row(example) for example in examples]

    def _row(self, example: Conversation | Document) -> Encoded:
        line = json.dumps(_as_row(example), ensure_ascii=False).encode("utf-8", "surrogatepass")
        size = len(line) if self.tokenizer is None else self._num_tokens(self.tokenizer, example)
        return Encoded(example.origin, (np.frombuffer(line, np.uint8), np.array([size])))

    def _num_tokens(self, tokenizer: Tokenizer, example: Conversation | Document) -> int:
        if isinstance(example, Document):
            return len(tokenizer.encode(example.text))
        chat = tokenizer.render_chat(
            example.messages, example.tools, self.chat_format, add_generation_prompt=False
        )
        return len(chat.ids)


def _as_row(example: Conversation | Document) -> dict[str, Any]:
    if isinstance(example, Document):
        return {"text": example.text}
    more = {"tools": example.tools} if example.tools else {}
    return {
        "messages": example.messages,
        **more,
        **({"kind": example.kind} if example.kind else {}),
    }


def parse_sources(arguments: Sequence[str]) -> list[DataSource]:
    """Return the sources of `[WEIGHT] PATH [WEIGHT] PATH ...`; without a weight, 1.

    Raises:
        ConfigError: if a weight has no path, or is not positive.
    """
    sources: list[DataSource] = []
    weight: float | None = None
    for argument in arguments:
        number = _number(argument)
        if number is None:
            sources.append(DataSource(path=argument, weight=1.0 if weight is None else weight))
            weight = None
        elif weight is not None or not (number > 0 and math.isfinite(number)):
            raise ConfigError(
                f"{argument!r} is no weight of a source here. Expected: [WEIGHT] PATH [WEIGHT] "
                "PATH ..., weights above 0. A file with such a name is written ./NAME."
            )
        else:
            weight = number
    if weight is not None:
        raise ConfigError(f"The weight {weight:g} at the end has no path; expected one behind it.")
    return sources


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def mix(
    sources: Sequence[DataSource],
    *,
    kind: Kind = "conversations",
    temperature: float = 1.0,
    tokenizer: str | None = None,
    chat_format: str | None = None,
    out: Path | None = None,
    seed: int = 0,
    workers: int | None = None,
    progress: Progress | None = None,
) -> MixReport:
    """Return how often each source is seen in a pass over a mixture; write a pass to `out`.

    Args:
        sources: with their weights.
        kind: what they hold.
        temperature: how sizes count; see `danlu/data/mixing/mixture.py`.
        tokenizer: folder of one that measures sizes in tokens; None: in bytes.
        chat_format: as in `Tokenizer.render_chat`.
        out: a new JSON Lines file for one pass, its rows shuffled; None: nothing is written.
        seed: decides order and choice.
        workers: processes that measure.
        progress: hears how far it is.

    Raises:
        DataError: if a source is malformed or empty.
        OutputError: if `out` exists or cannot be written.
    """
    if out is not None and out.exists():
        raise OutputError(f"'{out}' exists; nothing was overwritten. Choose another name.")
    loaded = None if tokenizer is None else load_tokenizer(tokenizer)
    read: Reader[Any] = _texts if kind == "text" else read_conversations
    with tempfile.TemporaryDirectory(prefix="danlu-mix-") as folder:
        encoder, where = _RowEncoder(kind, loaded, chat_format), Path(folder)
        stores = [
            encoded_store(source, read, encoder, where, workers=workers, progress=progress)
            for source in sources
        ]
        sizes = [store.column("size") for store in stores]
        named = [(source.path, source.weight) for source in sources]
        shares = shares_of(
            [(*name, each) for name, each in zip(named, sizes, strict=True)], temperature
        )
        written = 0 if out is None else _write(out, stores, shares, seed)
    return MixReport(shares, BYTES if loaded is None else TOKENS, out, written)


def _texts(source: DataSource, dropped: list[str] | None) -> Iterator[Document]:
    return read_corpus(source)


def _write(out: Path, stores: Sequence[ArrayStore], shares: Sequence[Share], seed: int) -> int:
    """Write the first pass over the mixture as JSON Lines; return how many rows it has."""
    ends = np.cumsum([0, *map(len, stores)])
    numbers: list[Numbers] = [np.arange(first, end) for first, end in pairwise(ends)]
    mixture = Mixture(numbers, [share.times for share in shares], seed)
    chosen = mixture.of_pass(0).tolist()
    random.Random(f"mix:{seed}").shuffle(chosen)
    with atomic_file(out) as temporary, temporary.open("wb") as file:
        for number in chosen:
            store = int(np.searchsorted(ends, number, side="right")) - 1
            file.write(stores[store].array("line", number - int(ends[store])).tobytes() + b"\n")
    return len(chosen)
