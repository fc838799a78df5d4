"""The worker that holds a model in Danlu and fine-tunes it; `benchmarks.finetuning` asks it.

It runs what `danlu finetune` runs, part by part: the rows of the sources, the model with its
adapter, the job, the loop.

Options: `method` (see `run_of`), `precision`, `model` and `cache` (folders), `sources`, `batching`,
`rows` (per micro-batch), `micro_batches` (per step), `max_seq_len`, `warm_ups`.
"""

import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.process_memory import peak_bytes, resident_bytes
from benchmarks.step_times import Clock, StepTimes
from benchmarks.worker import Answer, options_of_worker, serve
from danlu.commands.training import training_job
from danlu.commands.training_data import conversation_rows
from danlu.commands.tuning import masters_of, open_tuned
from danlu.config.adapter import LoraConfig
from danlu.config.data import DataSource, FinetuneData
from danlu.config.run import FinetuneRun
from danlu.config.train import TrainOptions
from danlu.loading import load_tokenizer
from danlu.progress import Silent
from danlu.train.loop import CHECKPOINTS, METRICS, train
from danlu.train.metrics import read_metrics

SEED = 0
RANK, ALPHA = 16, 32.0
LORA = LoraConfig(lora_rank=RANK, lora_alpha=ALPHA)
EMBEDDINGS = ["embed_tokens", "lm_head"]
METHODS: dict[str, dict[str, Any]] = {
    "full": {"adapter": None},
    "lora": {"adapter": LORA},
    "qlora": {"adapter": LORA, "quantize": "nf4"},
    "token rows": {"adapter": LORA.model_copy(update={"token_rows": "control"})},
    "lora (emb)": {"adapter": LORA.model_copy(update={"whole": EMBEDDINGS})},
}


def train_options(method: str, precision: str, rows: int, micro_batches: int) -> TrainOptions:
    """Return how a model is trained here; `steps` is to be replaced."""
    return TrainOptions(
        steps=1,
        micro_batch_size=rows,
        global_batch_size=rows * micro_batches,
        learning_rate=1e-5 if method == "full" else 2e-4,
        precision=precision,
    )


class Finetuner:
    """A model with its data that is fine-tuned for some steps, again and again."""

    def __init__(
        self,
        method: str,
        precision: str,
        model: str,
        cache: str,
        sources: list[dict[str, Any]],
        batching: str,
        rows: int,
        micro_batches: int,
        max_seq_len: int,
        warm_ups: int,
    ) -> None:
        options = train_options(method, precision, rows, micro_batches)
        options = options.model_copy(update={"device": "cpu"})
        data = FinetuneData(
            instructions=[DataSource(**source) for source in sources],
            max_seq_len=max_seq_len,
            long="truncate",
            batching=batching,
            cache=cache,
        )
        run = FinetuneRun(
            out="nowhere", seed=SEED, model=model, data=data, train=options, **METHODS[method]
        )
        tokenizer = load_tokenizer(model)
        self.options, self.warm_ups = options, warm_ups
        self.rows = conversation_rows(data, tokenizer, options, SEED, Silent())
        generator = torch.Generator().manual_seed(SEED)
        self.decoder = open_tuned(run, options, tokenizer, generator)
        self.masters = masters_of(run, self.decoder, options)
        self._loaded, self._optimizer = resident_bytes(), 0

    def measure(self, steps: int, seed: int) -> Answer:
        """Return the speeds of `steps` steps after the warm-up, on rows that `seed` chooses."""
        count = self.warm_ups + steps
        options = self.options.model_copy(update={"steps": count, "save_every_steps": count})
        job = training_job(self.decoder, self.masters, self.rows, options, seed)
        times = StepTimes()
        with tempfile.TemporaryDirectory(prefix="danlu-benchmark-") as folder:
            train(job, Path(folder), Clock(times))
            records = read_metrics(Path(folder) / METRICS)
            states = Path(folder, CHECKPOINTS).glob("*/optimizer.safetensors")
            self._optimizer = sum(file.stat().st_size for file in states)
        times.counts += [(int(line["tokens"]), int(line["targets"])) for line in records]
        return times.speeds(self.warm_ups)

    def memory(self) -> Answer:
        """Return bytes: resident with the model loaded, at the peak, and of the optimizer."""
        return {
            "loaded": self._loaded,
            "peak": peak_bytes(),
            "optimizer": self._optimizer,
            "trained": sum(weight.numel() for weight in self.masters.weights.values()),
        }


if __name__ == "__main__":
    finetuner = Finetuner(**options_of_worker())
    serve({"measure": finetuner.measure, "memory": finetuner.memory})
