"""From text and conversations to token documents, with whatever tokenizer the model has."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from danlu.data.examples import Conversation, Document
from danlu.data.packing import IGNORE, TokenDocument
from danlu.progress import Progress, Silent, working

CHUNK = 512


class TextTokenizer(Protocol):
    """What is needed of a tokenizer to encode a corpus."""

    @property
    def eos_id(self) -> int | None:
        """The id that ends a document, or None if the tokenizer has none."""

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Return the ids of each text, with nothing added."""

    def prompt_prefix(self) -> list[int]:
        """Return the ids in front of a raw text, such as a BOS."""


class RenderedChat(Protocol):
    """A rendered conversation: ids, and per id whether it is learned."""

    @property
    def ids(self) -> Sequence[int]:
        """Token ids."""

    @property
    def loss_mask(self) -> Sequence[bool]:
        """One entry per id."""


class ChatTokenizer(Protocol):
    """What is needed of a tokenizer to encode conversations."""

    def render_chat(
        self,
        messages: Any,
        tools: Any = None,
        format: Any = None,
        add_generation_prompt: bool = True,
    ) -> RenderedChat:
        """Return the conversation as the chat template writes it."""


def text_document(
    ids: Sequence[int], eos_id: int | None, origin: str, prefix: Sequence[int] = ()
) -> TokenDocument:
    """Return prefix, ids and the end token (if there is one) as a document learned as a whole."""
    end = [] if eos_id is None else [eos_id]
    return TokenDocument([*prefix, *ids, *end], origin=origin)


def chat_document(rendered: RenderedChat, origin: str) -> TokenDocument:
    """Return a rendered conversation as a document of which only the masked tokens are learned."""
    labels = [
        i if learned else IGNORE
        for i, learned in zip(rendered.ids, rendered.loss_mask, strict=True)
    ]
    return TokenDocument(rendered.ids, labels, origin=origin)


def encode_documents(
    tokenizer: TextTokenizer, documents: Iterable[Document], progress: Progress | None = None
) -> list[TokenDocument]:
    """Return the texts as token documents, each with the tokenizer's prefix and its end token."""
    texts = list(documents)
    encoded: list[TokenDocument] = []
    prefix, eos_id = tokenizer.prompt_prefix(), tokenizer.eos_id
    with working(progress or Silent(), "encode text", len(texts)) as report:
        for start in range(0, len(texts), CHUNK):
            chunk = texts[start : start + CHUNK]
            for ids, text in zip(
                tokenizer.encode_batch([text.text for text in chunk]), chunk, strict=True
            ):
                encoded.append(text_document(ids, eos_id, text.origin, prefix))
            report.advance(len(chunk))
    return encoded


def encode_conversations(
    tokenizer: ChatTokenizer,
    conversations: Sequence[Conversation],
    format: str | None = None,
    progress: Progress | None = None,
) -> list[TokenDocument]:
    """Return the conversations as token documents, rendered with the chat template `format`."""
    encoded: list[TokenDocument] = []
    with working(progress or Silent(), "encode conversations", len(conversations)) as report:
        for conversation in conversations:
            rendered = tokenizer.render_chat(
                conversation.messages, format=format, add_generation_prompt=False
            )
            encoded.append(chat_document(rendered, conversation.origin))
            report.advance(1)
    return encoded
