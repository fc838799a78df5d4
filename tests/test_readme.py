"""The READMEs tell the truth: same structure and code in both, and every command exists."""

import io
import re
import tomllib
from pathlib import Path

import pytest
import shown_commands
from typer.testing import CliRunner

from danlu.cli.app import build_app
from danlu.cli.table import COMMANDS
from danlu.commands.models import HEADER, list_families

ROOT = Path(__file__).resolve().parents[1]
READMES = ("README.md", "README_zh.md")


def blocks(name: str) -> list[tuple[str, str]]:
    return shown_commands.blocks(ROOT / name)


def danlu_lines() -> list[list[str]]:
    shell = [text for name in READMES for kind, text in blocks(name) if kind == "bash"]
    return [words for text in shell for words in shown_commands.shown_commands(text)]


def test_both_have_the_same_code_and_headings() -> None:
    english, chinese = (blocks(name) for name in READMES)
    assert english == chinese
    assert len(english) == 9
    levels = [
        re.findall(r"^#+(?= )", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
        for name in READMES
    ]
    assert levels[0] == levels[1]


@pytest.mark.parametrize("name", READMES)
def test_the_table_names_every_command_in_order(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert re.findall(r"^\| `danlu (\w+)` \|", text, re.MULTILINE) == [c.name for c in COMMANDS]


YES = {"README.md": "yes", "README_zh.md": "是"}
ITSELF = {"README.md": "itself", "README_zh.md": "自身"}


@pytest.mark.parametrize("name", READMES)
def test_the_table_of_families_is_what_danlu_models_says(name: str) -> None:
    words = {"yes": YES[name], "itself": ITSELF[name]}
    table = [
        line
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines()
        if line.startswith("| `") and line.count("|") == len(HEADER) + 2
    ]
    shown = [line.strip("| ").split(" | ") for line in table]
    rows = list_families()
    assert [[cells[0].strip("`"), *cells[2:]] for cells in shown] == [
        [words.get(cell, cell) for cell in row.cells()] for row in rows
    ]
    if name == "README.md":
        assert [cells[1] for cells in shown] == [row.summary for row in rows]


def test_every_shown_command_and_flag_exists() -> None:
    lines = danlu_lines()
    assert len(lines) == 2 * 24
    app = build_app()
    for words in lines:
        group = words[:2] if words[0] in ("data", "tokenizer") else words[:1]
        shown = CliRunner().invoke(app, [*group, "--help"], terminal_width=200)
        assert shown.exit_code == 0, words
        assert all(flag in shown.output for flag in words if flag.startswith("--")), words


def test_fine_tuning_as_shown_runs(
    tiny_tour: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "danlu-tour").symlink_to(tiny_tour)
    monkeypatch.chdir(tmp_path)
    tuning, migrating = [text for kind, text in blocks("README.md") if kind == "bash"][3:5]
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\n"))
    shown_commands.run_shown(tuning, tmp_path)
    shown_commands.run_shown(migrating, tmp_path)
    for name in ("runs/merged", "runs/align/adapter", "qwen.yaml", "paddle.yaml"):
        assert (tmp_path / name).exists()


def test_the_first_two_commands_are_those_of_ci() -> None:
    install, tests = [text.strip() for kind, text in blocks("README.md") if kind == "bash"][:2]
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "-c constraints.txt -e '.[dev]'" in install
    assert "-c constraints.txt -e '.[dev]'" in ci
    assert install.endswith("&& danlu tour")
    assert ci.index("danlu tour") < ci.index("pytest\n")
    assert tests == "pytest"
    assert ci.endswith("\npytest\n")


def test_the_python_example_parses_and_uses_exported_names() -> None:
    import danlu

    [code] = [text for kind, text in blocks("README.md") if kind == "python"]
    compile(code, "README.md", "exec")
    used = set(re.findall(r"danlu\.(\w+)", code))
    assert used <= set(danlu.__all__)
    assert len(used) == 4


def test_constraints_pin_every_dependency_without_machine_paths() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert len(pins) > 40
    assert all(re.fullmatch(r"[A-Za-z0-9_.\-]+==[0-9][0-9A-Za-z.\-]*", pin) for pin in pins)
    names = {pin.split("==")[0].lower().replace("_", "-") for pin in pins}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["dev"]]
    own = re.findall(r"danlu\[([\w,]+)\]", " ".join(wanted))  # extras of ours that dev includes
    wanted += [line for names_of in own for extra in names_of.split(",") for line in extras[extra]]
    direct = {re.split(r"[><=,]", line)[0].lower() for line in wanted if "danlu[" not in line}
    assert "gguf" in direct
    assert not direct - names, direct - names
