"""What looks wrong about rows that are going to be trained on."""

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from danlu.commands.data.inspect.views import RowView
from danlu.errors import bullet_list
from danlu.tokenizer import Tokenizer

MOST_KINDS = 5
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Finding:
    """Something worth knowing.

    Attributes:
        what: it, in a sentence.
        why: what it does to a training, and what helps.
        is_grave: would the training be wrong?
    """

    what: str
    why: str
    is_grave: bool = True


def findings(tokenizer: Tokenizer, format: str | None, rows: Sequence[RowView]) -> list[Finding]:
    """Return everything that looks wrong about the rows, the grave ones first."""
    found = [
        *doubled_bos(tokenizer, rows),
        *unlearned_stop(tokenizer, format, rows),
        *rows_with(
            rows,
            lambda row: row.problem,
            "{rows} cannot be trained on",
            "They are dropped; a training stops if that are more than its max_dropped.",
        ),
        *rows_with(
            rows,
            lambda row: row.shortened if not row.problem and row.what != "text" else "",
            "{rows} are shortened",
            "Raise max_seq_len to train on the whole of them.",
            is_grave=False,
        ),
        *rows_with(
            rows,
            lambda row: row.unlearned if not row.problem else "",
            "{rows} have answers that are not learned",
            "Give each answer a row of its own, or say `loss: true` on the turn to learn it as it "
            "stands.",
            is_grave=False,
        ),
        *rows_with(
            rows,
            lambda row: " ".join(row.spelled),
            "{rows} spell control tokens",
            "They stay ordinary text here. If they were meant as control tokens, the rows were "
            "rendered once already: give messages in their place.",
            is_grave=False,
        ),
    ]
    return sorted(found, key=lambda finding: not finding.is_grave)


def doubled_bos(tokenizer: Tokenizer, rows: Sequence[RowView]) -> list[Finding]:
    """Return a finding if two BOS tokens stand side by side."""

    def has_two(row: RowView) -> str:
        ids = [token.token_id for token in row.tokens]
        pairs = itertools.pairwise(ids)
        return "doubled" if any(a == b == tokenizer.bos_id for a, b in pairs) else ""

    return rows_with(
        rows,
        has_two,
        "{rows} have a doubled BOS",
        "The model never saw that. Take the BOS out of the chat template.",
    )


def unlearned_stop(
    tokenizer: Tokenizer, format: str | None, rows: Sequence[RowView]
) -> list[Finding]:
    """Return a finding if no conversation teaches any token or text that ends an answer."""
    chats = [row for row in rows if row.what != "text" and not row.problem and row.num_learned]
    if not chats:
        return []
    stops, texts = set(tokenizer.stop_ids(format)), tokenizer.stop_texts(format)
    for row in chats:
        labels = [token.label for token in row.tokens if token.label is not None]
        if not stops.isdisjoint(labels):
            return []
        learned = "".join(token.text for token in row.tokens if token.is_learned)
        if any(text in learned for text in texts):
            return []
    names = [tokenizer.control_texts.get(token_id, str(token_id)) for token_id in sorted(stops)]
    wanted = ", ".join([*names, *map(repr, texts)]) or "none at all"
    return [
        Finding(
            f"No row teaches where an answer ends (it ends with {wanted})",
            "The model would go on writing without end. Let the chat template write the end token "
            "after each answer, and let it be learned.",
        )
    ]


def rows_with(
    rows: Sequence[RowView],
    reason_of: Callable[[RowView], str],
    what: str,
    why: str,
    is_grave: bool = True,
) -> list[Finding]:
    """Return one finding about the rows that have a reason, with the first row of each kind."""
    reasons = [(row.origin, reason_of(row)) for row in rows]
    found = [(origin, reason) for origin, reason in reasons if reason]
    if not found:
        return []
    count = f"{len(found)} of {len(rows)} rows"
    kinds: dict[str, str] = {}  # a reason with other numbers is of the same kind
    for origin, reason in found:
        kinds.setdefault(_NUMBER.sub("N", reason), f"{origin}: {reason.splitlines()[0]}")
    listed = bullet_list(list(kinds.values()), limit=MOST_KINDS)
    return [Finding(f"{what.format(rows=count)}:{listed}", why, is_grave)]
