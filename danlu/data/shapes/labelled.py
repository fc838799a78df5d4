"""A conversation and whether its last answer is good, for KTO.

The judgement is `label` (true or false) or `kto_tag`; the conversation has any of the other shapes:
`messages`, `conversations`, `prompt` and `completion`, or `instruction` and `output`.
"""

from danlu.data.examples import Conversation, LabelledAnswer
from danlu.data.shaping.fields import BadRow, Row, truth_of
from danlu.data.shaping.shape import Shape, shapes

TAGS = ("kto_tag", "label")
_TRUTHS = ("true", "false")


def _read(row: Row, origin: str) -> list[LabelledAnswer]:
    tag = next(tag for tag in TAGS if tag in row)
    rest = {key: value for key, value in row.items() if key != tag}
    found = [s for s in shapes().values() if s.gives is Conversation and s.recognises(rest)]
    if len(found) != 1:
        raise BadRow(f"beside '{tag}' there is no conversation; the keys are {sorted(rest)}")
    desirable = truth_of(row, tag)
    return [
        LabelledAnswer(one.messages, desirable, origin, one.tools, one.kind)
        for one in found[0].read(rest, origin)
        if isinstance(one, Conversation)
    ]


def _is_labelled(row: Row) -> bool:
    label = row.get("label")
    is_truth = isinstance(label, bool) or (isinstance(label, str) and label.lower() in _TRUTHS)
    return "kto_tag" in row or is_truth


SHAPE = Shape(
    gives=LabelledAnswer,
    summary="a conversation of any shape with 'label' (true or false) or 'kto_tag'",
    keys=(
        *TAGS,
        *("messages", "conversations", "instruction", "input", "output", "history"),
        *(
            "prompt",
            "response",
            "completion",
            "question",
            "query",
            "answer",
            "context",
            "src",
            "tgt",
        ),
    ),
    recognises=_is_labelled,
    read=_read,
    aliases=("kto",),
)
