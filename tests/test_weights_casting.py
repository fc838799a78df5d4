"""Casting on the way in gives what torch's own conversion gives."""

import pytest
import torch

from danlu.weights.casting import BLOCK_NUMBERS, cast, cast_into

CPU = torch.device("cpu")


@pytest.mark.parametrize("shape", [(), (5,), (0, 4), (3, 7), (600, 1000)])
@pytest.mark.parametrize("target", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("source", [torch.float32, torch.bfloat16, torch.float16])
def test_every_pair_of_dtypes(
    shape: tuple[int, ...], source: torch.dtype, target: torch.dtype
) -> None:
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(source)
    assert torch.equal(cast(tensor, target, CPU), tensor.to(target))
    made = torch.empty(shape, dtype=target)
    cast_into(made, tensor)
    assert torch.equal(made, tensor.to(target))


def test_every_half_number() -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.float16)
    halves = every[every.isfinite()].repeat(1 + BLOCK_NUMBERS // 2**15, 1)
    assert torch.equal(cast(halves, torch.bfloat16, CPU), halves.to(torch.bfloat16))


def test_rows_that_are_not_contiguous() -> None:
    tensor = torch.randn(64, 32).half().t()
    assert torch.equal(cast(tensor, torch.bfloat16, CPU), tensor.to(torch.bfloat16))


def test_nothing_is_copied_where_nothing_changes() -> None:
    tensor = torch.ones(4)
    assert cast(tensor, torch.float32, CPU) is tensor
