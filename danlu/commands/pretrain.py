"""`danlu pretrain`: a Llama-style model from scratch on raw text."""

from pathlib import Path

import torch

from danlu.commands.training import facts, training_device, training_job, write_model
from danlu.commands.training_data import corpus_rows
from danlu.config.run import PretrainRun
from danlu.files import atomic_folder, only_run
from danlu.loading import new_decoder
from danlu.progress import Progress, Silent
from danlu.tokenizer import Tokenizer, load_tokenizer
from danlu.train.loop import train
from danlu.train.manifest import data_files
from danlu.train.memory import memory_errors
from danlu.train.precision import DTYPES, Masters
from danlu.train.run_folder import RunFolder, RunResult


def run_pretrain(run: PretrainRun, progress: Progress | None = None) -> RunResult:
    """Train a model from scratch and write it to `model/` in the run's folder.

    The same run in the same folder goes on where it stopped; a finished one is returned at once.

    Raises:
        ConfigError, DataError, TokenizerError: if the run, its text or its tokenizer is wrong.
        OutputError: if the folder holds something else, is in use or cannot be written.
        TrainingError: at a loss or gradient that is not finite.
        KeyboardInterrupt: after Ctrl-C, once the running step is saved.
    """
    progress = progress or Silent()
    with only_run(Path(run.out)):
        tokenizer = load_tokenizer(run.tokenizer)
        inputs = {
            "data": data_files([*run.data.corpus, *(run.data.held_out or [])]),
            "tokenizer": tokenizer.fingerprint(),
        }
        folder = RunFolder(Path(run.out), "pretrain", run, inputs, "model")
        return folder.finished() or _train(run, tokenizer, folder, progress)


def _train(
    run: PretrainRun, tokenizer: Tokenizer, folder: RunFolder, progress: Progress
) -> RunResult:
    rows = corpus_rows(run.data, tokenizer, run.train, run.seed, progress)
    with memory_errors(run.train):
        decoder = new_decoder(run.model, tokenizer.vocab_size)
        decoder.init_weights(torch.Generator().manual_seed(run.seed))
        decoder.to(training_device(run.train))
        masters = Masters(decoder, DTYPES[run.train.precision])
    job = training_job(decoder, masters, rows, run.train, run.seed)
    with folder.recording(rows.ledgers, facts(decoder, rows, job.steps)):
        outcome = train(job, folder.path, progress)
        with atomic_folder(folder.output, replace=True) as temporary:
            write_model(decoder, masters, tokenizer, temporary, run.train)
        return folder.finish(outcome)
