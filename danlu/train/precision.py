"""Which numbers the optimizer moves, and which the model computes with.

Weights are always moved in float32. A model that computes in bfloat16 gets float32 master copies;
its gradients are added up in float32 over the micro-batches of a step, and the masters are rounded
into the model after it. Parameters that are float32 already (a plain fp32 run, LoRA matrices on a
bfloat16 base) are their own masters. All of this holds for float16 too, whose losses are scaled
besides (`danlu.train.optimization.loss_scale`).
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from danlu.config.train import Precision

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


class Masters:
    """The float32 weights of all trainable parameters of a model.

    Args:
        model: its parameters that require a gradient are trained.
        compute_dtype: cast the whole model to this; its weights as they were stay in the masters.
            None leaves the model as it is.

    Attributes:
        weights: name -> float32 tensor; tied parameters once.
    """

    def __init__(self, model: nn.Module, compute_dtype: torch.dtype | None = None) -> None:
        trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        lowers = compute_dtype not in (None, torch.float32)
        self.weights: dict[str, Tensor] = {
            name: _master_copy(p) if lowers or p.dtype != torch.float32 else p
            for name, p in trainable.items()
        }
        if compute_dtype is not None:
            model.to(compute_dtype)
        self._copies = [(trainable[name], w) for name, w in self.weights.items()]
        self._copies = [(p, weight) for p, weight in self._copies if p is not weight]

    def collect(self) -> None:
        """Move the gradients of a micro-batch from the model to the masters."""
        for parameter, weight in self._copies:
            if parameter.grad is None:
                continue
            if weight.grad is None:
                weight.grad = parameter.grad.float()
            else:
                weight.grad.add_(parameter.grad)
            parameter.grad = None

    def gradients(self) -> list[Tensor]:
        """Return the gradients that exist."""
        return [weight.grad for weight in self.weights.values() if weight.grad is not None]

    def complete(self) -> None:
        """Give zeros to weights without a gradient: experts that no token of the step chose.

        So they decay, and go on with their momentum, as in tools that hold all experts in one
        weight.
        """
        for weight in self.weights.values():
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)

    def clear(self) -> None:
        """Forget the gradients."""
        for weight in self.weights.values():
            weight.grad = None

    @torch.no_grad()
    def publish(self) -> None:
        """Round the masters into the model."""
        if self._copies:
            parameters, weights = zip(*self._copies, strict=True)
            torch._foreach_copy_(parameters, weights)

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over saved weights, and round them into the model."""
        for name, weight in self.weights.items():
            weight.copy_(tensors[name])
        self.publish()

    @torch.no_grad()
    def export(self, model: nn.Module, dtype: torch.dtype) -> None:
        """Cast `model`, whose masters these are, to `dtype`, straight from the masters."""
        model.to(dtype)
        for parameter, weight in self._copies:
            parameter.copy_(weight)


def _master_copy(parameter: nn.Parameter) -> Tensor:
    return parameter.detach().to(torch.float32, copy=True).requires_grad_()
