"""Line charts as inline SVG: no script, font or file beside them; the page gives the colours."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

Point = tuple[float, float]
WIDTH, HEIGHT = 500, 270
LEFT, RIGHT, TOP, BOTTOM = 48, 52, 14, 40
MAX_POINTS = 320


@dataclass(frozen=True)
class Series:
    """A named line; `css` is its class on the page, `dots` marks each point."""

    name: str
    points: Sequence[Point]
    css: str
    dots: bool = False


@dataclass(frozen=True)
class _Frame:
    """The data's ranges, mapped to the drawing."""

    x_max: float
    y_min: float
    y_max: float

    def x(self, value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * value / self.x_max

    def y(self, value: float) -> float:
        share = (value - self.y_min) / (self.y_max - self.y_min)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share


def loss_chart(title: str, series: Sequence[Series]) -> str:
    """Return an SVG of losses over steps; its right axis says what they mean as perplexity.

    Perplexity is exp(loss), so one curve is read on both axes. Empty without any point.
    """
    points = [point for line in series for point in line.points]
    if not points:
        return ""
    values = [y for _, y in points]
    low, high = min(0.0, *values), max(values)
    frame = _Frame(max(x for x, _ in points) or 1.0, low, high * 1.05 if high > low else low + 1.0)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">',
        f"<title>{escape(title)}</title>",
        *_loss_axis(frame),
        *_perplexity_axis(frame),
        *_step_axis(frame),
        *(_line(line, frame) for line in series if line.points),
        *_legend(series),
        "</svg>",
    ]
    return "".join(parts)


def _loss_axis(frame: _Frame) -> list[str]:
    parts = []
    for value in ticks(frame.y_min, frame.y_max):
        y = frame.y(value)
        parts.append(_rule(LEFT, y, WIDTH - RIGHT, y))
        parts.append(_label(LEFT - 8, y + 4, f"{value:g}", "end"))
    return [*parts, _label(LEFT, HEIGHT - 6, "loss", "end")]


def _perplexity_axis(frame: _Frame) -> list[str]:
    """Marks at round perplexities, where their loss lies."""
    parts = []
    last = math.inf
    for perplexity in (1, 1.5, 2, 3, 5, 10, 20, 50, 100, 300, 1000, 3000, 10_000, 100_000):
        loss = math.log(perplexity)
        y = frame.y(loss)
        if frame.y_min <= loss <= frame.y_max and last - y > 16:
            parts.append(_label(WIDTH - RIGHT + 8, y + 4, f"{perplexity:,g}", "start"))
            last = y
    return [*parts, _label(WIDTH - 4, HEIGHT - 6, "perplexity", "end")]


def _step_axis(frame: _Frame) -> list[str]:
    parts = [
        _label(frame.x(value), HEIGHT - BOTTOM + 18, f"{value:,.0f}", "middle")
        for value in ticks(0.0, frame.x_max)
    ]
    return [*parts, _label((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, "optimizer steps", "middle")]


def _line(series: Series, frame: _Frame) -> str:
    places = [(frame.x(x), frame.y(y)) for x, y in thinned(series.points)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places)
    return f'<g class="{series.css}"><polyline points="{path}"/>{dots if series.dots else ""}</g>'


def _legend(series: Sequence[Series]) -> list[str]:
    parts = []
    for row, line in enumerate(series):
        y = TOP + 12 + 20 * row
        x = WIDTH - RIGHT - 110
        mark = f'<polyline points="{x},{y - 4} {x + 22},{y - 4}"/>'
        parts.append(f'<g class="{line.css}">{mark}</g>{_label(x + 30, y, line.name, "start")}')
    return parts


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return at most about `most` round numbers from `low` to `high`."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = math.ceil(low / step - 1e-9)
    return [step * number for number in range(first, math.floor(high / step + 1e-9) + 1)]


def thinned(points: Sequence[Point], most: int = MAX_POINTS) -> list[Point]:
    """Return means of neighbours so that at most `most` points are left; ends stay ends."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(len(points) / most)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    means = [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]
    return [points[0], *means[1:]]


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="rule" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _label(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
