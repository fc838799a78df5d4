"""`danlu migrate`: an old project's command becomes a run file and a command."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from danlu.cli.terminal import print_rows, remarks, results

if TYPE_CHECKING:
    from danlu.commands.migrate.draft import Draft


def command(
    old: Annotated[
        str,
        typer.Argument(
            metavar="OLD",
            help="The old command in quotes, or its file of arguments (.json, .yaml).",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="A new run file to write; without it: to stdout.")
    ] = None,
) -> None:
    """Turn a command of PaddleNLP, Qwen, Aquila2, FlagAI or Baichuan 2 into a run file.

    Fine-tuning and quantization become run files, other commands a command.

    Every flag is accounted for: as a key of the run file, as needless, or as missing here.

    [bold]Examples[/bold]

    - danlu migrate "bash finetune/finetune_lora_single_gpu.sh -m Qwen-7B-Chat -d my.json"

    - danlu migrate "python finetune_generation.py ./llama/lora_argument.json" --out lora.yaml

    - danlu migrate Aquila-chat-lora.yaml > aquila.yaml

    - danlu migrate "python run_gptq.py --model_name_or_path M --data_path D --out_path O"
    """
    from danlu.commands.migrate.migrating import migrate
    from danlu.commands.migrate.writing import write_draft

    migration = migrate(old)
    name = "RUN.yaml" if out is None else str(out)
    if migration.draft is not None:
        if out is None:
            results().out(migration.draft.text(), end="", highlight=False)
        else:
            write_draft(migration.draft, out)
        _show_flags(migration.draft)
    for note in migration.notes:
        remarks().print(note, markup=False)
    where = remarks() if migration.draft is not None and out is None else results()
    where.print(migration.command.replace("RUN.yaml", name), markup=False)


def _show_flags(draft: "Draft") -> None:
    """Tell on stderr what became of the flags that are no key of the run file."""
    for title, flags in (("Not needed", draft.needless), ("Missing here", draft.missing)):
        if flags:
            print_rows(list(flags.items()), title=title, to=remarks())
