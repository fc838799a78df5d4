"""`danlu quantize`: fewer bits per weight, and what that costs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from danlu.cli import flags
from danlu.cli.flags import field_option
from danlu.cli.progress import shown_progress
from danlu.cli.terminal import complain, print_rows
from danlu.config.load import load_config
from danlu.config.quantize.gptq import GptqScheme
from danlu.config.quantize.run import (
    CalibrationData,
    Fit,
    QuantizeReporting,
    QuantizeRun,
)
from danlu.config.quantize.scheme import QuantScheme
from danlu.config.yaml_text import scalar_text
from danlu.errors import ConfigError

if TYPE_CHECKING:
    from danlu.commands.quantize import QuantizeReport

BOUND_BROKEN = 1  # exit code
RUN_FILES = (".yaml", ".yml", ".json")
# The flags that are keys of the run file under other names.
KEYS = {
    "data": "calibration.sources",
    "samples": "calibration.samples",
    "max_tokens": "calibration.max_tokens",
    "text": "report.text",
    "answers": "report.samples",
    "speed": "report.speed",
    "max_ppl_increase": "bounds.max_ppl_increase",
    "max_kl": "bounds.max_kl",
    "fit": "fit.bytes",
    "cache_tokens": "fit.cache_tokens",
    "kv_cache": "kv_cache.bits",
}
HOW, TEXTS, BOUNDED = "How", "Texts", "What it may take and cost"  # sections of the help


def command(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL OUT|RUN.yaml [KEY=VALUE]",
            help="A model and a new folder, or a run file; then values that replace its own, as "
            "in scheme.smooth.alpha=0.5.",
            show_default=False,
        ),
    ],
    method: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="See above; default: rtn.", rich_help_panel=HOW),
    ] = None,
    bits: Annotated[int | None, field_option(QuantScheme, "bits", panel=HOW)] = None,
    group_size: Annotated[
        int | None,
        typer.Option(help="Inputs that share a scale, -1: a whole row.", rich_help_panel=HOW),
    ] = None,
    symmetric: Annotated[
        bool | None,
        typer.Option(
            "--symmetric/--asymmetric", help="Without or with zero points.", rich_help_panel=HOW
        ),
    ] = None,
    act_order: Annotated[
        bool | None,
        field_option(GptqScheme, "act_order", "--act-order/--no-act-order", panel=HOW),
    ] = None,
    damping: Annotated[float | None, field_option(GptqScheme, "damping", panel=HOW)] = None,
    block_size: Annotated[int | None, field_option(QuantScheme, "block_size", panel=HOW)] = None,
    double_quant: Annotated[
        bool | None,
        field_option(QuantScheme, "double_quant", "--double-quant/--no-double-quant", panel=HOW),
    ] = None,
    double_quant_block_size: Annotated[
        int | None, field_option(QuantScheme, "double_quant_block_size", panel=HOW)
    ] = None,
    head_bits: Annotated[int | None, field_option(QuantScheme, "head_bits", panel=HOW)] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN", help="Layers to leave alone; may be repeated.", rich_help_panel=HOW
        ),
    ] = None,
    kv_cache: Annotated[
        Literal["int8"] | None,
        typer.Option(help="Keep keys and values in 8 bits, too.", rich_help_panel=HOW),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH",
            help="Calibration rows of any shape, or text; may be repeated. Default: texts that "
            "the model writes itself.",
            rich_help_panel=TEXTS,
        ),
    ] = None,
    samples: Annotated[int | None, field_option(CalibrationData, "samples", panel=TEXTS)] = None,
    max_tokens: Annotated[
        int | None, field_option(CalibrationData, "max_tokens", panel=TEXTS)
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Held-out text to compare on. Default: texts that the model writes itself.",
            rich_help_panel=TEXTS,
        ),
    ] = None,
    fit: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Choose bits for each layer so that weights and cache fit: 6GB.",
            rich_help_panel=BOUNDED,
        ),
    ] = None,
    cache_tokens: Annotated[int | None, field_option(Fit, "cache_tokens", panel=BOUNDED)] = None,
    max_ppl_increase: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE",
            help="Fail if the perplexity grows by more: 1%.",
            rich_help_panel=BOUNDED,
        ),
    ] = None,
    max_kl: Annotated[
        float | None,
        typer.Option(
            help="Fail if the mean KL divergence (nats) is more.", rich_help_panel=BOUNDED
        ),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Format of the files; default: the method's own."),
    ] = None,
    export: Annotated[
        str | None,
        typer.Option(metavar="transformers", help="Re-express the model for other tools before."),
    ] = None,
    answers: Annotated[int | None, field_option(QuantizeReporting, "samples", "--answers")] = None,
    speed: Annotated[
        bool | None, typer.Option("--speed/--no-speed", help="Also measure tokens per second.")
    ] = None,
    family: flags.Family = None,
    seed: Annotated[int | None, field_option(QuantizeRun, "seed")] = None,
    device: Annotated[str | None, field_option(QuantizeRun, "device")] = None,
) -> None:
    """Quantize a model; show size, perplexity, KL, answers and speed beside the original.

    The folder is complete, with a report as JSON and HTML. A run that was stopped goes on if given
    again. Exit code 1: a bound is broken; the folder says so whenever it is opened.

    [bold]Methods[/bold]

    - rtn: rounds to the nearest integer, in 8 or fewer bits; nf4, fp4: to one of 16 numbers

    - gptq, awq: 4 bits on calibration text (gptq also 2, 3 and 8), much closer to the original

    - w8a8: weights and activations in 8 bits, smoothed; llm_int8: large inputs stay exact

    [bold]Examples[/bold]

    - danlu quantize danlu-tour/model model-int8 --bits 8

    - danlu quantize MODEL OUT --method gptq --data rows.jsonl --max-ppl-increase 1%

    - danlu quantize Qwen-7B-Chat OUT --method gptq --export transformers    (for vLLM)

    - danlu init --kind quantize --out run.yaml; danlu quantize run.yaml scheme.bits=3
    """
    scheme: dict[str, Any] = {
        "method": method,
        "bits": bits,
        "group_size": group_size,
        "symmetric": symmetric,
        "block_size": block_size,
        "double_quant": double_quant,
        "double_quant_block_size": double_quant_block_size,
        "head_bits": head_bits,
        "act_order": act_order,
        "damping": damping,
    }
    given: dict[str, Any] = {
        "data": data,
        "samples": samples,
        "max_tokens": max_tokens,
        "skip": skip,
        "kv_cache": None if kv_cache is None else 8,
        "fit": fit,
        "cache_tokens": cache_tokens,
        "max_ppl_increase": max_ppl_increase,
        "max_kl": max_kl,
        "format": format,
        "export": export,
        "text": text,
        "answers": answers,
        "speed": speed,
        "family": family,
        "seed": seed,
        "device": device,
    }
    keys = {f"scheme.{name}": value for name, value in scheme.items()}
    keys |= {KEYS.get(name, name): value for name, value in given.items()}
    run = read_run(arguments, keys)

    from danlu.commands.quantize import run_quantize

    with shown_progress() as progress:
        report = run_quantize(run, progress)
    _show(report)


def read_run(arguments: Sequence[str], flagged: Mapping[str, Any]) -> QuantizeRun:
    """Return the run that arguments and flags describe; flags count before values, before a file.

    Args:
        arguments: ``MODEL OUT`` or a run file, and ``key=value``.
        flagged: dotted key -> value; None: not given.

    Raises:
        ConfigError: with everything that is wrong.
    """
    words = [word for word in arguments if "=" not in word or Path(word).exists()]
    values = [word for word in arguments if word not in words]
    values += [f"{k}={_text(value)}" for k, value in flagged.items() if value not in (None, [])]
    is_file = len(words) == 1 and (Path(words[0]).is_file() or words[0].endswith(RUN_FILES))
    if len(words) == 2:
        return load_config(
            QuantizeRun, None, [f"model={_text(words[0])}", f"out={_text(words[1])}", *values]
        )
    if words and not is_file:
        raise ConfigError(
            f"Expected a model and a new folder, or one run file; found {' '.join(words)!r}. "
            "Write: danlu quantize MODEL OUT --method gptq, or danlu quantize run.yaml."
        )
    return load_config(QuantizeRun, Path(words[0]) if words else None, values)


def _text(value: Any) -> str:
    return scalar_text(value)


def _show(report: "QuantizeReport") -> None:
    """Print the report; leave with an exit code of its own if a bound is broken."""
    print_rows(report.rows(), title=f"Quantized into {report.out}")
    if report.broken:
        told = "; ".join(report.broken)
        complain("", f"BoundBroken: {told}. The folder '{report.out}' is there, and marked.")
        raise typer.Exit(BOUND_BROKEN)
