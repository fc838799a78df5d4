"""Rows of data as the model sees them: each token with its text, role and what is learned of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from danlu.data.any_source import Example
from danlu.data.examples import Conversation, Document, LabelledAnswer, Message, PreferencePair
from danlu.errors import DanluError
from danlu.tokenizer import Rendered, Tokenizer
from danlu.tokenizer.chat.chat_format import CONTROL
from danlu.tokenizer.chat.training import (
    NOT_LEARNED,
    Learn,
    Long,
    TrainingText,
    render_training,
)

TEXT = "text"  # the role of the tokens of a plain text
SAME_PLACE = "\u00b7"  # shown for a token whose character the token before it shows


@dataclass(frozen=True)
class TokenView:
    """One token of a row.

    Attributes:
        token_id: its id.
        text: the characters it shows, the name of a control token, or `SAME_PLACE`.
        role: whose content it is, "control" for what the format adds, "text" in a plain text.
        is_control: is it a control token?
        label: the id that is learned there, None where nothing is, as at the first token.
        weight: how much it counts.
    """

    token_id: int
    text: str
    role: str
    is_control: bool
    label: int | None
    weight: float = 1.0

    @property
    def is_learned(self) -> bool:
        """Is something learned there?"""
        return self.label is not None


@dataclass(frozen=True)
class RowView:
    """One row, or one of the two answers of a preference pair.

    Attributes:
        origin: where it comes from, as ``file:line``.
        what: what it is: "conversation", "chosen answer", ...
        tokens: what the model sees.
        shortened: what was left out to make it fit.
        problem: why it is dropped.
        unlearned: which answers are not learned, and why.
        spelled: control tokens that the text of a message spells; they stay text.
    """

    origin: str
    what: str
    tokens: list[TokenView] = field(default_factory=list)
    shortened: str = ""
    problem: str = ""
    unlearned: str = ""
    spelled: list[str] = field(default_factory=list)

    @property
    def num_learned(self) -> int:
        """How many tokens are learned."""
        return sum(token.is_learned for token in self.tokens)


@dataclass(frozen=True)
class Rendering:
    """How rows are turned into tokens: what a run would hand to `render_training`."""

    tokenizer: Tokenizer
    format: str | None = None
    learn: Learn = "answers"
    max_tokens: int | None = None
    long: Long = "truncate"
    template_options: dict[str, Any] | None = None

    def views(self, example: Example) -> Iterator[RowView]:
        """Yield what a row becomes: one view, two for a preference pair."""
        if isinstance(example, Document):
            yield self._text(example)
        elif isinstance(example, Conversation):
            yield self._chat(example, example.messages, "conversation", self.learn)
        elif isinstance(example, LabelledAnswer):
            judged = "desirable answer" if example.desirable else "undesirable answer"
            yield self._chat(example, example.messages, judged, "last")
        else:
            for name, answer in (("chosen", example.chosen), ("rejected", example.rejected)):
                messages = [*example.prompt, *answer]
                yield self._chat(example, messages, f"{name} answer", "last")

    def _chat(
        self,
        example: Conversation | PreferencePair | LabelledAnswer,
        messages: list[Message],
        what: str,
        learn: Learn,
    ) -> RowView:
        spelled = spelled_controls(self.tokenizer, messages)
        try:
            text = render_training(
                self.tokenizer,
                messages,
                tools=example.tools,
                format=self.format,
                learn=learn,
                max_tokens=self.max_tokens,
                long=self.long,
                template_options=self.template_options,
            )
        except DanluError as error:
            return RowView(example.origin, what, problem=str(error), spelled=spelled)
        return RowView(
            example.origin,
            what,
            token_views(self.tokenizer, text),
            text.shortened,
            text.problem,
            text.unlearned,
            spelled,
        )

    def _text(self, document: Document) -> RowView:
        tokenizer = self.tokenizer
        encoded = tokenizer.encode_spans(document.text)
        prefix = tokenizer.prompt_prefix()
        end = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
        ids = [*prefix, *encoded.ids, *end]
        shown = [control_text(tokenizer, token_id) for token_id in prefix]
        shown += _shown(document.text, encoded.spans)
        shown += [control_text(tokenizer, token_id) for token_id in end]
        tokens = [
            TokenView(
                token_id,
                text,
                CONTROL if token_id in tokenizer.control_texts else TEXT,
                token_id in tokenizer.control_texts,
                token_id if place else None,
            )
            for place, (token_id, text) in enumerate(zip(ids, shown, strict=True))
        ]
        limit = self.max_tokens
        long = limit is not None and len(ids) > limit
        shortened = f"{len(ids)} tokens become rows of at most {limit}" if long else ""
        problem = "" if len(ids) > 1 else "no token to learn"
        return RowView(document.origin, "text", tokens, shortened, problem)


def token_views(tokenizer: Tokenizer, text: TrainingText) -> list[TokenView]:
    """Return the tokens of a conversation to learn from."""
    rendered = text.rendered
    weights = text.weights or [1.0] * len(text.labels)
    shown = _texts(tokenizer, rendered)
    return [
        TokenView(
            token_id,
            shown[place],
            rendered.roles[place],
            rendered.roles[place] == CONTROL and token_id in tokenizer.control_texts,
            text.labels[place] if place and text.labels[place] != NOT_LEARNED else None,
            weights[place],
        )
        for place, token_id in enumerate(rendered.ids)
    ]


def control_text(tokenizer: Tokenizer, token_id: int) -> str:
    """Return the name of a control token, or what another token says."""
    return tokenizer.control_texts.get(token_id) or tokenizer.decode([token_id])


def _texts(tokenizer: Tokenizer, rendered: Rendered) -> list[str]:
    """Return what each token shows; control tokens that are in the ids only by their name."""
    return [
        control_text(tokenizer, token_id)
        if start == end and token_id in tokenizer.control_texts
        else text
        for token_id, (start, end), text in zip(
            rendered.ids, rendered.spans, _shown(rendered.text, rendered.spans), strict=True
        )
    ]


def _shown(text: str, spans: Sequence[tuple[int, int]]) -> list[str]:
    """Return the characters of each span that no span before it has shown."""
    shown, position = [], 0
    for start, end in spans:
        fresh = text[max(start, position) : end]
        shown.append(fresh or SAME_PLACE)
        position = max(position, end)
    return shown


def spelled_controls(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[str]:
    """Return the control tokens that the contents of messages spell, each once, in order."""
    found: dict[str, None] = {}
    for message in messages:
        content = message.get("content")
        for part in tokenizer.control_splitter.split(content if isinstance(content, str) else ""):
            if part.token is not None:
                found[part.token.text] = None
    return list(found)
