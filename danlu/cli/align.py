"""`danlu align`: a model taught what people prefer."""

from typing import TYPE_CHECKING

from danlu.cli.progress import shown_progress
from danlu.cli.run_files import RunArguments, result_rows, split_arguments
from danlu.cli.terminal import print_rows

if TYPE_CHECKING:
    from danlu.train.run_folder import RunResult

_SHOWN = {
    "reward_accuracy": "reward accuracy",
    "reward_margin": "reward margin",
    "held_out_reward_accuracy": "held-out reward accuracy",
    "held_out_reward_margin": "held-out reward margin",
}


def command(arguments: RunArguments) -> None:
    """Teach a model what people prefer (DPO, KTO, ORPO, SimPO, CPO), or make a reward model.

    The same command goes on with a run that was stopped. Values after the file replace its own.

    [bold]Examples[/bold]

    - danlu init --kind dpo --out dpo.yaml    (then edit it)

    - danlu align dpo.yaml

    - danlu align dpo.yaml objective.loss=ipo objective.beta=0.05 out=runs/ipo

    - danlu align dpo.yaml 'objective={method: kto}' data.preferences=labelled.jsonl out=runs/kto

    - danlu align runs/ipo/run.json out=runs/again    (repeats an earlier run)
    """
    from danlu.commands.align import run_align
    from danlu.config.align import AlignRun
    from danlu.config.load import load_config

    run = load_config(AlignRun, *split_arguments(arguments))
    with shown_progress() as progress:
        result = run_align(run, progress)
    print_rows([*result_rows(result), *_measured(result)], title=f"Finished in {run.out}")


def _measured(result: "RunResult") -> list[tuple[str, str]]:
    """Return the last rewards that were measured."""
    from danlu.train.loop import METRICS
    from danlu.train.metrics import read_metrics

    last: dict[str, float] = {}
    for record in read_metrics(result.folder / METRICS):
        last |= record
    return [(name, f"{last[key]:.4f}") for key, name in _SHOWN.items() if key in last]
