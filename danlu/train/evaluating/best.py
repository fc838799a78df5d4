"""The best evaluation of a run: which it is, where its weights are, and when to stop waiting."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from danlu.config.train import TrainOptions
from danlu.errors import CheckpointError
from danlu.train.checkpoint import Counters, Snapshot, load_checkpoint, write_checkpoint

BEST = "best"  # beside the checkpoints, whose number is limited
_LOWER_IS_BETTER = ("loss", "perplexity")  # how the names of such metrics end


@dataclass(frozen=True)
class Best:
    """The best evaluation so far.

    Attributes:
        metric: what is compared.
        value: the best one.
        step: after which it was measured.
        misses: evaluations since then, none of them better.
    """

    metric: str
    value: float
    step: int
    misses: int = 0


class BestModel:
    """Keeps the weights of the best evaluation as a checkpoint of their own.

    What it knows is part of every checkpoint. A run that goes on from an earlier step than the best
    one finds the same best again, and writes the same weights.

    Args:
        options: what is compared, and how much better is better.
        checkpoints: the run's folder of checkpoints.
    """

    def __init__(self, options: TrainOptions, checkpoints: Path) -> None:
        self.best: Best | None = None
        self._options = options
        self._folder = checkpoints / BEST

    def is_better(self, numbers: Mapping[str, float], step: int) -> bool:
        """Compare an evaluation with the best before it; return whether it is the best now."""
        metric = self._options.best_metric
        if metric is None or metric not in numbers:
            return False
        value = numbers[metric]
        if self.best is not None and not self._beats(value, self.best):
            self.best = replace(self.best, misses=self.best.misses + 1)
            return False
        self.best = Best(metric, value, step)
        return True

    @property
    def exhausted(self) -> bool:
        """Whether there were more evaluations without a better one than the run waits for."""
        patience = self._options.patience
        return self.best is not None and patience is not None and self.best.misses >= patience

    def save(self, counters: Counters, weights: Mapping[str, Tensor]) -> None:
        """Write the weights, in the place of those that were the best before."""
        write_checkpoint(self._folder, Snapshot(counters, {}, {}, weights, {}))

    def weights(self) -> Mapping[str, Tensor] | None:
        """Return the weights the run ends with; None: those of its last step.

        Raises:
            CheckpointError: if they are damaged or belong to another step.
        """
        if self.best is None or not self._options.load_best:
            return None
        snapshot = load_checkpoint(self._folder)
        if snapshot.counters.step != self.best.step:
            raise CheckpointError(
                f"'{self._folder}' holds step {snapshot.counters.step}; expected the best one, "
                f"{self.best.step}. Remove the run's folder and start again."
            )
        return snapshot.weights

    def state(self) -> dict[str, Any]:
        """Return what a resumed run must know, as plain JSON."""
        return {} if self.best is None else asdict(self.best)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        self.best = Best(**state) if state else None

    def _beats(self, value: float, best: Best) -> bool:
        gain = value - best.value
        if best.metric.endswith(_LOWER_IS_BETTER):
            gain = -gain
        return gain > self._options.min_delta
