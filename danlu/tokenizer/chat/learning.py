"""Which tokens of a rendered conversation are learned, and how much each counts."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from danlu.errors import TokenizerError, bullet_list
from danlu.tokenizer.chat.chat_format import (
    CONTROL,
    NOT_LEARNED,
    ChatFormat,
    Message,
    Rendered,
)
from danlu.tokenizer.chat.messages import role_of

Learn = Literal["answers", "last", "all"]
LEARN_MODES = ("answers", "last", "all")


def check_training_keys(messages: Sequence[Message]) -> None:
    """Complain about every `loss` that is not true or false and every `weight` that is no weight.

    Raises:
        TokenizerError: naming the index of each wrong message.
    """
    problems = []
    for index, message in enumerate(messages):
        loss, weight = _key(message, "loss", None), _key(message, "weight", None)
        if loss is not None and not isinstance(loss, bool):
            problems.append(f"messages[{index}]: loss is {loss!r:.40}, expected true or false")
        if weight is not None and not _is_weight(weight):
            problems.append(f"messages[{index}]: weight is {weight!r:.40}, expected 0 or more")
    if problems:
        raise TokenizerError(
            f"The conversation cannot be learned from:{bullet_list(problems)}\n"
            "Correct `loss` and `weight`, or leave them out."
        )


def _is_weight(weight: object) -> bool:
    is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
    return is_number and math.isfinite(float(str(weight))) and float(str(weight)) >= 0


def _key(message: Message, name: str, default: object) -> object:
    found = message.get(name) if isinstance(message, Mapping) else None
    return default if found is None else found


def _loss(message: Message) -> bool | None:
    """Return what the message says of itself, None where it says nothing."""
    if _key(message, "weight", 1) == 0:
        return False
    loss = _key(message, "loss", None)
    return loss if isinstance(loss, bool) else None


def learned_turns(messages: Sequence[Message], learn: Learn) -> set[int]:
    """Return the indices of the messages that are to be learned."""
    answers = [i for i, message in enumerate(messages) if role_of(message) == "assistant"]
    turns = set(answers[-1:] if learn == "last" else answers)
    turns |= _told(messages, True)
    return turns - _told(messages, False)


def _told(messages: Sequence[Message], value: bool) -> set[int]:
    return {
        index
        for index, message in enumerate(messages)
        if isinstance(message, dict | Mapping)  # the first alternative is found much faster
        and ("loss" in message or "weight" in message)
        and _loss(message) is value
    }


def check_learnable(messages: Sequence[Message], learn: Learn, form: ChatFormat) -> None:
    """Refuse to learn the prompt of a model that sees all of it at once.

    Raises:
        TokenizerError: naming what was asked for.
    """
    if not form.sees_prompt_whole:
        return
    last = len(messages) - 1
    asked = [f"messages[{index}]" for index in sorted(_told(messages, True) - {last})]
    asked = ["every token (learn: all)"] if learn == "all" else asked
    if asked:
        raise TokenizerError(
            f"The chat format {form.name!r} cannot learn {', '.join(asked)}: its model sees the "
            "whole prompt at once, so that a token of it is read off and not learned. Only the "
            "last answer can be; use learn: answers, and no `loss: true` in front of it."
        )


def labels_of(rendered: Rendered, messages: Sequence[Message], learn: Learn) -> list[int]:
    """Return the id to learn at each token, `NOT_LEARNED` where nothing is.

    Of a message that asks for it with `loss` true the content is learned even where the format
    would learn nothing of it.
    """
    if learn == "all":
        silent = _told(messages, False)
        pairs = zip(rendered.ids, rendered.turns, strict=True)
        return [NOT_LEARNED if turn in silent else token_id for token_id, turn in pairs]
    asked = _told(messages, True)
    turns = learned_turns(messages, learn) - (set(rendered.unlearned) - asked)
    labels = [
        label if turn in turns else NOT_LEARNED
        for label, turn in zip(rendered.labels, rendered.turns, strict=True)
    ]
    taught = {turn for turn, label in zip(rendered.turns, labels, strict=True) if label >= 0}
    contents = asked - taught  # of which the format teaches nothing
    if not contents:
        return labels
    tokens = zip(labels, rendered.ids, rendered.turns, rendered.roles, strict=True)
    return [
        token_id if turn in contents and role != CONTROL else label
        for label, token_id, turn, role in tokens
    ]


def weights_of(rendered: Rendered, messages: Sequence[Message]) -> list[float] | None:
    """Return how much each token counts, None where all count the same."""
    told = {
        index: float(str(message["weight"]))
        for index, message in enumerate(messages)
        if _key(message, "weight", 1) != 1
    }
    return [told.get(turn, 1.0) for turn in rendered.turns] if told else None


def unlearned_note(
    rendered: Rendered, labels: Sequence[int], messages: Sequence[Message], learn: Learn
) -> str:
    """Return which messages teach nothing though they should, and why; "" for none."""
    pairs = zip(rendered.turns, labels, strict=True)
    taught = {turn for turn, label in pairs if label != NOT_LEARNED}
    reasons: dict[str, list[str]] = {}
    for turn in sorted(learned_turns(messages, learn) - taught):
        reason = rendered.unlearned.get(turn, "the format shows nothing of it")
        reasons.setdefault(reason, []).append(f"messages[{turn}]")
    return "; ".join(
        f"{', '.join(turns)} not learned: {reason}" for reason, turns in reasons.items()
    )
