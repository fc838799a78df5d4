"""The guide to quantization tells the truth: its commands run, its keys and methods exist."""

import re
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel
from shown_commands import blocks, run_shown, shown_commands
from test_docs import described_words, undescribed
from test_docs_fine_tuning import layer_names
from typer.testing import CliRunner

from danlu.calibration.method import methods
from danlu.cli.app import build_app
from danlu.config.quantize.awq import AwqScheme
from danlu.config.quantize.gptq import GptqScheme
from danlu.config.quantize.kv_cache import KvCacheScheme
from danlu.config.quantize.run import CalibrationData, QuantizeReporting, QuantizeRun
from danlu.config.quantize.scheme import PRESETS, QuantScheme
from danlu.config.quantize.w8a8 import ShiftConfig, SmoothConfig, W8A8Scheme
from danlu.quantize.format import written_formats

GUIDE = Path(__file__).resolve().parents[1] / "docs" / "quantization.md"
TEXT = GUIDE.read_text(encoding="utf-8")
SECTIONS: dict[str, list[type[BaseModel]]] = {
    "scheme": [QuantScheme, GptqScheme, AwqScheme, W8A8Scheme],
    "smooth": [SmoothConfig],
    "shift": [ShiftConfig],
    "calibration": [CalibrationData],
    "kv_cache": [KvCacheScheme],
    "report": [QuantizeReporting],
}


def keys_of(section: str) -> set[str]:
    return {key for config in SECTIONS[section] for key in config.model_fields}


def test_every_key_and_every_method_is_there_on_both_sides() -> None:
    used = set(re.findall(rf"\b({'|'.join(SECTIONS)})\.(\w+)", TEXT)) - {("report", "html")}
    assert len(used) > 18
    assert all(key in keys_of(section) for section, key in used), used
    told = {key for section, key in used if section == "scheme"}
    assert keys_of("scheme") - {"double_quant_block_size"} == told
    smooth = re.findall(r"`(\w+)`", next(x for x in TEXT.splitlines() if "`scheme.smooth`" in x))
    assert set(smooth) <= keys_of("smooth") | keys_of("shift")
    assert methods().keys() == set(re.findall(r"`--method (\w+)", TEXT))
    assert all(f"`{name}`" in TEXT for name in written_formats())
    assert all(f"`{name}`" in TEXT for name in PRESETS)


def test_every_flag_exists() -> None:
    helps = {
        name: CliRunner().invoke(build_app(), [name, "--help"], terminal_width=200).output
        for name in ("quantize", "chat", "generate", "eval")
    }
    flags = set(re.findall(r"`(--[a-z-]+)", TEXT))
    assert len(flags) > 15
    assert all(any(flag in shown for shown in helps.values()) for flag in flags), flags
    assert all("--quantize" in helps[name] for name in ("chat", "generate", "eval"))
    assert all(f"--{name}" in helps["chat"] for name in ("compile", "kv-cache"))
    for words in [words for kind, text in blocks(GUIDE) if kind == "sh" for words in shown(text)]:
        assert all(word in helps["quantize"] for word in words if word.startswith("--"))


def shown(text: str) -> list[list[str]]:
    return [words for words in shown_commands(text) if words[0] == "quantize"]


def test_the_commands_run_one_after_the_other(
    tiny_tour: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "danlu-tour").symlink_to(tiny_tour)
    monkeypatch.chdir(tmp_path)
    text = "".join(text for kind, text in blocks(GUIDE) if kind == "bash")
    done = run_shown(text.replace("--fit 4MB", "--fit 230kB"), tmp_path)
    assert len(done) > 12
    made = "model-gptq model-awq model-int2 model-fit model-mixed model-w8a8 model-gptq-2"
    for name in made.split():
        folder = tmp_path / name
        assert (folder / "BOUNDS_BROKEN.txt").exists() == (name == "model-int2")
        for path in folder.iterdir():
            assert path.name in described_words(), path.relative_to(tmp_path)
            if path.suffix == ".json" and path.name != "tokenizer.json":
                assert not undescribed(path, layer_names(path)), path.relative_to(tmp_path)
    runs = {name: yaml.safe_load((tmp_path / name).read_text()) for name in OLD}
    assert [QuantizeRun(**run).scheme.method for run in runs.values()] == ["gptq", "w8a8"]


OLD = ("qwen-gptq.yaml", "paddle-ptq.yaml")  # run files of old commands


def test_the_python_example_runs(
    tiny_tour: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "danlu-tour").symlink_to(tiny_tour)
    monkeypatch.chdir(tmp_path)
    [code] = [text for kind, text in blocks(GUIDE) if kind == "python"]
    exec(compile(code, str(GUIDE), "exec"), {})
