"""Flags that several commands share; help and defaults come from the typed configs."""

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel

from danlu.config.quantize.kv_cache import CACHE_HELP, KvCacheName
from danlu.config.quantize.scheme import PresetName
from danlu.engine.sampling import SamplingParams

_VALUES = ("rtn", "nf4")  # begin some descriptions; they are typed in lower case


def field_option(cls: type[BaseModel], field: str, *names: str, panel: str | None = None) -> Any:
    """Return the typer option of a config's field: its help, and its flag unless it is given.

    Args:
        cls: the config.
        field: of it.
        names: of the flag, if not that of the field.
        panel: section of the help.
    """
    flags = names or (f"--{field.replace('_', '-')}",)
    text = cls.model_fields[field].description or ""
    first = text[:1] if text.startswith(_VALUES) else text[:1].upper()
    return typer.Option(*flags, help=f"{first}{text[1:]}.", rich_help_panel=panel)


Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="Folder of the model, or id of a downloaded one.")
]
Adapter = Annotated[
    str | None,
    typer.Option(
        "--adapter", metavar="PATH", help="Folder of an adapter to put on, of any method."
    ),
]
Quantize = Annotated[PresetName | None, typer.Option("--quantize", help="Quantize while loading.")]
Compiled = Annotated[
    bool,
    typer.Option(
        "--compile", help="Compile what gains from it (int8 on a CPU); costs seconds at the start."
    ),
]
KvCache = Annotated[
    KvCacheName | None,
    typer.Option("--kv-cache", help=f"How keys and values are kept; {CACHE_HELP}."),
]
Dtype = Annotated[
    str, typer.Option("--dtype", help="auto, float32, bfloat16 or float16; auto: as it was saved.")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, or an accelerator such as cuda.")]
Family = Annotated[
    str | None,
    typer.Option("--family", help="Family of the model, where its config.json does not tell it."),
]
ChatFormat = Annotated[
    str | None,
    typer.Option(
        "--format", help="Chat format or template file; default: the model's own, or its family's."
    ),
]
OutFolder = Annotated[Path, typer.Argument(metavar="OUT", help="New folder for the result.")]
Text = Annotated[
    Path | None,
    typer.Option(help="Text to compare on; without it: texts that the first model writes."),
]
Speed = Annotated[bool, typer.Option("--speed/--no-speed", help="Also measure tokens per second.")]

MaxTokens = Annotated[
    int | None, typer.Option("--max-tokens", help="Most new tokens of an answer.")
]
Temperature = Annotated[float, field_option(SamplingParams, "temperature")]
TopK = Annotated[int, field_option(SamplingParams, "top_k")]
TopP = Annotated[float, field_option(SamplingParams, "top_p")]
MinP = Annotated[float, field_option(SamplingParams, "min_p")]
RepetitionPenalty = Annotated[float, field_option(SamplingParams, "repetition_penalty")]
Seed = Annotated[int | None, field_option(SamplingParams, "seed")]
Stop = Annotated[
    list[str] | None, typer.Option("--stop", help="A text that ends the answer; may be repeated.")
]
SAMPLING = SamplingParams()
