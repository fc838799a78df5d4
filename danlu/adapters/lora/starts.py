"""Where an update begins that is taken off the base: `start(weight, rank, scale)` -> (A0, B0).

B0 A0 * scale is a part of the weight, in float32.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Start = Callable[[Tensor, int, float], tuple[Tensor, Tensor]]


def pissa(weight_OI: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    """Return the largest singular values with their vectors (PiSSA, arXiv:2404.02948, sec. 3)."""
    left, values, right = torch.linalg.svd(weight_OI.float(), full_matrices=False)
    roots = (values[:rank] / scale).sqrt()
    return roots[:, None] * right[:rank], left[:, :rank] * roots


def olora(weight_OI: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    """Return the first rows and columns of the QR decomposition (OLoRA, arXiv:2406.01775)."""
    orthogonal, triangular = torch.linalg.qr(weight_OI.float())
    return triangular[:rank].contiguous(), orthogonal[:, :rank].contiguous()


START: Mapping[str, Start] = {"pissa": pissa, "olora": olora}


def subtracts(start: str) -> bool:
    """Return whether an update that began so was taken off the base."""
    return start in START
