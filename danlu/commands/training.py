"""What pre-training and fine-tuning share: the job, its facts, and the model at the end."""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from danlu.adapters.handling import lr_scales
from danlu.commands.training_data import TrainingRows
from danlu.config.train import TrainOptions
from danlu.data.mixing.passes import Passes, rows_in
from danlu.engine.placement import choose_device
from danlu.errors import ConfigError
from danlu.loading import save_decoder
from danlu.models.decoder import Decoder
from danlu.tokenizer import Tokenizer
from danlu.tokenizer.stamp import write_stamp
from danlu.train.evaluating.evaluation import Evaluation
from danlu.train.loop import Job
from danlu.train.manifest import packing_counts, parameter_counts, parents
from danlu.train.objective import CausalLM
from danlu.train.precision import DTYPES, Masters
from danlu.train.source import RowSource

_log = logging.getLogger(__name__)


def training_job(
    decoder: Decoder,
    masters: Masters,
    rows: TrainingRows,
    options: TrainOptions,
    seed: int,
    evaluations: Sequence[Evaluation] = (),
) -> Job[Any]:
    """Return the job of next-token prediction on rows, on the decoder's device.

    Args:
        decoder: the model, with its adapter.
        masters: its trainable weights.
        rows: to train on and to evaluate on.
        options: how to train.
        seed: of the order of rows, and of everything else that is drawn.
        evaluations: what is evaluated beside the held-out loss.
    """
    device, micro_batch_size = str(decoder.device), options.micro_batch_size
    _tell_small_data(options, rows)
    source = RowSource(
        rows.passes, seed, micro_batch_size, options.global_batch_size, device, rows.batching
    )
    return Job(
        decoder=decoder,
        masters=masters,
        objective=CausalLM(),
        source=source,
        held_out=rows.batching.cut(rows.held_out, micro_batch_size, device),
        options=options,
        steps=count_steps(options, rows.passes),
        seed=seed,
        evaluations=evaluations,
        lr_scales=lr_scales(decoder),
        epoch_steps=_epoch_steps(options, rows),
    )


def _tell_small_data(options: TrainOptions, rows: TrainingRows) -> None:
    if rows.is_streamed:
        return
    count, size = int(rows_in(rows.passes, 1.0)), options.global_batch_size
    if size > count:
        _log.warning(
            "The data is %d rows of %d tokens, and a step takes %d (train.global_batch_size), so "
            "that every step learns all of it, %.3g times.",
            count,
            rows.max_seq_len,
            size,
            size / count,
        )


def _epoch_steps(options: TrainOptions, rows: TrainingRows) -> float | None:
    """Return the steps of one pass over the data; None for a stream, whose end nobody knows."""
    return None if rows.is_streamed else rows_in(rows.passes, 1.0) / options.global_batch_size


def count_steps(options: TrainOptions, passes: Passes) -> int:
    """Return the optimizer steps of a run.

    Raises:
        ConfigError: if the warm-up is longer than the run.
    """
    if options.steps is not None:
        return options.steps
    assert options.epochs is not None
    return steps_of_epochs(options, rows_in(passes, options.epochs))


def steps_of_epochs(options: TrainOptions, num_rows: float) -> int:
    """Return the optimizer steps over the `num_rows` rows that `options.epochs` stands for.

    Raises:
        ConfigError: if the warm-up is longer than the run.
    """
    steps = max(1, math.ceil(num_rows / options.global_batch_size))
    if options.warmup_steps > steps:
        raise ConfigError(
            f"train.epochs {options.epochs} are {num_rows:.0f} rows and {steps} steps; expected at "
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
        "data": {} if rows.is_streamed else packing_counts(rows.passes.rows(0), rows.max_seq_len),
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
