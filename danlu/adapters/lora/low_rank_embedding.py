"""Low-rank updates of the token embedding (arXiv:2106.09685), as peft defines them."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.adapters.wrappers import AdaptedEmbedding, original_embedding
from danlu.nn.embedding import TokenEmbedding


class LoRAEmbedding(AdaptedEmbedding):
    """Vectors of the base plus (B A)[:, token] * scale; the head keeps the base's weight.

    Args:
        base: the embedding that is adapted.
        lora_A: [rank, V], float32 master.
        lora_B: [D, rank], float32 master.
        scale: as of `LoRALinear`.
    """

    def __init__(self, base: TokenEmbedding, lora_A: Tensor, lora_B: Tensor, scale: float) -> None:
        super().__init__(base)
        self.lora_A = nn.Parameter(lora_A)
        self.lora_B = nn.Parameter(lora_B)
        self.scale = scale

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Return the vectors [B, T, D] of the tokens."""
        out: Tensor = self.base(tokens_BT)
        return torch.add(out, self.update(tokens_BT, out.dtype), alpha=self.scale)

    def update(self, tokens_BT: Tensor, dtype: torch.dtype) -> Tensor:
        """Return (B A)[:, token], unscaled."""
        low_rank_BTR = F.embedding(tokens_BT, self.lora_A.t()).to(dtype)
        return F.linear(low_rank_BTR, self.lora_B.to(dtype))

    def change(self, weight_VD: Tensor) -> Tensor:
        """Return the float32 change of the weight, (B A)^T * scale."""
        return (self.lora_B.float() @ self.lora_A.float()).t() * self.scale

    def adapter_parameters(self) -> list[nn.Parameter]:
        """Return what is trained in this wrapper."""
        return [self.lora_A, self.lora_B]


class DoRAEmbedding(LoRAEmbedding):
    """LoRA on an embedding, with a trained length of each of its columns (as peft does it).

    Args:
        magnitude: [D]; None: the lengths of the columns as they are.
    """

    def __init__(
        self,
        base: TokenEmbedding,
        lora_A: Tensor,
        lora_B: Tensor,
        scale: float,
        *,
        magnitude: Tensor | None = None,
    ) -> None:
        super().__init__(base, lora_A, lora_B, scale)
        norms_D = self.norms() if magnitude is None else magnitude
        self.magnitude = nn.Parameter(norms_D.to(torch.float32))

    @torch.no_grad()
    def norms(self) -> Tensor:
        """Return the lengths [D] of the columns with their update, in float32."""
        weight_VD = original_embedding(self).weight.float()
        norms_D: Tensor = torch.linalg.vector_norm(weight_VD + super().change(weight_VD), dim=0)
        return norms_D

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Return the vectors [B, T, D] of the tokens."""
        out: Tensor = self.base(tokens_BT)
        factor_D = (self.magnitude / self.norms()).to(out.dtype)
        plain = (
            out if original_embedding(self) is self.base else original_embedding(self)(tokens_BT)
        )
        update = self.update(tokens_BT, out.dtype)
        return out + (factor_D - 1) * plain + factor_D * (self.scale * update)

    def change(self, weight_VD: Tensor) -> Tensor:
        """Return the float32 change of the weight."""
        adapted_VD = weight_VD + super().change(weight_VD)
        factor_D: Tensor = self.magnitude / torch.linalg.vector_norm(adapted_VD.detach(), dim=0)
        return factor_D * adapted_VD - weight_VD

    def adapter_parameters(self) -> list[nn.Parameter]:
        """Return what is trained in this wrapper."""
        return [*super().adapter_parameters(), self.magnitude]
