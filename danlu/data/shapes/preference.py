"""`chosen` and `rejected`: two answers to one prompt, of which one was preferred.

Each is a text, one turn (`{"from"/"role", "value"/"content"}`) or a list of turns. The prompt is
under `prompt` (a text or messages), `conversations` or `messages`, or `instruction` with `input`,
or `question` or `query`, rounds before it under `history`; where it is under none of them, it is
the turns that both lists begin with. Lists that repeat the prompt are understood, and so are texts
with the speakers in them (HH-RLHF). The margin is under `margin`, or the difference of
`score_chosen` and `score_rejected`.
"""

from danlu.data.examples import ASSISTANT, Message, PreferencePair
from danlu.data.shapes.alpaca import history_of, question_of
from danlu.data.shaping.fields import BadRow, Row, described, number_of
from danlu.data.shaping.shape import Shape, kind_of
from danlu.data.shaping.tools import tools_of
from danlu.data.shaping.transcript import transcript_of
from danlu.data.shaping.turns import answer, message_of, messages_of, question, rounds, system_of

_SCORES = ("score_chosen", "score_rejected")


def _read(row: Row, origin: str) -> list[PreferencePair]:
    chosen, rejected = (_said(row, key) for key in ("chosen", "rejected"))
    prompt = _prompt_of(row, _shared(chosen, rejected))
    chosen, rejected = _after(prompt, chosen, "chosen"), _after(prompt, rejected, "rejected")
    if not prompt:
        raise BadRow("there is no prompt, and 'chosen' and 'rejected' do not begin with one")
    kind, margin = kind_of(row), _margin(row)
    return [PreferencePair(prompt, chosen, rejected, origin, tools_of(row), kind, margin)]


def _said(row: Row, key: str) -> list[Message]:
    value = row.get(key)
    if isinstance(value, str):
        return transcript_of(value) or [answer(value)]
    if isinstance(value, dict):
        return [message_of(value, f"'{key}'")]
    if isinstance(value, list):
        return messages_of(row, key)
    raise BadRow(f"'{key}' is {described(value)}; expected a text, a turn or a list of turns")


def _prompt_of(row: Row, shared: list[Message]) -> list[Message]:
    """Return the messages in front of both answers; `shared` is what both answers begin with."""
    beside = _prompt_beside(row)
    if shared[len(shared) - len(beside) :] == beside:
        return shared
    return beside


def _prompt_beside(row: Row) -> list[Message]:
    before = system_of(row.get("system")) + rounds(history_of(row))
    for key in ("prompt", "conversations", "messages", "question", "query"):
        if key in row:
            return before + (
                _asked(row, key) if isinstance(row[key], str) else messages_of(row, key)
            )
    return [*before, question(question_of(row))] if "instruction" in row else []


def _asked(row: Row, key: str) -> list[Message]:
    value = row[key]
    if isinstance(value, str):
        return transcript_of(value) or [question(value)]
    return messages_of(row, key)


def _shared(chosen: list[Message], rejected: list[Message]) -> list[Message]:
    number = 0
    while number < min(len(chosen), len(rejected)) and chosen[number] == rejected[number]:
        number += 1
    return chosen[:number]


def _after(prompt: list[Message], said: list[Message], key: str) -> list[Message]:
    """Return what follows the prompt in an answer that repeats it, else the answer itself."""
    repeated = said[: len(prompt)] == prompt
    rest = said[len(prompt) :] if repeated else said
    if not rest or rest[0]["role"] != ASSISTANT or rest[-1]["role"] != ASSISTANT:
        raise BadRow(f"'{key}' is no answer: expected turns of the assistant after the prompt")
    return rest


def _margin(row: Row) -> float | None:
    if "margin" in row:
        return number_of(row, "margin")
    if all(key in row for key in _SCORES):
        return number_of(row, _SCORES[0]) - number_of(row, _SCORES[1])
    return None


SHAPE = Shape(
    gives=PreferencePair,
    summary="'chosen' and 'rejected', with 'prompt', 'conversations' or 'messages'",
    keys=(
        *("chosen", "rejected", "prompt", "conversations", "messages", "question", "query"),
        *("instruction", "input", "context", "history", "margin", *_SCORES),
    ),
    recognises=lambda row: "chosen" in row or "rejected" in row,
    read=_read,
    aliases=("dpo", "chosen_rejected"),
)
