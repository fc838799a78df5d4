"""W8A8 on real and tiny models: smoothing beats plain rounding, shifts fold, nothing is silent."""

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import HERE, expected, golden, sequences, tiny_checkpoint, tiny_decoder
from quantized_cases import case
from safetensors.torch import load_file
from torch import Tensor

from danlu.calibration.walk import Quantized, quantize_decoder
from danlu.config.quantize.run import QuantizeRun
from danlu.config.quantize.w8a8 import ShiftConfig, SmoothConfig, W8A8Scheme
from danlu.errors import QuantizationError
from danlu.loading import load_decoder, save_decoder
from danlu.models.decoder import Decoder
from danlu.progress import Silent
from danlu.quantize.activations import DynamicPerToken, StaticPerTensor
from danlu.quantize.linear import QuantizedLinear

CALIBRATION = HERE / "interop-quant" / "calib-smoothquant" / "calibration.safetensors"
AS_LLMCOMPRESSOR = SmoothConfig(alpha=0.5, ranges="span", all_linears=False)


def quantized(folder: Path, rows: Tensor, work: Path, **options: Any) -> Quantized:
    run = QuantizeRun(model=str(folder), out="out", device="cpu", scheme=W8A8Scheme(**options))
    found = quantize_decoder(folder, run, rows.tolist(), work, Silent())
    found.decoder.float()
    return found


@torch.inference_mode()
def error_of(decoder: Decoder, exact: Decoder, ids: Tensor) -> float:
    wanted = exact(ids)
    return float((decoder(ids) - wanted).norm() / wanted.norm())


@torch.inference_mode()
def kl_of(decoder: Decoder, exact: Decoder, ids: Tensor) -> float:
    wanted, found = exact(ids).log_softmax(-1), decoder(ids).log_softmax(-1)
    return float((wanted.exp() * (wanted - found)).sum(-1).mean())


@torch.inference_mode()
def written_by(decoder: Decoder, first: Tensor, length: int, seed: int) -> Tensor:
    """Texts that a model writes behind the first tokens: like those it was trained on."""
    generator, ids = torch.Generator().manual_seed(seed), first[:, None]
    while ids.shape[1] < length:
        probabilities = decoder(ids)[:, -1].softmax(-1)
        ids = torch.cat((ids, torch.multinomial(probabilities, 1, generator=generator)), dim=1)
    return ids


# ------------------------------------------------------------ planted outliers


@pytest.mark.parametrize("activations", ["dynamic", "static"])
def test_smoothing_beats_plain_rounding_where_activations_have_outliers(
    activations: str, tmp_path: Path
) -> None:
    folder = case("base-llama")
    rows = load_file(CALIBRATION)["input_ids"]
    exact = load_decoder(folder, dtype=torch.float32)
    new = written_by(exact, torch.arange(16, 176, 10), length=32, seed=5)

    def error(name: str, smooth: SmoothConfig | None) -> float:
        found = quantized(folder, rows, tmp_path / name, smooth=smooth, activations=activations)
        return error_of(found.decoder, exact, new)

    plain, smoothed = error("plain", None), error("smooth", SmoothConfig())
    assert smoothed < 0.6 * plain
    assert smoothed < 0.8 * error("tool", AS_LLMCOMPRESSOR)


def test_errors_are_those_of_llmcompressor_or_better(tmp_path: Path) -> None:
    wanted = load_file(case("ct-w8a8-smooth") / "expected.safetensors")
    rows = load_file(CALIBRATION)["input_ids"]
    tool = wanted["actquant_logits"] - wanted["base_logits"]
    for name, smooth in (("same", AS_LLMCOMPRESSOR), ("searched", SmoothConfig())):
        found = quantized(case("base-llama"), rows, tmp_path / name, smooth=smooth)
        with torch.inference_mode():
            ours = found.decoder(wanted["input_ids"]) - wanted["base_logits"]
        assert float(ours.norm()) <= 1.02 * float(tool.norm()), name


def test_smoothing_does_no_harm_to_a_model_without_outliers(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data/models/stories260K"
    exact = load_decoder(folder, dtype=torch.float32)
    ids = written_by(exact, torch.full((40,), 1), length=48, seed=1)
    rows, new = ids[:16], ids[16:]
    plain = kl_of(quantized(folder, rows, tmp_path / "a", smooth=None).decoder, exact, new)
    smoothed = kl_of(quantized(folder, rows, tmp_path / "b").decoder, exact, new)
    assert smoothed <= 1.1 * plain  # 0.90 to 1.04 of it over draws of text, 0.95 on the mean
    assert smoothed < 2e-3


# ------------------------------------------------------------ families, and what a file holds


@pytest.mark.parametrize("family", ["deepseek_v3", "opt", "chatglm", "gpt2"])
def test_every_kind_of_block_is_smoothed_and_opens_again(family: str, tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model", family)
    exact = load_decoder(folder)
    ids = sequences(exact, rows=4, length=16)
    found = quantized(folder, ids, tmp_path / "work")
    assert error_of(found.decoder, exact, ids) < 0.05
    assert len(found.layers) == len(list(exact.linears())) - 1 - 2 * (family == "opt")
    notes = {layer.name: layer.notes for layer in found.layers}
    down = notes["model.layers.0.mlp.down_proj"]
    assert bool(down) == (family in ("chatglm", "gpt2"))  # GELU lets no scale through
    first = notes[found.layers[0].name]
    assert bool(first) == (family in ("opt", "chatglm"))  # their residuals read the norms
    before = {name for name, _ in exact.named_parameters()}
    after = {name for name, _ in found.decoder.named_parameters()}
    assert after <= before  # nothing special is left


def test_heads_that_share_values_may_have_any_width(tmp_path: Path) -> None:
    """36 channels: the last of them are no whole vector, and powers of them round otherwise."""
    rows = expected(golden("qwen2"))["input_ids"]
    found = quantized(golden("qwen2"), rows, tmp_path)
    assert error_of(found.decoder, load_decoder(golden("qwen2")), rows) < 0.1


def test_the_folder_holds_nothing_that_was_not_there(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model")
    rows = sequences(load_decoder(folder), rows=4, length=16)
    found = quantized(folder, rows, tmp_path / "work")
    save_decoder(found.decoder, tmp_path / "out")
    before = load_file(folder / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert {name.removesuffix("_scale") for name in after} == set(before)
    opened = load_decoder(tmp_path / "out")
    with torch.inference_mode():
        torch.testing.assert_close(opened(rows), found.decoder(rows), rtol=1e-4, atol=1e-4)


def test_static_scales_hold_what_was_seen(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model")
    decoder = load_decoder(folder)
    rows = sequences(decoder, rows=2, length=12)
    caught: list[Tensor] = []
    linear = decoder.get_submodule("model.layers.0.self_attn.q_proj")
    hook = linear.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    with torch.inference_mode():
        decoder(rows)
    hook.remove()
    options = {"smooth": None, "activations": "static"}
    found = quantized(folder, rows, tmp_path / "work", **options).decoder
    layer = found.get_submodule("model.layers.0.self_attn.q_proj")
    assert isinstance(layer, QuantizedLinear)
    assert isinstance(layer.inputs, StaticPerTensor)
    assert float(layer.inputs.scale) == pytest.approx(float(caught[0].abs().max()) / 127.5)
    dynamic = quantized(folder, rows, tmp_path / "dynamic", smooth=None).decoder
    for _, each in dynamic.linears():
        assert not isinstance(each, QuantizedLinear) or isinstance(each.inputs, DynamicPerToken)


# ------------------------------------------------------------ shifts


def off_centre(folder: Path) -> Path:
    """A GPT-2 whose norms leave some channels far from zero."""
    decoder = tiny_decoder("gpt2")
    with torch.no_grad():
        for block in decoder.blocks():
            block.input_layernorm.bias[::6] += 30
            block.post_attention_layernorm.bias[::6] -= 30
    save_decoder(decoder, folder)
    return folder


@pytest.mark.parametrize("sampler", ["none", "ema"])
def test_shifting_centres_channels_far_from_zero(sampler: Any, tmp_path: Path) -> None:
    folder = off_centre(tmp_path / "model")
    exact = load_decoder(folder)
    ids = sequences(exact, rows=8, length=24)
    rows, new = ids[:4], ids[4:]
    shift = ShiftConfig(sampler=sampler)
    plain = quantized(folder, rows, tmp_path / "plain", smooth=None)
    shifted = quantized(folder, rows, tmp_path / "shift", smooth=None, shift=shift)
    assert error_of(shifted.decoder, exact, new) < 0.75 * error_of(plain.decoder, exact, new)
    notes = {layer.name: layer.notes for layer in shifted.layers}
    assert notes["model.layers.0.self_attn.q_proj"] == ()
    assert any("not shifted" in note for note in notes["model.layers.0.mlp.down_proj"])


def test_a_model_without_biases_cannot_be_shifted_and_the_error_says_why(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model")
    rows = torch.arange(8)[None]
    with pytest.raises(QuantizationError, match="Nothing in block 0 can be shifted") as caught:
        quantized(folder, rows, tmp_path / "work", shift=ShiftConfig())
    assert "input_layernorm has no bias in this architecture" in str(caught.value)
    assert "Set shift to null" in str(caught.value)
