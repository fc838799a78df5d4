"""Quantized checkpoints that stock tools wrote, with the numbers a reader must give back."""

import json
from pathlib import Path

import pytest
import torch
from checkpoints import HERE, assert_close, expected
from torch import Tensor

from danlu.loading import load_decoder, save_decoder, take_exact_inputs
from danlu.loading.layout import published_layout
from danlu.models.decoder import Decoder
from danlu.quantize.linear import QuantizedLinear
from danlu.weights.files import find_weight_files, stream


def case(name: str) -> Path:
    """The folder of a case; those that are not in the repository may be beside it."""
    for root in (HERE / "interop-quant", HERE.parents[1] / "shared" / "interop-quant"):
        if (root / name / "expected.safetensors").exists() or name.startswith("base-"):
            return root / name
    pytest.skip(f"{name} is not here")


def stored_tensors(folder: Path) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor, _ in stream(find_weight_files(folder))}


def with_exact_inputs(decoder: Decoder) -> Decoder:
    """The decoder with the weights it has; inputs, keys and values are not rounded any more."""
    decoder.kv_cache = None
    take_exact_inputs(decoder)
    return decoder


def check_numbers(name: str) -> Decoder:
    """Every weight, the logits and the answer are those of the case."""
    folder = case(name)
    wanted, decoder = expected(folder), load_decoder(folder)
    linears, compared = dict(decoder.linears()), 0
    for published, entry in published_layout(decoder).entries.items():
        if (key := f"dequantized.{published}") in wanted:
            owners = [ours.removesuffix(".weight") for ours in entry.ours]
            assert all(isinstance(linears[owner], QuantizedLinear) for owner in owners)
            dense = {f"{owner}.weight": linears[owner].dense_weight() for owner in owners}
            bound = 1e-6 * float(wanted[key].abs().max())
            assert float((entry.save(dense) - wanted[key]).abs().max()) <= bound, published
            compared += 1
    assert compared == sum(key.startswith("dequantized.") for key in wanted) > 0
    about = json.loads((folder / "about.json").read_text())
    quantized = [lin for lin in linears.values() if isinstance(lin, QuantizedLinear)]
    assert len(quantized) >= about["quantized_modules"]  # more where published ones are fused
    with torch.inference_mode():
        if "actquant_logits" in wanted:
            check_rounded(decoder(wanted["input_ids"]), wanted["actquant_logits"], 5e-3)
        exact = with_exact_inputs(load_decoder(folder))
        assert_close(exact(wanted["input_ids"]), wanted["dequant_logits"])
        fused = with_exact_inputs(load_decoder(folder, for_inference=True))
        assert_close(fused(wanted["input_ids"]), wanted["dequant_logits"])
        ids = wanted["prompt_ids"]
        for _ in range(wanted["greedy_ids"].shape[1]):
            ids = torch.cat((ids, decoder(ids)[:, -1:].argmax(-1)), dim=1)
    assert torch.equal(ids[:, -wanted["greedy_ids"].shape[1] :], wanted["greedy_ids"])
    if "actquant_logits" not in wanted:  # a tool that rounds neither inputs nor the cache
        tolerance = float(about["tolerance"]["quant_logits"].split()[-1])
        with torch.inference_mode():
            check_rounded(decoder(wanted["input_ids"]), wanted["quant_logits"].float(), tolerance)
    return decoder


def check_rounded(found: Tensor, wanted: Tensor, tolerance: float) -> None:
    """Numbers that rounding flips apart, as a whole."""
    assert float((found - wanted).norm() / wanted.norm()) <= tolerance


def check_given_back(name: str, out: Path, dropped: tuple[str, ...] = ()) -> dict[str, object]:
    """Saved, the tensors are those of the file, but for `dropped` endings; return its config."""
    folder = case(name)
    save_decoder(load_decoder(folder), out)
    before, after = stored_tensors(folder), stored_tensors(out)
    assert after.keys() == {key for key in before if not key.endswith(dropped or "\0")}
    for key, tensor in after.items():
        assert tensor.dtype == before[key].dtype, key
        assert torch.equal(tensor, before[key]), key
    config: dict[str, object] = json.loads((out / "config.json").read_text())
    return config
