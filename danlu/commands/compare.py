"""`danlu compare`: how far one model is from another, on the same tokens."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from danlu.commands.samples import comparison_batches
from danlu.commands.speed import served_speed
from danlu.errors import ConfigError
from danlu.eval.compare import Comparison, compare_decoders
from danlu.eval.speed import Speed
from danlu.loading import load_decoder, load_tokenizer
from danlu.progress import Progress, Silent


@dataclass(frozen=True)
class CompareReport:
    """Two models side by side.

    Attributes:
        reference: path of the first.
        candidate: path of the second.
        comparison: what changed.
        reference_bytes: size of the first model's weight files.
        candidate_bytes: of the second's.
        reference_speed: of the first, on this machine; None if not measured.
        candidate_speed: of the second.
    """

    reference: str
    candidate: str
    comparison: Comparison
    reference_bytes: int
    candidate_bytes: int
    reference_speed: Speed | None
    candidate_speed: Speed | None

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return asdict(self)

    def rows(self) -> list[tuple[str, str]]:
        """Return labels and values for a table."""
        ratio = self.candidate_bytes / self.reference_bytes
        sizes = f"{megabytes(self.reference_bytes)} -> {megabytes(self.candidate_bytes)}"
        return [
            *comparison_rows(self.comparison),
            ("size", f"{sizes} ({ratio:.0%})"),
            *speed_rows(self.reference_speed, self.candidate_speed),
        ]


def comparison_rows(comparison: Comparison) -> list[tuple[str, str]]:
    """Return what changed, as labels and values."""
    before, after = comparison.perplexity_reference, comparison.perplexity_candidate
    return [
        ("tokens compared", f"{comparison.num_tokens:,}"),
        ("KL divergence", f"{comparison.kl_mean:.2e} mean, {comparison.kl_max:.2e} largest (nats)"),
        ("top-1 agreement", f"{comparison.top1_agreement:.2%}"),
        ("largest logit difference", f"{comparison.max_logit_difference:.2e}"),
        ("perplexity", f"{before:.4f} -> {after:.4f} ({after / before - 1:+.2%})"),
    ]


def speed_rows(before: Speed | None, after: Speed | None) -> list[tuple[str, str]]:
    """Return measured speeds, as labels and values."""
    if before is None or after is None:
        return []
    pairs = (
        ("prefill", before.prefill_tokens_per_s, after.prefill_tokens_per_s),
        ("decode", before.decode_tokens_per_s, after.decode_tokens_per_s),
    )
    return [(name, f"{a:,.0f} -> {b:,.0f} tokens/s ({b / a:.2f}x)") for name, a, b in pairs]


def megabytes(size: int) -> str:
    """Return a size for people."""
    return f"{size / 1e6:,.1f} MB"


def weight_bytes(folder: Path) -> int:
    """Return the size of a folder's weight files."""
    return sum(f.stat().st_size for f in folder.iterdir() if f.suffix in (".safetensors", ".bin"))


def compare(
    a: str | Path,
    b: str | Path,
    text: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
    with_speed: bool = True,
    progress: Progress | None = None,
) -> CompareReport:
    """Compare the model in folder `b` with that in `a`.

    Args:
        a: the reference.
        b: the candidate; of the same tokenizer.
        text: a corpus to compare on; None: texts that the reference writes.
        dtype: both compute in.
        with_speed: also measure prefill and decode, in bfloat16.
        progress: of the work.

    Raises:
        ConfigError: if the models do not share a tokenizer.
    """
    report = progress or Silent()
    tokenizer, other = load_tokenizer(a), load_tokenizer(b)
    if tokenizer.fingerprint() != other.fingerprint():
        raise ConfigError(
            f"'{a}' and '{b}' have different tokenizers or chat templates; expected the same. "
            "Only models that read the same tokens can be compared."
        )
    reference, candidate = load_decoder(a, dtype), load_decoder(b, dtype)
    batches = comparison_batches(reference, tokenizer, Path(text) if text else None, report)
    return CompareReport(
        reference=str(a),
        candidate=str(b),
        comparison=compare_decoders(reference, candidate, batches),
        reference_bytes=weight_bytes(Path(a)),
        candidate_bytes=weight_bytes(Path(b)),
        reference_speed=served_speed(a) if with_speed else None,
        candidate_speed=served_speed(b) if with_speed else None,
    )
