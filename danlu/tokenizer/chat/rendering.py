"""A layout to ids: the only place where chats are encoded.

Runs of text between control tokens are encoded as a whole, as stock tools do, with two exceptions:
a run is cut where the loss mask begins or ends, so that the prompt that asks for an answer has
exactly the ids in front of that answer in training; and where the layout says that a text of its
own begins.
"""

import itertools
from bisect import bisect_right
from dataclasses import replace
from operator import attrgetter
from typing import TYPE_CHECKING

from danlu.tokenizer.chat.chat_format import (
    CONTROL,
    NOT_LEARNED,
    ContentSpan,
    ControlSpan,
    Layout,
    LearnedSpan,
    Rendered,
)

if TYPE_CHECKING:
    from danlu.tokenizer.base import Tokenizer

_NOBODY = ContentSpan(0, 0, CONTROL)
_start = attrgetter("start")


def render_layout(tokenizer: "Tokenizer", layout: Layout) -> Rendered:
    """Encode a layout; see `Rendered` for what comes out."""
    rendered = Rendered([], layout.text, [], [], [], unlearned=layout.unlearned)
    after_control = False
    for start, end, control in _runs(layout):
        if control is not None:
            rendered.ids.append(control.token_id)
            rendered.spans.append((start, end))
        else:
            begins = start == 0 or start in layout.beginnings
            prefix = begins or (after_control and tokenizer.model.prefix_after_control)
            encoded = tokenizer.encode_spans(layout.text[start:end], prefix=prefix)
            rendered.ids.extend(encoded.ids)
            rendered.spans.extend((start + a, start + b) for a, b in encoded.spans)
        _describe(rendered, layout, start, control)
        after_control = control is not None
    return rendered


def _describe(rendered: Rendered, layout: Layout, start: int, control: ControlSpan | None) -> None:
    """Say of the ids of the run from `start` whose they are, and whether they are learned."""
    first = len(rendered.loss_mask)
    ids, spans = rendered.ids[first:], rendered.spans[first:]
    learned = _covering(layout.learned, start)
    if control is not None:
        shown = control.end > control.start
        learn = learned is not None if shown else control.learn
        label = NOT_LEARNED if control.label is None else control.label
        rendered.roles.append(CONTROL)
        rendered.turns.append(learned.turn if shown and learned else control.turn)
        rendered.labels.append(control.token_id if learn else label)
    else:
        learn = learned is not None
        owners = [_owner(layout.contents, *span) for span in spans]
        rendered.roles.extend([owner.role for owner in owners])
        rendered.turns.extend([learned.turn if learned else owner.turn for owner in owners])
        rendered.labels.extend(ids if learn else [NOT_LEARNED] * len(ids))
    rendered.loss_mask.extend([learn] * len(ids))


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
        inside = [cut for cut in cuts if position < cut < control.start]
        edges = [position, *inside, control.start]
        runs += [(a, b, None) for a, b in itertools.pairwise(edges) if a < b]
        if control is not end_of_text:
            runs.append((control.start, control.end, control))
        position = control.end
    return runs


def _covering(spans: list[LearnedSpan], position: int) -> LearnedSpan | None:
    index = bisect_right(spans, position, key=_start) - 1
    return spans[index] if index >= 0 and position < spans[index].end else None


def _owner(contents: list[ContentSpan], start: int, end: int) -> ContentSpan:
    """Return the content that a token begins in or, after a space, runs into."""
    index = bisect_right(contents, max(start, end - 1), key=_start) - 1
    if index >= 0 and start < contents[index].end:
        return contents[index]
    return _NOBODY
