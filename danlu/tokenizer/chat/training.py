"""A conversation to learn from: what `Tokenizer.render_chat` writes, and what is learned of it.

The ids are those of evaluation, chat and serving; only labels and weights are added here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from danlu.tokenizer.chat.chat_format import Message, Rendered, Tool

if TYPE_CHECKING:
    from danlu.tokenizer.base import Tokenizer

Learn = Literal["answers", "last", "all"]
Long = Literal["truncate", "drop"]
NOT_LEARNED = -100


@dataclass(frozen=True)
class TrainingText:
    """A rendered conversation with what is learned of it.

    Attributes:
        rendered: the ids, as every other part of the program has them.
        labels: the id to learn at each token, `NOT_LEARNED` where nothing is.
        weights: how much each token counts; None: all 1.
        shortened: what was left out and why; "" if nothing was.
        problem: why it cannot be trained on; "" if it can.
    """

    rendered: Rendered
    labels: list[int]
    weights: list[float] | None = None
    shortened: str = ""
    problem: str = ""


def render_training(
    tokenizer: "Tokenizer",
    messages: Sequence[Message],
    *,
    tools: Sequence[Tool] | None = None,
    format: str | None = None,
    learn: Learn = "answers",
    max_tokens: int | None = None,
    long: Long = "truncate",
    template_options: Mapping[str, Any] | None = None,
) -> TrainingText:
    """Render a finished conversation and say what is learned of it.

    Args:
        tokenizer: encodes and names the chat format.
        messages: the conversation; it ends with what the assistant says.
        tools: as in `Tokenizer.render_chat`.
        format: as in `Tokenizer.render_chat`.
        learn: every answer, the last one only, or every token.
        max_tokens: the most ids it may have; None: any number.
        long: what happens to a longer one.
        template_options: as in `Tokenizer.render_chat`.

    Raises:
        TokenizerError: for a conversation that cannot be rendered.
    """
    rendered = tokenizer.render_chat(
        messages,
        tools,
        format,
        add_generation_prompt=False,
        template_options=template_options,
    )
    mask = [True] * len(rendered.ids) if learn == "all" else rendered.loss_mask
    labels = [i if known else NOT_LEARNED for i, known in zip(rendered.ids, mask, strict=True)]
    problem = ""
    if max_tokens is not None and len(labels) > max_tokens:
        problem = f"{len(labels)} tokens, more than {max_tokens}"
    return TrainingText(rendered, labels, problem=problem)
