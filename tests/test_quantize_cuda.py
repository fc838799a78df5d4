"""Operators for CUDA: on the CPU with a kernel that stands in, and on a GPU as they are."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from danlu.config.quantize.scheme import PRESETS, QuantScheme
from danlu.quantize.grid import IntegerGrid
from danlu.quantize.operators.compiled import CompactOperator, compiled
from danlu.quantize.operators.cuda import choose_cuda_operator, int8_kernel_works
from danlu.quantize.operators.cuda_int4 import Int4TileOperator, int4_kernel_works
from danlu.quantize.operators.int8_activations import int8_product
from danlu.quantize.operators.nibbles import NibbleGrid
from danlu.quantize.rounding.weights import quantize_weight
from danlu.quantize.weight import QuantizedWeight

ROWS = (1, 3, 33)  # one, a few, and many: each has its own way
SCHEMES = {
    **PRESETS,
    "int4 symmetric": QuantScheme(bits=4, group_size=64, symmetric=True),
    "int8 groups": QuantScheme(bits=8, group_size=32, symmetric=False),
    "nf4 plain scales": QuantScheme(method="nf4", double_quant=False),
}


def drawn(scheme: QuantScheme, outputs: int = 64, inputs: int = 256) -> QuantizedWeight:
    torch.manual_seed(0)
    return quantize_weight(torch.randn(outputs, inputs), scheme, "layer")


def reordered() -> IntegerGrid:
    """A grid whose groups are no runs of inputs, as act-order leaves it."""
    torch.manual_seed(1)
    codes = torch.randint(-8, 8, (24, 64), dtype=torch.int8)
    groups = torch.randperm(64).remainder(4).to(torch.int32)
    zeros = torch.randint(-8, 8, (24, 4), dtype=torch.int8)
    return IntegerGrid(codes, torch.rand(24, 4), zeros, 4, groups)


def equal_weights(a: QuantizedWeight, b: QuantizedWeight) -> bool:
    mine, theirs = a.tensors(), b.tensors()
    alike = type(a) is type(b) and a.bits == b.bits and mine.keys() == theirs.keys()
    return alike and all(torch.equal(mine[name], theirs[name]) for name in mine)


def as_it_is(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return function


@pytest.mark.parametrize("name", [*SCHEMES, "act-order"])
@pytest.mark.parametrize("compiler", [None, as_it_is])
def test_compact_products_are_those_of_the_dense_weight(name: str, compiler: None) -> None:
    weight = reordered() if name == "act-order" else drawn(SCHEMES[name])
    operator = CompactOperator(weight, compiler)
    assert equal_weights(operator.quantized(), weight)
    for rows in ROWS:
        x = torch.randn(rows, weight.shape[1])
        wanted = x @ weight.dequantize().t()
        torch.testing.assert_close(operator.multiply(x), wanted, rtol=1e-5, atol=1e-4)


def test_four_bits_take_half_a_byte_each() -> None:
    operator = CompactOperator(drawn(PRESETS["int4"]), None)
    assert operator.get_buffer("packed").nbytes == 64 * 256 // 2


def test_nibbles_answer_what_the_grid_answers() -> None:
    grid = reordered()
    nibbles = NibbleGrid.of(grid)
    which = torch.tensor([3, 0, 20])
    assert equal_weights(nibbles.grid(), grid)
    assert equal_weights(nibbles.rows(which).grid(), grid.rows(which))
    stacked = NibbleGrid.stacked([nibbles, nibbles.rows(which)]).grid()
    assert equal_weights(stacked, IntegerGrid.stacked([grid, grid.rows(which)]))
    assert torch.equal(nibbles.dequantize(), grid.dequantize())
    assert nibbles.to(torch.float16).grid().dtype == torch.float16


@pytest.mark.slow
@pytest.mark.parametrize("name", ["int8", "int4", "nf4"])
def test_one_graph_serves_layers_of_all_sizes(name: str) -> None:
    torch._dynamo.reset()
    graphs = 0

    def count(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        nonlocal graphs
        graphs += 1
        return graph.forward

    def traced(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return torch.compile(function, dynamic=True, fullgraph=True, backend=count)

    for outputs, inputs in ((192, 128), (96, 256), (160, 384)):
        weight = drawn(SCHEMES[name], outputs, inputs)
        operator = CompactOperator(weight, traced)
        x = torch.randn(1, inputs)
        wanted = x @ weight.dequantize().t()
        torch.testing.assert_close(operator.multiply(x), wanted, rtol=1e-5, atol=1e-4)
    assert graphs == 1


class FakeKernel:
    """Keeps codes in an order of its own, as the tensor cores do, and multiplies as they do."""

    def pack(self, bytes_OK: Tensor, inner_tiles: int) -> Tensor:
        assert bytes_OK.dtype == torch.uint8
        codes = torch.stack((bytes_OK >> 4, bytes_OK & 15), dim=-1).flatten(1)
        tiles = codes.view(len(codes) // 8, 8, -1, 16 * inner_tiles).transpose(1, 2).flatten(2)
        moved = tiles[..., self._order(tiles.shape[-1])]
        pairs = (moved[..., 1::2] << 4) | moved[..., ::2]
        return pairs.contiguous().view(torch.int32)

    def multiply(self, x: Tensor, packed: Tensor, group_size: int, scales_GO2: Tensor) -> Tensor:
        pairs = packed.view(torch.uint8)
        moved = torch.stack((pairs & 15, pairs >> 4), dim=-1).flatten(2)
        tiles = torch.empty_like(moved)
        tiles[..., self._order(moved.shape[-1])] = moved
        codes = tiles.unflatten(-1, (8, -1)).transpose(1, 2).flatten(2).flatten(0, 1)
        scale, zero = (part.t().repeat_interleave(group_size, 1) for part in scales_GO2.unbind(-1))
        return x @ ((codes.to(x.dtype) - 8) * scale + zero).t()

    @staticmethod
    def _order(count: int) -> Tensor:
        return torch.randperm(count, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("inputs", [256, 96])
def test_tiles_come_back_whatever_order_the_kernel_likes(symmetric: bool, inputs: int) -> None:
    scheme = QuantScheme(bits=4, group_size=32, symmetric=symmetric)
    weight = drawn(scheme, 40, inputs).to(torch.bfloat16)
    assert isinstance(weight, IntegerGrid)
    assert Int4TileOperator.fits(weight)
    operator = Int4TileOperator(weight, FakeKernel())
    assert equal_weights(operator.quantized(), weight)
    for rows in ROWS:
        x = torch.randn(rows, inputs).to(torch.bfloat16)
        wanted = x.float() @ weight.dequantize(torch.float32).t()
        found = operator.multiply(x).float()
        assert float((found - wanted).norm() / wanted.norm()) < 1e-2
    exact = torch.randn(2, inputs)
    assert torch.equal(operator.multiply(exact), exact @ weight.dequantize(torch.float32).t())


def test_a_kernel_that_is_missing_or_wrong_is_not_used() -> None:
    class Wrong(FakeKernel):
        def multiply(self, *args: object) -> Tensor:
            return super().multiply(*args) * 1.1  # type: ignore[arg-type]

    cpu = torch.device("cpu")
    assert int4_kernel_works(cpu, FakeKernel())
    assert not int4_kernel_works(cpu, Wrong())
    assert not int4_kernel_works(cpu)  # torch has no such kernel for the CPU


def test_the_int8_kernel_is_tried_before_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*args: object) -> Tensor:
        raise RuntimeError("no such kernel")

    tried, cpu = int8_kernel_works.__wrapped__, torch.device("cpu")
    assert tried(cpu)
    monkeypatch.setattr(torch, "_weight_int8pack_mm", lambda x, w, scales: 2 * x @ w.t().to(x))
    assert not tried(cpu)
    monkeypatch.setattr(torch, "_weight_int8pack_mm", missing)
    assert not tried(cpu)


@pytest.mark.parametrize(
    ("shape", "scheme"),
    [
        ((60, 256), QuantScheme(bits=4)),  # 60 rows fill no tile of 8
        ((64, 272), QuantScheme(bits=4, group_size=16)),
        ((64, 256), QuantScheme(bits=8)),
    ],
)
def test_tiles_hold_only_what_fits(shape: tuple[int, int], scheme: QuantScheme) -> None:
    weight = drawn(scheme, *shape)
    assert isinstance(weight, IntegerGrid)
    assert not Int4TileOperator.fits(weight)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", [*SCHEMES, "act-order"])
def test_products_on_the_gpu_are_those_of_the_dense_weight(name: str, dtype: torch.dtype) -> None:
    weight = reordered() if name == "act-order" else drawn(SCHEMES[name])
    weight = weight.to(dtype)
    there = weight.with_tensors({n: tensor.cuda() for n, tensor in weight.tensors().items()})
    for operator in (choose_cuda_operator(there), CompactOperator(there, compiled)):
        assert equal_weights(operator.quantized(), there)
        for rows in ROWS:
            x = torch.randn(rows, weight.shape[1]).to(dtype)
            wanted = x.float() @ weight.dequantize(torch.float32).t()
            found = operator.multiply(x.cuda()).float().cpu()
            assert float((found - wanted).norm() / wanted.norm()) < 1e-2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("rows", ROWS)
def test_integer_products_on_the_gpu_are_exact(rows: int) -> None:
    torch.manual_seed(0)
    codes, weight = (torch.randint(-128, 128, (n, 64), dtype=torch.int8) for n in (rows, 24))
    wanted = codes.long() @ weight.long().t()
    assert torch.equal(int8_product(codes.cuda(), weight.cuda()).long().cpu(), wanted)
