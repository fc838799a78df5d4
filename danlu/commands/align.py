"""`danlu align`: a model taught what people prefer, with an adapter or whole."""

from pathlib import Path
from typing import Any

from danlu.adapters.handling import lr_scales
from danlu.commands.policy import open_policy, open_reference, write_policy
from danlu.commands.preferences import Preferences, batches_of, objective_of, read_all
from danlu.commands.training import check_length, steps_of_epochs
from danlu.commands.tuning import open_inputs
from danlu.config.align import AlignRun
from danlu.files import atomic_folder, only_run
from danlu.models.decoder import Decoder
from danlu.progress import Progress, Silent
from danlu.tokenizer import Tokenizer
from danlu.train.loop import Job, train
from danlu.train.manifest import parameter_counts, parents
from danlu.train.memory import memory_errors
from danlu.train.precision import Masters
from danlu.train.preference.source import ExampleSource
from danlu.train.run_folder import RunFolder, RunResult


def run_align(run: AlignRun, progress: Progress | None = None) -> RunResult:
    """Teach a model preferences; write `adapter/`, or `model/` if all weights are trained.

    The same run in the same folder goes on where it stopped; a finished one is returned at once.

    Raises:
        ConfigError, DataError, TokenizerError: if the run, its rows or the chat format is wrong.
        AdapterError, CheckpointError: if a model or adapter cannot be opened.
        OutputError: if the folder holds something else, is in use or cannot be written.
        TrainingError: at a loss or gradient that is not finite.
        KeyboardInterrupt: after Ctrl-C, once the running step is saved.
    """
    progress = progress or Silent()
    output = "model" if run.adapter is None else "adapter"
    with only_run(Path(run.out)):
        sources = [*run.data.sources, *run.data.held_out_sources]
        others = {"reference.model": run.reference.model}
        tokenizer, inputs = open_inputs(run, run.data.chat_format, sources, others)
        folder = RunFolder(Path(run.out), "align", run, inputs, output)
        return folder.finished() or _train(run, tokenizer, folder, inputs, progress)


def _train(
    run: AlignRun,
    tokenizer: Tokenizer,
    folder: RunFolder,
    inputs: dict[str, Any],
    progress: Progress,
) -> RunResult:
    preferences = read_all(run.data, run.objective, tokenizer, progress)
    with memory_errors(run.train):
        decoder, masters = open_policy(run, tokenizer)
    check_length(decoder, run.data.max_seq_len)
    steps = _count_steps(run, len(preferences.examples))
    facts = _facts(run, decoder, preferences, steps)
    with folder.recording(preferences.ledgers(), facts):
        identity = {key: value for key, value in inputs.items() if key != "data"}
        job = _job(run, decoder, masters, preferences, steps, (folder.path, identity), progress)
        outcome = train(job, folder.path, progress)
        with atomic_folder(folder.output, replace=True) as temporary:
            write_policy(run, decoder, masters, tokenizer, temporary)
        return folder.finish(outcome)


def _count_steps(run: AlignRun, num_examples: int) -> int:
    options = run.train
    if options.steps is not None:
        return options.steps
    return steps_of_epochs(options, (options.epochs or 0.0) * num_examples)


def _facts(run: AlignRun, decoder: Decoder, preferences: Preferences, steps: int) -> dict[str, Any]:
    """Return what the manifest tells of data and models."""
    counts = {"steps": steps, "parameters": parameter_counts(decoder), **preferences.counts()}
    models = [run.model, run.reference.model, run.warm_start]
    return {"counts": counts, "parents": parents(model for model in models if model is not None)}


def _job(
    run: AlignRun,
    decoder: Decoder,
    masters: Masters,
    preferences: Preferences,
    steps: int,
    place: tuple[Path, dict[str, Any]],
    progress: Progress,
) -> Job[Any]:
    examples = [*preferences.examples, *preferences.held_out]
    reference, known = open_reference(run, decoder, examples, *place, progress)
    batches = batches_of(examples, known, str(decoder.device))
    num_examples = len(preferences.examples)
    size = run.train.micro_batch_size
    return Job(
        decoder=decoder,
        masters=masters,
        objective=objective_of(run.objective, reference),
        source=ExampleSource(
            batches.first(num_examples), run.seed, size, run.train.global_batch_size
        ),
        held_out=batches.of(range(num_examples, len(examples)), size),
        options=run.train,
        steps=steps,
        seed=run.seed,
        lr_scales=lr_scales(decoder),
        epoch_steps=num_examples / run.train.global_batch_size,
    )
