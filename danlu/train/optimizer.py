"""AdamW with decoupled decay (arXiv:1711.05101), clipping, and its state as named tensors."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from danlu.config.train import TrainOptions
from danlu.errors import CheckpointError

_CLIP_EPS = 1e-6  # torch.nn.utils.clip_grad_norm_


def adamw(weights: Mapping[str, Tensor], options: TrainOptions) -> torch.optim.AdamW:
    """Return AdamW over `weights`; biases and norm weights, the 1-D tensors, do not decay."""
    matrices = [weight for weight in weights.values() if weight.dim() > 1]
    vectors = [weight for weight in weights.values() if weight.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": options.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    fused = all(weight.device.type in ("cpu", "cuda") for weight in weights.values())
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=options.learning_rate,
        betas=options.betas,
        eps=options.eps,
        fused=fused,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Let the next step use `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def clip_factor(norm: float, max_norm: float | None) -> float:
    """Return what gradients of this norm are multiplied by, at most 1."""
    return 1.0 if max_norm is None else min(1.0, max_norm / (norm + _CLIP_EPS))


@torch.no_grad()
def scale_gradients(gradients: Sequence[Tensor], factor: float) -> None:
    """Multiply the gradients in place."""
    torch._foreach_mul_(list(gradients), factor)


def state_tensors(
    optimizer: torch.optim.Optimizer, weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the optimizer's state as tensors named `exp_avg.<weight>` and so on."""
    return {
        f"{key}.{name}": value
        for name, weight in weights.items()
        for key, value in optimizer.state[weight].items()
    }


def restore_state(
    optimizer: torch.optim.Optimizer, weights: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> None:
    """Take over what `state_tensors` returned.

    Raises:
        CheckpointError: if a tensor belongs to no weight.
    """
    for full_name, tensor in tensors.items():
        key, _, name = full_name.partition(".")
        if name not in weights:
            raise CheckpointError(
                f"The optimizer state holds {full_name!r}, but the model has no weight {name!r}. "
                "Expected a checkpoint of this very run. Remove the run's folder and start again."
            )
        weight = weights[name]
        on_device = key != "step" or optimizer.defaults["fused"]
        optimizer.state[weight][key] = tensor.to(weight.device) if on_device else tensor
