"""The one training loop. What differs between methods comes in as a `Job`.

A step: take the micro-batches of a global batch, add up their gradients in float32, divide by the
number of targets in all of them, clip, move the weights. A run that is killed at any moment and
started again ends with the same bytes as one that is not.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor

from danlu.config.train import TrainOptions
from danlu.errors import TrainingError
from danlu.models.decoder import Decoder
from danlu.progress import Progress, Silent, working
from danlu.train.checkpoint import Counters, Snapshot, load_newest, save_checkpoint
from danlu.train.held_out import held_out_metrics
from danlu.train.interrupt import deferred_interrupt
from danlu.train.metrics import MetricsLog, Record, resident_bytes
from danlu.train.objective import Objective, begin_step, take_metrics
from danlu.train.optimizer import (
    adamw,
    clip_factor,
    restore_state,
    scale_gradients,
    set_learning_rate,
    state_tensors,
)
from danlu.train.precision import Masters
from danlu.train.rng import own_rng, restore_rng, rng_state
from danlu.train.schedule import scheduled_rate
from danlu.train.source import BatchSource
from danlu.train.watchdog import FailedStep, non_finite_error

CHECKPOINTS, METRICS = "checkpoints", "metrics.jsonl"
B = TypeVar("B")


@dataclass(frozen=True)
class Job(Generic[B]):
    """Everything that one training run is about.

    Attributes:
        decoder: the model; its parameters that require a gradient are trained.
        masters: its trainable weights in float32.
        objective: turns a batch into a loss.
        source: gives the micro-batches of each step.
        held_out: batches that are only evaluated on; may be empty.
        options: how to train; `steps` and `epochs` in it are not looked at.
        steps: optimizer steps.
        seed: of every random generator that training draws from.
    """

    decoder: Decoder
    masters: Masters
    objective: Objective[B]
    source: BatchSource[B]
    held_out: Sequence[B]
    options: TrainOptions
    steps: int
    seed: int


@dataclass(frozen=True)
class Outcome:
    """How far a run came, and the step of the checkpoint it went on from."""

    counters: Counters
    resumed_from: int | None


def train(job: Job[B], folder: Path, progress: Progress | None = None) -> Outcome:
    """Train to the last step, going on from the newest whole checkpoint in `folder`.

    Writes `metrics.jsonl` and `checkpoints/` in `folder`; the last step always has a checkpoint.
    The decoder and its masters hold the trained weights afterwards. The random generators of
    python, numpy and torch are the run's own while it lasts.

    Raises:
        TrainingError: at a loss or gradient that is not finite, or with nothing to train.
        OutputError: if the folder cannot be written.
        CheckpointError: if every checkpoint is damaged.
        KeyboardInterrupt: after Ctrl-C, once the running step is saved.
    """
    if not job.masters.weights:
        raise TrainingError(
            "No parameter of the model is trainable; expected at least one. Attach an adapter, or "
            "train all weights."
        )
    with own_rng(job.seed):
        loop = _Loop(job, folder / CHECKPOINTS)
        resumed_from = loop.resume()
        job.decoder.train()
        try:
            with MetricsLog(folder / METRICS, loop.counters.step) as metrics:
                loop.run(metrics, progress or Silent())
        finally:
            job.decoder.eval()
    return Outcome(loop.counters, resumed_from)


@dataclass
class _Speed:
    """Tokens and seconds of the steps since the last line of metrics."""

    tokens: int = 0
    seconds: float = 0.0


class _Loop(Generic[B]):
    """The state of a run between two steps, and how it goes from one to the next."""

    def __init__(self, job: Job[B], checkpoints: Path) -> None:
        self.counters = Counters()
        self._job = job
        self._checkpoints = checkpoints
        self._optimizer = adamw(job.masters.weights, job.options)
        self._speed = _Speed()
        self._started = self._saved = time.perf_counter()
        self._earlier_s = 0.0

    def resume(self) -> int | None:
        """Take over the newest whole checkpoint; return its step, None if there is none."""
        snapshot = load_newest(self._checkpoints)
        if snapshot is None:
            return None
        self._job.masters.restore(snapshot.weights)
        restore_state(self._optimizer, self._job.masters.weights, snapshot.optimizer)
        self._job.source.seek(snapshot.cursor)
        restore_rng(dict(snapshot.rng))
        self.counters = snapshot.counters
        self._earlier_s = snapshot.counters.elapsed_s
        return snapshot.counters.step

    def run(self, metrics: MetricsLog, progress: Progress) -> None:
        """Make the steps that are left."""
        steps = self._job.steps
        with deferred_interrupt() as interrupted, working(progress, "train", steps):
            progress.advance(min(self.counters.step, steps))
            while self.counters.step < steps:
                record = self._step()
                progress.advance(1, _note(record))
                stop = interrupted()
                self._report(record, metrics)
                if stop or self._is_save_due():
                    self._save(metrics)
                if stop:
                    raise KeyboardInterrupt

    def _step(self) -> Record:
        """Make one optimizer step and return its line of metrics."""
        began = time.perf_counter()
        batches = self._job.source.next_step()
        begin_step(self._job.objective, self._job.decoder, batches)
        loss_sum, targets = self._accumulate(batches)
        loss, norm = self._checked(loss_sum, targets, batches)
        rate = self._move_weights(norm, targets)
        self._speed.tokens += self._job.source.num_tokens()
        self._speed.seconds += time.perf_counter() - began
        return self._count(loss, norm, rate, targets)

    def _accumulate(self, batches: Sequence[B]) -> tuple[Tensor, int]:
        """Add up the gradients of the summed loss; return that sum and the number of targets."""
        losses, targets = [], 0
        for batch in batches:
            loss, count = self._job.objective.loss(self._job.decoder, batch)
            loss.backward()
            self._job.masters.collect()
            losses.append(loss.detach().double())
            targets += count
        return torch.stack(losses).sum(), targets

    def _checked(self, loss_sum: Tensor, targets: int, batches: Sequence[B]) -> tuple[float, float]:
        """Return loss and gradient norm per target; the one wait for the device in a step."""
        masters = self._job.masters
        norm_sum = torch.nn.utils.get_total_norm(masters.gradients())
        both = torch.stack([loss_sum, norm_sum.to(loss_sum)]) / max(1, targets)
        loss, norm = both.tolist()
        for name, value in (("loss", loss), ("gradient norm", norm)):
            if not math.isfinite(value):
                number, origins = self.counters.step + 1, self._job.source.origins()
                failed = FailedStep(number, f"the {name} is {value}", batches, origins)
                job = self._job
                raise non_finite_error(job.decoder, job.objective, masters.weights, failed)
        return loss, norm

    def _move_weights(self, norm: float, targets: int) -> float:
        """Clip, step and publish; return the learning rate that was used."""
        options, masters = self._job.options, self._job.masters
        rate = scheduled_rate(options, self.counters.step, self._job.steps)
        factor = clip_factor(norm, options.max_grad_norm) / max(1, targets)
        scale_gradients(masters.gradients(), factor)
        set_learning_rate(self._optimizer, rate)
        self._optimizer.step()
        masters.clear()
        masters.publish()
        return rate

    def _count(self, loss: float, norm: float, rate: float, targets: int) -> Record:
        """Note a finished step; return its metrics without the times."""
        tokens = self._job.source.num_tokens()
        self.counters = Counters(
            step=self.counters.step + 1,
            tokens=self.counters.tokens + tokens,
            targets=self.counters.targets + targets,
            elapsed_s=round(self._earlier_s + time.perf_counter() - self._started, 3),
        )
        return {
            "step": self.counters.step,
            "loss": loss,
            "learning_rate": rate,
            "grad_norm": norm,
            "tokens": tokens,
            "targets": targets,
            "total_tokens": self.counters.tokens,
            "tokens_per_s": round(self._speed.tokens / max(self._speed.seconds, 1e-9), 1),
            "elapsed_s": self.counters.elapsed_s,
            **(take_metrics(self._job.objective) or {}),
        }

    def _report(self, record: Record, metrics: MetricsLog) -> None:
        """Write what is due after a step: its metrics, and the loss on held-out data."""
        job, step = self._job, self.counters.step
        if step % job.options.log_every_steps == 0 or step == job.steps:
            metrics.write(record)
            self._speed = _Speed()
        every = job.options.eval_every_steps or job.steps
        if job.held_out and (step % every == 0 or step == job.steps):
            found = held_out_metrics(job.decoder, job.objective, job.held_out)
            metrics.write({"step": step, **found})

    def _is_save_due(self) -> bool:
        options, step = self._job.options, self.counters.step
        if step == self._job.steps or step % options.save_every_steps == 0:
            return True
        minutes = options.save_every_minutes
        return minutes is not None and time.perf_counter() - self._saved >= 60 * minutes

    def _save(self, metrics: MetricsLog) -> None:
        """Write a checkpoint, after the metrics it stands for."""
        metrics.sync()
        weights = self._job.masters.weights
        snapshot = Snapshot(
            counters=self.counters,
            cursor=self._job.source.cursor(),
            rng=rng_state(),
            weights=weights,
            optimizer=state_tensors(self._optimizer, weights),
        )
        save_checkpoint(self._checkpoints, snapshot)
        self._saved = time.perf_counter()


def _note(record: Record) -> str:
    """Return the live remark on a step: loss, learning rate, speed, memory."""
    return (
        f"loss {record['loss']:.3f}  lr {record['learning_rate']:.2e}  "
        f"{record['tokens_per_s']:,.0f} tok/s  {resident_bytes() / 2**30:.2f} GiB"
    )
