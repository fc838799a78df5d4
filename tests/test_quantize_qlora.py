"""Adapters on quantized bases, of every kind: they learn, the base stays, merging is exact."""

from pathlib import Path

import pytest
import torch
from checkpoints import assert_close, sequences, tiny_checkpoint
from quantized_cases import case, with_exact_inputs
from torch import Tensor
from torch.nn import functional as F

from danlu.adapters.handling import attach_adapter, merge_adapters
from danlu.config.adapter import LoraConfig
from danlu.loading import load_adapter, load_decoder, save_adapter, save_decoder
from danlu.models.decoder import Decoder
from danlu.quantize.linear import QuantizedLinear

# Act-order, 3 bits, tied head with biases, fused names; AWQ; code books, rows; packed and plain.
READ = (
    "gptq-w4g64-act",
    "gptq-w3g32",
    "gptq-w8g32",
    "gptq-qwen1",
    "awq-gemm-w4g32",
    "bnb-nf4-dq",
    "bnb-fp4",
    "bnb-int8",
    "ct-w4a16-asym-g32",
    "ct-w8a8-kv8",
)
ROUNDED = (
    *(f"{family} {preset}" for family in ("bloom", "gpt2") for preset in ("nf4", "int8")),
    *("qwen w8a8", "gpt2 llm_int8"),
)


def base(name: str, tmp_path: Path, dtype: torch.dtype = torch.float32) -> Decoder:
    """A checkpoint of a tool, or a family rounded while it is loaded."""
    if name in READ:
        return load_decoder(case(name), dtype)
    family, preset = name.split()
    folder = tmp_path / "base"
    if not folder.exists():
        tiny_checkpoint(folder, family)
    return load_decoder(folder, dtype, quantize=preset)


def codes(decoder: Decoder) -> dict[str, Tensor]:
    return {
        f"{name}.{part}": tensor.clone()
        for name, layer in decoder.named_modules()
        if isinstance(layer, QuantizedLinear)
        for part, tensor in layer.quantized().tensors().items()
    }


def learn(decoder: Decoder, steps: int = 6) -> tuple[float, float]:
    """Train the adapter on two rows; return the first loss and the last."""
    ids, losses = sequences(decoder, 2, 12), []
    trained = [parameter for parameter in decoder.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.02)
    for _ in range(steps):
        logits = decoder(ids)[:, :-1].float()
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses[0], losses[-1]


@pytest.mark.parametrize("name", [*READ, *ROUNDED])
def test_an_adapter_learns_and_merges(name: str, tmp_path: Path) -> None:
    decoder = base(name, tmp_path)
    ids = sequences(decoder, 2, 8)
    with torch.inference_mode():
        alone = decoder(ids)
    attach_adapter(decoder, LoraConfig(lora_rank=4), torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(decoder(ids), alone)
    before = codes(decoder)
    first, last = learn(decoder)
    assert last < 0.95 * first
    after = codes(decoder)
    assert before.keys() == after.keys()
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())

    save_adapter(decoder, tmp_path / "adapter", "base")
    with torch.inference_mode():
        adapted = decoder(ids)
        again = base(name, tmp_path)
        load_adapter(again, tmp_path / "adapter")
        assert_close(again(ids), adapted, 1e-5)
        adapted = with_exact_inputs(decoder)(ids)  # a merged layer is dense: so are its inputs
        merge_adapters(decoder)
        assert_close(decoder(ids), adapted, 1e-4)
    save_decoder(decoder, tmp_path / "merged", torch.float32)
    with torch.inference_mode():
        assert_close(load_decoder(tmp_path / "merged")(ids), adapted, 1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["gptq-w4g64-act", "bnb-nf4-dq", "bloom nf4"])
def test_in_half_precision(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """The base the adapter sees in half precision is, weight by weight, the rounded exact one."""
    decoder, exact = base(name, tmp_path, dtype), base(name, tmp_path)
    seen = {layer: linear.dense_weight() for layer, linear in exact.linears()}
    for layer, linear in decoder.linears():
        assert torch.equal(linear.dense_weight(), seen[layer].to(dtype)), layer
    attach_adapter(decoder, LoraConfig(lora_rank=4), torch.Generator().manual_seed(0))
    before = codes(decoder)
    first, last = learn(decoder)
    assert last < 0.95 * first
    assert all(torch.equal(tensor, before[key]) for key, tensor in codes(decoder).items())


@pytest.mark.parametrize(
    "name", ["gptq-w8g32", "bnb-nf4-dq", "bnb-int8", "ct-w4a16-asym-g32", "ct-w8a8-kv8"]
)
def test_served_with_an_adapter(name: str, tmp_path: Path) -> None:
    decoder = base(name, tmp_path)
    attach_adapter(decoder, LoraConfig(lora_rank=2), torch.Generator().manual_seed(0))
    learn(decoder, steps=2)
    save_adapter(decoder, tmp_path / "adapter", "base")
    served = load_decoder(case(name), adapter=tmp_path / "adapter", for_inference=True)
    ids = sequences(decoder, 2, 8)
    with torch.inference_mode():
        assert_close(served(ids), decoder(ids))


def test_merging_some_layers_leaves_the_others_quantized(tmp_path: Path) -> None:
    decoder = base("gptq-w4g64-act", tmp_path)
    config = LoraConfig(lora_rank=2, targets=["q_proj", "down_proj"])
    attach_adapter(decoder, config, torch.Generator().manual_seed(0))
    learn(decoder, steps=2)
    ids = sequences(decoder, 2, 8)
    merge_adapters(decoder)
    save_decoder(decoder, tmp_path / "merged", torch.float32)
    again = load_decoder(tmp_path / "merged")
    assert sum(isinstance(layer, QuantizedLinear) for _, layer in again.linears()) == 2 * 5
    with torch.inference_mode():
        assert_close(again(ids), decoder(ids), 1e-5)
