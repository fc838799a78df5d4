"""What pre-training and fine-tuning share: rows to train on, the job, and the model at the end."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from danlu.config.train import TrainOptions
from danlu.data.ledger import Ledger
from danlu.data.packing import LongPolicy, PackedRow, TokenDocument, fit_documents, pack
from danlu.engine.placement import choose_device
from danlu.errors import ConfigError
from danlu.loading import save_decoder
from danlu.models.decoder import Decoder
from danlu.tokenizer import Tokenizer
from danlu.tokenizer.stamp import write_stamp
from danlu.train.loop import Job
from danlu.train.manifest import packing_counts, parameter_counts, parents
from danlu.train.objective import CausalLM
from danlu.train.precision import DTYPES, Masters
from danlu.train.source import PackedSource, batches_of


@dataclass(frozen=True)
class TrainingRows:
    """Packed rows to train on and to evaluate on, and what became of the documents."""

    max_seq_len: int
    rows: list[PackedRow]
    ledger: Ledger
    held_out: list[PackedRow] = field(default_factory=list)
    held_out_ledger: Ledger = field(default_factory=Ledger)

    def ledgers(self) -> dict[str, Any]:
        """Return the ledger of the training data with that of the held-out data in it."""
        return {**self.ledger.summary(), "held_out": self.held_out_ledger.summary()}


def pack_rows(
    documents: Iterable[TokenDocument],
    held_out: Iterable[TokenDocument],
    max_seq_len: int,
    policy: LongPolicy,
    seed: int,
    max_dropped: int | None = None,
) -> TrainingRows:
    """Return the documents as rows.

    Args:
        documents: to train on.
        held_out: only to evaluate on.
        max_seq_len: tokens of a row.
        policy: what happens to longer documents.
        seed: of the packing.
        max_dropped: more dropped documents than this are an error; None: any number.

    Raises:
        DataError: if too many documents were dropped, or none is left.
    """
    ledgers = Ledger(), Ledger()
    kept = fit_documents(documents, max_seq_len, policy, ledgers[0])
    ledgers[0].check(len(ledgers[0].dropped) if max_dropped is None else max_dropped)
    kept_held_out = fit_documents(held_out, max_seq_len, policy, ledgers[1])
    return TrainingRows(
        max_seq_len,
        pack(kept, max_seq_len, seed),
        ledgers[0],
        pack(kept_held_out, max_seq_len, seed),
        ledgers[1],
    )


def training_job(
    decoder: Decoder, masters: Masters, rows: TrainingRows, options: TrainOptions, seed: int
) -> Job[Any]:
    """Return the job of next-token prediction on packed rows, on the decoder's device."""
    device = str(decoder.device)
    source = PackedSource(
        rows.rows, seed, options.micro_batch_size, options.global_batch_size, device
    )
    return Job(
        decoder=decoder,
        masters=masters,
        objective=CausalLM(),
        source=source,
        held_out=batches_of(rows.held_out, options.micro_batch_size, device),
        options=options,
        steps=count_steps(options, len(rows.rows)),
        seed=seed,
    )


def count_steps(options: TrainOptions, num_rows: int) -> int:
    """Return the optimizer steps of a run over `num_rows` rows.

    Raises:
        ConfigError: if the warm-up is longer than the run.
    """
    if options.steps is not None:
        return options.steps
    assert options.epochs is not None
    steps = max(1, math.ceil(options.epochs * num_rows / options.global_batch_size))
    if options.warmup_steps > steps:
        raise ConfigError(
            f"train.epochs {options.epochs} of {num_rows} rows are {steps} steps; expected at "
            f"least the {options.warmup_steps} of train.warmup_steps. Lower it, or train longer."
        )
    return steps


def facts(
    decoder: Decoder, rows: TrainingRows, steps: int, models: Sequence[str] = ()
) -> dict[str, Any]:
    """Return what a manifest tells of data and model, and of the models it began with."""
    counts = {
        "steps": steps,
        "parameters": parameter_counts(decoder),
        "data": packing_counts(rows.rows, rows.max_seq_len),
        "held_out": packing_counts(rows.held_out, rows.max_seq_len),
    }
    return {"counts": counts, "parents": parents(models)}


def check_length(decoder: Decoder, max_seq_len: int) -> None:
    """Refuse rows longer than the model was made for.

    Raises:
        ConfigError: telling both lengths.
    """
    limit = decoder.max_text_tokens
    if max_seq_len > limit:
        raise ConfigError(
            f"data.max_seq_len {max_seq_len} is longer than the model allows; expected at most "
            f"{limit}, its context less what a prefix takes. Lower data.max_seq_len."
        )


def training_device(options: TrainOptions) -> torch.device:
    """Return the device that the options name."""
    return choose_device(options.device)


def write_model(
    decoder: Decoder,
    masters: Masters,
    tokenizer: Tokenizer,
    folder: Path,
    options: TrainOptions,
    chat_format: str | None = None,
) -> None:
    """Write the trained decoder and its tokenizer into `folder`, for Danlu and transformers.

    The weights come from the float32 masters, rounded once. The decoder is cast on the way.
    """
    name = options.save_dtype or options.precision
    masters.export(decoder, DTYPES[name])
    assert decoder.published is not None
    stops: Sequence[int] = tokenizer.stop_ids(chat_format)
    special = {"bos_token_id": tokenizer.bos_id, "pad_token_id": tokenizer.pad_id}
    generation = {**(decoder.published.generation_config or {}), **special}
    dtype_name = str(DTYPES[name]).removeprefix("torch.")
    decoder.published = replace(
        decoder.published,
        config={
            **decoder.published.config,
            **special,
            "eos_token_id": tokenizer.eos_id,
            "torch_dtype": dtype_name,
        },
        generation_config={**generation, "eos_token_id": list(stops) or None},
    )
    save_decoder(decoder, folder, DTYPES[name])
    tokenizer.save(folder)
    write_stamp(folder, tokenizer, chat_format, decoder.published.family)
