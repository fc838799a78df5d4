"""`danlu info`: what a folder is, however broken it is; from headers alone."""

import json
import os
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import HERE, copy_golden, golden, spoil_config, spoil_weights, tiny_checkpoint

from danlu.cli.app import run
from danlu.commands.info import AdapterInfo, ModelInfo, describe
from danlu.config.adapter import LoraConfig
from danlu.errors import CheckpointError, ConfigError
from danlu.hub.listing import RemoteFile
from danlu.hub.manifest import Manifest
from danlu.loading import load_decoder
from danlu.models import detect_family

Capture = pytest.CaptureFixture[str]
GOLDEN = sorted(path.parent.name for path in golden("").glob("*/config.json"))


def model(path: Path, family: str | None = None) -> ModelInfo:
    found = describe(path, family)
    assert isinstance(found, ModelInfo)
    return found


def besides_tokenizer(found: ModelInfo) -> list[str]:
    return [problem for problem in found.problems if not problem.startswith("tokenizer: ")]


@pytest.fixture
def whole(shared: Path, tmp_path: Path) -> Path:
    source = shared / "data" / "models" / "stories260K"
    ignored = shutil.ignore_patterns("llama2c", "*.md", "model_goldens.json")
    return Path(shutil.copytree(source, tmp_path / "whole", ignore=ignored))


@pytest.mark.parametrize("name", GOLDEN)
def test_every_golden_folder_is_described_without_fault(name: str) -> None:
    found = model(golden(name))
    config = json.loads((golden(name) / "config.json").read_text())
    assert found.shape is not None
    assert found.shape.family == detect_family(config)
    assert besides_tokenizer(found) == []
    assert any("tokenizer" in problem for problem in found.problems)
    assert ("auto_map" in config) == any("auto_map" in note for note in found.notes)


@pytest.mark.parametrize("name", ["qwen", "opt-350m", "chatglm-6b", "qwen3_moe", "glm-10b"])
def test_counts_are_those_of_the_loaded_model(name: str) -> None:
    found = model(golden(name))
    decoder = load_decoder(golden(name))
    count = sum(parameter.numel() for parameter in decoder.parameters())
    assert found.shape is not None
    assert found.memory is not None
    assert found.shape.num_parameters == found.memory.num_parameters == count
    assert found.memory.fp32_bytes == 4 * count


def test_a_real_model(whole: Path, capsys: Capture) -> None:
    found = model(whole)
    assert found.problems == ()
    assert found.memory is not None
    assert found.memory.stored_bytes == 260_032 * 4 == found.memory.fp32_bytes
    assert found.memory.cache_token_bytes == 5 * 2 * 4 * 8 * 2  # layers, k and v, heads, dim, bf16
    assert found.tokenizer.vocab_size == 512
    assert run(["info", str(whole)]) == 0
    shown = capsys.readouterr().out
    assert "missing or wrong" not in shown
    assert "327.7 kB for a full context of 512" in shown
    assert "tokenizer.model" in shown.partition("\nfiles")[2]


def test_training_memory_is_what_the_loop_holds(whole: Path) -> None:
    from danlu.adapters.handling import attach_adapter

    found = model(whole).memory
    assert found is not None
    assert found.full_fp32_bytes == 260_032 * 16
    assert found.full_bf16_bytes == 260_032 * 18
    decoder = load_decoder(whole)
    attach_adapter(decoder, LoraConfig(), torch.Generator())
    trained = sum(p.numel() for p in decoder.parameters() if p.requires_grad)
    assert found.lora_parameters == trained
    assert found.lora_bf16_bytes == 260_032 * 2 + trained * 16


def test_weights_are_not_read(tmp_path: Path) -> None:
    """A file of four gigabytes, all of it a hole: reading it would take seconds and memory."""
    folder = tiny_checkpoint(tmp_path / "model")
    spoil_config(folder, vocab_size=2**24)
    path, size = folder / "model.safetensors", 2**24 * 64 * 4
    header = {"model.embed_tokens.weight": _entry([2**24, 64], size)}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with path.open("r+b") as handle:
        handle.truncate(8 + len(text) + size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = model(folder)
    assert found.weights.num_bytes == size
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000
    assert any("tensors missing: model.layers.0" in problem for problem in found.problems)


def _entry(shape: list[int], size: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}


def test_everything_wrong_is_listed_at_once(tmp_path: Path, capsys: Capture) -> None:
    folder = copy_golden("qwen", tmp_path / "model")
    (folder / "model-00001-of-00002.safetensors").unlink()
    spoil_config(folder, hiden_size=3)
    (folder / "modeling_qwen.py").write_text("raise SystemExit")
    assert run(["info", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "unknown key 'hiden_size'" in shown
    assert "missing weight file: model-00001-of-00002.safetensors" in shown
    assert "There is no tokenizer" in shown
    assert "no generation_config.json" in shown
    assert "never run: modeling_qwen.py" in shown


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ("{", "is no index of weight files"),
        ('{"weight_map": [1]}', "is no index of weight files"),
        ("{}", "is no index of weight files"),
        ('{"weight_map": {"a": "../b.safetensors"}}', "outside the folder: ../b.safetensors"),
        ('{"weight_map": {"a": "b.bin"}}', "missing weight file: b.bin"),
    ],
)
def test_a_wrong_index(tmp_path: Path, index: str, said: str) -> None:
    folder = copy_golden("qwen", tmp_path / "model")
    (folder / "model.safetensors.index.json").write_text(index)
    assert any(said in problem for problem in model(folder).problems)


def test_shards_without_an_index(tmp_path: Path) -> None:
    folder = copy_golden("qwen", tmp_path / "model")
    (folder / "model.safetensors.index.json").unlink()
    found = model(folder)
    assert "2 weight files, but no index that says what is where" in found.problems
    assert len(found.weights.files) == 2


def test_tensors_that_do_not_fit(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model")
    spoil_weights(
        folder,
        model__norm__weight=None,
        model__layers__0__mlp__up_proj__weight=torch.zeros(3, 4),
        model__norn__weight=torch.zeros(2),
    )
    problems = besides_tokenizer(model(folder))
    assert any("1 tensors missing: model.norm.weight" in problem for problem in problems)
    assert any("Did you mean 'model.norm.weight'" in problem for problem in problems)
    assert any("up_proj.weight is [3, 4], config.json asks for" in problem for problem in problems)


@pytest.mark.parametrize("kept", [0, 4, 60, 1000])
@pytest.mark.parametrize("name", ["qwen2", "baichuan-7b"])
def test_truncated_weights(tmp_path: Path, name: str, kept: int) -> None:
    folder = copy_golden(name, tmp_path / "model")
    path = folder / ("model.safetensors" if name == "qwen2" else "pytorch_model.bin")
    path.write_bytes(path.read_bytes()[:kept])
    problems = besides_tokenizer(model(folder))
    assert len(problems) == 1
    assert (
        f"{path.name}' ({kept:,} bytes) cannot be read" in problems[0] or "refused" in problems[0]
    )


class Hostile:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def test_a_pickle_that_would_run_code_is_only_described(tmp_path: Path) -> None:
    folder = copy_golden("baichuan-7b", tmp_path / "model")
    torch.save({"a": Hostile(tmp_path / "ran")}, folder / "pytorch_model.bin")
    problems = besides_tokenizer(model(folder))
    assert ["run code or build objects, which is refused" in p for p in problems] == [True]
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 50_000, "[]", "3", "{}", '{"architectures": ["X"]}', "\ufeff\0"]
)
def test_a_config_that_describes_nothing(tmp_path: Path, text: str) -> None:
    folder = copy_golden("qwen2", tmp_path / "model")
    (folder / "config.json").write_text(text)
    found = model(folder)
    assert found.shape is None
    assert found.weights.num_tensors > 0
    assert besides_tokenizer(found)


def test_sizes_that_no_machine_holds(tmp_path: Path) -> None:
    folder = copy_golden("qwen2", tmp_path / "model")
    spoil_config(folder, vocab_size=10**18)
    assert any("no machine holds" in problem for problem in model(folder).problems)


def test_weights_without_a_config(tmp_path: Path) -> None:
    folder = copy_golden("qwen2", tmp_path / "model")
    (folder / "config.json").unlink()
    found = model(folder)
    assert "config.json' is missing" in found.problems[0]
    assert found.weights.num_tensors > 0


def test_a_tokenizer_with_more_tokens_than_the_model_has_rows(whole: Path) -> None:
    spoil_config(whole, vocab_size=500)
    assert any("512 tokens, but the embedding 500 rows" in p for p in model(whole).problems)
    spoil_config(whole, vocab_size=600)
    assert any("88 rows of the embedding have no token" in n for n in model(whole).notes)


def test_a_family_can_be_named(tmp_path: Path) -> None:
    folder = copy_golden("llama", tmp_path / "model")
    spoil_config(folder, architectures=["MyForCausalLM"], model_type="mine")
    assert model(folder).shape is None
    shape = model(folder, "llama").shape
    assert shape is not None
    assert shape.family == "llama"
    with pytest.raises(ConfigError, match="Did you mean 'llama'"):
        describe(folder, "lama")


def test_an_unfinished_download_is_described(tmp_path: Path) -> None:
    folder = copy_golden("qwen2", tmp_path / "model")
    manifest = Manifest("hf", "a/b", "main", "c0ffee", True, (RemoteFile("config.json", 1),))
    manifest.write(folder, complete=False)
    found = model(folder)
    assert found.origin == "hf:a/b@main (c0ffee)"
    assert any("download is unfinished" in problem for problem in found.problems)


def test_a_downloaded_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("DANLU_HOME", str(tmp_path))
    folder = copy_golden("qwen2", tmp_path / "models" / "hf" / "a" / "b" / "main")
    size = (folder / "config.json").stat().st_size
    manifest = Manifest("hf", "a/b", "main", "c0ffee", True, (RemoteFile("config.json", size),))
    manifest.write(folder, complete=True)
    assert run(["info", "a/b", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["shape"]["family"] == "qwen2"
    assert told["files"]["model.safetensors"] > 0
    assert run(["info", "a/c"]) == 2
    assert "danlu download a/c" in capsys.readouterr().err


def test_an_adapter(tmp_path: Path) -> None:
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    config["base_model_name_or_path"] = "no/such"
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    found = describe(tmp_path)
    assert isinstance(found, AdapterInfo)
    assert dict(found.rows())["rank"] == "4"
    assert any("no weights: none of adapter_model" in problem for problem in found.problems)
    assert any("'no/such' is not on this machine" in note for note in found.notes)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"short")
    assert any("cannot be read" in problem for problem in describe(tmp_path).problems)
    (tmp_path / "adapter_config.json").write_text("{")
    assert any("cannot be read" in problem for problem in describe(tmp_path).problems)


@pytest.mark.parametrize(
    ("case", "wanted"),
    [
        ("dora-llama", {"variant": "DoRA", "layers": "3"}),
        ("lora-llama-patterns", {"patterns": "3"}),
        ("lora-llama-modules-to-save", {"whole modules": "lm_head, embed_tokens"}),
        ("lora-bloom-bias", {"biases": "lora_only"}),
        ("lora-qwen2-token-rows", {"token rows": "3"}),
        ("trainable-tokens-llama", {"token rows": "4", "kind": "adapter (TRAINABLE_TOKENS)"}),
        ("ia3-llama", {"scaled inputs": "1", "kind": "adapter (IA3)"}),
    ],
)
def test_adapters_of_every_kind(case: str, wanted: dict[str, str]) -> None:
    found = describe(HERE / "interop" / case / "adapter")
    assert {k: {*v.split(", ")} for k, v in found.rows() if k in wanted} == {
        label: {*value.split(", ")} for label, value in wanted.items()
    }
    assert found.problems == ()


def test_an_adapter_of_an_unknown_type(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LOHA"}')
    assert any("LOHA are not opened" in note for note in describe(tmp_path).notes)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "cannot be read"),
        ('{"a":' * 50_000, "nested too deeply"),
        ('{"peft_type": "LORA", "rank_pattern": 5}', "a value of a wrong type"),
        ('{"peft_type": "LORA", "modules_to_save": [1]}', "a value of a wrong type"),
    ],
)
def test_a_damaged_config_of_an_adapter_is_described(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "adapter_config.json").write_text(text)
    facts = describe(tmp_path)
    assert any(said in problem for problem in facts.problems), facts.problems


def test_what_is_no_model_at_all(tmp_path: Path, capsys: Capture) -> None:
    assert run(["info", str(tmp_path)]) == 2
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(CheckpointError, match=r"holds no model and no adapter.*notes.txt"):
        describe(tmp_path)
    with pytest.raises(CheckpointError, match="is a file"):
        describe(tmp_path / "notes.txt")
    with pytest.raises(CheckpointError, match="is not a folder"):
        describe(tmp_path / "missing")
