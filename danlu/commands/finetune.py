"""`danlu finetune`: a model further on conversations, with a LoRA adapter or whole."""

from pathlib import Path
from typing import Any

import torch

from danlu.commands.manifest import folder_hash
from danlu.commands.training import (
    check_length,
    facts,
    training_device,
    training_job,
    write_model,
)
from danlu.commands.training_data import conversation_rows
from danlu.config.run import FinetuneRun
from danlu.errors import CheckpointError
from danlu.files import atomic_folder, only_run
from danlu.loading import attach_adapter, load_decoder, load_tokenizer, save_adapter
from danlu.models.decoder import Decoder
from danlu.progress import Progress, Silent
from danlu.tokenizer import Tokenizer
from danlu.tokenizer.stamp import check_stamp, write_stamp
from danlu.train.loop import train
from danlu.train.manifest import data_files
from danlu.train.precision import DTYPES, Masters
from danlu.train.run_folder import RunFolder, RunResult


def run_finetune(run: FinetuneRun, progress: Progress | None = None) -> RunResult:
    """Teach a model conversations; write `adapter/`, or `model/` if all weights are trained.

    Only what the assistant writes is learned. The same run in the same folder goes on where it
    stopped; a finished one is returned at once.

    Raises:
        ConfigError, DataError, TokenizerError: if the run, its rows or the chat format is wrong.
        CheckpointError: if the model cannot be opened.
        OutputError: if the folder holds something else, is in use or cannot be written.
        TrainingError: at a loss or gradient that is not finite.
        KeyboardInterrupt: after Ctrl-C, once the running step is saved.
    """
    progress = progress or Silent()
    output = "model" if run.adapter is None else "adapter"
    with only_run(Path(run.out)):
        tokenizer, inputs = _open_inputs(run)
        folder = RunFolder(Path(run.out), "finetune", run, inputs, output)
        return folder.finished() or _train(run, tokenizer, folder, progress)


def _open_inputs(run: FinetuneRun) -> tuple[Tokenizer, dict[str, Any]]:
    """Return the tokenizer, and the hashes of everything the run is made of."""
    base = Path(run.model)
    if not base.is_dir():
        raise CheckpointError(
            f"There is no model at '{base}'; expected the folder of a checkpoint. "
            "Correct `model` in the run file."
        )
    tokenizer = load_tokenizer(base, run.family)
    check_stamp(base, tokenizer)
    if run.data.chat_format is not None:
        tokenizer = tokenizer.with_chat_format(run.data.chat_format)
    return tokenizer, {
        "data": data_files([*run.data.instructions, *(run.data.held_out or [])]),
        "tokenizer": tokenizer.fingerprint(),
        "model": {"path": run.model, "sha256": folder_hash(base)},
    }


def _train(
    run: FinetuneRun, tokenizer: Tokenizer, folder: RunFolder, progress: Progress
) -> RunResult:
    rows = conversation_rows(run.data, tokenizer, run.train, run.seed, progress)
    decoder, masters = _trainable(run, tokenizer)
    check_length(decoder, run.data.max_seq_len)
    job = training_job(decoder, masters, rows, run.train, run.seed)
    with folder.recording(rows.ledgers(), facts(decoder, rows, job.steps, [run.model])):
        outcome = train(job, folder.path, progress)
        with atomic_folder(folder.output, replace=True) as temporary:
            if run.adapter is None:
                write_model(decoder, masters, tokenizer, temporary, run.train, run.data.chat_format)
            else:
                save_adapter(decoder, temporary, run.model)
                write_stamp(temporary, tokenizer, run.data.chat_format, run.family)
        return folder.finish(outcome)


def _trainable(run: FinetuneRun, tokenizer: Tokenizer) -> tuple[Decoder, Masters]:
    """Return the model to train: whole, or with its base frozen in the compute dtype."""
    device, dtype = training_device(run.train), DTYPES[run.train.precision]
    if run.adapter is None:
        decoder = load_decoder(run.model, torch.float32, device, family=run.family)
        return decoder, Masters(decoder, dtype)
    decoder = load_decoder(run.model, dtype, device, family=run.family)
    generator = torch.Generator().manual_seed(run.seed)
    attach_adapter(decoder, run.adapter, generator, tokenizer=tokenizer)
    return decoder.to(device), Masters(decoder)
