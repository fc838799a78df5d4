"""Weights in the dtype that was asked for."""

import torch
from torch import Tensor

BLOCK_NUMBERS = 2**20  # that pass through float32 at once: they stay in the processor's cache


def cast(tensor: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the tensor in `dtype` on `device`; itself, where it is that already."""
    if not _goes_through_float32(tensor, dtype) or device.type != "cpu":
        return tensor.to(device, dtype)
    made = torch.empty(tensor.shape, dtype=dtype)
    cast_into(made, tensor)
    return made


def cast_into(target: Tensor, source: Tensor) -> None:
    """Fill `target` with the numbers of `source`, each rounded once.

    float16 to bfloat16 on the CPU goes through float32, which holds both exactly, a block at a
    time: torch's own conversion takes about three times as long.
    """
    if not _goes_through_float32(source, target.dtype) or target.device.type != "cpu":
        target.copy_(source)
        return
    rows = max(1, BLOCK_NUMBERS // max(1, source[:1].numel()))
    wide = torch.empty_like(source[:rows], dtype=torch.float32)  # used again for every block
    for start in range(0, len(source), rows):
        block = source[start : start + rows]
        target[start : start + rows].copy_(wide[: len(block)].copy_(block))


def _goes_through_float32(source: Tensor, dtype: torch.dtype) -> bool:
    on_cpu = source.device.type == "cpu" and source.ndim > 0
    return on_cpu and source.dtype == torch.float16 and dtype == torch.bfloat16
