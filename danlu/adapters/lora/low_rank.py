"""Low-rank updates around any linear layer (arXiv:2106.09685), and what was made of them since."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.adapters.wrappers import AdaptedLinear, original, stored_weight
from danlu.nn.linear import LinearLike


class LoRALinear(AdaptedLinear):
    """base(x) + B A dropout(x) * scale; `base` may be dense or quantized.

    Args:
        base: the layer that is adapted; its parameters are frozen by `attach_adapter`.
        lora_A: [rank, in], float32 master. Layers that are one published layer may share it.
        lora_B: [out, rank], float32 master.
        scale: alpha / rank, or alpha / sqrt(rank) where it is rank-stabilised.
        dropout: on the adapter's input, in training mode.
    """

    def __init__(
        self,
        base: LinearLike,
        lora_A: Tensor,
        lora_B: Tensor,
        scale: float,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(base)
        self.lora_A = lora_A if isinstance(lora_A, nn.Parameter) else nn.Parameter(lora_A)
        self.lora_B = nn.Parameter(lora_B)
        self.scale = scale
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """Return the adapted product in the dtype of `x`."""
        update = self.update(self.dropped(x))
        out: Tensor = self.base(x)
        return torch.add(out, update, alpha=self.scale)

    def dropped(self, x: Tensor) -> Tensor:
        """Return the adapter's input: `x`, some of it zero in training."""
        return F.dropout(x, self.dropout, self.training) if self.dropout else x

    def update(self, x: Tensor) -> Tensor:
        """Return B A x, unscaled."""
        low_rank = F.linear(x, self.lora_A.to(x.dtype))
        return F.linear(low_rank, self.lora_B.to(x.dtype))

    def change(self, weight_OI: Tensor) -> Tensor:
        """Return the float32 change of the weight, B A * scale."""
        return self.factors()[1] @ self.factors()[0] * self.scale

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return A and B in float32, whose product times `scale` is the update."""
        return self.lora_A.float(), self.lora_B.float()

    def adapter_parameters(self) -> list[nn.Parameter]:
        """Return what is trained in this wrapper."""
        return [self.lora_A, self.lora_B]


class SubtractedLoRALinear(LoRALinear):
    """LoRA that begins at a part of the base, which is taken off it (PiSSA, arXiv:2404.02948).

    The base itself stays whole: the update is B A - B0 A0, where B0 A0 is what it began as.

    Args:
        start: A0 and B0; frozen.
    """

    start_A: Tensor
    start_B: Tensor

    def __init__(
        self,
        base: LinearLike,
        lora_A: Tensor,
        lora_B: Tensor,
        scale: float,
        dropout: float = 0.0,
        *,
        start: tuple[Tensor, Tensor],
    ) -> None:
        super().__init__(base, lora_A, lora_B, scale, dropout)
        self.register_buffer("start_A", start[0], persistent=False)
        self.register_buffer("start_B", start[1], persistent=False)

    def update(self, x: Tensor) -> Tensor:
        """Return B A x - B0 A0 x, unscaled."""
        low_rank = F.linear(x, self.start_A.to(x.dtype))
        return super().update(x) - F.linear(low_rank, self.start_B.to(x.dtype))

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return both pairs as one of twice the rank: the update of the base as it is."""
        stacked_A = torch.cat((self.lora_A.float(), self.start_A.float()))
        return stacked_A, torch.cat((self.lora_B.float(), -self.start_B.float()), dim=1)


class LoRAOnStoredLinear(LoRALinear):
    """LoRA on a layer that changes its weight before it multiplies by it: Baichuan 2's head.

    The update belongs to the stored weight, so that a merged one can be stored.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the product with the weight that the stored one with its update stands for."""
        return F.linear(x, self.dense_weight().to(x.dtype), self.bias_or_none())


class DoRALinear(LoRALinear):
    """m (W + B A * scale) / |W + B A * scale| row by row (DoRA, arXiv:2402.09353).

    As in section 4.3 the norm takes no gradient.

    Args:
        magnitude: m [out]; None: the norms of the rows as they are, so that nothing changes.
    """

    def __init__(
        self,
        base: LinearLike,
        lora_A: Tensor,
        lora_B: Tensor,
        scale: float,
        dropout: float = 0.0,
        *,
        magnitude: Tensor | None = None,
    ) -> None:
        super().__init__(base, lora_A, lora_B, scale, dropout)
        self._known: tuple[object, Tensor] | None = None
        norms_O = self.norms() if magnitude is None else magnitude
        self.magnitude = nn.Parameter(norms_O.to(torch.float32))

    def norms(self) -> Tensor:
        """Return the lengths [out] of the rows of W + B A * scale, in float32, without gradient.

        They are kept until A or B change, but never while these are trained: fused optimizers
        change them without leaving a trace.
        """
        if torch.is_grad_enabled() and self.lora_A.requires_grad:
            self._known = None
            return self._measured()
        state = (
            _version(self.lora_A),
            _version(self.lora_B),
            self.lora_A.device,
            torch.is_inference_mode_enabled(),  # its tensors are of no use outside of it
        )
        if self._known is None or self._known[0] != state:
            self._known = (state, self._measured())
        return self._known[1]

    @torch.no_grad()
    def _measured(self) -> Tensor:
        weight_OI = stored_weight(original(self)).float()
        adapted_OI = weight_OI + super().change(weight_OI)
        norms_O: Tensor = torch.linalg.vector_norm(adapted_OI, dim=1)
        return norms_O

    def forward(self, x: Tensor) -> Tensor:
        """Return the adapted product in the dtype of `x`."""
        factor_O = (self.magnitude / self.norms()).to(x.dtype)
        dropped = self.dropped(x)
        update = self.update(dropped)
        out: Tensor = self.base(x)
        product = out if dropped is x and original(self) is self.base else None
        return (
            out
            + (factor_O - 1) * self._product(dropped, product)
            + factor_O * (self.scale * update)
        )

    def _product(self, x: Tensor, known: Tensor | None) -> Tensor:
        """Return W x without bias; `known` is the product with it, if it was computed already."""
        base = original(self)
        product: Tensor = base(x) if known is None else known
        bias = base.bias_or_none()
        return product if bias is None else product - bias

    def change(self, weight_OI: Tensor) -> Tensor:
        """Return the float32 change of the weight."""
        adapted_OI = weight_OI + super().change(weight_OI)
        factor_O: Tensor = self.magnitude / torch.linalg.vector_norm(adapted_OI.detach(), dim=1)
        return factor_O[:, None] * adapted_OI - weight_OI

    def adapter_parameters(self) -> list[nn.Parameter]:
        """Return what is trained in this wrapper."""
        return [*super().adapter_parameters(), self.magnitude]


def _version(tensor: Tensor) -> object:
    """Return what differs once a tensor was changed."""
    return id(tensor) if tensor.is_inference() else (id(tensor), tensor._version)
