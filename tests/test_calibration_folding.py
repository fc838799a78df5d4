"""Scales and shifts that move from one layer into the next change no logits, in every family."""

import pytest
import torch
from checkpoints import assert_close, sequences, tiny_decoder
from torch import Tensor

from danlu.calibration.folding import agreeing, fold_scale, fold_shift, shift_obstacle
from danlu.errors import QuantizationError
from danlu.models import discover
from danlu.models.decoder import Decoder
from danlu.nn.scaling import ScalingGroup

FAMILIES = sorted(discover())
# Norms that layers alone read, values, and ups; of two layers, with latent norms and experts.
GROUPS = {
    "bloom": (4, 2, 0),
    "chatglm": (0, 2, 0),
    "deepseek_v3": (8, 2, 6),
    "glm_10b": (4, 2, 0),
    "gpt2": (4, 2, 0),
    "opt": (0, 2, 2),
    "qwen3_moe": (4, 2, 8),
}
SHIFTED = {"bloom": 6, "chatglm": 2, "glm_10b": 6, "gpt2": 6, "opt": 2}


def groups_of(decoder: Decoder) -> list[ScalingGroup]:
    return [group for i in range(len(decoder.blocks())) for group in decoder.scaling_groups(i)]


def random_channels(decoder: Decoder, group: ScalingGroup, seed: int) -> Tensor:
    """Values from 0.3 to 8, equal where channels share a row."""
    size = decoder.get_submodule(group.consumers[0]).weight.shape[1]
    values = torch.rand(size, generator=torch.Generator().manual_seed(seed)) * 7.7 + 0.3
    return agreeing(group, values)


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_scales_and_shifts_change_no_logits(family: str) -> None:
    decoder = tiny_decoder(family)
    ids, groups = sequences(decoder, rows=2, length=12), groups_of(decoder)
    before, shifted = decoder(ids), 0
    for seed, group in enumerate(groups):
        fold_scale(decoder, group, random_channels(decoder, group, seed))
        if shift_obstacle(decoder, group) is None:
            fold_shift(decoder, group, random_channels(decoder, group, seed) - 4.0)
            shifted += 1
    assert_close(decoder(ids), before, bound=2e-5)
    kinds = [group.kind for group in groups]
    counts = tuple(kinds.count(kind) for kind in ("norm", "value", "up"))
    assert counts == GROUPS.get(family, (4, 2, 2))
    assert shifted == SHIFTED.get(family, 0)


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_norms_that_layers_alone_read_are_listed_with_all_of_them(family: str) -> None:
    decoder = tiny_decoder(family)
    ids = sequences(decoder, rows=1, length=8)
    before = decoder(ids)
    for norm, readers in decoder.norm_groups().items():
        group = ScalingGroup(norm, tuple(readers), "norm")
        fold_scale(decoder, group, random_channels(decoder, group, len(norm)))
    assert_close(decoder(ids), before, bound=2e-5)


@pytest.mark.parametrize(
    ("family", "reader"),
    [
        ("llama", "k_proj"),
        ("qwen3_moe", "mlp.gate"),
        ("qwen3_moe", "experts.3.up_proj"),
        ("deepseek_v3", "shared_experts.gate_proj"),
        ("deepseek_v3", "kv_a_proj_with_mqa"),
    ],
)
@torch.inference_mode()
def test_a_reader_that_is_left_out_is_seen(family: str, reader: str) -> None:
    decoder = tiny_decoder(family)
    ids = sequences(decoder, rows=2, length=12)
    before = decoder(ids)
    group = next(g for g in groups_of(decoder) if any(c.endswith(reader) for c in g.consumers))
    kept = tuple(name for name in group.consumers if not name.endswith(reader))
    assert len(kept) == len(group.consumers) - 1
    scale = random_channels(decoder, group, 0)
    fold_scale(decoder, ScalingGroup(group.source, kept, group.kind, group.rows), scale)
    assert float((decoder(ids) - before).abs().max()) > 1e-2 * float(before.abs().max())


def test_what_cannot_be_folded_is_said_and_nothing_changes() -> None:
    decoder = tiny_decoder("llama")
    norm, value, _, up = decoder.scaling_groups(0)
    before = {name: tensor.clone() for name, tensor in decoder.state_dict().items()}
    ones = torch.ones(64)
    with pytest.raises(QuantizationError, match="input_layernorm has no bias in this architecture"):
        fold_shift(decoder, norm, ones)
    with pytest.raises(QuantizationError, match="does not pass through the activation"):
        fold_shift(decoder, up, torch.ones(112))
    with pytest.raises(QuantizationError, match="not all positive and finite"):
        fold_scale(decoder, norm, ones.index_fill(0, torch.tensor([3]), float("nan")))
    with pytest.raises(QuantizationError, match=r"share a row of \S+v_proj"):
        fold_scale(decoder, value, torch.arange(1.0, 65.0))
    strange = ScalingGroup(norm.source, ("model.layers.0.mlp",), "norm")
    with pytest.raises(QuantizationError, match=r"mlp \(GatedMLP\); expected dense layers"):
        fold_scale(decoder, strange, ones)
    assert all(torch.equal(tensor, before[name]) for name, tensor in decoder.state_dict().items())


def test_a_shift_without_a_bias_to_hold_it_is_named() -> None:
    decoder = tiny_decoder("qwen2")  # values have a bias, the projection behind them has none
    value = decoder.scaling_groups(0)[1]
    assert value.kind == "value"
    assert "o_proj has no bias" in str(shift_obstacle(decoder, value))
