"""Commands as a user gives them: what they print, and what they refuse."""

import pytest

from danlu.cli.app import run

Capture = pytest.CaptureFixture[str]


def printed(capsys: Capture, *arguments: object) -> str:
    code = run([str(argument) for argument in arguments])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    return shown.out


def complained(capsys: Capture, *arguments: object) -> str:
    assert run([str(argument) for argument in arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    return shown.err
