"""`danlu pretrain`: a model from scratch on raw text."""

from danlu.cli.progress import shown_progress
from danlu.cli.run_files import RunArguments, result_rows, split_arguments
from danlu.cli.terminal import print_rows


def command(arguments: RunArguments) -> None:
    """Train a model from scratch on raw text, as a run file says.

    The same command goes on with a run that was stopped. Values after the file replace its own.

    [bold]Examples[/bold]

    - danlu init --kind pretrain --out pretrain.yaml    (then edit it)

    - danlu pretrain pretrain.yaml

    - danlu pretrain pretrain.yaml train.steps=200 train.learning_rate=1e-3 out=runs/short

    - danlu pretrain runs/short/run.json out=runs/again    (repeats an earlier run)
    """
    from danlu.commands.pretrain import run_pretrain
    from danlu.config.load import load_config
    from danlu.config.run import PretrainRun

    run = load_config(PretrainRun, *split_arguments(arguments))
    with shown_progress() as progress:
        result = run_pretrain(run, progress)
    print_rows(result_rows(result), title=f"Finished in {run.out}")
