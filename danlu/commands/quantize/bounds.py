"""Bounds on what quantization may cost, and the mark of a folder that broke one."""

from collections.abc import Iterator
from pathlib import Path

from danlu.config.quantize.run import Bounds
from danlu.eval.compare import Comparison
from danlu.files import write_text
from danlu.tokenizer.stamp import BROKEN_BOUNDS, add_to_stamp

MARK = "BOUNDS_BROKEN.txt"


def broken_bounds(bounds: Bounds, comparison: Comparison) -> list[str]:
    """Return a sentence for each bound that is broken; what is not a number breaks every bound."""
    return [text for text, is_kept in _bounds(bounds, comparison) if not is_kept]


def kept_bounds(bounds: Bounds, comparison: Comparison) -> list[str]:
    """Return a sentence for each bound that is kept."""
    return [text for text, is_kept in _bounds(bounds, comparison) if is_kept]


def _bounds(bounds: Bounds, comparison: Comparison) -> Iterator[tuple[str, bool]]:
    """Yield what was found and allowed, and whether it was."""
    before, after = comparison.perplexity_reference, comparison.perplexity_candidate
    if bounds.max_ppl_increase is not None:
        found, most = after / before - 1, bounds.max_ppl_increase
        told = f"perplexity changed by {found:+.2%} ({before:.4f} -> {after:.4f})"
        yield f"{told}; at most +{most:.2%} was allowed", found <= most
    if bounds.max_kl is not None:
        found, most = comparison.kl_mean, bounds.max_kl
        told = f"the mean KL divergence is {found:.2e} nats"
        yield f"{told}; at most {most:.2e} was allowed", found <= most


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
