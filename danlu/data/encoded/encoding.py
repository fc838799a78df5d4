"""From examples to arrays of tokens: encoders of texts and of conversations.

An encoder turns a few examples into `Encoded` rows. It can be pickled, so that other processes do
the same work, and it names everything that decides the outcome, so that the outcome can be kept.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from danlu.data.encoded.store import Encoded, file_sha256
from danlu.data.examples import Conversation, Document
from danlu.data.mixing.holding_out import draw
from danlu.data.packing import TokenDocument
from danlu.errors import ChatFormatError, DanluError
from danlu.tokenizer import Tokenizer
from danlu.tokenizer.chat.training import Learn, Long, TrainingText, render_training

NOTHING_TO_LEARN = "no token to learn"

Example_contra = TypeVar("Example_contra", contravariant=True)


class Encoder(Protocol[Example_contra]):
    """Turns examples into rows of a store."""

    @property
    def columns(self) -> Mapping[str, str]:
        """Names of the arrays of a row, with the dtype of each."""

    def identity(self) -> dict[str, Any]:
        """Return everything that decides the outcome, as plain JSON."""

    def size(self, example: Example_contra) -> int:
        """Return about how many bytes the example had in its file."""

    def __call__(self, examples: Sequence[Example_contra]) -> list[Encoded]:
        """Return what each example becomes."""


@dataclass(frozen=True)
class TextEncoder:
    """Texts as the tokenizer's prefix, their tokens and its end token, all of them learned.

    Attributes:
        tokenizer: encodes.
        split_seed: seed of the numbers that decide what is held out; None: nothing will be.
        dtype: of the ids.
    """

    tokenizer: Tokenizer
    split_seed: int | None = None
    dtype: str = "<i4"

    @property
    def columns(self) -> dict[str, str]:
        """One array: the ids."""
        return {"ids": self.dtype}

    def identity(self) -> dict[str, Any]:
        """Return everything that decides the outcome, as plain JSON."""
        return {
            "encoder": "text",
            "tokenizer": self.tokenizer.fingerprint(),
            "split_seed": self.split_seed,
            "dtype": self.dtype,
        }

    def size(self, example: Document) -> int:
        """Return the bytes of the text."""
        return len(example.text.encode("utf-8", "surrogatepass"))

    def __call__(self, examples: Sequence[Document]) -> list[Encoded]:
        """Return the ids of each text; one of a single token teaches nothing and is dropped."""
        tokenizer = self.tokenizer
        prefix = tokenizer.prompt_prefix()
        end = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
        batch = tokenizer.encode_batch([example.text for example in examples])
        return [
            self._row(example, np.array([*prefix, *ids, *end], self.dtype))
            for example, ids in zip(examples, batch, strict=True)
        ]

    def _row(self, example: Document, ids: np.ndarray) -> Encoded:
        drawn = 0.0 if self.split_seed is None else draw(example.text, self.split_seed)
        if len(ids) < 2:
            return Encoded(example.origin, None, NOTHING_TO_LEARN, drawn)
        return Encoded(example.origin, (ids,), draw=drawn)


@dataclass(frozen=True)
class ChatEncoder:
    """Conversations as the chat template writes them, with what is learned of them.

    Attributes:
        tokenizer: encodes and names the chat format.
        max_tokens: the longest conversation.
        format, learn, long, max_prompt_tokens, template_options: as in `render_training`.
        split_seed: seed of the numbers that decide what is held out; None: nothing will be.
    """

    tokenizer: Tokenizer
    max_tokens: int
    format: str | None = None
    learn: Learn = "answers"
    long: Long = "drop"
    max_prompt_tokens: int | None = None
    template_options: Mapping[str, Any] | None = None
    split_seed: int | None = None

    @property
    def columns(self) -> dict[str, str]:
        """Ids, labels, weights (no entry: all 1), and how many targets there are."""
        return {"ids": "<i4", "labels": "<i4", "weights": "<f4", "targets": "<f8"}

    def identity(self) -> dict[str, Any]:
        """Return everything that decides the outcome, as plain JSON."""
        is_file = self.format is not None and Path(self.format).is_file()
        return {
            "encoder": "chat",
            "tokenizer": self.tokenizer.fingerprint(),
            "format": file_sha256(Path(self.format)) if is_file and self.format else self.format,
            "max_tokens": self.max_tokens,
            "learn": self.learn,
            "long": self.long,
            "max_prompt_tokens": self.max_prompt_tokens,
            "template_options": dict(self.template_options or {}),
            "split_seed": self.split_seed,
        }

    def size(self, example: Conversation) -> int:
        """Return the bytes of all messages."""
        texts = (str(message.get("content", "")) for message in example.messages)
        return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)

    def __call__(self, examples: Sequence[Conversation]) -> list[Encoded]:
        """Return ids, labels and weights of each conversation, or why it cannot be learned."""
        return [self._row(example) for example in examples]

    def _row(self, example: Conversation) -> Encoded:
        drawn = 0.0
        if self.split_seed is not None:
            content = json.dumps([example.messages, example.tools], sort_keys=True)
            drawn = draw(content, self.split_seed)
        try:
            text = self.rendered(example)
        except ChatFormatError:  # no row can be written, so there is nothing to drop
            raise
        except DanluError as error:
            return Encoded(example.origin, None, str(error), drawn)
        if text.problem:
            return Encoded(example.origin, None, text.problem, drawn)
        document = TokenDocument(text.rendered.ids, text.labels, text.weights, example.origin)
        if not document.num_targets:
            return Encoded(example.origin, None, NOTHING_TO_LEARN, drawn)
        note = "; ".join(filter(None, (text.shortened, text.unlearned)))
        return Encoded(example.origin, _arrays(document), note, drawn)

    def rendered(self, example: Conversation) -> TrainingText:
        """Return a conversation with what is learned of it.

        Raises:
            TokenizerError: if the chat format cannot write it.
        """
        return render_training(
            self.tokenizer,
            example.messages,
            tools=example.tools,
            format=self.format,
            learn=self.learn,
            max_tokens=self.max_tokens,
            long=self.long,
            max_prompt_tokens=self.max_prompt_tokens,
            template_options=self.template_options,
        )


def _arrays(document: TokenDocument) -> tuple[np.ndarray, ...]:
    weights = np.empty(0) if document.weights is None else document.weights
    assert document.labels is not None
    return document.ids, document.labels, weights, np.array([document.num_targets], np.float64)


def as_document(encoded: Encoded) -> TokenDocument:
    """Return a row of a `TextEncoder` or `ChatEncoder` as a token document."""
    assert encoded.arrays is not None
    ids, *rest = encoded.arrays
    if not rest:
        return TokenDocument(ids, origin=encoded.origin)
    labels, weights, _ = rest
    return TokenDocument(ids, labels, weights if len(weights) else None, encoded.origin)
