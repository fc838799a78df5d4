"""Several torch optimizers as one: Muon with AdamW beside it, or one for each weight, offloaded."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from danlu.errors import CheckpointError

Optimizer = torch.optim.Optimizer


class OptimizerSet:
    """Optimizers that share the weights of a model among them, and their states by name.

    Args:
        weights: all trained weights by name; each belongs to one part.
        parts: the optimizers. A group's ``lr_scale``, if it has one, multiplies its rate.
    """

    def __init__(self, weights: Mapping[str, Tensor], parts: Sequence[Optimizer]) -> None:
        self.parts = list(parts)
        self._weights = weights
        self._part_of = {
            weight: part
            for part in parts
            for group in part.param_groups
            for weight in group["params"]
        }

    def set_learning_rate(self, rate: float) -> None:
        """Let the next step use `rate`."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = rate * group.get("lr_scale", 1.0)

    def step(self) -> None:
        """Move every weight that has a gradient."""
        for part in self.parts:
            part.step()

    def state_tensors(self) -> dict[str, Tensor]:
        """Return the states as tensors named `exp_avg.<weight>` and so on."""
        return {
            f"{key}.{name}": value
            for name, weight in self._weights.items()
            for key, value in self._part_of[weight].state.get(weight, {}).items()
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `state_tensors` returned.

        Raises:
            CheckpointError: if a tensor belongs to no weight.
        """
        for full_name, tensor in tensors.items():
            key, _, name = full_name.partition(".")
            if name not in self._weights:
                raise CheckpointError(
                    f"The optimizer state holds {full_name!r}, but the model has no weight "
                    f"{name!r}. Expected a checkpoint of this very run. Remove the run's folder "
                    "and start again."
                )
            weight = self._weights[name]
            part = self._part_of[weight]
            part.state[weight][key] = self._placed(part, key, tensor, weight.device)

    def _placed(self, part: Optimizer, key: str, tensor: Tensor, device: torch.device) -> Tensor:
        """Return a state's tensor where it rests between two steps."""
        return tensor.to(device) if _beside_weight(part, key) else tensor


class OffloadedSet(OptimizerSet):
    """States that rest in the memory of the host, page-locked where there is an accelerator.

    A step takes the states of one weight at a time to its device and back, so that no more than
    these are there. The numbers are those of states that stay.

    Args:
        weights: all trained weights by name.
        parts: one optimizer for each weight.
    """

    def step(self) -> None:
        """Move every weight that has a gradient."""
        for part in self.parts:
            (weight,) = part.param_groups[0]["params"]
            self._step_of(part, weight)
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()  # states are on the host when this returns

    def _step_of(self, part: Optimizer, weight: Tensor) -> None:
        state = part.state[weight]
        resting = dict(state)
        for key, tensor in resting.items():
            if _beside_weight(part, key):
                state[key] = tensor.to(weight.device, non_blocking=True)
        part.step()
        for key, tensor in state.items():
            home = resting[key] if key in resting else _host_memory(tensor)
            state[key] = home.copy_(tensor, non_blocking=True)

    def _placed(self, part: Optimizer, key: str, tensor: Tensor, device: torch.device) -> Tensor:
        return _host_memory(tensor).copy_(tensor)


def _beside_weight(part: Optimizer, key: str) -> bool:
    """Return whether a step wants this state on the device of its weight."""
    return key != "step" or bool(part.defaults.get("fused"))


def _host_memory(like: Tensor) -> Tensor:
    locked = torch.accelerator.is_available()
    return torch.empty_like(like, device="cpu", pin_memory=locked)
