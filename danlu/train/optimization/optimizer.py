"""The optimizers that a run can choose, clipping, and which weights decay.

    adamw        8 bytes of state for each trained weight      arXiv:1711.05101, torch's fused form
    adamw8bit    2 bytes, and 4 for every 256 weights, twice   arXiv:2110.02861
    adafactor    a row and a column for each matrix            arXiv:1804.04235
    muon         4 bytes in matrices, adamw's 8 elsewhere      arXiv:2502.16982
    sgd          4 bytes, none without momentum

Weights and gradients themselves are float32 and take 8 more. All decays but SGD's are decoupled.
Adafactor multiplies its rate by the root mean square of each weight (at least 1e-3), so it wants
larger rates than the others, such as 1e-2. Muon's updates are scaled to the size of AdamW's, so
both take one rate.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from danlu.config.train import OptimizerName, TrainOptions
from danlu.train.optimization.optimizer_8bit import AdamW8bit
from danlu.train.optimization.optimizer_set import OffloadedSet, OptimizerSet

_CLIP_EPS = 1e-6  # torch.nn.utils.clip_grad_norm_
_MUON_MOMENTUM, _SGD_MOMENTUM = 0.95, 0.9
_LOOKED_UP = ("embed_", "lm_head", "prefix", "prompt")  # what Muon's paper leaves to AdamW

_OF_ADAPTERS = ("factors", "magnitude")  # vectors that no stock tool takes for biases

Groups = list[dict[str, Any]]
Build = Callable[[Groups, TrainOptions], torch.optim.Optimizer]


def optimizer_for(
    weights: Mapping[str, Tensor],
    options: TrainOptions,
    lr_scales: Mapping[str, float] | None = None,
) -> OptimizerSet:
    """Return the optimizer that the options name, over `weights`.

    Biases and norm weights do not decay: the 1-D tensors but for those of adapters, whose factors
    and magnitudes decay as in transformers' Trainer.

    Args:
        weights: float32 weights by name.
        options: which optimizer, and how it is set.
        lr_scales: what the learning rate of a weight is multiplied by, where it is not 1.
    """
    scales = dict(lr_scales or {})
    assert scales.keys() <= weights.keys(), scales.keys() - weights.keys()
    shares = _shares(weights, options.optimizer)
    if not options.offload_optimizer:
        parts = [build(_groups(share, options, scales), options) for build, share in shares]
        return OptimizerSet(weights, parts)
    alone = [(build, {name: share[name]}) for build, share in shares for name in share]
    parts = [build(_groups(share, options, scales), options) for build, share in alone]
    return OffloadedSet(weights, parts)


def clip_factor(norm: float, max_norm: float | None) -> float:
    """Return what gradients of this norm are multiplied by, at most 1."""
    return 1.0 if max_norm is None else min(1.0, max_norm / (norm + _CLIP_EPS))


@torch.no_grad()
def scale_gradients(gradients: Sequence[Tensor], factor: float) -> None:
    """Multiply the gradients in place."""
    torch._foreach_mul_(list(gradients), factor)


def _shares(
    weights: Mapping[str, Tensor], name: OptimizerName
) -> list[tuple[Build, Mapping[str, Tensor]]]:
    """Return who moves which weights."""
    if name != "muon":
        return [(_BUILDS[name], weights)]
    matrices = {key: w for key, w in weights.items() if w.dim() == 2 and not _is_looked_up(key)}
    rest = {key: w for key, w in weights.items() if key not in matrices}
    shares: list[tuple[Build, Mapping[str, Tensor]]] = [(_muon, matrices), (_adamw, rest)]
    return [(build, share) for build, share in shares if share]


def _is_looked_up(name: str) -> bool:
    """Return whether a matrix is a table of vectors, one of which is used at a time."""
    return any(part.startswith(_LOOKED_UP) for part in name.split("."))


def _groups(
    weights: Mapping[str, Tensor], options: TrainOptions, scales: Mapping[str, float]
) -> Groups:
    """Return the parameter groups: those that decay first, each by their rates."""
    groups: dict[tuple[bool, float], list[Tensor]] = {}
    for name, weight in weights.items():
        groups.setdefault((_is_kept(name, weight), scales.get(name, 1.0)), []).append(weight)
    return [
        {
            "params": groups[is_kept, scale],
            "weight_decay": 0.0 if is_kept else options.weight_decay,
            "lr_scale": scale,
        }
        for is_kept, scale in sorted(groups)
    ]


def _is_kept(name: str, weight: Tensor) -> bool:
    """Return whether a weight does not decay: whether it is a bias or the weight of a norm."""
    return weight.dim() <= 1 and name.rpartition(".")[2] not in _OF_ADAPTERS


def _adamw(groups: Groups, options: TrainOptions) -> torch.optim.Optimizer:
    devices = {weight.device.type for group in groups for weight in group["params"]}
    return torch.optim.AdamW(
        groups,
        lr=options.learning_rate,
        betas=options.betas,
        eps=options.eps,
        fused=devices <= {"cpu", "cuda"},
    )


def _adamw8bit(groups: Groups, options: TrainOptions) -> torch.optim.Optimizer:
    return AdamW8bit(groups, lr=options.learning_rate, betas=options.betas, eps=options.eps)


def _adafactor(groups: Groups, options: TrainOptions) -> torch.optim.Optimizer:
    return torch.optim.Adafactor(groups, lr=options.learning_rate)


def _muon(groups: Groups, options: TrainOptions) -> torch.optim.Optimizer:
    momentum = _MUON_MOMENTUM if options.momentum is None else options.momentum
    return torch.optim.Muon(
        groups, lr=options.learning_rate, momentum=momentum, adjust_lr_fn="match_rms_adamw"
    )


def _sgd(groups: Groups, options: TrainOptions) -> torch.optim.Optimizer:
    momentum = _SGD_MOMENTUM if options.momentum is None else options.momentum
    return torch.optim.SGD(groups, lr=options.learning_rate, momentum=momentum)


_BUILDS: dict[OptimizerName, Build] = {
    "adamw": _adamw,
    "adamw8bit": _adamw8bit,
    "adafactor": _adafactor,
    "sgd": _sgd,
}
