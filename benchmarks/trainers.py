"""The worker that holds one training stack; `benchmarks.training` asks it for rounds of steps.

Options: stack ("danlu" or "transformers"), task ("pretrain" or "lora"), precision, `model` (a
folder), `data` (file of token documents), `rows` (per batch; None: the plan's), `warm_ups`.
"""

import json
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.step_times import Clock, StepTimes
from benchmarks.worker import Answer, options_of_worker, serve
from danlu.commands.tour.plan import TourPlan, default_plan
from danlu.config.train import TrainOptions

IGNORE = -100
SEED = 0


class Stack(ABC):
    """A model with its data that can be trained for some steps, again and again.

    Args:
        task: "pretrain" or "lora".
        precision: "bf16" or "fp32".
        model: folder of the model to begin with.
        data: JSON file with a list of [ids, mask of learned tokens or null].
        rows: rows per batch.
        warm_ups: steps of every round that do not count.
    """

    def __init__(
        self, task: str, precision: str, model: str, data: str, rows: int | None, warm_ups: int
    ) -> None:
        self.plan: TourPlan = default_plan()
        planned = self.plan.pretrain if task == "pretrain" else self.plan.finetune
        self.rows = rows or planned.micro_batch_size
        self.options: TrainOptions = planned.model_copy(
            update={
                "precision": precision,
                "micro_batch_size": self.rows,
                "global_batch_size": self.rows,
                "device": "cpu",
            }
        )
        self.task, self.model, self.warm_ups = task, model, warm_ups
        self.documents: list[tuple[list[int], list[bool] | None]] = json.loads(
            Path(data).read_text(encoding="utf-8")
        )

    @abstractmethod
    def train(self, steps: int, times: StepTimes) -> None:
        """Make `steps` steps; note the time after each, and its tokens."""

    def measure(self, steps: int) -> Answer:
        """Return real and learned tokens per second of `steps` steps after the warm-up."""
        times = StepTimes()
        self.train(self.warm_ups + steps, times)
        return times.speeds(self.warm_ups)


class DanluStack(Stack):
    """What `danlu pretrain` and `danlu finetune` run: packed rows, masters, the one loop."""

    def __init__(self, **options: Any) -> None:
        from danlu.commands.training_data import TrainingRows
        from danlu.data.ledger import Ledger
        from danlu.data.mixing.passes import SamePasses
        from danlu.data.packing import IGNORE, TokenDocument, pack

        super().__init__(**options)
        documents = [
            TokenDocument(ids, None if mask is None else np.where(mask, ids, IGNORE))
            for ids, mask in self.documents
        ]
        length = self.plan.max_seq_len
        if self.task != "pretrain":  # where they would be cut
            documents = [each for each in documents if len(each.ids) <= length]
        passes = SamePasses(pack(documents, length, SEED))
        self._rows = TrainingRows(length, passes, Ledger())
        self._decoder, self._masters = self._trainable()

    def _trainable(self) -> tuple[Any, Any]:
        from danlu.loading import attach_adapter, load_decoder
        from danlu.train.precision import DTYPES, Masters

        dtype = DTYPES[self.options.precision]
        if self.task == "pretrain":
            decoder = load_decoder(self.model, torch.float32)
            return decoder, Masters(decoder, dtype)
        decoder = load_decoder(self.model, dtype)
        attach_adapter(decoder, self.plan.adapter, torch.Generator().manual_seed(SEED))
        return decoder, Masters(decoder)

    def train(self, steps: int, times: StepTimes) -> None:
        """Run the loop in a new folder; its checkpoint comes after the last step's time."""
        from danlu.commands.training import training_job
        from danlu.train.loop import METRICS, train
        from danlu.train.metrics import read_metrics

        options = self.options.model_copy(
            update={"steps": steps, "warmup_steps": 0, "save_every_steps": steps}
        )
        job = training_job(self._decoder, self._masters, self._rows, options, SEED)
        with tempfile.TemporaryDirectory(prefix="danlu-benchmark-") as folder:
            train(job, Path(folder), Clock(times))
            records = read_metrics(Path(folder) / METRICS)
        times.counts += [(int(line["tokens"]), int(line["targets"])) for line in records]


class TransformersStack(Stack):
    """`Trainer` as its users run it: blocks of joined text; padded rows and peft for LoRA."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._dataset = self._blocks() if self.task == "pretrain" else self._conversations()
        self._network = self._trainable()

    def _blocks(self) -> list[dict[str, Any]]:
        """Join all documents and cut them into full blocks."""
        length = self.plan.max_seq_len
        joined = [token for ids, _ in self.documents for token in ids]
        starts = range(0, len(joined) - length + 1, length)
        blocks = [joined[start : start + length] for start in starts]
        return [{"input_ids": block, "labels": block} for block in blocks]

    def _conversations(self) -> list[dict[str, Any]]:
        """One row for each conversation, learned where the mask says."""
        return [
            {
                "input_ids": ids,
                "attention_mask": [1] * len(ids),
                "labels": [t if m else IGNORE for t, m in zip(ids, mask or [], strict=True)],
            }
            for ids, mask in self.documents
        ]

    def _trainable(self) -> Any:
        """Return the model; its base is in bf16 for LoRA in bf16, else the weights are float32."""
        from transformers import AutoModelForCausalLM

        lora = self.task == "lora"
        low = lora and self.options.precision == "bf16"
        model = AutoModelForCausalLM.from_pretrained(
            self.model, dtype=torch.bfloat16 if low else torch.float32
        )
        model.config.use_cache = False
        return self._with_lora(model) if lora else model

    def _with_lora(self, model: Any) -> Any:
        from peft import LoraConfig, get_peft_model

        adapter = self.plan.adapter
        return get_peft_model(
            model,
            LoraConfig(
                r=adapter.lora_rank,
                lora_alpha=round(adapter.lora_alpha),
                target_modules="all-linear",
                task_type="CAUSAL_LM",
            ),
        )

    def train(self, steps: int, times: StepTimes) -> None:
        """Run a new Trainer without logging, evaluating and saving."""
        from benchmarks.stock_trainer import timed_trainer

        options = self.options
        with tempfile.TemporaryDirectory(prefix="danlu-benchmark-") as folder:
            timed_trainer(
                self._network,
                self._dataset,
                self._collator(),
                folder,
                times,
                max_steps=steps,
                per_device_train_batch_size=self.rows,
                learning_rate=options.learning_rate,
                lr_scheduler_type="cosine",
                weight_decay=options.weight_decay,
                adam_beta2=options.betas[1],
                max_grad_norm=options.max_grad_norm or 0.0,
                bf16=options.precision == "bf16",
                seed=SEED,
            ).train()

    def _collator(self) -> Any:
        from transformers import AutoTokenizer, DataCollatorForSeq2Seq, default_data_collator

        if self.task == "pretrain":
            return default_data_collator
        return DataCollatorForSeq2Seq(AutoTokenizer.from_pretrained(self.model))


def make_stack(stack: str, **options: Any) -> Stack:
    """Return the stack that a worker's options describe."""
    kinds: dict[str, type[Stack]] = {"danlu": DanluStack, "transformers": TransformersStack}
    return kinds[stack](**options)


if __name__ == "__main__":
    made = make_stack(**options_of_worker())
    serve({"measure": made.measure})
