"""Adapters in PEFT's format: files of the stock tool, ours again, damaged ones, other bases."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import HERE, assert_close, expected, golden, tiny_checkpoint
from safetensors.torch import load_file, save_file
from torch import Tensor

from danlu.adapters.handling import adapter_names
from danlu.config.adapter import LoraConfig
from danlu.errors import AdapterError
from danlu.loading import (
    attach_adapter,
    disabled,
    load_adapter,
    load_decoder,
    merge_adapters,
    save_adapter,
    train_only,
    unmerge_adapters,
)
from danlu.models.decoder import Decoder

CASES = [
    "dora-llama",
    "ia3-llama",
    "lora-bloom",
    "lora-bloom-bias",
    "lora-gpt2",
    "lora-llama-all",
    "lora-llama-embedding",
    "lora-llama-modules-to-save",
    "lora-llama-patterns",
    "lora-qwen2-qv",
    "lora-qwen2-tied-embedding",
    "lora-qwen2-token-rows",
    "old-lora-baichuan-13b",
    "old-lora-baichuan-7b",
    "old-lora-baichuan2-7b",
    "old-lora-chatglm-6b",
    "old-lora-chatglm2-6b",
    "old-lora-qwen",
    "rslora-llama",
    "trainable-tokens-llama",
]


def folder_of(case: str) -> Path:
    return HERE / "interop" / case / "adapter"


def base_of(case: str) -> Path:
    about = json.loads((HERE / "interop" / case / "about.json").read_text())
    return golden(Path(about["base"]).name)


@torch.inference_mode()
def continued(decoder: Decoder, prompt: Tensor, tokens: int) -> Tensor:
    ids = prompt
    for _ in range(tokens):
        ids = torch.cat([ids, decoder(ids)[:, -1:].argmax(-1)], dim=1)
    return ids[:, prompt.shape[1] :]


def test_every_stored_adapter_of_layers_is_read() -> None:
    folders = [p.parent for p in (HERE / "interop").glob("*/adapter") if p.is_dir()]
    others = ("prefix", "prompt", "train-")
    assert sorted(p.name for p in folders if not p.name.startswith(others)) == CASES


@pytest.mark.parametrize("case", CASES)
def test_adapters_of_the_stock_tool(case: str, tmp_path: Path) -> None:
    wanted = expected(HERE / "interop" / case)
    decoder = load_decoder(base_of(case), adapter=folder_of(case))
    prompt, greedy = wanted["prompt_ids"], wanted["greedy_ids"]
    assert torch.equal(continued(decoder, prompt, greedy.shape[1]), greedy)
    with torch.inference_mode():
        assert_close(decoder(wanted["input_ids"]), wanted["adapter_logits"])
        with disabled(decoder):
            assert_close(decoder(wanted["input_ids"]), wanted["base_logits"])
        save_adapter(decoder, tmp_path, "base")
        again = load_decoder(base_of(case), adapter=tmp_path)
        assert_close(again(wanted["input_ids"]), wanted["adapter_logits"])
        merge_adapters(decoder)
        assert not adapter_names(decoder)
        assert_close(decoder(wanted["input_ids"]), wanted["adapter_logits"])


@pytest.mark.parametrize(
    "case",
    [
        "dora-llama",
        "ia3-llama",
        "lora-bloom-bias",
        "lora-llama-embedding",
        "lora-llama-modules-to-save",
        "lora-qwen2-token-rows",
    ],
)
@torch.inference_mode()
def test_packed_bases_take_adapters(case: str) -> None:
    """In bfloat16 the CPU has a layout of its own for inference."""
    base, ids = base_of(case), expected(HERE / "interop" / case)["input_ids"]
    plain = load_decoder(base, torch.bfloat16, adapter=folder_of(case))
    packed = load_decoder(base, torch.bfloat16, adapter=folder_of(case), for_inference=True)
    assert_close(packed(ids), plain(ids), 0.03)


def test_layers_that_are_one_published_layer_are_trained_as_one() -> None:
    decoder = load_decoder(base_of("lora-bloom"), adapter=folder_of("lora-bloom"))
    train_only(decoder)
    trained = [p for p in decoder.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == 2 * (4 * 24 + 72 * 4)  # A once per layer
    decoder = load_decoder(golden("bloom"))
    attach_adapter(decoder, LoraConfig(lora_rank=4, targets=["query_key_value"]), torch.Generator())
    again = [p for p in decoder.parameters() if p.requires_grad]
    assert [p.shape for p in again] == [p.shape for p in trained]


def changed(tmp_path: Path, case: str, keys: Any = None, tensors: Any = None) -> Path:
    """A copy of a stored adapter; None removes a key or tensor."""
    folder = Path(shutil.copytree(folder_of(case), tmp_path / "adapter"))
    config = json.loads((folder / "adapter_config.json").read_text()) | (keys or {})
    config = {key: value for key, value in config.items() if value != "REMOVE"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    path = folder / "adapter_model.safetensors"
    if tensors:
        found = load_file(path) | tensors
        save_file({name: t for name, t in found.items() if t is not None}, path)
    return folder


ROOT = "base_model.model.model.layers.0.self_attn.q_proj"
WRONG: list[tuple[str, dict[str, Any], dict[str, Any], list[str]]] = [
    (
        "lora-llama-all",
        {"lora_alhpa": 3, "r": 0, "use_qalora": True, "init_lora_weights": "corda"},
        {},
        ["Did you mean 'lora_alpha'", "r: 0;", "use_qalora: True", "'corda'"],
    ),
    ("lora-llama-all", {"lora_alpha": "REMOVE"}, {}, ["lora_alpha: None; expected a number"]),
    ("lora-llama-all", {"rank_pattern": {"q_proj": "x"}}, {}, ["rank_pattern"]),
    ("lora-llama-all", {"init_lora_weights": "pissa_niter_4"}, {}, ["randomised"]),
    ("lora-llama-all", {"peft_type": "LOHA"}, {}, ["'LOHA'", "TRAINABLE_TOKENS"]),
    (
        "lora-llama-all",
        {},
        {f"{ROOT}.lora_A.weight": None, f"{ROOT.replace('q_proj', 'k_proj')}.lora_B.weight": None},
        ["q_proj lacks A or B", "k_proj lacks A or B"],
    ),
    (
        "lora-llama-all",
        {"target_modules": ["q_proj", "lm_head", "W_pack"]},
        {},
        ["target_modules: 'lm_head' has no tensors in the file"],
    ),
    (
        "lora-llama-all",
        {},
        {f"{ROOT.replace('q_proj', 'q_porj')}.lora_A.weight": torch.ones(4, 32)},
        ["q_porj is no layer of the base. Did you mean"],
    ),
    ("lora-llama-all", {}, {f"{ROOT}.lora_A.weight": torch.ones(4, 31)}, ["[32, 31]", "[32, 32]"]),
    ("lora-llama-all", {"use_dora": True}, {}, ["use_dora is True, which its tensors contradict"]),
    (
        "dora-llama",
        {},
        {f"{ROOT}.lora_magnitude_vector": torch.ones(5)},
        ["has 5 magnitudes; the base has 32"],
    ),
    (
        "lora-llama-modules-to-save",
        {},
        {"base_model.model.lm_head.weight": torch.ones(110, 32)},
        ["[110, 32]", "vocabulary was extended"],
    ),
    ("trainable-tokens-llama", {"token_indices": [1, 2, 3]}, {}, ["4 trained rows for 3 tokens"]),
    ("trainable-tokens-llama", {"token_indices": [1, 2, 3, 999]}, {}, ["no tokens [999]"]),
    (
        "ia3-llama",
        {},
        {f"{ROOT.replace('q_proj', 'k_proj')}.ia3_l": torch.ones(32, 2)},
        ["k_proj has factors [32, 2]; the base takes [32, 1] or [1, 32]"],
    ),
]


@pytest.mark.parametrize(("case", "keys", "tensors", "said"), WRONG)
def test_everything_wrong_is_told_at_once_and_nothing_is_attached(
    case: str, keys: Any, tensors: Any, said: list[str], tmp_path: Path
) -> None:
    decoder = load_decoder(golden("llama"))
    before = dict(decoder.named_modules())
    with pytest.raises(AdapterError) as caught:
        load_adapter(decoder, changed(tmp_path, case, keys, tensors))
    for text in said:
        assert text in str(caught.value)
    assert not adapter_names(decoder)
    assert dict(decoder.named_modules()) == before


@pytest.mark.parametrize(
    "keys",
    [
        {"some_later_option": None, "another": {}},
        {"layers_to_transform": [0], "target_modules": "x"},
    ],
)
def test_keys_that_change_nothing_here_are_let_pass(keys: Any, tmp_path: Path) -> None:
    wanted = expected(HERE / "interop" / "lora-llama-all")
    decoder = load_decoder(golden("llama"), adapter=changed(tmp_path, "lora-llama-all", keys))
    with torch.inference_mode():
        assert_close(decoder(wanted["input_ids"]), wanted["adapter_logits"])


@pytest.mark.parametrize("spelling", ["default", "infixes", "unprefixed", "modules_to_save"])
def test_older_spellings_of_names(spelling: str, tmp_path: Path) -> None:
    case = "lora-llama-modules-to-save"
    found = load_file(folder_of(case) / "adapter_model.safetensors")
    changes: dict[str, Any] = dict.fromkeys(found)
    for name, tensor in found.items():
        new = name
        if spelling in ("default", "infixes"):
            new = new.replace(".lora_A.weight", ".lora_A.default.weight")
            new = new.replace(".lora_B.weight", ".lora_B.default.weight")
        if spelling == "infixes":
            new = new.replace("lm_head.weight", "lm_head.modules_to_save.default.weight")
            changes["base_model.model.lm_head.original_module.weight"] = torch.ones(104, 32)
        if spelling == "unprefixed":
            new = new.removeprefix("base_model.model.")
        if spelling == "modules_to_save":
            new = new.replace("lm_head.weight", "lm_head.modules_to_save.weight")
        changes[new] = tensor
    wanted = expected(HERE / "interop" / case)
    decoder = load_decoder(golden("llama"), adapter=changed(tmp_path, case, None, changes))
    with torch.inference_mode():
        assert_close(decoder(wanted["input_ids"]), wanted["adapter_logits"])


def test_adapter_of_another_base(tmp_path: Path) -> None:
    decoder = load_decoder(golden("llama"))
    with pytest.raises(AdapterError) as caught:
        load_adapter(decoder, folder_of("lora-bloom"))
    assert "query_key_value is no layer of the base" in str(caught.value)
    assert "golden-small/bloom" in str(caught.value)
    assert not adapter_names(decoder)


def test_adapter_of_other_weights(tmp_path: Path) -> None:
    base = tiny_checkpoint(tmp_path / "base")
    decoder = load_decoder(base)
    attach_adapter(decoder, LoraConfig(lora_rank=2), torch.Generator())
    save_adapter(decoder, tmp_path / "adapter", base)
    assert load_decoder(base, torch.bfloat16, adapter=tmp_path / "adapter", quantize="int8")
    other = tiny_checkpoint(tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"] *= 1.1
    save_file(tensors, other / "model.safetensors")
    decoder = load_decoder(other)
    with pytest.raises(AdapterError, match="is for another base"):
        load_adapter(decoder, tmp_path / "adapter")
    assert not adapter_names(decoder)
    load_adapter(decoder, tmp_path / "adapter", any_base=True)


def test_the_same_weights_in_another_form_are_the_same_base(tmp_path: Path) -> None:
    base = tiny_checkpoint(tmp_path / "base")
    decoder = load_decoder(base)
    attach_adapter(decoder, LoraConfig(lora_rank=2), torch.Generator())
    save_adapter(decoder, tmp_path / "adapter", base)
    tensors = load_file(base / "model.safetensors")
    (base / "model.safetensors").unlink()
    halved = {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}
    torch.save(halved, base / "pytorch_model.bin")
    load_adapter(load_decoder(base), tmp_path / "adapter")


def test_missing_adapter_files(tmp_path: Path) -> None:
    decoder = load_decoder(golden("llama"))
    with pytest.raises(AdapterError, match=r"There is no adapter in .* no adapter_config\.json"):
        load_adapter(decoder, tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(AdapterError, match="No adapter weights"):
        load_adapter(decoder, tmp_path)
    (tmp_path / "adapter_config.json").write_text("[" * 100_000)
    with pytest.raises(AdapterError, match=r"adapter_config.json' cannot be read"):
        load_adapter(decoder, tmp_path)
    (tmp_path / "adapter_config.json").write_text("[]")
    with pytest.raises(AdapterError, match="holds a list; expected the JSON object"):
        load_adapter(decoder, tmp_path)


def test_names_of_adapters() -> None:
    decoder = load_decoder(golden("llama"), adapter=folder_of("lora-llama-all"))
    with pytest.raises(AdapterError, match="There is an adapter 'default' already"):
        load_adapter(decoder, folder_of("dora-llama"))
    load_adapter(decoder, folder_of("dora-llama"), "second")
    assert adapter_names(decoder) == ["default", "second"]
    with pytest.raises(AdapterError, match=r"no adapter 'secnd'.*Did you mean 'second'"):
        train_only(decoder, "secnd")
    with pytest.raises(AdapterError, match="Nothing can be unmerged"):
        unmerge_adapters(decoder)
