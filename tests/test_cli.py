"""The program: instant help, exit codes, calm errors. No model is loaded here."""

import logging
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from typer.testing import CliRunner

from danlu import __version__
from danlu.cli import app as program
from danlu.cli.app import build_app, run
from danlu.cli.run_files import split_arguments
from danlu.cli.table import COMMANDS
from danlu.errors import ConfigError, DataError

HEAVY = ("torch", "transformers", "tokenizers", "numpy", "matplotlib", "pydantic")


def python(code: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_help_imports_nothing_heavy() -> None:
    done = python(
        "import sys; from danlu.cli.app import run; code = run(['--help'])\n"
        f"print([name for name in {HEAVY} if name in sys.modules], code)"
    )
    assert done.stdout.splitlines()[-1] == "[] 0", done.stderr


@pytest.mark.parametrize("name", [entry.name for entry in COMMANDS])
def test_help_of_a_command_imports_no_torch_and_teaches(name: str) -> None:
    sub_commands = {"tokenizer": ["train"], "data": ["inspect"]}
    words = [name, *sub_commands.get(name, [])]
    done = python(
        f"import sys; from danlu.cli.app import run; run({[*words, '--help']})\n"
        "print('torch' in sys.modules)"
    )
    *shown, imported = done.stdout.splitlines()
    assert imported == "False"
    assert f"- danlu {' '.join(words)}" in "\n".join(shown), "its help shows no example"


def test_the_table_lists_each_command_once_and_each_has_its_file() -> None:
    names = [entry.name for entry in COMMANDS]
    assert len(names) == len(set(names)) > 12
    for name in names:
        module = import_module(f"danlu.cli.{name}")
        assert hasattr(module, "command") != hasattr(module, "app")
    shown = CliRunner().invoke(build_app(), ["--help"], terminal_width=100).output
    assert all(re.search(rf"│ {entry.name} +{entry.summary[:20]}", shown) for entry in COMMANDS)


def test_only_the_named_command_is_loaded() -> None:
    done = python(
        "import sys; from danlu.cli.app import run; run(['models', '--help'])\n"
        "print(sorted(n for n in sys.modules if n.startswith('danlu.cli.')))"
    )
    loaded = done.stdout.splitlines()[-1]
    assert "danlu.cli.models" in loaded
    assert "danlu.cli.chat" not in loaded


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"danlu {__version__}\n"


def test_unknown_command_gets_the_closest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["toknizer"]) == 2
    assert "Did you mean 'tokenizer'?" in capsys.readouterr().err


def failing_app(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def build(only: str | None) -> object:
        app = build_app("models")

        @app.command()
        def fail() -> None:
            logging.getLogger("danlu.something").warning("look out")
            raise error

        return app

    monkeypatch.setattr(program, "build_app", build)


def test_wrong_input_is_said_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing_app(monkeypatch, DataError("The corpus [x] is empty. Give text."))
    assert run(["fail"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "warning: look out\nDataError: The corpus [x] is empty. Give text.\n"


def test_debug_shows_the_traceback_wherever_it_stands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing_app(monkeypatch, DataError("empty"))
    assert run(["fail", "--debug"]) == 2
    shown = capsys.readouterr().err
    assert "Traceback (most recent call last)" in shown
    assert shown.endswith("DataError: empty\n")


def test_a_bug_of_ours_has_its_own_code_and_names_debug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing_app(monkeypatch, ZeroDivisionError("by zero"))
    assert run(["fail"]) == 1
    shown = capsys.readouterr().err
    assert "This is a bug in Danlu" in shown
    assert "ZeroDivisionError: by zero. Run it again with --debug" in shown
    assert "Traceback" not in shown


def test_ctrl_c_has_its_own_code(monkeypatch: pytest.MonkeyPatch) -> None:
    failing_app(monkeypatch, KeyboardInterrupt())
    assert run(["fail"]) == 130


def test_init_writes_a_run_file_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.yaml"
    assert run(["init", "--kind", "pretrain", "--out", str(path)]) == 0
    assert "# output folder of the run (required)\nout: runs/pretrain" in path.read_text()
    assert run(["init", "--kind", "pretrain", "--out", str(path)]) == 2
    assert "exists; nothing was overwritten" in capsys.readouterr().err
    assert run(["init", "--kind", "lor"]) == 2
    assert "Did you mean 'lora'?" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["sft", "lora", "qlora", "prefix", "dpo", "quantize", "pretrain"])
def test_init_to_stdout_is_the_file(
    kind: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from danlu.commands.init import starter
    from danlu.config.load import load_config

    assert run(["init", "--kind", kind]) == 0
    path = tmp_path / "run.yaml"
    path.write_text(capsys.readouterr().out)
    config = starter(kind).make()
    assert load_config(type(config), path) == config
    changed = load_config(type(config), path, ["seed=7"])
    assert changed == config.model_copy(update={"seed": 7})


def test_run_file_arguments() -> None:
    assert split_arguments(["a.yaml", "x=1", "y.z=a b"]) == (Path("a.yaml"), ["x=1", "y.z=a b"])
    assert split_arguments(["x=1"]) == (None, ["x=1"])
    with pytest.raises(ConfigError, match=r"Found 2 run files: a.yaml, b.yaml"):
        split_arguments(["a.yaml", "b.yaml"])


def test_a_wrong_run_file_names_its_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("out: x\nmodle: m\ndata: {instructions: i.jsonl}\ntrain: {steps: 1}\n")
    assert run(["finetune", str(path), "train.learning_rat=1"]) == 2
    shown = capsys.readouterr().err
    assert "modle: unknown key. Did you mean 'model'?" in shown
    assert "train.learning_rat: unknown key (from the command line)." in shown


def test_models_lists_every_family(capsys: pytest.CaptureFixture[str]) -> None:
    from danlu.models import discover

    assert run(["models"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in discover())


def test_info_of_a_folder_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["info", str(tmp_path)]) == 2
    assert "holds no model and no adapter" in capsys.readouterr().err
    assert run(["info", str(tmp_path / "missing")]) == 2


def test_info_of_a_real_model(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["info", str(shared / "data" / "models" / "stories260K")]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"family +llama", shown)
    assert re.search(r"parameters +260,032", shown)
