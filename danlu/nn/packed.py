"""Dense linear layers for inference on the CPU: weights laid out once as the kernel wants them.

An ordinary product re-orders the weight on every call. oneDNN's packed layout saves that: measured
at one row, 1.5 times the bandwidth (see benchmarks/). The plain layer is the reference.
"""

from functools import cache

import torch
from torch import Tensor, nn

from danlu.nn.linear import LinearLike


@cache
def can_pack(dtype: torch.dtype) -> bool:
    """Return whether this build of torch has packed products in `dtype` on the CPU."""
    if dtype != torch.bfloat16 or not torch.backends.mkldnn.is_available():
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class PackedLinear(LinearLike):
    """x W^T + b on a packed weight; for inference only.

    Args:
        weight_OI: [out, in] on the CPU; may be dropped by the caller afterwards.
        bias: [out], or None.
    """

    def __init__(self, weight_OI: Tensor, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight_OI.shape
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight_OI.detach(), None)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """Return the product in the dtype of the weight."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self.packed, self.bias, "none", [], ""
        )
        return product

    def dense_weight(self) -> Tensor:
        """Return the weight [out, in], unpacked."""
        weight: Tensor = self.packed.to_dense()
        return weight

    def bias_or_none(self) -> Tensor | None:
        """Return the bias."""
        return self.bias
