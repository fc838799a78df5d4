"""Prefixes and prompts in files: of stock peft, of ChatGLM's scripts, and ours in stock peft."""

import json
import logging
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import HERE, assert_close, expected, golden, sequences, tiny_checkpoint
from safetensors.torch import load_file, save_file
from torch import Tensor

from danlu.config.adapter import PrefixConfig, PromptConfig
from danlu.engine.generator import Generator
from danlu.engine.sampling import SamplingParams
from danlu.engine.sequence import Request
from danlu.errors import AdapterError, CheckpointError
from danlu.loading import attach_adapter, load_adapter, load_decoder, save_adapter
from danlu.models.decoder import Decoder
from danlu.nn.contexts import DenseContext
from danlu.weights.files import find_weight_files, stream

INTEROP = HERE / "interop"
PEFT = ["prefix-llama2", "prefix-proj-llama2", "prompt-llama"]
PTUNING = [
    "ptuning-v2-chatglm-6b",
    "ptuning-v2-chatglm2-6b",
    "ptuning-v2-proj-chatglm-6b",
    "ptuning-v2-proj-chatglm2-6b",
]


def case_base(case: str) -> Path:
    about = json.loads((INTEROP / case / "about.json").read_text())
    return golden(Path(about["base"]).name)


def case_adapter(case: str) -> Path:
    return INTEROP / case / ("adapter" if case in PEFT else "checkpoint")


@torch.inference_mode()
def logits(decoder: Decoder, ids: Tensor) -> Tensor:
    found: Tensor = decoder(ids)
    return found


@pytest.mark.parametrize("case", [*PEFT, *PTUNING])
def test_files_of_other_tools(case: str, tmp_path: Path) -> None:
    wanted = expected(INTEROP / case)
    ids = wanted["input_ids"]
    decoder = load_decoder(case_base(case), adapter=case_adapter(case))
    assert_close(logits(decoder, ids), wanted["adapter_logits"])
    save_adapter(decoder, tmp_path, "base")
    for inference in (False, True):
        again = load_decoder(case_base(case), adapter=tmp_path, for_inference=inference)
        assert_close(logits(again, ids), wanted["adapter_logits"])
    params = SamplingParams(temperature=0.0)
    request = Request(wanted["prompt_ids"][0].tolist(), params, 8, frozenset(), 0)
    [[answer]] = Generator(decoder).run([request])
    assert answer.token_ids == wanted["greedy_ids"][0].tolist()


def test_virtual_tokens_have_the_logits_of_the_stock_tool() -> None:
    wanted = expected(INTEROP / "prompt-llama")
    decoder = load_decoder(case_base("prompt-llama"), adapter=case_adapter("prompt-llama"))
    prompt_PD = decoder.prefix.embeddings  # type: ignore[union-attr]
    words_BTD = decoder.token_embeddings(wanted["input_ids"])
    embedded_BTD = torch.cat((prompt_PD.expand(2, -1, -1), words_BTD), dim=1)
    positions_BT = torch.arange(embedded_BTD.shape[1]).expand(2, -1)
    attn = DenseContext(None, positions_BT, positions_BT)
    with torch.inference_mode():
        hidden_BTD = decoder.model.run_embedded(embedded_BTD, positions_BT, attn)
        assert_close(decoder.logits(hidden_BTD), wanted["adapter_logits_full"])


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral", "bloom"])
@pytest.mark.parametrize(
    "config",
    [
        PrefixConfig(num_tokens=4),
        PrefixConfig(num_tokens=4, projection=True, projection_size=5),
        PromptConfig(num_tokens=4),
    ],
    ids=["prefix", "projected", "prompt"],
)
def test_ours_open_in_stock_peft(family: str, config: Any, tmp_path: Path) -> None:
    base = tiny_checkpoint(tmp_path / "base", family)
    decoder = load_decoder(base)
    attach_adapter(decoder, config, torch.Generator().manual_seed(3))
    save_adapter(decoder, tmp_path / "adapter", base)
    ids = sequences(decoder, 2, 9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        stock = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        stock = PeftModel.from_pretrained(stock, tmp_path / "adapter").eval()
        with torch.inference_mode():
            theirs = stock(ids).logits[:, -ids.shape[1] :]
    assert_close(theirs, logits(decoder, ids))


def test_an_adapter_for_another_base_names_every_difference() -> None:
    decoder = load_decoder(golden("llama"))
    with pytest.raises(AdapterError) as caught:
        load_adapter(decoder, case_adapter("prefix-llama2"))
    said = str(caught.value)
    assert "num_attention_heads: 2; the base has 4" in said
    assert "token_dim: 12; the base has 32" in said
    assert "prompt_embeddings has 48 numbers for each token; the base keeps 128" in said
    assert "'golden-small/llama2'" in said
    assert decoder.prefix is None
    with pytest.raises(AdapterError, match="has 32 numbers for each token; embeddings of the base"):
        load_adapter(load_decoder(golden("llama2")), case_adapter("prompt-llama"))


def test_ptuning_for_another_base_names_every_difference() -> None:
    with pytest.raises(AdapterError) as caught:
        load_decoder(golden("chatglm2-6b"), adapter=case_adapter("ptuning-v2-chatglm-6b"))
    said = str(caught.value)
    assert "num_attention_heads: 4; the base has 2" in said
    assert "prefix_encoder.embedding.weight is [4, 128]; the base asks for [4, 64]" in said
    with pytest.raises(AdapterError, match="keep their positions, as ChatGLM counts them"):
        load_decoder(golden("llama"), adapter=case_adapter("ptuning-v2-chatglm-6b"))


def test_a_ptuning_folder_is_no_model() -> None:
    for case in PTUNING:
        with pytest.raises(CheckpointError, match="give this folder as the adapter"):
            load_decoder(case_adapter(case))


def spoiled(case: str, folder: Path, **changes: Any) -> Path:
    """A copy of an adapter with other keys in its config."""
    shutil.copytree(case_adapter(case), folder)
    path = folder / ("adapter_config.json" if case in PEFT else "config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def test_every_key_and_tensor_is_accounted_for(tmp_path: Path) -> None:
    changes = {"num_virtual_token": 9, "num_virtual_tokens": 7, "modules_to_save": ["lm_head"]}
    folder = spoiled("prefix-llama2", tmp_path / "a", **changes, num_transformer_submodules=2)
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({**tensors, "lm_head.weight": torch.ones(2)}, folder / "adapter_model.safetensors")
    with pytest.raises(AdapterError) as caught:
        load_decoder(golden("llama2"), adapter=folder)
    said = str(caught.value)
    assert (
        "num_virtual_token: 9 is no key of this method. Did you mean 'num_virtual_tokens'?" in said
    )
    assert "num_virtual_tokens: 7, but prompt_embeddings holds 5" in said
    assert "modules_to_save: ['lm_head']; expected null" in said
    assert "num_transformer_submodules: 2; expected 1" in said
    assert "lm_head.weight is no tensor of this method" in said


def test_ptuning_without_its_mlp(tmp_path: Path) -> None:
    folder = spoiled("ptuning-v2-chatglm2-6b", tmp_path / "a", prefix_projection=True)
    with pytest.raises(AdapterError) as caught:
        load_decoder(golden("chatglm2-6b"), adapter=folder)
    missing = ("trans.0.weight", "trans.0.bias", "trans.2.weight", "trans.2.bias")
    assert all(f"prefix_encoder.{name} is missing" in str(caught.value) for name in missing)


def test_ptuning_with_the_whole_model_in_its_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    case = "ptuning-v2-proj-chatglm2-6b"
    wanted = expected(INTEROP / case)
    folder = spoiled(case, tmp_path / "whole")
    encoder = torch.load(folder / "pytorch_model.bin", weights_only=True)
    files = find_weight_files(golden("chatglm2-6b"))
    base = {name: tensor.clone() for name, tensor, _ in stream(files)}
    torch.save({**encoder, **base}, folder / "pytorch_model.bin")
    with caplog.at_level(logging.WARNING):
        decoder = load_decoder(golden("chatglm2-6b"), adapter=folder)
    assert f"holds {len(base)} tensors beside its prefix encoder" in caplog.text
    assert_close(logits(decoder, wanted["input_ids"]), wanted["adapter_logits"])


def test_one_prefix_at_a_time() -> None:
    decoder = load_decoder(golden("llama2"), adapter=case_adapter("prefix-llama2"))
    with pytest.raises(AdapterError, match="There is a prefix in front"):
        load_adapter(decoder, case_adapter("prefix-proj-llama2"), "second")


@pytest.mark.parametrize("config", [PrefixConfig(num_tokens=500), PromptConfig(num_tokens=500)])
def test_a_prefix_leaves_room_for_a_text(config: Any) -> None:
    decoder = load_decoder(golden("llama"))
    with pytest.raises(AdapterError, match="500 virtual tokens leave no room"):
        attach_adapter(decoder, config, torch.Generator())
