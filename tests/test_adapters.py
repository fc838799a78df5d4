"""LoRA in PEFT's format: adapters of the stock tool, our files in the stock tool, bad input."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from checkpoints import HERE, assert_close, expected, golden, tiny_checkpoint

from danlu.adapters.handling import adapter_names, attach_adapter, merge_adapters
from danlu.adapters.targets import choose_targets
from danlu.config.adapter import LoraConfig
from danlu.errors import AdapterError
from danlu.loading import load_adapter, load_decoder, save_adapter

CASES = ["lora-llama-all", "lora-bloom", "rslora-llama", "lora-llama-patterns"]


def case_base(case: str) -> Path:
    about = json.loads((HERE / "interop" / case / "about.json").read_text())
    return golden(Path(about["base"]).name)


@pytest.mark.parametrize("case", [*CASES, "old-lora-chatglm2-6b"])
def test_adapters_of_the_stock_tool(case: str, tmp_path: Path) -> None:
    folder = HERE / "interop" / case
    wanted = expected(folder)
    decoder = load_decoder(case_base(case), adapter=folder / "adapter")
    with torch.inference_mode():
        assert_close(decoder(wanted["input_ids"]), wanted["adapter_logits"])
        save_adapter(decoder, tmp_path, "base")
        again = load_decoder(case_base(case), adapter=tmp_path)
        assert_close(again(wanted["input_ids"]), wanted["adapter_logits"])
        merge_adapters(decoder)
        assert not adapter_names(decoder)
        assert_close(decoder(wanted["input_ids"]), wanted["adapter_logits"])


@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_our_base_and_adapter_open_in_stock_tools(family: str, tmp_path: Path) -> None:
    base = tiny_checkpoint(tmp_path / "base", family)
    decoder = load_decoder(base)
    generator = torch.Generator().manual_seed(3)
    attach_adapter(decoder, LoraConfig(lora_rank=4, lora_alpha=6.0), generator)
    with torch.no_grad():
        for _, layer in decoder.adapters["default"].wrappers:
            layer.lora_B.normal_(0.0, 0.1, generator=generator)
    save_adapter(decoder, tmp_path / "adapter", base)
    ids = torch.arange(24).reshape(2, 12)
    with torch.inference_mode():
        wanted = decoder(ids)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        stock = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        stock = PeftModel.from_pretrained(stock, tmp_path / "adapter").eval()
        with torch.inference_mode():
            assert_close(stock(ids).logits, wanted)


def test_adapter_of_another_base(tmp_path: Path) -> None:
    decoder = load_decoder(golden("llama"))
    with pytest.raises(AdapterError) as caught:
        load_adapter(decoder, HERE / "interop" / "lora-bloom" / "adapter")
    assert "query_key_value is no layer of the base" in str(caught.value)
    assert "golden-small/bloom" in str(caught.value)
    assert not adapter_names(decoder)


def test_missing_adapter_files(tmp_path: Path) -> None:
    decoder = load_decoder(golden("llama"))
    with pytest.raises(AdapterError, match=r"adapter_config.json' cannot be read"):
        load_adapter(decoder, tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(AdapterError, match="No adapter weights"):
        load_adapter(decoder, tmp_path)


def test_targets_that_match_nothing_are_all_named() -> None:
    decoder = load_decoder(golden("llama"))
    with pytest.raises(AdapterError, match=r"(?s)'c_attn'.*'W_pack'"):
        choose_targets(decoder, LoraConfig(targets=["q_proj", "c_attn", "W_pack"]))
    chosen = choose_targets(decoder, LoraConfig(targets=["q_proj"]))
    assert chosen == [(f"model.layers.{i}.self_attn.q_proj",) for i in range(2)]


def test_adapter_on_a_quantized_base_merges_onto_what_it_saw(tmp_path: Path) -> None:
    base = tiny_checkpoint(tmp_path / "base")
    decoder = load_decoder(base, quantize="int8")
    generator = torch.Generator().manual_seed(4)
    attach_adapter(decoder, LoraConfig(lora_rank=2), generator)
    with torch.no_grad():
        for _, layer in decoder.adapters["default"].wrappers:
            layer.lora_B.normal_(0.0, 0.1, generator=generator)
    ids = torch.arange(10)[None]
    with torch.inference_mode():
        wanted = decoder(ids)
        merge_adapters(decoder)
        assert_close(decoder(ids), wanted, 1e-5)
