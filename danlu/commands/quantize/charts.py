"""Drawings of the report as inline SVG: errors of layers as a map, and pairs of bars."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from danlu.calibration.block import LayerResult

LEFT, TOP, BOTTOM, WIDTH = 112, 6, 46, 940
ROW = 26
MOST_CELL = 130
TEXT_CELL = 46  # wide enough for a number in it
_BLOCK = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True)
class ErrorMap:
    """The largest error of each kind of layer in each block.

    Attributes:
        kinds: last names of layers, in the order they are used.
        blocks: number of blocks.
        errors: (kind, block) -> relative error.
    """

    kinds: Sequence[str]
    blocks: int
    errors: Mapping[tuple[str, int], float]


def error_map(layers: Sequence[LayerResult]) -> ErrorMap:
    """Return the errors of all layers in blocks; of experts, the largest."""
    errors: dict[tuple[str, int], float] = {}
    for layer in layers:
        found = _BLOCK.search(layer.name)
        if found is not None:
            place = layer.name.rpartition(".")[2], int(found[1])
            errors[place] = max(errors.get(place, 0.0), layer.relative_error)
    kinds = list(dict.fromkeys(kind for kind, _ in errors))
    return ErrorMap(kinds, 1 + max((block for _, block in errors), default=-1), errors)


def error_chart(found: ErrorMap) -> str:
    """Return the map as a drawing; the darker, the larger the error. Empty without errors."""
    positive = [error for error in found.errors.values() if error > 0]
    if not positive:
        return ""
    low, high = min(positive), max(positive)
    cell = min(MOST_CELL, (WIDTH - LEFT) / found.blocks)
    height = TOP + ROW * len(found.kinds) + BOTTOM
    what = f"relative error of each layer, {percent(low)} to {percent(high)}"
    parts = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{what}">']
    for row, kind in enumerate(found.kinds):
        y = TOP + ROW * row
        parts.append(_text(LEFT - 10, y + 17, kind, "end"))
        for block in range(found.blocks):
            if (kind, block) in found.errors:
                error = found.errors[kind, block]
                share = _darkness(error, low, high)
                parts.append(_cell(LEFT + cell * block, y, cell, share, error, kind, block))
    bottom = TOP + ROW * len(found.kinds)
    parts += _block_numbers(found.blocks, cell, bottom)
    parts += _scale(bottom, low, high)
    return "".join([*parts, "</svg>"])


def _darkness(error: float, low: float, high: float) -> float:
    """Return where an error lies between the extremes, by its logarithm: 0.08 to 1."""
    if error <= 0 or high <= low * 1.0001:
        return 0.08 if error <= 0 else 0.5
    return 0.08 + 0.92 * math.log(error / low) / math.log(high / low)


def _cell(
    x: float, y: float, width: float, share: float, error: float, kind: str, block: int
) -> str:
    gap = 2 if width > 8 else 0.5
    told = f"block {block}, {kind}: {percent(error)}"
    shown = ""
    if width >= TEXT_CELL:
        dark = ' class="on"' if share > 0.55 else ' class="off"'
        middle = x + width / 2
        shown = (
            f'<text x="{middle:.1f}" y="{y + 17}" text-anchor="middle"{dark}>{percent(error)}'
            "</text>"
        )
    return (
        f'<g><title>{escape(told)}</title><rect class="heat" x="{x:.1f}" y="{y}" rx="3" '
        f'width="{width - gap:.1f}" height="{ROW - 3}" fill-opacity="{share:.2f}"/>{shown}</g>'
    )


def _block_numbers(blocks: int, cell: float, y: float) -> list[str]:
    step = max(1, math.ceil(28 / cell))
    numbers = [
        _text(LEFT + cell * (block + 0.5), y + 15, str(block), "middle")
        for block in range(0, blocks, step)
    ]
    return [*numbers, _text(LEFT - 10, y + 15, "block", "end")]


def _scale(y: float, low: float, high: float) -> list[str]:
    """The colours with the errors they stand for."""
    steps = 24
    boxes = [
        f'<rect class="heat" x="{LEFT + 6 * n}" y="{y + 28}" width="6" height="10" '
        f'fill-opacity="{0.08 + 0.92 * n / (steps - 1):.2f}"/>'
        for n in range(steps)
    ]
    ends = _text(LEFT - 10, y + 37, percent(low), "end")
    return [*boxes, ends, _text(LEFT + 6 * steps + 8, y + 37, percent(high), "start")]


def pair_bars(rows: Sequence[tuple[str, float, float, str, str]]) -> str:
    """Return bars of the original and the quantized model, a pair for each row.

    Args:
        rows: label, both values, and both as text.
    """
    height = 62 * len(rows)
    parts = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="before and after">']
    for number, (label, before, after, before_text, after_text) in enumerate(rows):
        y, most = 62 * number, max(before, after) or 1.0
        parts.append(_text(LEFT - 10, y + 32, label, "end"))
        pairs = (("was", before, before_text), ("now", after, after_text))
        for line, (css, value, text) in enumerate(pairs):
            length = (WIDTH - LEFT - 190) * value / most
            at = y + 8 + 22 * line
            bar = (
                f'<rect class="{css}" x="{LEFT}" y="{at}" rx="3" width="{length:.1f}" height="18"/>'
            )
            parts += [bar, _text(LEFT + length + 8, at + 14, text, "start")]
    return "".join([*parts, "</svg>"])


def percent(share: float) -> str:
    """Return a share with two digits that matter: 12 %, 1.2 %, 0.012 %."""
    value = 100 * share
    if value <= 0 or not math.isfinite(value):
        return "0 %" if value == 0 else f"{value} %"
    digits = max(0, 1 - math.floor(math.log10(value)))
    return f"{value:.{min(digits, 6)}f} %"


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
