"""The worker that fine-tunes a model on an accelerator; `benchmarks.gpu_finetuning` asks it.

It runs steps of the loop of `danlu finetune`, without its checkpoints, on rows of random tokens
that are all learned.

Options: `method` (of `benchmarks.finetuners`), `model` (folder), `device`.
"""

import gc
import time
from typing import Any

import torch

from benchmarks.finetuners import METHODS, SEED, train_options
from benchmarks.process_memory import peak_bytes
from benchmarks.worker import Answer, options_of_worker, serve
from danlu.commands.training import training_job
from danlu.commands.training_data import TrainingRows
from danlu.commands.tuning import masters_of, open_tuned
from danlu.config.tuning import Tuning
from danlu.data.ledger import Ledger
from danlu.data.mixing.passes import SamePasses
from danlu.data.packing import TokenDocument, pack
from danlu.loading import load_tokenizer
from danlu.train.job import Job
from danlu.train.recompute import recomputed_blocks
from danlu.train.step import Stepper

ACCUMULATION = 8
RECOMPUTE = "full"


class Finetuner:
    """A model that is fine-tuned for some steps at any length: batch 1, accumulation 8."""

    def __init__(self, method: str, model: str, device: str) -> None:
        recompute = {"device": device, "activation_checkpointing": RECOMPUTE}
        self.options = train_options(method, "bf16", 1, ACCUMULATION).model_copy(update=recompute)
        run = Tuning(out="nowhere", seed=SEED, model=model, **METHODS[method])
        generator = torch.Generator().manual_seed(SEED)
        self.decoder = open_tuned(run, self.options, load_tokenizer(model), generator)
        self.masters = masters_of(run, self.decoder, self.options)

    def measure(self, length: int, steps: int) -> Answer:
        """Return seconds per step after a first one, and peak bytes; {} if memory is too small."""
        try:
            return self._measure(length, steps)
        except torch.OutOfMemoryError:
            self.masters.clear()
            return {}
        finally:
            gc.collect()
            if self.decoder.device.type != "cpu":
                torch.accelerator.empty_cache()

    def _measure(self, length: int, steps: int) -> Answer:
        device = self.decoder.device
        if device.type != "cpu":
            torch.accelerator.reset_peak_memory_stats(device)
        job = self._job(length, steps + 1)
        stepper = Stepper(job)
        self.decoder.train()
        with recomputed_blocks(self.decoder, RECOMPUTE):
            self._step(stepper, job, 0)
            start = time.perf_counter()
            for step in range(1, steps + 1):
                self._step(stepper, job, step)
            seconds = (time.perf_counter() - start) / steps
        if device.type == "cpu":
            return {"s_per_step": seconds, "peak": peak_bytes()}
        peak = torch.accelerator.max_memory_allocated(device)
        return {"s_per_step": seconds, "peak": peak}

    def _job(self, length: int, steps: int) -> Job[Any]:
        generator = torch.Generator().manual_seed(SEED)
        shape = (steps * ACCUMULATION, length)
        ids = torch.randint(self.decoder.config.vocab_size, shape, generator=generator)
        documents = [TokenDocument(row.numpy()) for row in ids]
        rows = TrainingRows(length, SamePasses(pack(documents, length, SEED)), Ledger())
        options = self.options.model_copy(update={"steps": steps})
        return training_job(self.decoder, self.masters, rows, options, SEED)

    def _step(self, stepper: Stepper[Any], job: Job[Any], step: int) -> None:
        stepper.make(step, job.source.next_step())
        if self.decoder.device.type != "cpu":
            torch.accelerator.synchronize(self.decoder.device)


if __name__ == "__main__":
    serve({"measure": Finetuner(**options_of_worker()).measure})
