"""How many tokens different tokenizers need for the same documents."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from danlu.errors import DataError
from danlu.tokenizer.base import Tokenizer


@dataclass(frozen=True)
class CompressionRow:
    """One kind of documents.

    Attributes:
        kind: "zh", "en", "code", ...
        num_documents: how many were measured.
        bytes_per_document: average UTF-8 bytes; what a byte tokenizer needs.
        tokens_per_document: average tokens by tokenizer name.
    """

    kind: str
    num_documents: int
    bytes_per_document: float
    tokens_per_document: dict[str, float]


def compare_tokenizers(
    documents_by_kind: Mapping[str, Sequence[str]], tokenizers: Mapping[str, Tokenizer]
) -> list[CompressionRow]:
    """Return, for each kind of documents, the average length in bytes and in tokens.

    Raises:
        DataError: if a kind has no documents.
    """
    empty = [kind for kind, documents in documents_by_kind.items() if not documents]
    if empty:
        raise DataError(f"No documents of kind {', '.join(empty)}; expected at least one of each.")
    return [_row(kind, list(texts), tokenizers) for kind, texts in documents_by_kind.items()]


def _row(kind: str, texts: list[str], tokenizers: Mapping[str, Tokenizer]) -> CompressionRow:
    num_bytes = sum(len(text.encode()) for text in texts)
    counts = {
        name: sum(len(ids) for ids in tokenizer.encode_batch(texts))
        for name, tokenizer in tokenizers.items()
    }
    averages = {name: count / len(texts) for name, count in counts.items()}
    return CompressionRow(kind, len(texts), num_bytes / len(texts), averages)
