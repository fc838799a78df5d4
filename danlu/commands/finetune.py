"""`danlu finetune`: a model further on conversations, with an adapter or whole."""

import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch

from danlu.commands.data.inspect.sample import sample_text
from danlu.commands.training import check_length, facts, training_job
from danlu.commands.training_data import chat_encoder, conversation_rows
from danlu.commands.tuning import masters_of, open_inputs, open_tuned, write_tuned
from danlu.config.run import FinetuneRun
from danlu.data.conversations import read_conversations
from danlu.errors import TokenizerError
from danlu.eval.generation import text_evaluations
from danlu.files import atomic_folder, only_run, write_text
from danlu.models.decoder import Decoder
from danlu.progress import Progress, Silent
from danlu.tokenizer import Tokenizer
from danlu.train.evaluating.evaluation import Evaluation
from danlu.train.loop import train
from danlu.train.memory import memory_errors
from danlu.train.run_folder import RunFolder, RunResult

SAMPLE = "sample.txt"
_log = logging.getLogger(__name__)


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
        sources = [*run.data.instructions, *run.data.held_out_sources]
        tokenizer, inputs = open_inputs(run, run.data.chat_format, sources)
        folder = RunFolder(Path(run.out), "finetune", run, inputs, output)
        return folder.finished() or _train(run, tokenizer, folder, progress)


def _train(
    run: FinetuneRun, tokenizer: Tokenizer, folder: RunFolder, progress: Progress
) -> RunResult:
    rows = conversation_rows(run.data, tokenizer, run.train, run.seed, progress)
    generator = torch.Generator().manual_seed(run.seed)
    with memory_errors(run.train):
        decoder = open_tuned(run, run.train, tokenizer, generator)
        masters = masters_of(run, decoder, run.train)
    check_length(decoder, run.data.max_seq_len)
    evaluations = _evaluations(run, decoder, tokenizer, folder.path)
    job = training_job(decoder, masters, rows, run.train, run.seed, evaluations)
    with folder.recording(rows.ledgers, facts(decoder, rows, job.steps, _models(run))):
        _write_sample(run, tokenizer, folder.path)
        outcome = train(job, folder.path, progress)
        with atomic_folder(folder.output, replace=True) as temporary:
            write_tuned(
                run, run.train, decoder, masters, tokenizer, temporary, run.data.chat_format
            )
        return folder.finish(outcome)


def _write_sample(run: FinetuneRun, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the first conversation that is learned as the model sees it."""
    encoder = chat_encoder(run.data, tokenizer)()
    for row in read_conversations(run.data.instructions[0], []):
        with suppress(TokenizerError):  # wrong rows are dropped, and are in the ledger
            text = encoder.rendered(row)
            if not text.problem:
                write_text(folder / SAMPLE, sample_text(tokenizer, text, row.origin) + "\n")
                _log.info("A sample, as the model reads and learns it: %s", folder / SAMPLE)
                return


def _models(run: FinetuneRun) -> list[str]:
    return [path for path in (run.model, run.warm_start) if path is not None]


def _evaluations(
    run: FinetuneRun, decoder: Decoder, tokenizer: Tokenizer, folder: Path
) -> Sequence[Evaluation]:
    if run.evaluation is None:
        return ()
    held_out = [row for one in run.data.held_out_sources for row in read_conversations(one)]
    return text_evaluations(run.evaluation, decoder, tokenizer, held_out, folder)
