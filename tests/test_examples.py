"""The examples run, one on the result of the other, with micro settings."""

import importlib.util
import io
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NAMES = ("chat_with_a_model", "quantize_and_compare", "train_a_tiny_model")


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("example")
    example("train_a_tiny_model").main([str(out), "--steps", "3", "--stories", "150"])
    return out


@pytest.fixture(scope="module")
def model(trained: Path) -> Path:
    return trained / "run" / "model"


def test_each_example_is_short_and_says_how_to_run_it() -> None:
    assert sorted(path.stem for path in EXAMPLES.glob("*.py")) == list(NAMES)
    for name in NAMES:
        text = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
        assert len(text.splitlines()) < 60, name
        assert f"\n    python examples/{name}.py " in text


def test_training_leaves_a_model_and_goes_on(
    trained: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (model / "model.safetensors").stat().st_mtime_ns
    example("train_a_tiny_model").main([str(trained), "--steps", "3"])
    shown = capsys.readouterr().out
    assert "3 steps, held-out perplexity" in shown
    assert "Tom has" in shown
    assert shown.endswith(f"The model is in {model}\n")
    assert (model / "model.safetensors").stat().st_mtime_ns == before


def test_chat_answers_each_line(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = example("chat_with_a_model")
    kept: list[list[dict[str, str]]] = []
    original = chat.chat
    monkeypatch.setattr(chat, "chat", lambda *given: kept.append(original(*given)))
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\nAnd then?\n\nnever read\n"))
    chat.main([str(model), "--max-tokens", "4"])
    [messages] = kept
    assert [m["role"] for m in messages] == ["user", "assistant"] * 2
    assert messages[2]["content"] == "And then?"
    answers = "".join(m["content"] + "\n" for m in messages if m["role"] == "assistant")
    assert capsys.readouterr().out == answers


def test_quantizing_prints_a_line_for_each_width(
    trained: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Tom has a red ball.", encoding="utf-8")
    out = tmp_path / "quantized"
    example("quantize_and_compare").main([str(model), str(out), "--text", str(text)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "rtn, 8 bits, whole rows",
        "rtn, 4 bits, groups of 32 or what fits",
        "nf4, 4 bits, blocks of 64, double quantization",
        "fp4, 4 bits, blocks of 64, double quantization",
        "llm_int8, 8 bits, inputs from 6 on exact",
        "rtn, 8 bits, whole rows, inputs in 8 bits",
    ]
    assert all("top-1 agreement" in line for line in lines)
    assert (out / "int8" / "config.json").exists()
    assert (out / "int4" / "config.json").exists()
