"""How scales and shifts are found: ranges, halves, pieces, searches; and what a file can hold."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from checkpoints import HERE, tiny_decoder
from pydantic import ValidationError
from quantized_cases import case
from safetensors.torch import load_file
from torch import Tensor

from danlu.calibration.folding import fold_scale, fold_shift, storable_scale, storable_shift
from danlu.calibration.smoothing.listening import (
    Halves,
    RangeMiddle,
    Ranges,
    SmoothedMean,
    listen,
)
from danlu.calibration.smoothing.pieces import pieces_of
from danlu.calibration.smoothing.scales import search, smoothing_scale
from danlu.calibration.smoothing.trial import Trial, best, dynamic_inputs, static_inputs
from danlu.config.quantize.w8a8 import SmoothConfig, W8A8Scheme
from danlu.loading import load_decoder
from danlu.nn.scaling import ScalingGroup

CALIBRATION = HERE / "interop-quant" / "calib-smoothquant" / "calibration.safetensors"


def block_that_tells(batches: Sequence[tuple[str, Tensor]]) -> Any:
    def watch(names: Sequence[str], hear: Callable[[str, Tensor], None]) -> None:
        for name, x_NI in batches:
            if name in names:
                hear(name, x_NI)

    return SimpleNamespace(watch=watch)


# ------------------------------------------------------------ scales


@torch.inference_mode()
def test_scales_of_both_forms_are_the_stored_ones() -> None:
    stored = load_file(CALIBRATION)
    decoder = load_decoder(case("base-llama"), dtype=torch.float32)
    norm, ranges = "model.layers.0.input_layernorm", Ranges()
    layers = [decoder.get_submodule(name) for name in decoder.norm_groups()[norm]]
    hook = layers[0].register_forward_pre_hook(
        lambda _, inputs: ranges.hear("q_proj", inputs[0].flatten(0, 1))
    )
    decoder(stored["input_ids"])
    hook.remove()
    weight_I = torch.stack([layer.weight.abs().amax(0) for layer in layers]).amax(0)
    span = smoothing_scale(ranges.span(), 2 * weight_I, 0.5)
    paper = smoothing_scale(ranges.absolute(), weight_I, 0.5)
    torch.testing.assert_close(span, stored["scales"], rtol=1e-4, atol=0)
    torch.testing.assert_close(paper, stored["scales_paper"], rtol=1e-4, atol=0)
    assert float((span / paper - 1).abs().max()) > 0.05  # the two forms are not one
    fold_scale(decoder, decoder.scaling_groups(0)[0], span)
    after = decoder.get_submodule(norm).weight
    torch.testing.assert_close(after, stored["norm_weight_after"], rtol=1e-4, atol=0)


def test_channels_that_are_zero_keep_their_size() -> None:
    range_I, weight_I = torch.tensor([0.0, 4.0, 9.0]), torch.tensor([2.0, 0.0, 4.0])
    found = smoothing_scale(range_I, weight_I, 0.5)
    assert found.tolist() == [1.0, 4.0, 1.5]
    quarter = smoothing_scale(torch.tensor([16.0]), torch.tensor([81.0]), 0.25)
    assert float(quarter) == pytest.approx(2 / 27)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_a_norm_keeps_of_a_scale_is_a_number_of_the_file(dtype: torch.dtype) -> None:
    decoder = tiny_decoder("llama").to(dtype).float()
    group = decoder.scaling_groups(0)[0]
    scale_I = torch.rand(64, generator=torch.Generator().manual_seed(0)) * 5 + 0.1
    found = storable_scale(decoder, group, scale_I, dtype, group.consumers)
    norm = decoder.get_submodule(group.source)
    fold_scale(decoder, group, found)
    torch.testing.assert_close(norm.weight, norm.weight.to(dtype).float(), rtol=1e-6, atol=0)
    torch.testing.assert_close(found, scale_I, rtol=2.0**-7, atol=0)
    alone = storable_scale(decoder, group, scale_I, dtype, group.consumers[:2])
    assert torch.equal(alone, alone.log2().round().exp2())  # exact for the layer left dense


def test_what_a_bias_keeps_of_a_shift_is_a_number_of_the_file() -> None:
    decoder = tiny_decoder("gpt2").bfloat16().float()
    for group in decoder.scaling_groups(0)[:2]:
        shift_I = torch.randn(48, generator=torch.Generator().manual_seed(1))
        found = storable_shift(decoder, group, shift_I, torch.bfloat16)
        fold_shift(decoder, group, found)
        bias = decoder.get_submodule(group.source).bias
        torch.testing.assert_close(bias, bias.bfloat16().float(), rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(found, shift_I, rtol=0, atol=0.02)


# ------------------------------------------------------------ what is heard


def test_ranges_are_of_all_batches_and_samples_as_the_sampler_says() -> None:
    batches = [torch.full((4, 2), float(i)) * torch.tensor([1.0, -1.0]) for i in range(3)]
    for joined, kept in ((True, {0.0, 1.0, 2.0}), (False, {2.0})):
        ranges = Ranges(joined=joined)
        for batch in batches:
            ranges.hear("layer", batch)
        assert ranges.absolute().tolist() == [2.0, 2.0]
        assert ranges.middle().tolist() == [1.0, -1.0]
        assert set(ranges.rows()["layer"][:, 0].tolist()) == kept


def test_only_the_first_steps_are_heard_and_empty_batches_are_none() -> None:
    batches = [("a", torch.zeros(0, 1)), *(("a", torch.full((2, 1), i)) for i in (1.0, 2.0, 9.0))]
    middle = RangeMiddle()
    listen(block_that_tells([*batches, ("b", torch.full((2, 1), 99.0))]), {"a": middle}, steps=2)
    assert middle.middle() == torch.tensor([1.5])


def test_the_smoothed_mean_forgets_slowly_and_begins_at_the_first_batch() -> None:
    ema = SmoothedMean()
    assert ema.middle() is None
    ema.hear("a", torch.tensor([[1.0], [3.0]]))
    assert float(ema.middle()) == pytest.approx(2.0)
    ema.hear("a", torch.tensor([[5.0]]))
    assert float(ema.middle()) == pytest.approx((0.98 * 2.0 + 5.0) / 1.98)


def test_one_half_is_judged_by_the_other() -> None:
    halves = Halves(joined=True)
    halves.hear("a", torch.tensor([[1.0], [2.0], [30.0], [4.0]]))
    (known, judge), (other, _) = halves.judges()
    assert known.absolute().tolist() == [2.0]
    assert judge.rows()["a"].flatten().tolist() == [30.0, 4.0]
    assert other.absolute().tolist() == [30.0]
    alone = Halves(joined=True)
    alone.hear("a", torch.tensor([[1.0]]))
    [(known, judge)] = alone.judges()
    assert known is judge is alone.whole


# ------------------------------------------------------------ searches


def planted(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Inputs with outlier channels, and a weight."""
    generator = torch.Generator().manual_seed(seed)
    x_NI = torch.randn(64, 32, generator=generator)
    x_NI[:, ::8] *= 40
    return x_NI, torch.randn(24, 32, generator=generator)


def trial_of(x_NI: Tensor, weight_OI: Tensor, *, static: bool = False) -> Trial:
    low_I, high_I = torch.aminmax(x_NI, dim=0)
    inputs = static_inputs(low_I, high_I) if static else dynamic_inputs
    return Trial({"a": weight_OI}, {"a": x_NI}, torch.maximum(-low_I, high_I), inputs)


@pytest.mark.parametrize("static", [False, True])
def test_a_searched_scale_costs_least_of_all_that_may_be_tried(static: bool) -> None:
    x_NI, weight_OI = planted()
    range_I, weight_I = x_NI.abs().amax(0), weight_OI.abs().amax(0)
    trial = trial_of(x_NI, weight_OI, static=static)
    found = search([trial], range_I, weight_I, SmoothConfig(search_alpha=(0.3, 0.6)))
    errors = {
        alpha: trial.error(lambda r, a=alpha: smoothing_scale(r, weight_I, a))
        for alpha in (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6)
    }
    chosen = min(errors, key=errors.__getitem__)
    torch.testing.assert_close(found, smoothing_scale(range_I, weight_I, chosen))
    assert errors[chosen] < 0.4 * trial.error(torch.ones_like)


def test_where_smoothing_harms_there_is_none() -> None:
    range_I = torch.arange(1.0, 33.0)
    trial: Any = SimpleNamespace(error=lambda recipe: float(recipe(range_I).std()))
    for pieces in (False, True):
        config = SmoothConfig(piecewise_search=pieces, search_scale=(2.0, 3.0))
        assert torch.equal(search([trial], range_I, range_I + 1, config), torch.ones(32))


def test_pieces_are_channels_of_like_range() -> None:
    range_I = torch.tensor([1.0, 40.0, 1.2, 0.9, 44.0, 9.0])
    assert pieces_of(range_I, 3).tolist() == [0, 2, 0, 0, 2, 1]
    assert pieces_of(range_I, 1).tolist() == [0] * 6
    assert pieces_of(torch.ones(4), 3).tolist() == [0] * 4  # fewer ranges than pieces


def test_each_piece_gets_its_own_exponent_or_number() -> None:
    x_NI, weight_OI = planted()
    range_I, weight_I = x_NI.abs().amax(0), weight_OI.abs().amax(0)
    trials = [trial_of(x_NI, weight_OI)]

    def found(**options: Any) -> tuple[Tensor, float]:
        config = SmoothConfig(piecewise_search=True, **options)
        scale_I = search(trials, range_I, weight_I, config)
        return scale_I, best(trials, [lambda r: scale_I]).error

    numbers = {"k_piece": 2, "search_alpha": (0.5, 0.5), "search_scale": (3.0, 3.0)}
    scale_I, error = found(**numbers)
    curve_I, wide = smoothing_scale(range_I, weight_I, 0.5), pieces_of(range_I, 2) == 1
    for piece in (wide, ~wide):  # one of: no scale, the curve, the number
        told = [torch.ones(32), curve_I, torch.full((32,), 3.0)]
        assert any(torch.allclose(scale_I[piece], each[piece]) for each in told)
    assert not torch.allclose(scale_I[wide], torch.ones(4))
    assert error < trials[0].error(torch.ones_like)
    assert found(k_piece=4, search_piece=True)[1] <= min(found(k_piece=k)[1] for k in (1, 2, 3, 4))


# ------------------------------------------------------------ options


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"search_alpha": (0.6, 0.4)}, "search_alpha is 0.6 to 0.4"),
        ({"search_alpha": (0.2, 1.5)}, "search_alpha is 0.2 to 1.5"),
        ({"search_scale": (0.0, 5.0)}, "search_scale is 0.0 to 5.0"),
        ({"alpha": 0.5, "piecewise_search": True}, "nothing to search"),
        ({"search_piece": True}, "search_piece needs piecewise_search"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ValidationError, match=problem):
        W8A8Scheme(smooth=options)


def test_a_group_of_one_source_may_be_named_by_hand() -> None:
    group = ScalingGroup("norm", ("q", "k"), "norm").under("model.")
    assert (group.source, group.consumers) == ("model.norm", ("model.q", "model.k"))
