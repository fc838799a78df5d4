"""A layout to ids: the only place where chats are encoded.

Runs of text between control tokens are encoded as a whole, as stock tools do, with two exceptions:
a run is cut where the loss mask begins or ends, so that the prompt that asks for an answer has
exactly the ids in front of that answer in training; and where the layout says that a text of its
own begins.
"""

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import replace
from operator import attrgetter
from typing import TYPE_CHECKING

from danlu.tokenizer.chat.chat_format import (
    CONTROL,
    NO_TURN,
    NOT_LEARNED,
    ContentSpan,
    ControlSpan,
    Layout,
    LearnedSpan,
    Rendered,
)
from danlu.tokenizer.model import Encoded

if TYPE_CHECKING:
    from danlu.tokenizer.base import Tokenizer

_start = attrgetter("start")


def render_layout(tokenizer: "Tokenizer", layout: Layout) -> Rendered:
    """Encode a layout; see `Rendered` for what comes out."""
    rendered = Rendered([], layout.text, [], [], [], unlearned=layout.unlearned)
    after_control = False
    for start, end, control in _runs(layout):
        if control is not None:
            _add_control(rendered, layout, control)
        else:
            begins = start == 0 or start in layout.beginnings
            prefix = begins or (after_control and tokenizer.model.prefix_after_control)
            encoded = tokenizer.encode_spans(layout.text[start:end], prefix=prefix)
            _add_text(rendered, layout, start, encoded)
        after_control = control is not None
    return rendered


def _add_control(rendered: Rendered, layout: Layout, control: ControlSpan) -> None:
    """Add a control token; whether it is learned its place tells, or itself if it is not shown."""
    shown = control.end > control.start
    learned = _covering(layout.learned, control.start) if shown else None
    learn = learned is not None if shown else control.learn
    label = NOT_LEARNED if control.label is None else control.label
    rendered.ids.append(control.token_id)
    rendered.spans.append((control.start, control.end))
    rendered.roles.append(CONTROL)
    rendered.loss_mask.append(learn)
    rendered.turns.append(control.turn if learned is None else learned.turn)
    rendered.labels.append(control.token_id if learn else label)


def _add_text(rendered: Rendered, layout: Layout, start: int, encoded: Encoded) -> None:
    """Add the tokens of a run of text, which is learned as a whole or not at all."""
    ids, count = encoded.ids, len(encoded.ids)
    spans = [(start + a, start + b) for a, b in encoded.spans] if start else encoded.spans
    learned = _covering(layout.learned, start)
    learn = learned is not None
    turns = [NO_TURN if learned is None else learned.turn] * count
    roles = [CONTROL] * count
    for content, first, last in _contents_in(layout, spans):
        roles[first:last] = [content.role] * (last - first)
        if learned is None:
            turns[first:last] = [content.turn] * (last - first)
    rendered.ids.extend(ids)
    rendered.spans.extend(spans)
    rendered.roles.extend(roles)
    rendered.loss_mask.extend([learn] * count)
    rendered.turns.extend(turns)
    rendered.labels.extend(ids if learn else [NOT_LEARNED] * count)


def _contents_in(
    layout: Layout, spans: list[tuple[int, int]]
) -> Iterator[tuple[ContentSpan, int, int]]:
    """Yield the contents that tokens begin in or, after a space, run into, with these tokens.

    Tokens are in order, and so are contents; a token that begins in one and runs into the next is
    counted to both, and belongs to the later one.
    """
    if not spans:
        return
    starts = [start for start, _ in spans]
    lasts = [max(start, end - 1) for start, end in spans]
    first = max(bisect_right(layout.contents, starts[0], key=_start) - 1, 0)
    for content in itertools.islice(layout.contents, first, None):
        if content.start > lasts[-1]:
            return
        found = bisect_left(lasts, content.start), bisect_left(starts, content.end)
        if found[0] < found[1]:
            yield content, *found


def with_spelled_controls(tokenizer: "Tokenizer", layout: Layout) -> Layout:
    """Return the layout with the control tokens that its plain text spells."""
    spelled: list[ControlSpan] = []
    ends = [*layout.controls, ControlSpan(len(layout.text), len(layout.text), -1)]
    position = 0
    for control in ends:
        for part in tokenizer.control_splitter.split(layout.text[position : control.start]):
            if part.token is not None:
                start, end = position + part.start, position + part.end
                spelled.append(ControlSpan(start, end, part.token.token_id))
        position = control.end
    controls = sorted([*layout.controls, *spelled], key=lambda span: (span.start, span.end))
    return replace(layout, controls=controls)


def _runs(layout: Layout) -> list[tuple[int, int, ControlSpan | None]]:
    """Return (start, end, control) of every run that is encoded on its own."""
    ends = {edge for span in layout.learned for edge in (span.start, span.end)}
    cuts = sorted(ends | layout.beginnings)
    runs: list[tuple[int, int, ControlSpan | None]] = []
    position = 0
    end_of_text = ControlSpan(len(layout.text), len(layout.text), -1)
    for control in [*layout.controls, end_of_text]:
        inside = cuts[bisect_right(cuts, position) : bisect_left(cuts, control.start)]
        edges = [position, *inside, control.start]
        runs += [(a, b, None) for a, b in itertools.pairwise(edges) if a < b]
        if control is not end_of_text:
            runs.append((control.start, control.end, control))
        position = control.end
    return runs


def _covering(spans: list[LearnedSpan], position: int) -> LearnedSpan | None:
    index = bisect_right(spans, position, key=_start) - 1
    return spans[index] if index >= 0 and position < spans[index].end else None
