"""Progress, tables and colours."""

import io
import re

import pytest
from rich.console import Console

from danlu.cli import terminal
from danlu.cli.progress import Bars, Lines, duration_text
from danlu.progress import working


def plain() -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, width=120, soft_wrap=True), out


def test_lines_come_every_few_seconds_with_percent_and_eta() -> None:
    console, out = plain()
    now = 0.0
    lines = Lines(console, clock=lambda: now)
    with working(lines, "pretrain", 100):
        for step in range(1, 13):
            now = float(step)
            lines.advance(1, f"loss {10 - step}")
    assert out.getvalue().splitlines() == [
        "pretrain  5/100  5 %  ETA 1:35 min  loss 5",
        "pretrain  10/100  10 %  ETA 1:30 min  loss 0",
    ]


def test_lines_without_a_known_length_and_nested() -> None:
    console, out = plain()
    now = 0.0
    lines = Lines(console, clock=lambda: now)
    with working(lines, "outer", None), working(lines, "[inner]", None):
        now = 6.0
        lines.advance(3)
    now = 20.0
    assert out.getvalue() == "[inner]  3  6.0 s\n"


def test_bars_show_what_percent_and_note_and_go_away() -> None:
    out = io.StringIO()
    console = Console(file=out, width=120, force_terminal=True, color_system=None)
    bars = Bars(console)
    with working(bars, "pretrain", 4):
        bars.advance(1, "loss 2.50")
        with working(bars, "held out", None):
            bars.advance(1)
        bars.advance(1)
        bars._screen.refresh()
        shown = out.getvalue()
    assert all(part in shown for part in ("pretrain", "50%", "loss 2.50", "ETA"))
    assert not bars._screen.live.is_started


def test_times_are_whole_on_a_narrow_terminal() -> None:
    out = io.StringIO()
    bars = Bars(Console(file=out, width=80, force_terminal=True, color_system=None))
    with working(bars, "train", 10):
        bars.advance(1, "loss 22.533  lr 3.00e-04  3,469 tok/s  0.39 GiB")
        bars._screen.refresh()
        shown = out.getvalue()
    assert re.search(r"10% 0:00:\d\d ETA .*loss 22\.533", shown)


def test_close_ends_bars_whose_work_broke_off() -> None:
    bars = Bars(Console(file=io.StringIO(), force_terminal=True))
    bars.start("a", None)
    bars.start("b", 3)
    bars.close()
    assert not bars._screen.live.is_started


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.4, "59.4 s"), (125, "2:05 min"), (3723, "1:02:03 h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_rows_and_tables_are_aligned_and_take_any_text(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_rows([("a", "[b]1[/b]"), ("longer", "2")], title="[Title]")
    assert capsys.readouterr().out == "[Title]\n  a       [b]1[/b]\n  longer  2\n"
    terminal.print_table(["", "x"], [["a", "1"], ["bb", "222"]], title="T")
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines == ["T", "      x", "a     1", "bb  222"]


def test_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out = io.StringIO()
    Console(file=out, force_terminal=True).print("[red]x[/]")
    assert out.getvalue() == "x\n"
