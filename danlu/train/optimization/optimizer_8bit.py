"""AdamW with 8-bit states (arXiv:2110.02861): two bytes for each weight instead of eight.

Moments are stored as codes of a dynamic map, block by block: 256 neighbours share the largest
magnitude among them, so an outlier spoils its own block only. A moment is made float32 for its
update, a few million numbers at a time, and stored again as the nearest codes.
"""

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 256
SMALLEST = 4096  # smaller tensors keep float32 moments: they take nothing, and need precision most
CHUNK = 2**22  # numbers that are float32 at once; a multiple of BLOCK
_MOMENTS = (("exp_avg", True), ("exp_avg_sq", False))  # name, and whether it has signs
_DECADES = 7  # magnitudes from 1e-7 to 1 in the map


@functools.cache
def dynamic_map(*, signed: bool) -> Tensor:
    """Return the 256 values that codes stand for, ascending, from -1 or 0 to 1 (sec. 2.1, app. F).

    Each decade of magnitudes has twice as many values as the one below it, evenly spread.
    """
    values = [0.0, 1.0]
    for decade in range(_DECADES):
        count = 2 ** (decade if signed else decade + 1)
        edges = torch.linspace(0.1, 1.0, count + 1, dtype=torch.float32)
        middles = (edges[:-1] + edges[1:]) / 2 * 10.0 ** (decade + 1 - _DECADES)
        values += middles.tolist()
        values += (-middles).tolist() if signed else []
    return torch.tensor(sorted(values), dtype=torch.float32)


def quantize(values_N: Tensor, *, signed: bool) -> tuple[Tensor, Tensor]:
    """Return the nearest codes (uint8 [N]) and the largest magnitude of each block (float32)."""
    blocks_MB = F.pad(values_N, (0, -len(values_N) % BLOCK)).view(-1, BLOCK)
    absmax_M = blocks_MB.abs().amax(dim=1)
    scaled_MB = blocks_MB / absmax_M.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    known = dynamic_map(signed=signed).to(values_N.device)
    codes_MB = torch.bucketize(scaled_MB, (known[:-1] + known[1:]) / 2, out_int32=True)
    return codes_MB.to(torch.uint8).flatten()[: len(values_N)], absmax_M


def dequantize(codes_N: Tensor, absmax_M: Tensor, *, signed: bool) -> Tensor:
    """Return the float32 values [N] of codes and block magnitudes."""
    values_N = dynamic_map(signed=signed).to(codes_N.device)[codes_N.int()]
    return values_N.mul_(absmax_M.repeat_interleave(BLOCK)[: len(codes_N)])


class AdamW8bit(torch.optim.Optimizer):
    """AdamW (arXiv:1711.05101) whose moments are stored in 8 bits.

    Args:
        groups: parameter groups; their weights are float32 and contiguous.
        lr: learning rate.
        betas: decay rates of the moments.
        eps: added to the root of the second moment.
        weight_decay: decoupled decay.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move every weight that has a gradient."""
        assert closure is None, "the loop computes gradients itself"
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, group)

    def _move(self, weight: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state.update(_fresh_state(weight))
        state["step"] += 1
        flat_N, gradient_N = weight.view(-1), weight.grad.reshape(-1)  # type: ignore[union-attr]
        for start in range(0, len(flat_N), CHUNK):
            part = slice(start, start + CHUNK)
            blocks = slice(start // BLOCK, (start + CHUNK) // BLOCK)
            first, second = (_load(state, *m, part, blocks) for m in _MOMENTS)
            _adamw(flat_N[part], gradient_N[part], first, second, int(state["step"]), group)
            for moment, values_N in zip(_MOMENTS, (first, second), strict=True):
                _store(state, *moment, part, blocks, values_N)


def _fresh_state(weight: Tensor) -> dict[str, Tensor]:
    """Return moments of zero: float32, or codes and magnitudes where the tensor is large."""
    state, size = {"step": torch.tensor(0.0)}, weight.numel()
    for name, signed in _MOMENTS:
        values_N = torch.zeros(size, device=weight.device)
        if size < SMALLEST:
            state[name] = values_N
        else:
            state[name], state[f"{name}_absmax"] = quantize(values_N, signed=signed)
    return state


def _load(state: dict[str, Tensor], name: str, signed: bool, part: slice, blocks: slice) -> Tensor:
    """Return part of a moment in float32; a view where it is stored so."""
    values_N = state[name][part]
    if values_N.dtype != torch.uint8:
        return values_N
    return dequantize(values_N, state[f"{name}_absmax"][blocks], signed=signed)


def _store(
    state: dict[str, Tensor], name: str, signed: bool, part: slice, blocks: slice, values_N: Tensor
) -> None:
    """Put a part of a moment back, if it is not a view."""
    if state[name].dtype == torch.uint8:
        codes_N, absmax_M = quantize(values_N, signed=signed)
        state[name][part] = codes_N
        state[f"{name}_absmax"][blocks] = absmax_M


def _adamw(
    weight_N: Tensor,
    gradient_N: Tensor,
    first_N: Tensor,
    second_N: Tensor,
    step: int,
    group: dict[str, Any],
) -> None:
    """Make one step of AdamW in place, on weights and both moments."""
    (beta1, beta2), rate = group["betas"], group["lr"]
    weight_N.mul_(1 - rate * group["weight_decay"])
    first_N.lerp_(gradient_N, 1 - beta1)
    second_N.mul_(beta2).addcmul_(gradient_N, gradient_N, value=1 - beta2)
    root_N = (second_N.sqrt() / math.sqrt(1 - beta2**step)).add_(group["eps"])
    weight_N.addcdiv_(first_N, root_N, value=-rate / (1 - beta1**step))
