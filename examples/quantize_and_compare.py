"""Round a model to int8, int4, nf4 and fp4 and see what each costs.

After `danlu tour`:

    python examples/quantize_and_compare.py danlu-tour/model quantized

KL divergence and perplexity are measured on text that the model itself writes; --text FILE takes
another. The folders, such as `quantized/int8`, are complete models.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from danlu.commands.quantize import QuantizeReport, quantize
from danlu.config.quantize.scheme import PRESETS


def row(report: QuantizeReport) -> str:
    """Return one line about a quantized model."""
    change, size = report.comparison, report.quantized_bytes / report.original_bytes
    perplexity = change.perplexity_candidate / change.perplexity_reference - 1
    return (
        f"{report.scheme.summary}: {size:.0%} of the size, KL {change.kl_mean:.1e}, "
        f"top-1 agreement {change.top1_agreement:.1%}, perplexity {perplexity:+.2%}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description="Quantize a model and compare.")
    parser.add_argument("model", type=Path, nargs="?", default=Path("danlu-tour/model"))
    parser.add_argument("out", type=Path, nargs="?", default=Path("quantized"))
    parser.add_argument("--text", type=Path, help="a corpus to compare on")
    options = parser.parse_args(arguments)
    for name, scheme in PRESETS.items():
        folder = options.out / name
        print(row(quantize(options.model, folder, scheme, options.text, with_speed=False)))


if __name__ == "__main__":
    main()
