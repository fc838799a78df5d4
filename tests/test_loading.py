"""Bad folders: one complete error each, and nothing executed."""

import os
import pickle
import re
import sys
from pathlib import Path

import pytest
import torch
from checkpoints import copy_golden, golden, spoil_config, spoil_weights, tiny_checkpoint
from safetensors.torch import save_file

from danlu.errors import CheckpointError, ConfigError, UnsupportedModelError
from danlu.loading import load_decoder, save_decoder
from danlu.weights.files import SafetensorsFile, TorchFile, stream


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_checkpoint(tmp_path / "model")


def message(folder: Path, error: type[Exception] = CheckpointError) -> str:
    with pytest.raises(error) as caught:
        load_decoder(folder)
    return str(caught.value)


def test_every_problem_of_the_weights_is_named_at_once(folder: Path) -> None:
    spoil_weights(
        folder,
        model__norm__weight=None,
        model__layers__0__mlp__up_proj__weight=torch.zeros(3, 5),
        model__layers__0__mlp__upp_proj__weight=torch.zeros(2),
    )
    text = message(folder)
    assert "model.norm.weight [64] is missing" in text
    assert "model.layers.0.mlp.up_proj.weight in model.safetensors is [3, 5]" in text
    assert "asks for [112, 64]" in text
    assert "upp_proj.weight [2] in model.safetensors belongs to no parameter" in text
    assert "Did you mean 'model.layers.0.mlp.up_proj.weight'?" in text


def test_every_problem_of_the_config_is_named_at_once(folder: Path) -> None:
    spoil_config(
        folder, hidden_size="REMOVE", rms_norm_epss=1e-5, num_hidden_layers="2", hidden_act="relu"
    )
    text = message(folder)
    assert "'hidden_size' is missing" in text
    assert "unknown key 'rms_norm_epss'. Did you mean 'rms_norm_eps'?" in text
    assert "'num_hidden_layers' is '2'; expected a int" in text
    assert "'hidden_act' is 'relu', which is not supported; expected 'silu'" in text


def test_unknown_architecture(folder: Path) -> None:
    spoil_config(folder, architectures=["NovelForCausalLM"], model_type="novel")
    text = message(folder, UnsupportedModelError)
    assert "['NovelForCausalLM'], model_type 'novel'" in text
    assert "bloom, chatglm, chatglm2, deepseek_v3" in text


def test_family_can_be_named_but_not_misspelt(folder: Path) -> None:
    spoil_config(folder, architectures=["MyLlama"], model_type="my")
    assert load_decoder(folder, family="llama").config.num_layers == 2
    with pytest.raises(ConfigError, match=r"no family 'lama'\. Did you mean 'llama'"):
        load_decoder(folder, family="lama")


@pytest.mark.parametrize("content", ["", "{", "[1]", "\udcff"])
def test_config_that_is_no_json_object(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content, encoding="utf-8", errors="surrogateescape")
    assert "config.json' " in message(folder)


def test_missing_folder_and_missing_files(folder: Path, tmp_path: Path) -> None:
    assert "is not a folder" in message(tmp_path / "nothing")
    (folder / "model.safetensors").unlink()
    assert "Expected one of model.safetensors, pytorch_model.bin" in message(folder)
    (folder / "config.json").unlink()
    assert "config.json' is missing" in message(folder)
    (folder / "adapter_config.json").write_text("{}")
    assert "is an adapter; expected the folder of a model" in message(folder)


@pytest.mark.parametrize("keep", [0, 5, 1000])
def test_truncated_safetensors(folder: Path, keep: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    text = message(folder)
    assert f"model.safetensors' ({keep:,} bytes) cannot be read" in text
    assert "truncated or damaged" in text


@pytest.mark.parametrize("keep", [0, 100, 20_000])
def test_truncated_bin(tmp_path: Path, keep: int) -> None:
    folder = copy_golden("chatglm2-6b", tmp_path / "model")
    path = folder / "pytorch_model-00001-of-00002.bin"
    path.write_bytes(path.read_bytes()[:keep])
    assert "cannot be read" in message(folder)


def test_missing_shard(tmp_path: Path) -> None:
    folder = copy_golden("llama2", tmp_path / "model")
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "1 files that are missing:\n  - model-00002-of-00002.safetensors" in message(folder)


def test_index_that_leaves_its_folder(tmp_path: Path) -> None:
    folder = copy_golden("llama2", tmp_path / "model")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../x.bin"}}')
    assert "outside its folder" in message(folder)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch pwned",)


def test_pickle_that_runs_code_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (folder / "model.safetensors").unlink()
    for write in (torch.save, lambda x, path: path.write_bytes(pickle.dumps(x, protocol=2))):
        write({"a": Evil()}, folder / "pytorch_model.bin")
        message(folder)
    assert not (tmp_path / "pwned").exists()


def test_bin_with_more_than_tensors_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"model": {"a": torch.zeros(1)}, "step": 3}, folder / "pytorch_model.bin")
    text = message(folder)
    assert "'model' is a dict" in text
    assert "'step' is a int" in text


def test_legacy_bin_is_read(tmp_path: Path) -> None:
    folder = copy_golden("chatglm2-6b", tmp_path / "model")
    for path in folder.glob("*.bin"):
        content = torch.load(path, weights_only=True)
        torch.save(content, path, _use_new_zipfile_serialization=False)
    wanted = load_decoder(golden("chatglm2-6b")).state_dict()
    for name, tensor in load_decoder(folder).state_dict().items():
        assert torch.equal(tensor, wanted[name])


def test_auto_map_is_ignored(folder: Path) -> None:
    spoil_config(folder, auto_map={"AutoModel": "modeling_evil.Model"})
    (folder / "modeling_evil.py").write_text("raise RuntimeError('executed')")
    assert load_decoder(folder).config.num_layers == 2


def test_tied_head_in_the_file_must_equal_the_embedding(folder: Path, tmp_path: Path) -> None:
    embedding = load_decoder(folder).model.embed_tokens.weight.detach().clone()
    spoil_config(folder, tie_word_embeddings=True)
    spoil_weights(folder, lm_head__weight=embedding)
    decoder = load_decoder(folder)
    save_decoder(decoder, tmp_path / "again")
    assert load_decoder(tmp_path / "again").published.stores_tied_head
    spoil_weights(folder, lm_head__weight=embedding + 1)
    assert "the head differs from the embedding, but both are tied" in message(folder)


def test_a_decoder_prepared_for_inference_is_not_saved(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="prepared for inference"):
        save_decoder(load_decoder(folder, for_inference=True), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="reads the kernel's own figures")
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_what_was_read_is_given_back(kind: str, tmp_path: Path) -> None:
    tensors = {f"tensor{i}": torch.full((2**20,), float(i)) for i in range(16)}
    path = tmp_path / f"model.{kind}"
    if kind == "bin":
        torch.save(tensors, path)
    else:
        save_file(tensors, path)
    opened = TorchFile(path) if kind == "bin" else SafetensorsFile(path)
    most, kept = 0, {}
    for name, tensor, _ in stream([opened]):
        assert float(tensor.sum()) == 2**20 * int(name.removeprefix("tensor"))
        kept[name] = tensor
        most = max(most, resident_bytes(path))
    assert 2**22 <= most <= 3 * 2**22  # of 64 MiB
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in kept.items())


def resident_bytes(path: Path) -> int:
    """How much of a mapped file is in memory."""
    inside, total = False, 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            total += 1024 * int(line.split()[1])
    return total
