"""`danlu quantize`: fewer bits per weight, and what that costs."""

from typing import Annotated

from danlu.cli import flags
from danlu.cli.flags import field_option
from danlu.cli.progress import shown_progress
from danlu.cli.terminal import print_rows
from danlu.config.load import load_config
from danlu.config.quantize.scheme import QuantScheme


def command(
    model: flags.Model,
    out: flags.OutFolder,
    bits: Annotated[int, field_option(QuantScheme, "bits")] = QuantScheme().bits,
    method: Annotated[str | None, field_option(QuantScheme, "method")] = None,
    group_size: Annotated[int | None, field_option(QuantScheme, "group_size")] = None,
    symmetric: Annotated[
        bool | None, field_option(QuantScheme, "symmetric", "--symmetric/--asymmetric")
    ] = None,
    block_size: Annotated[int | None, field_option(QuantScheme, "block_size")] = None,
    double_quant: Annotated[
        bool | None,
        field_option(QuantScheme, "double_quant", "--double-quant/--no-double-quant"),
    ] = None,
    double_quant_block_size: Annotated[
        int | None, field_option(QuantScheme, "double_quant_block_size")
    ] = None,
    head_bits: Annotated[int | None, field_option(QuantScheme, "head_bits")] = None,
    text: flags.Text = None,
    speed: flags.Speed = True,
    family: flags.Family = None,
) -> None:
    """Quantize a model and show size, perplexity change, KL and speed beside the original.

    Without further flags, 8 bits have one scale per output row and 4 bits one per 32 inputs.
    Integers are written as compressed-tensors, nf4 and fp4 as bitsandbytes.

    [bold]Examples[/bold]

    - danlu quantize danlu-tour/model model-int8 --bits 8

    - danlu quantize MODEL OUT --bits 4 --group-size 64 --text held_out.txt

    - danlu quantize MODEL OUT --method nf4
    """
    given = {
        "method": method,
        "group_size": group_size,
        "symmetric": symmetric,
        "block_size": block_size,
        "double_quant": double_quant,
        "double_quant_block_size": double_quant_block_size,
        "head_bits": head_bits,
    }
    scheme = scheme_of(bits, {name: value for name, value in given.items() if value is not None})

    from danlu.commands.quantize import quantize

    with shown_progress() as progress:
        report = quantize(
            model, out, scheme, text, with_speed=speed, family=family, progress=progress
        )
    print_rows(report.rows(), title=f"Quantized into {out}")


def scheme_of(bits: int, given: dict[str, object]) -> QuantScheme:
    """Return the usual scheme of so many bits, changed by what was given.

    Raises:
        ConfigError: naming each value that is not allowed.
    """
    values = {"bits": bits, **given}
    texts = [
        f"{name}={str(value).lower() if isinstance(value, bool) else value}"
        for name, value in values.items()
    ]
    return load_config(QuantScheme, None, texts)
