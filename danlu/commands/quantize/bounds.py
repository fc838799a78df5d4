"""Bounds on what quantization may cost, and the mark of a folder that broke one."""

from pathlib import Path

from danlu.config.quantize.run import Bounds
from danlu.eval.compare import Comparison
from danlu.files import write_text
from danlu.tokenizer.stamp import BROKEN_BOUNDS, add_to_stamp

MARK = "BOUNDS_BROKEN.txt"


def broken_bounds(bounds: Bounds, comparison: Comparison) -> list[str]:
    """Return a sentence for each bound that is broken; what is not a number breaks every bound."""
    broken = []
    before, after = comparison.perplexity_reference, comparison.perplexity_candidate
    most = bounds.max_ppl_increase
    if most is not None and not after / before - 1 <= most:
        broken.append(
            f"perplexity grew by {after / before - 1:.2%} ({before:.4f} -> {after:.4f}); at most "
            f"{most:.2%} was allowed"
        )
    if bounds.max_kl is not None and not comparison.kl_mean <= bounds.max_kl:
        broken.append(
            f"the mean KL divergence is {comparison.kl_mean:.2e} nats; at most {bounds.max_kl:.2e} "
            "was allowed"
        )
    return broken


def mark(folder: Path, broken: list[str]) -> None:
    """Mark a folder so that whoever opens it is told; nothing is done if no bound is broken."""
    if broken:
        add_to_stamp(folder, **{BROKEN_BOUNDS: broken})
        lines = "".join(f"- {bound}\n" for bound in broken)
        write_text(
            folder / MARK,
            f"This model was quantized under bounds that it does not keep:\n{lines}"
            "See quantization_report.html.\n",
        )
