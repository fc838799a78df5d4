"""A layout to ids: the only place where chats are encoded.

Runs of text between control tokens are encoded as a whole, as stock tools do, with two exceptions:
a run is cut where the loss mask begins or ends, so that the prompt that asks for an answer has
exactly the ids in front of that answer in training; and where the layout says that a text of its
own begins.
"""

import itertools
from bisect import bisect_right
from dataclasses import replace
from typing import TYPE_CHECKING

from danlu.tokenizer.chat.chat_format import CONTROL, ContentSpan, ControlSpan, Layout, Rendered

if TYPE_CHECKING:
    from danlu.tokenizer.base import Tokenizer


def render_layout(tokenizer: "Tokenizer", layout: Layout) -> Rendered:
    """Encode a layout; see `Rendered` for what comes out."""
    rendered = Rendered([], layout.text, [], [], [])
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
        learn = control.learn if control is not None and start == end else False
        learn = learn or (end > start and _covers(layout.learned, start))
        added = len(rendered.ids) - len(rendered.loss_mask)
        rendered.loss_mask.extend([learn] * added)
        rendered.roles.extend(_roles(layout, rendered.spans[-added:] if added else [], control))
        after_control = control is not None
    return rendered


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
    cuts = sorted({position for span in layout.learned for position in span} | layout.beginnings)
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


def _covers(spans: list[tuple[int, int]], position: int) -> bool:
    index = bisect_right(spans, position, key=lambda span: span[0]) - 1
    return index >= 0 and position < spans[index][1]


def _roles(layout: Layout, spans: list[tuple[int, int]], control: ControlSpan | None) -> list[str]:
    if control is not None:
        return [CONTROL]
    return [_role_of(layout.contents, start, end) for start, end in spans]


def _role_of(contents: list[ContentSpan], start: int, end: int) -> str:
    """Return the role of the content that a token begins in or, after a space, runs into."""
    index = bisect_right(contents, max(start, end - 1), key=lambda span: span.start) - 1
    if index >= 0 and start < contents[index].end:
        return contents[index].role
    return CONTROL
