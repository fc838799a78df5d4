"""The examples of any source, whatever it is for: told by its first row."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from danlu.config.data import DataSource
from danlu.data.conversations import read_conversations, read_labelled, read_preferences
from danlu.data.examples import Conversation, Document, LabelledAnswer, PreferencePair
from danlu.data.reading.opening import Content, content_of
from danlu.data.reading.problems import Problems
from danlu.data.reading.rows import names_rows, source_rows
from danlu.data.shaping.shape import Example as RowExample
from danlu.data.shaping.shape import keys_of_rows, shapes
from danlu.data.sources import TEXT, read_corpus

Example = Conversation | PreferencePair | LabelledAnswer | Document

READERS: dict[Any, Any] = {
    Conversation: read_conversations,
    PreferencePair: read_preferences,
    LabelledAnswer: read_labelled,
}


def read_examples(source: DataSource, dropped: list[str] | None) -> Iterator[Example]:
    """Yield what is in a source: conversations, preference pairs, labelled answers or texts.

    Args:
        source: what to read.
        dropped: gets each row that is none of them, as ``file:line: why``; None: it is an error.

    Raises:
        DataError: if there is nothing to read.
    """
    gives = kind_of(source)
    if gives is None:
        yield from read_corpus(source)
    else:
        yield from READERS[gives](source, dropped)


def kind_of(source: DataSource) -> type[RowExample] | None:
    """Return what the rows of a source become, None for plain texts."""
    if source.format == TEXT:
        return None
    if source.format is not None and source.format in shapes():
        return shapes()[source.format].gives
    path = Path(source.path)
    if path.is_file() and content_of(path) == Content.PLAIN and not names_rows(path):
        return None
    keys = keys_of_rows() | source.columns.keys()
    row: Any = next((row for _, row in source_rows(source, Problems(), keys)), None)
    if not isinstance(row, dict):
        return None if isinstance(row, str) else Conversation
    named = {source.columns.get(str(key), str(key)): value for key, value in row.items()}
    found = [shape.gives for shape in shapes().values() if shape.recognises(named)]
    judged = [gives for gives in found if gives is not Conversation]
    if not found and source.text_key in named:
        return None
    return (judged or found or [Conversation])[0]
