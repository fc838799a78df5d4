"""Conversations to learn from that are too long: rounds, then the question, then the answer go.

The rules of PaddleNLP's `tokenize_rounds_example`: whole rounds are dropped, oldest first; the
system text is never cut; of one round that is too long the question is cut to what is left beside
the system text, the answer to the remainder. Its `src_length` is `Room.max_prompt_tokens` here; by
default question and answer share the room equally, and what one does not need the other has.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from danlu.tokenizer.chat.chat_format import NOT_LEARNED, Message, Rendered
from danlu.tokenizer.chat.messages import role_of, rounds_of, split_system


@dataclass(frozen=True)
class Draft:
    """Messages, what they are rendered to, and the id to learn at each token."""

    messages: Sequence[Message]
    rendered: Rendered
    labels: list[int]


@dataclass(frozen=True)
class Room:
    """How many tokens there is room for, in all and in front of the answer (None: half)."""

    max_tokens: int
    max_prompt_tokens: int | None = None


@dataclass(frozen=True)
class Shortened:
    """A conversation that fits and `what` it lost, or the `problem` it has."""

    draft: Draft
    what: str = ""
    problem: str = ""


Drafting = Callable[[Sequence[Message]], Draft]


def shorten(drafting: Drafting, whole: Draft, room: Room) -> Shortened:
    """Return a conversation that is longer than the room, shortened to it."""
    system, turns = split_system(whole.messages)
    rounds = rounds_of(turns)
    drafts: dict[int, Draft] = {len(rounds): whole}

    def newest(count: int) -> Draft:
        if count not in drafts:
            kept = [message for past in rounds[-count:] for message in past]
            drafts[count] = drafting([*system, *kept])
        return drafts[count]

    counts = range(1, len(rounds) + 1)
    fitting = bisect_left(
        counts, True, key=lambda count: len(newest(count).labels) > room.max_tokens
    )
    total = f"{len(whole.labels)} tokens, room for {room.max_tokens}"
    if not rounds:
        return Shortened(whole, problem=f"{total}, and no round to drop")
    lost = len(rounds) - max(fitting, 1)
    what = [f"{lost} of {len(rounds)} rounds dropped"] if lost else []
    if fitting:
        return Shortened(newest(fitting), f"{total}: {', '.join(what)}")
    return _shorten_round(drafting, newest(1), room, f"{total}: ", what)


def _shorten_round(
    drafting: Drafting, draft: Draft, room: Room, total: str, what: list[str]
) -> Shortened:
    """Shorten a single round: first its question, then what comes at the end."""
    prompt, question = _prompt_size(draft), _question_size(draft)
    fixed = prompt - question
    left = room.max_tokens - fixed
    if left < 2:
        return Shortened(
            draft,
            problem=f"{total}the system text and what the format adds take {fixed} of them, and "
            "are never cut",
        )
    answer = len(draft.labels) - prompt
    half = left // 2 if room.max_prompt_tokens is None else room.max_prompt_tokens - fixed
    limit = min(max(half, left - answer, 1), left - 1)
    if question > limit:
        draft = _cut_question(drafting, draft, fixed + limit)
        kept = _question_size(draft)
        what = [*what, f"question cut from {question} to {kept} tokens"]
        if _prompt_size(draft) > fixed + limit:
            return Shortened(draft, problem=f"{total}no room for the question")
    if len(draft.labels) > room.max_tokens:
        answer = len(draft.labels) - _prompt_size(draft)
        draft = first_tokens(draft, room.max_tokens)
        kept = len(draft.labels) - _prompt_size(draft)
        what = [*what, f"answer cut from {answer} to {kept} tokens"]
    return Shortened(draft, f"{total}{', '.join(what)}")


def _prompt_size(draft: Draft) -> int:
    """Return how many tokens stand in front of what the assistant writes and is learned."""
    answers = {i for i, message in enumerate(draft.messages) if role_of(message) == "assistant"}
    tokens = zip(draft.labels, draft.rendered.labels, draft.rendered.turns, strict=True)
    places = (
        place
        for place, (label, written, turn) in enumerate(tokens)
        if turn in answers and NOT_LEARNED not in (label, written)
    )
    return next(places, len(draft.labels))


def _question(draft: Draft) -> int | None:
    """Return the index of the only question."""
    users = (i for i, message in enumerate(draft.messages) if role_of(message) == "user")
    return next(users, None)


def _question_size(draft: Draft) -> int:
    question = _question(draft)
    return 0 if question is None else draft.rendered.turns.count(question)


def _cut_question(drafting: Drafting, draft: Draft, limit: int) -> Draft:
    """Cut the end of the question until at most `limit` tokens stand in front of the answer."""
    index = _question(draft)
    assert index is not None
    while (excess := _prompt_size(draft) - limit) > 0:
        content = str(draft.messages[index]["content"])
        spans = [
            span
            for span, turn in zip(draft.rendered.spans, draft.rendered.turns, strict=True)
            if turn == index
        ]
        if excess >= len(spans) or not content:
            return draft
        before = len(content) - len(content.lstrip())
        kept = min(before + spans[-excess][0] - spans[0][0], len(content) - 1)
        messages = list(draft.messages)
        messages[index] = {**messages[index], "content": content[:kept]}
        draft = drafting(messages)
    return draft


def first_tokens(draft: Draft, count: int) -> Draft:
    """Return the first tokens of a draft; the messages stay as they are."""
    rendered = draft.rendered
    end = rendered.spans[count - 1][1] if count else 0
    cut = replace(
        rendered,
        ids=rendered.ids[:count],
        text=rendered.text[:end],
        roles=rendered.roles[:count],
        loss_mask=rendered.loss_mask[:count],
        spans=rendered.spans[:count],
        turns=rendered.turns[:count],
        labels=rendered.labels[:count],
    )
    return Draft(draft.messages, cut, draft.labels[:count])
