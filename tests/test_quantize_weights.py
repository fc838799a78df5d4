"""Quantized weights as numbers: any grouping, rows apart and together, products and gradients."""

import pytest
import torch
from checkpoints import assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Size, Tensor, nn

from danlu.config.quantize.scheme import QuantScheme
from danlu.errors import QuantizationError
from danlu.loading.quantized import joined_rows, rows_of
from danlu.quantize.codebook import unpack_pairs
from danlu.quantize.grid import IntegerGrid, regular_groups
from danlu.quantize.layouts.bits import pack, pack_stream, unpack, unpack_stream
from danlu.quantize.linear import QuantizedLinear
from danlu.quantize.operators import int4_groups, int8_rows, operator
from danlu.quantize.rounding.blockwise import quantize_blockwise
from danlu.quantize.rounding.weights import quantize_weight
from danlu.quantize.weight import QuantizedWeight
from danlu.weights.rules import Entry, PerHead, Stacked, Transposed

NF4 = QuantScheme(method="nf4")


def dense(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def by_activation(rows: int, columns: int) -> IntegerGrid:
    """Groups of inputs in no order, as act-order leaves them."""
    grid = quantize_weight(dense(rows, columns), QuantScheme(bits=4, group_size=16), "w")
    assert isinstance(grid, IntegerGrid)
    order = torch.randperm(columns, generator=torch.Generator().manual_seed(1))
    groups = torch.empty(columns, dtype=torch.int32)
    groups[order] = torch.arange(columns, dtype=torch.int32) // 16
    return IntegerGrid(grid.codes, grid.scales, grid.zero_points, 4, groups)


def kinds(rows: int = 48, columns: int = 80) -> dict[str, QuantizedWeight]:
    """Every kind of weight; blocks of 64 and 32 run across rows of 80."""
    single = QuantScheme(method="fp4", block_size=32, double_quant=False)
    return {
        "int8": quantize_weight(dense(rows, columns), QuantScheme(bits=8), "w"),
        "int4": quantize_weight(dense(rows, columns), QuantScheme(group_size=16), "w"),
        "by activation": by_activation(rows, columns),
        "nf4": quantize_weight(dense(rows, columns), NF4, "w"),
        "fp4": quantize_weight(dense(rows, columns), single, "w"),
    }


KINDS = tuple(kinds())


@given(bits=st.integers(2, 8), rows=st.integers(1, 4), count=st.integers(1, 70), seed=st.data())
@settings(max_examples=60, deadline=None)
def test_both_ways_of_packing_are_invertible(
    bits: int, rows: int, count: int, seed: st.DataObject
) -> None:
    generator = torch.Generator().manual_seed(seed.draw(st.integers(0, 2**31)))
    half = 2 ** (bits - 1)
    codes = torch.randint(-half, half, (rows, count), generator=generator).to(torch.int8)
    stream = pack_stream(codes, bits)
    assert stream.shape == (rows, -(-count * bits // 32))
    assert torch.equal(unpack_stream(stream, bits, count), codes)
    assert torch.equal(unpack(pack(codes, bits), bits, count), codes)


def test_a_stream_has_no_gaps() -> None:
    codes = torch.arange(-4, 4, dtype=torch.int8)[None].repeat(1, 4)  # 32 codes of 3 bits
    words = pack_stream(codes, 3)[0].tolist()
    whole = sum((int(code) + 4) << (3 * i) for i, code in enumerate(codes[0]))
    assert [word & 0xFFFFFFFF for word in words] == [
        (whole >> shift) & 0xFFFFFFFF for shift in (0, 32, 64)
    ]


def test_regular_groups_need_no_index() -> None:
    assert regular_groups(torch.tensor([0, 0, 1, 1]), 2) is None
    assert regular_groups(torch.tensor([0, 1, 0, 1]), 2) is not None
    assert regular_groups(torch.tensor([0, 0, 0, 1]), 2) is not None


@pytest.mark.parametrize("shape", [(6, 64), (6, 80), (5, 33), (3, 4)])
@pytest.mark.parametrize("double_quant", [True, False])
def test_blocks_are_cut_from_the_flat_weight(shape: tuple[int, int], double_quant: bool) -> None:
    scheme = QuantScheme(method="nf4", block_size=32, double_quant=double_quant)
    weight = quantize_blockwise(dense(*shape), scheme)
    count = shape[0] * shape[1]
    codes = unpack_pairs(weight.packed, shape[1]).flatten().long()
    scales = weight.scales.at(torch.arange(-(-count // 32))).repeat_interleave(32)[:count]
    assert torch.equal(weight.dequantize().flatten(), weight.book[codes] * scales)
    nearest = (dense(*shape).flatten()[:, None] - weight.book * scales[:, None]).abs().amin(1)
    error = (weight.dequantize() - dense(*shape)).flatten().abs()
    assert bool((error <= nearest + (0.02 * scales if double_quant else 1e-6)).all())


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_those_of_the_weight(kind: str) -> None:
    weight = kinds()[kind]
    whole, order = weight.dequantize(), torch.tensor([40, 3, 3, 0, 47])
    assert torch.equal(weight.rows(order).dequantize(), whole[order])
    assert torch.equal(weight.rows(slice(5, 9)).dequantize(), whole[5:9])
    parts = list(weight.slices(7 * 80))
    assert [part.shape[0] for part in parts] == [7] * 6 + [6]
    assert torch.equal(torch.cat([part.dequantize() for part in parts]), whole)


ARRANGEMENTS = [Stacked(), PerHead(4), Transposed(Stacked()), Transposed(PerHead(2))]


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@pytest.mark.parametrize("kind", KINDS)
def test_published_weights_come_apart_and_together(
    kind: str, arrangement: Stacked | Transposed
) -> None:
    weight, shapes = kinds()[kind], (Size((16, 80)),) * 3
    entry = Entry("fused.weight", ("q.weight", "k.weight", "v.weight"), shapes, arrangement)
    parts = rows_of(entry, weight)
    wanted = arrangement.rows.split(weight.dequantize(), shapes)
    for part, rows in zip(parts, wanted, strict=True):
        assert torch.equal(part.dequantize(), rows)
    again = joined_rows(entry, parts)
    for name, tensor in weight.tensors().items():
        assert torch.equal(again.tensors()[name], tensor), name


def test_what_does_not_belong_together_is_refused() -> None:
    entry = Entry("f.weight", ("a.weight", "b.weight"), (Size((8, 80)),) * 2, Stacked())
    one, other = (quantize_weight(dense(8, 80, seed), NF4, "w") for seed in (0, 1))
    with pytest.raises(QuantizationError, match="blocks were cut from different tensors"):
        joined_rows(entry, [one, other])
    int8 = quantize_weight(dense(8, 80), QuantScheme(bits=8), "w")
    with pytest.raises(QuantizationError, match="Integers and codes of a table"):
        joined_rows(entry, [int8, one])
    with pytest.raises(QuantizationError, match="one scheme"):
        joined_rows(entry, [int8, kinds(8)["int4"]])


@pytest.fixture(params=["whole", "in slices"])
def sliced(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "in slices":
        monkeypatch.setattr(operator, "FLOAT_SLICE_WEIGHTS", 64 * 90)
        for layout in (int8_rows, int4_groups):
            monkeypatch.setattr(layout, "SLICE_WEIGHTS", 64 * 90)
    return str(request.param)


@pytest.mark.usefixtures("sliced")
@pytest.mark.parametrize("kind", [*KINDS, "int4 in a kernel's layout"])
def test_products_and_gradients(kind: str) -> None:
    weight = kinds(128, 64)[kind.removesuffix(" in a kernel's layout")]
    if kind.endswith("layout"):
        weight = quantize_weight(dense(128, 64), QuantScheme(bits=4), "w")
    bias = nn.Parameter(torch.linspace(-1, 1, 128))
    layer, x = QuantizedLinear(weight, bias), dense(20, 64, seed=5).requires_grad_()
    out, seen = layer(x), dense(20, 128, seed=6)
    with torch.no_grad():
        assert_close(out.detach(), layer(x), 1e-5)
    out.backward(seen)
    assert x.grad is not None
    assert bias.grad is not None
    assert_close(out.detach(), (x @ weight.dequantize().T + bias).detach(), 1e-5)
    assert_close(x.grad, seen @ weight.dequantize(), 1e-5)
    assert_close(bias.grad, seen.sum(0), 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_differences(kind: str) -> None:
    layer = QuantizedLinear(kinds(6, 80)[kind].to(torch.float64), None)
    x = dense(3, 80, seed=2).double().requires_grad_()
    assert torch.autograd.gradcheck(layer, (x,), atol=1e-6)


def test_no_dense_weight_is_kept_for_the_backward_pass() -> None:
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    layer = QuantizedLinear(kinds()["nf4"], None)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(dense(2, 80).requires_grad_()).sum().backward()
    assert max(kept, default=0) < 48 * 80


@pytest.mark.parametrize("kind", KINDS)
def test_casting_the_model_leaves_the_weight_alone(kind: str) -> None:
    weight = kinds()[kind]
    model = nn.Sequential(QuantizedLinear(weight, None))
    layer = model.to(torch.bfloat16)[0]
    assert isinstance(layer, QuantizedLinear)
    assert layer.dense_weight().dtype == torch.bfloat16
    for name, tensor in weight.tensors().items():
        assert torch.equal(layer.quantized().tensors()[name], tensor), name
    assert torch.equal(model.float()[0].dense_weight(), weight.dequantize(torch.float32))  # type: ignore[operator]


def test_memory_is_that_of_the_bits() -> None:
    weights = kinds(256, 256)
    bits = {kind: 8 * weight.nbytes / 256**2 for kind, weight in weights.items()}
    assert bits["int8"] < 8.2
    assert bits["fp4"] == 4 + 32 / 32 + 256 * 64 / 256**2 + 16 * 32 / 256**2
    assert 4.12 < bits["nf4"] < 4.6  # 8 bits per block of 64; the table of scales, and row starts
