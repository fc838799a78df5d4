"""The worker that fine-tunes a model with transformers, peft and bitsandbytes. Imports no Danlu.

Options are those of `benchmarks.finetuners` but for the data, of which it gets the `documents`
(see `benchmarks.finetuning_material`). `batching` is "grouped" (padded rows, similar lengths
together, as `train_sampling_strategy="group_by_length"`) or "blocks" (texts joined and cut).
"""

import gc
import random
import tempfile
from importlib import metadata
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    default_data_collator,
)
from transformers.trainer_pt_utils import get_length_grouped_indices

from benchmarks.process_memory import peak_bytes, resident_bytes
from benchmarks.step_times import StepTimes
from benchmarks.stock_trainer import optimizer_bytes, timed_trainer
from benchmarks.worker import Answer, options_of_worker, serve

SEED = 0
RANK, ALPHA = 16, 32
EMBEDDINGS = ["embed_tokens", "lm_head"]
PACKAGES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes")
Row = dict[str, Any]


class Documents:
    """The token documents of a file, as rows for a Trainer."""

    def __init__(self, path: str) -> None:
        with np.load(path) as arrays:
            self._ids, self._labels = arrays["ids"], arrays["labels"]
            ends = arrays["ends"].tolist()
        self._places = list(zip([0, *ends], ends, strict=False))

    def padded(self, batch_size: int, num_batches: int, seed: int) -> list[Row]:
        """Return batches that grouping by length makes: that of the longest row, then any.

        The first is the one that transformers puts first, too.
        """
        lengths = [end - start for start, end in self._places]
        generator = torch.Generator().manual_seed(seed)
        order = get_length_grouped_indices(lengths, batch_size, generator=generator)
        cuts = range(0, len(order) - batch_size + 1, batch_size)
        first, *others = [order[cut : cut + batch_size] for cut in cuts]
        chosen = [first, *random.Random(seed).sample(others, num_batches - 1)]
        return [self._row(*self._places[index]) for batch in chosen for index in batch]

    def blocks(self, length: int, count: int, seed: int) -> list[Row]:
        """Return blocks of the joined documents, in an order that `seed` chooses."""
        places = random.Random(seed).sample(self._places, len(self._places))
        order = np.concatenate([np.arange(start, end) for start, end in places])
        starts = range(0, len(order) - length + 1, length)
        chosen = [order[start : start + length] for start in starts][:count]
        return [
            {"input_ids": self._ids[each].tolist(), "labels": self._labels[each].tolist()}
            for each in chosen
        ]

    def _row(self, start: int, end: int) -> Row:
        return {
            "input_ids": self._ids[start:end].tolist(),
            "attention_mask": [1] * (end - start),
            "labels": self._labels[start:end].tolist(),
        }


def open_model(method: str, precision: str, path: str, token_rows: list[int]) -> Any:
    """Return the model to train; under an adapter in bf16 its base is bf16, else it is float32."""
    low = method != "full" and precision == "bf16"
    dtype = torch.bfloat16 if low else torch.float32
    options = {"quantization_config": _nf4(dtype)} if method == "qlora" else {}
    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, **options)
    model.config.use_cache = False
    return model if method == "full" else _adapted(model, method, token_rows)


def _nf4(dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def _adapted(model: Any, method: str, token_rows: list[int]) -> Any:
    """Return the model with LoRA, its base frozen.

    `prepare_model_for_kbit_training` is left out: it would cast the embedding to float32, which
    costs memory and changes nothing else that counts here.
    """
    from peft import LoraConfig, get_peft_model

    beside: dict[str, Any] = {}
    if method == "lora (emb)":
        beside["modules_to_save"] = EMBEDDINGS
    if method == "token rows":
        beside["trainable_token_indices"] = dict.fromkeys(EMBEDDINGS, token_rows)
    config = LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM", **beside
    )
    return get_peft_model(model, config)


class Finetuner:
    """A model with its data that is fine-tuned for some steps, again and again."""

    def __init__(
        self,
        method: str,
        precision: str,
        model: str,
        documents: str,
        batching: str,
        rows: int,
        micro_batches: int,
        max_seq_len: int,
        warm_ups: int,
        token_rows: list[int],
    ) -> None:
        self.batching, self.rows, self.micro_batches = batching, rows, micro_batches
        self.max_seq_len, self.warm_ups = max_seq_len, warm_ups
        self.full, self.bf16 = method == "full", precision == "bf16"
        self.documents = Documents(documents)
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.model = open_model(method, precision, model, token_rows)
        self._loaded, self._optimizer = resident_bytes(), 0

    def measure(self, steps: int, seed: int) -> Answer:
        """Return the speeds of `steps` steps after the warm-up, on rows that `seed` chooses."""
        gc.collect()  # of the Trainer before
        times = StepTimes()
        count = self.warm_ups + steps
        with tempfile.TemporaryDirectory(prefix="danlu-benchmark-") as folder:
            trainer = timed_trainer(
                self.model,
                self._dataset(count, seed),
                self._collator(),
                folder,
                times,
                max_steps=count,
                per_device_train_batch_size=self.rows,
                gradient_accumulation_steps=self.micro_batches,
                train_sampling_strategy="sequential",  # the order is that of the rows
                learning_rate=1e-5 if self.full else 2e-4,
                lr_scheduler_type="cosine",
                weight_decay=0.1,
                adam_beta2=0.95,
                max_grad_norm=1.0,
                bf16=self.bf16,
                seed=SEED,
            )
            trainer.train()
            self._optimizer = optimizer_bytes(trainer)
        return times.speeds(self.warm_ups)

    def _dataset(self, steps: int, seed: int) -> list[Row]:
        per_step = self.rows * self.micro_batches
        if self.batching == "blocks":
            return self.documents.blocks(self.max_seq_len, steps * per_step, seed)
        return self.documents.padded(per_step, steps, seed)

    def _collator(self) -> Any:
        if self.batching == "blocks":
            return default_data_collator
        return DataCollatorForSeq2Seq(self.tokenizer)

    def memory(self) -> Answer:
        """Return bytes: resident with the model loaded, at the peak, and of the optimizer."""
        trained = (each.numel() for each in self.model.parameters() if each.requires_grad)
        return {
            "loaded": self._loaded,
            "peak": peak_bytes(),
            "optimizer": self._optimizer,
            "trained": sum(trained),
        }

    def describe(self) -> Answer:
        """Return the versions of the packages."""
        installed = {each.metadata["Name"]: each.version for each in metadata.distributions()}
        return {"packages": {name: installed[name] for name in PACKAGES if name in installed}}


if __name__ == "__main__":
    finetuner = Finetuner(**options_of_worker())
    serve(
        {
            "measure": finetuner.measure,
            "memory": finetuner.memory,
            "describe": finetuner.describe,
        }
    )
