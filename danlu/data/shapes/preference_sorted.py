"""`src`, `tgt`, `response` and `sort`: two responses, of which the larger `sort` was preferred.

PaddleNLP's form: `src` has one text more than `tgt`, the question that both responses answer.
"""

from danlu.data.examples import Message, PreferencePair
from danlu.data.shapes.src_tgt import context_of
from danlu.data.shaping.fields import BadRow, Row, list_of, texts_of
from danlu.data.shaping.shape import Shape, kind_of
from danlu.data.shaping.tools import tools_of
from danlu.data.shaping.turns import answer, question, rounds


def _read(row: Row, origin: str) -> list[PreferencePair]:
    responses, ranks = responses_of(row)
    if len(responses) != 2 or ranks[0] == ranks[1]:
        raise BadRow(f"'response' has {len(responses)} texts and 'sort' is {ranks}; expected two")
    best = int(ranks[1] > ranks[0])
    chosen, rejected = [answer(responses[best])], [answer(responses[1 - best])]
    prompt = asked_in(row)
    return [PreferencePair(prompt, chosen, rejected, origin, tools_of(row), kind_of(row))]


def asked_in(row: Row) -> list[Message]:
    """Return the messages in front of the responses."""
    sources, targets = texts_of(row, "src"), texts_of(row, "tgt") if "tgt" in row else []
    if len(sources) != len(targets) + 1:
        raise BadRow(
            f"'src' has {len(sources)} texts and 'tgt' {len(targets)}; expected one more in 'src'"
        )
    pairs = list(zip(sources, targets, strict=False))
    return [*context_of(row), *rounds(pairs), question(sources[-1])]


def responses_of(row: Row) -> tuple[list[str], list[float]]:
    """Return the responses and the rank of each; a larger rank is better."""
    unpacked = {"response": [_alone(one) for one in list_of(row, "response")]}
    responses, ranks = texts_of(unpacked, "response"), list_of(row, "sort")
    if len(responses) != len(ranks):
        raise BadRow(f"'response' has {len(responses)} texts and 'sort' {len(ranks)} numbers")
    if not all(isinstance(rank, int | float) for rank in ranks):
        raise BadRow(f"'sort' is {ranks!r}; expected numbers")
    return responses, ranks


def _alone(response: object) -> object:
    return response[0] if isinstance(response, list) and len(response) == 1 else response


def _is_single(ranks: object) -> bool:
    return isinstance(ranks, list) and len(ranks) == 1


SHAPE = Shape(
    gives=PreferencePair,
    summary="'src', 'tgt', 'response' and 'sort'",
    keys=("src", "tgt", "context", "response", "sort"),
    recognises=lambda row: "sort" in row and not _is_single(row["sort"]),
    read=_read,
)
