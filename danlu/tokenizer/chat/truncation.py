"""A history that is too long, cut by whole rounds.

Two rules. Ours counts everything (system, history, new question, the header of the answer), keeps
the system text and the last round, and drops the oldest rounds. The family's own rule, where it
has one, is what its published code does; see the module of each format.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from danlu.errors import RequestError
from danlu.tokenizer.chat.chat_format import Message, Rendered, Tool
from danlu.tokenizer.chat.messages import check_list, rounds_of, split_system
from danlu.tokenizer.chat.rendering import render_layout
from danlu.tokenizer.chat.segments import Kept, Segment, layout_of

if TYPE_CHECKING:
    from danlu.tokenizer.base import Tokenizer

Rule = Literal["danlu", "family"]


@dataclass(frozen=True)
class FittedHistory:
    """A conversation that fits.

    Attributes:
        messages: the messages that are kept, in order.
        dropped: the messages that are not, in order.
        rendered: the prompt.
    """

    messages: list[Message]
    dropped: list[Message]
    rendered: Rendered


def fit_history(
    tokenizer: "Tokenizer",
    messages: Sequence[Message],
    max_tokens: int,
    format: str | None = None,
    rule: Rule = "danlu",
    *,
    tools: Sequence[Tool] | None = None,
    template_options: Mapping[str, Any] | None = None,
) -> FittedHistory:
    """Render the prompt of a conversation, without the oldest rounds where it is too long.

    Args:
        tokenizer: encodes and names the chat format.
        messages: the conversation; it ends with what is to be answered.
        max_tokens: by our rule the most ids the prompt may have; by a family's rule the number it
            calls `max_window_size`, `max_token`, or `model_max_length - max_new_tokens`.
        format: as in `Tokenizer.render_chat`.
        rule: "danlu" for ours, "family" for what the family's own code does.
        tools: as in `Tokenizer.render_chat`.
        template_options: as in `Tokenizer.render_chat`.

    Raises:
        RequestError: if the system text and the last round alone are too long, or the format has no
            rule of its own.
        TokenizerError: for a conversation that cannot be rendered.
    """
    check_list(messages)
    render = partial(
        tokenizer.render_chat, tools=tools, format=format, template_options=template_options
    )
    whole = render(messages)
    if rule == "family":
        kept = _family_rule(tokenizer, messages, max_tokens, format)
    elif len(whole.ids) <= max_tokens:
        return FittedHistory(list(messages), [], whole)
    else:
        kept = _newest_that_fit(messages, max_tokens, render)
    rendered = last_ids(render(kept.messages), kept.last_ids)
    remaining = {id(message) for message in kept.messages}
    dropped = [message for message in messages if id(message) not in remaining]
    return FittedHistory(kept.messages, dropped, rendered)


def last_ids(rendered: Rendered, count: int | None) -> Rendered:
    """Return a rendered conversation without all but its last ids."""
    if count is None or count >= len(rendered.ids):
        return rendered
    first = len(rendered.ids) - count
    start = rendered.spans[first][0] if count else len(rendered.text)
    return Rendered(
        ids=rendered.ids[first:],
        text=rendered.text[start:],
        roles=rendered.roles[first:],
        loss_mask=rendered.loss_mask[first:],
        spans=[(a - start, b - start) for a, b in rendered.spans[first:]],
        turns=rendered.turns[first:],
        labels=rendered.labels[first:],
        unlearned=rendered.unlearned,
    )


def _newest_that_fit(messages: Sequence[Message], max_tokens: int, render: Any) -> Kept:
    """Drop as few of the oldest rounds as needed."""
    system, turns = split_system(messages)
    rounds = rounds_of(turns)

    def with_last(count: int) -> list[Message]:
        return [*system, *(message for past in rounds[-count:] for message in past)]

    def size(count: int) -> int:
        return len(render(with_last(count)).ids)

    if not rounds or size(1) > max_tokens:
        raise RequestError(
            f"The last question is {size(1) if rounds else 0} tokens long with the system text and "
            f"the marks of the format; expected at most {max_tokens}. Shorten the question or the "
            "system text, ask for a shorter answer, or use a model with a longer context."
        )
    too_many = bisect_left(range(1, len(rounds) + 1), True, key=lambda n: size(n) > max_tokens)
    return Kept(with_last(too_many))


def _family_rule(
    tokenizer: "Tokenizer",
    messages: Sequence[Message],
    max_tokens: int,
    format: str | None,
) -> Kept:
    truncation = tokenizer.format_of(format).truncation
    if truncation is None:
        raise RequestError(
            f"The chat format {tokenizer.format_of(format).name!r} has no rule of its own for a "
            'long history. Use rule="danlu".'
        )

    def measure(segments: list[Segment]) -> int:
        return len(render_layout(tokenizer, layout_of(tokenizer, segments)).ids)

    return truncation(messages, max_tokens, measure)
