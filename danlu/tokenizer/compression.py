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
        characters_per_document: average characters.
        tokens_per_document: average tokens by tokenizer name.
    """

    kind: str
    num_documents: int
    bytes_per_document: float
    characters_per_document: float
    tokens_per_document: dict[str, float]

    def characters_per_token(self, name: str) -> float:
        """Return how many characters one token of a tokenizer stands for, on average."""
        return self.characters_per_document / self.tokens_per_document[name]

    def bytes_per_token(self, name: str) -> float:
        """Return how many UTF-8 bytes one token of a tokenizer stands for, on average."""
        return self.bytes_per_document / self.tokens_per_document[name]


def compare_tokenizers(
    documents_by_kind: Mapping[str, Sequence[str]], tokenizers: Mapping[str, Tokenizer]
) -> list[CompressionRow]:
    """Return, for each kind of documents, the average length in bytes and in tokens.

    Raises:
        DataError: if a kind has no documents, or nothing in them to count.
    """
    empty = [kind for kind, texts in documents_by_kind.items() if not any(map(str.strip, texts))]
    if empty:
        raise DataError(f"No documents of kind {', '.join(empty)}; expected at least one of each.")
    return [_row(kind, list(texts), tokenizers) for kind, texts in documents_by_kind.items()]


def _row(kind: str, texts: list[str], tokenizers: Mapping[str, Tokenizer]) -> CompressionRow:
    count = len(texts)
    return CompressionRow(
        kind,
        count,
        bytes_per_document=sum(len(text.encode()) for text in texts) / count,
        characters_per_document=sum(map(len, texts)) / count,
        tokens_per_document={
            name: sum(map(len, tokenizer.encode_batch(texts))) / count
            for name, tokenizer in tokenizers.items()
        },
    )
