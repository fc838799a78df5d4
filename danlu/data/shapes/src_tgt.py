"""`src` and `tgt`: two texts or two lists of equal length, with `context.system` (PaddleNLP)."""

from danlu.data.examples import Conversation, Message
from danlu.data.shaping.fields import BadRow, Row, described, texts_of
from danlu.data.shaping.shape import Shape, conversation
from danlu.data.shaping.turns import rounds, system_of
from danlu.errors import did_you_mean


def _read(row: Row, origin: str) -> list[Conversation]:
    sources, targets = texts_of(row, "src"), texts_of(row, "tgt")
    if len(sources) != len(targets):
        raise BadRow(f"'src' has {len(sources)} texts and 'tgt' {len(targets)}")
    pairs = list(zip(sources, targets, strict=True))
    return [conversation(row, context_of(row) + rounds(pairs), origin)]


def context_of(row: Row) -> list[Message]:
    """Return the system message of a row; `context` fills nothing else."""
    context = row.get("context") or {}
    if not isinstance(context, dict):
        raise BadRow(f"'context' is not an object but {described(context)}")
    unknown = sorted(set(context) - {"system"})
    if unknown:
        hint = did_you_mean(unknown[0], ("system",))
        raise BadRow(f"'context' has {', '.join(unknown)}; only 'system' is known.{hint}")
    return system_of(row.get("system"), context.get("system"))


SHAPE = Shape(
    gives=Conversation,
    summary="'src' and 'tgt'",
    keys=("src", "tgt", "context"),
    recognises=lambda row: "src" in row or "tgt" in row,
    read=_read,
    aliases=("paddlenlp",),
)
