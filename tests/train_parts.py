"""Small parts that the training tests share: a decoder, rows, a job, and what a run left behind."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from danlu.adapters.handling import attach_adapter
from danlu.config.adapter import LoraConfig
from danlu.config.train import TrainOptions
from danlu.data.batch import IGNORE, Batch
from danlu.data.mixing.passes import SamePasses
from danlu.data.packing import PackedRow, TokenDocument, pack
from danlu.models.decoder import Decoder
from danlu.models.family import discover
from danlu.train.loop import CHECKPOINTS, METRICS, Job
from danlu.train.metrics import TIME_FIELDS, read_metrics
from danlu.train.objective import CausalLM
from danlu.train.precision import DTYPES, Masters
from danlu.train.source import RowSource, batches_of

torch.set_num_threads(1)  # on models this small, threads only wait for each other

SHAPE = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 61,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
}
STEPS = 6
OPTIONS: dict[str, Any] = {
    "steps": STEPS,
    "micro_batch_size": 2,
    "global_batch_size": 4,
    "learning_rate": 1e-2,
    "warmup_steps": 2,
    "save_every_steps": 2,
    "eval_every_steps": 3,
}


def tiny_decoder(seed: int = 0, **changes: object) -> Decoder:
    """Return a Llama-style decoder of two layers with seeded weights."""
    decoder = Decoder(discover()["llama"].config("llama", SHAPE | changes))
    decoder.init_weights(torch.Generator().manual_seed(seed))
    return decoder


def token_documents(count: int = 30, seed: int = 0) -> list[TokenDocument]:
    """Return documents of random tokens and lengths, some tokens not to be learned."""
    rng = random.Random(seed)
    documents = []
    for number in range(count):
        length = rng.randint(3, 16)
        ids = [rng.randrange(61) for _ in range(length)]
        mask = None if number % 2 else [rng.random() < 0.7 for _ in range(length - 1)] + [True]
        documents.append(masked_document(ids, mask, f"data.jsonl:{number + 1}"))
    return documents


def masked_document(ids: list[int], mask: list[bool] | None, origin: str) -> TokenDocument:
    """Return a document of which the masked tokens are learned, all without a mask."""
    labels = None if mask is None else np.where(mask, ids, IGNORE)
    return TokenDocument(ids, labels, origin=origin)


def packed_rows() -> list[PackedRow]:
    """Return rows of up to 24 tokens."""
    return pack(token_documents(), 24)


def tiny_job(*, lora: LoraConfig | None = None, **changes: Any) -> Job[Batch]:
    """Return a job of a few steps on a fresh decoder; keywords change the options."""
    options = TrainOptions(**OPTIONS | changes)
    decoder, dtype = tiny_decoder(), DTYPES[options.precision]
    if lora is None:
        masters = Masters(decoder, dtype)
    else:
        attach_adapter(decoder.to(dtype), lora, torch.Generator().manual_seed(0))
        masters = Masters(decoder)
    rows = packed_rows()
    batch_sizes = options.micro_batch_size, options.global_batch_size
    source = RowSource(SamePasses(rows), 0, *batch_sizes)
    held_out = batches_of(rows[:3], 2)
    return Job(decoder, masters, CausalLM(), source, held_out, options, options.steps or 0, seed=0)


def left_behind(folder: Path, job: Job[Batch]) -> dict[str, Any]:
    """Return everything that must be equal between equal runs."""
    last = folder / CHECKPOINTS / f"step-{job.steps:06d}"
    return {
        "weights": {name: tensor.tolist() for name, tensor in job.masters.weights.items()},
        "files": [(last / f"{name}.safetensors").read_bytes() for name in ("weights", "optimizer")],
        "metrics": timeless(folder),
    }


def timeless(folder: Path) -> list[dict[str, float]]:
    """Return the metrics of a run without what a clock measured."""
    records = read_metrics(folder / METRICS)
    return [{k: v for k, v in record.items() if k not in TIME_FIELDS} for record in records]
