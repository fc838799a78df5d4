"""`src`, `tgt`, one `response` and its `sort`: 1 for a good answer, else 0 or -1 (PaddleNLP)."""

from danlu.data.examples import LabelledAnswer
from danlu.data.shapes.preference_sorted import asked_in, responses_of
from danlu.data.shaping.fields import BadRow, Row
from danlu.data.shaping.shape import Shape, kind_of
from danlu.data.shaping.tools import tools_of
from danlu.data.shaping.turns import answer


def _read(row: Row, origin: str) -> list[LabelledAnswer]:
    responses, ranks = responses_of(row)
    if len(responses) != 1 or ranks[0] not in (-1, 0, 1):
        raise BadRow(f"'sort' is {ranks!r}; expected [1] for a good answer, [0] or [-1] for a bad")
    messages = [*asked_in(row), answer(responses[0])]
    return [LabelledAnswer(messages, ranks[0] == 1, origin, tools_of(row), kind_of(row))]


SHAPE = Shape(
    gives=LabelledAnswer,
    summary="'src', 'tgt', one 'response' and its 'sort'",
    keys=("src", "tgt", "context", "response", "sort"),
    recognises=lambda row: isinstance(row.get("sort"), list) and len(row["sort"]) == 1,
    read=_read,
)
