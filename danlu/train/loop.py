"""The one training loop. What differs between methods comes in as a `Job`.

A step takes the micro-batches of a global batch and moves the weights (`danlu.train.step`); between
steps the loop evaluates, reports and saves. A run that is killed at any moment and started again
ends with the same bytes as one that is not.
"""

import logging
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from danlu.errors import TrainingError
from danlu.progress import Progress, Silent, working
from danlu.train.checkpoint import Counters, Snapshot, load_newest, save_checkpoint
from danlu.train.evaluating.best import BestModel
from danlu.train.evaluating.evaluation import Evaluation, Evaluator, HeldOut, check_best_metric
from danlu.train.interrupt import deferred_interrupt
from danlu.train.job import Job, Outcome
from danlu.train.memory import memory_errors
from danlu.train.metrics import Record, StepLog, resident_bytes
from danlu.train.noise import noisy_embeddings
from danlu.train.objective import take_metrics
from danlu.train.optimization.schedule import interval
from danlu.train.recompute import recomputed_blocks
from danlu.train.rng import own_rng, restore_rng, rng_state
from danlu.train.step import Stepper, StepResult

__all__ = ["CHECKPOINTS", "METRICS", "SAMPLES", "Job", "Outcome", "train"]

CHECKPOINTS, METRICS, SAMPLES = "checkpoints", "metrics.jsonl", "samples.jsonl"
B = TypeVar("B")
_log = logging.getLogger(__name__)


def train(job: Job[B], folder: Path, progress: Progress | None = None) -> Outcome:
    """Train to the last step, going on from the newest whole checkpoint in `folder`.

    Writes `metrics.jsonl`, `checkpoints/` and, if there are evaluations, `samples.jsonl` in
    `folder`; the last step always has a checkpoint. The decoder and its masters hold the trained
    weights afterwards: those of the last step, or of the best evaluation if the options say so. The
    random generators of python, numpy and torch are the run's own while it lasts.

    Raises:
        ConfigError: if nothing measures the number by which evaluations are to be compared.
        TrainingError: at a loss or gradient that is not finite, without memory, or with nothing to
            train.
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
        loop = _Loop(job, folder)
        resumed_from = loop.resume()
        job.decoder.train()
        try:
            loop.run(progress or Silent())
        finally:
            job.decoder.eval()
    return Outcome(loop.counters, resumed_from, loop.best.best)


@dataclass
class _Speed:
    """Tokens and seconds of the steps since the last line of metrics."""

    tokens: int = 0
    seconds: float = 0.0


class _Loop(Generic[B]):
    """The state of a run between two steps, and how it goes from one to the next."""

    def __init__(self, job: Job[B], folder: Path) -> None:
        options = job.options
        self.counters = Counters()
        self.best = BestModel(options, folder / CHECKPOINTS)
        self._job = job
        self._folder = folder
        self._stepper = Stepper(job)
        evaluations = _evaluations(job)
        check_best_metric(options.best_metric, evaluations, job.objective)
        every = (options.eval_every_steps, options.eval_every_epochs, job.epoch_steps)
        self._evaluator = Evaluator(job.decoder, evaluations, interval(*every))
        every_save = (options.save_every_steps, options.save_every_epochs, job.epoch_steps)
        self._save_every = interval(*every_save)
        self._speed = _Speed()
        self._started = self._saved = time.perf_counter()
        self._earlier_s = 0.0

    def resume(self) -> int | None:
        """Take over the newest whole checkpoint; return its step, None if there is none."""
        snapshot = load_newest(self._folder / CHECKPOINTS)
        if snapshot is None:
            return None
        self._job.masters.restore(snapshot.weights)
        self._stepper.optimizer.restore(snapshot.optimizer)
        self._stepper.scaling.restore(snapshot.scaling)
        self._job.source.seek(snapshot.cursor)
        restore_rng(dict(snapshot.rng))
        self.best.restore(snapshot.best)
        self.counters = snapshot.counters
        self._earlier_s = snapshot.counters.elapsed_s
        return snapshot.counters.step

    def run(self, progress: Progress) -> None:
        """Make the steps that are left, and take over the best weights where they are wanted."""
        job, step = self._job, self.counters.step
        with ExitStack() as stack:
            self._metrics = stack.enter_context(StepLog(self._folder / METRICS, step))
            if job.evaluations:
                self._samples = stack.enter_context(StepLog(self._folder / SAMPLES, step))
            stack.enter_context(memory_errors(job.options))
            mode = job.options.activation_checkpointing
            stack.enter_context(recomputed_blocks(job.decoder, mode))
            stack.enter_context(noisy_embeddings(job.decoder, job.options.neftune_alpha))
            self._make_steps(progress)
        weights = self.best.weights()
        if weights is not None:
            job.masters.restore(weights)

    def _make_steps(self, progress: Progress) -> None:
        steps = self._job.steps
        with deferred_interrupt() as interrupted, working(progress, "train", steps):
            progress.advance(min(self.counters.step, steps))
            while not self._is_done():
                record = self._step()
                progress.advance(1, _note(record))
                stop = interrupted()
                self._report(record)
                if stop or self._is_save_due():
                    self._save()
                if stop:
                    _log.info(
                        "Stopped after step %d, which is saved; the same command goes on from "
                        "there.",
                        self.counters.step,
                    )
                    raise KeyboardInterrupt

    def _is_done(self) -> bool:
        return self.counters.step >= self._job.steps or self.best.exhausted

    def _step(self) -> Record:
        """Make one optimizer step and return its line of metrics."""
        began = time.perf_counter()
        batches = self._job.source.next_step()
        result = self._stepper.make(self.counters.step, batches)
        self._speed.tokens += self._job.source.num_tokens()
        self._speed.seconds += time.perf_counter() - began
        return self._count(result)

    def _count(self, result: StepResult) -> Record:
        """Note a finished step; return its line of metrics."""
        tokens = self._job.source.num_tokens()
        self.counters = Counters(
            step=self.counters.step + 1,
            tokens=self.counters.tokens + tokens,
            targets=self.counters.targets + result.targets,
            elapsed_s=round(self._earlier_s + time.perf_counter() - self._started, 3),
        )
        norm = {} if result.grad_norm is None else {"grad_norm": result.grad_norm}
        return {
            "step": self.counters.step,
            "loss": result.loss,
            "learning_rate": result.learning_rate,
            **norm,
            "tokens": tokens,
            "targets": result.targets,
            "total_tokens": self.counters.tokens,
            "tokens_per_s": round(self._speed.tokens / max(self._speed.seconds, 1e-9), 1),
            "elapsed_s": self.counters.elapsed_s,
            **self._stepper.scaling.metrics(),
            **(take_metrics(self._job.objective) or {}),
        }

    def _report(self, record: Record) -> None:
        """Write what is due after a step: its metrics, and what evaluations find."""
        job, step = self._job, self.counters.step
        at_end = step == job.steps
        if step % job.options.log_every_steps == 0 or at_end:
            self._metrics.write(record)
            self._speed = _Speed()
        due = self._evaluator.others([]) if at_end else self._evaluator.due(step)
        self._evaluate(due)
        if self.best.exhausted and not at_end:
            self._evaluate(self._evaluator.others(due))

    def _evaluate(self, evaluations: list[Evaluation]) -> None:
        """Write what evaluations find, and keep the weights if they are the best so far."""
        step = self.counters.step
        found = self._evaluator.run(evaluations, step)
        if found.numbers:
            self._metrics.write({"step": step, **found.numbers})
        for sample in found.samples:
            self._samples.write({"step": step, **sample})
        if self.best.is_better(found.numbers, step):
            self.best.save(self.counters, self._job.masters.weights)

    def _is_save_due(self) -> bool:
        step, every = self.counters.step, self._save_every
        if self._is_done() or (every is not None and step % every == 0):
            return True
        minutes = self._job.options.save_every_minutes
        return minutes is not None and time.perf_counter() - self._saved >= 60 * minutes

    def _save(self) -> None:
        """Write a checkpoint, after the metrics it stands for."""
        self._metrics.sync()
        snapshot = Snapshot(
            counters=self.counters,
            cursor=self._job.source.cursor(),
            rng=rng_state(),
            weights=self._job.masters.weights,
            optimizer=self._stepper.optimizer.state_tensors(),
            scaling=self._stepper.scaling.state(),
            best=self.best.state(),
        )
        save_checkpoint(self._folder / CHECKPOINTS, snapshot, self._job.options.keep_checkpoints)
        self._saved = time.perf_counter()


def _evaluations(job: Job[B]) -> list[Evaluation]:
    """Return the held-out loss, if there is held-out data, and what else the job evaluates."""
    held_out: list[Evaluation] = []
    if job.held_out:
        held_out.append(HeldOut(job.objective, job.held_out))
    return [*held_out, *job.evaluations]


def _note(record: Record) -> str:
    """Return the live remark on a step: loss, learning rate, speed, memory."""
    return (
        f"loss {record['loss']:.3f}  lr {record['learning_rate']:.2e}  "
        f"{record['tokens_per_s']:,.0f} tok/s  {resident_bytes() / 2**30:.2f} GiB"
    )
