"""`danlu finetune`: a model further on conversations."""

from danlu.cli.progress import shown_progress
from danlu.cli.run_files import RunArguments, result_rows, split_arguments
from danlu.cli.terminal import print_rows


def command(arguments: RunArguments) -> None:
    """Teach a model conversations, with an adapter or whole, as a run file says.

    The same command goes on with a run that was stopped. Values after the file replace its own.

    [bold]Examples[/bold]

    - danlu init --kind lora --out lora.yaml    (then edit it)

    - danlu finetune lora.yaml

    - danlu finetune lora.yaml adapter.lora_rank=16 train.epochs=2 out=runs/rank-16

    - danlu finetune lora.yaml 'adapter={method: prefix}' train.learning_rate=1e-2 out=runs/prefix

    - danlu finetune runs/rank-16/run.json out=runs/again    (repeats an earlier run)
    """
    from danlu.commands.finetune import run_finetune
    from danlu.config.load import load_config
    from danlu.config.run import FinetuneRun

    run = load_config(FinetuneRun, *split_arguments(arguments))
    with shown_progress() as progress:
        result = run_finetune(run, progress)
    print_rows(result_rows(result), title=f"Finished in {run.out}")
