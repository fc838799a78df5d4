"""`danlu export`: a model for other tools."""

import json
from typing import Annotated

import typer

from danlu.cli import flags
from danlu.cli.progress import shown_progress
from danlu.cli.terminal import print_rows, results


def command(
    model: flags.Model,
    out: flags.OutFolder,
    to: Annotated[
        str,
        typer.Option("--to", metavar="TARGET", help="transformers, baichuan or gguf; see above."),
    ] = "transformers",
    dtype: Annotated[
        str,
        typer.Option(help="dtype to store, as the target has it; auto: as the model is stored."),
    ] = "auto",
    max_shard_size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Largest weight file, such as 2GB.", show_default="5GiB"),
    ] = None,
    adapter: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Folder of an adapter to merge in first; not a prefix."),
    ] = None,
    tokenizer: Annotated[
        bool, typer.Option("--tokenizer/--no-tokenizer", help="Also write the tokenizer.")
    ] = True,
    family: flags.Family = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Write a model for other tools, and show that it computes the same there.

    An adapter is merged, quantized layers become dense. The result is read back and compared.

    [bold]What --to transformers makes (vLLM opens it too)[/bold]

    - of Qwen-1: Qwen2, valid within the trained length

    - of Baichuan-7B, Baichuan2-7B, Aquila 1 and 2: Llama

    - of ChatGLM2, ChatGLM3 and the original glm-4-9b: Glm

    - of families that transformers has: the same, as float32, bfloat16 or float16

    [bold]Other targets[/bold]

    - baichuan: Baichuan 2 as Baichuan 1, its head normalised

    - gguf: one file for llama.cpp, as f32, f16, bf16 or q8_0

    [bold]Examples[/bold]

    - danlu export Qwen-7B-Chat qwen-living

    - danlu export Baichuan2-7B-Base OUT --to transformers --dtype bfloat16 --max-shard-size 2GB

    - danlu export danlu-tour/model story.gguf --to gguf --dtype q8_0
    """
    from danlu.commands.export import export

    with shown_progress() as progress:
        report = export(
            model,
            out,
            to,
            dtype=dtype,
            max_shard_size=max_shard_size,
            adapter=adapter,
            with_tokenizer=tokenizer,
            family=family,
            progress=progress,
        )
    if as_json:
        results().print_json(json.dumps(report.as_dict()))
    else:
        print_rows(report.rows(), title=f"Exported to {out}")
