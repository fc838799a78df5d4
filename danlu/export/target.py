"""The seam between `danlu export` and what it can write: one `Target` for each form."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from danlu.models.decoder import Decoder
from danlu.progress import Progress
from danlu.tokenizer import Tokenizer
from danlu.weights.writing import MAX_SHARD_BYTES


@dataclass(frozen=True)
class ExportOptions:
    """What the caller may choose; a target lists in `Target.options` which of these it takes.

    Attributes:
        dtype: how numbers are stored, in the target's own spelling; None: as the source stores
            them.
        max_shard_bytes: more than that goes into several files.
    """

    dtype: str | None = None
    max_shard_bytes: int = MAX_SHARD_BYTES


@dataclass(frozen=True)
class LogitCheck:
    """How far the written model's logits are from the source's, both computed in float32.

    Attributes:
        difference: largest absolute difference over max(1, largest absolute logit).
        bound: what is allowed.
        num_tokens: random tokens compared.
        rounding: how far rounding the weights to the stored dtype moved the logits; `difference` is
            then what is left besides.
    """

    difference: float
    bound: float
    num_tokens: int
    rounding: float = 0.0

    def summary(self) -> str:
        """Return the figures as one line."""
        moved = f"; rounding the weights moved them by {self.rounding:.1e}" if self.rounding else ""
        return (
            f"logits differ by {self.difference:.1e} at most (allowed: {self.bound:.0e}), "
            f"over {self.num_tokens} random tokens{moved}"
        )


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Attributes:
        target: name of the target.
        out: the folder or file.
        family: of the source.
        architecture: what other tools see it as.
        dtype: the weights are stored in.
        num_bytes: size of everything written.
        tokenizer: what was written of the tokenizer, in words.
        check: the written weights, read back, beside the source; None: the target cannot be read
            back, and says in `notes` what was checked instead.
        notes: what the user must know.
    """

    target: str
    out: str
    family: str
    architecture: str
    dtype: str
    num_bytes: int
    tokenizer: str
    check: LogitCheck | None
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return asdict(self)

    def rows(self) -> list[tuple[str, str]]:
        """Return labels and values for a table."""
        return [
            ("from", self.family),
            ("written as", f"{self.architecture}, {self.dtype}, {self.num_bytes:,} bytes"),
            ("tokenizer", self.tokenizer),
            *([("check", self.check.summary())] if self.check else []),
            *[("note", note) for note in self.notes],
        ]


class Writer(Protocol):
    """What a target does."""

    def __call__(
        self,
        decoder: Decoder,
        tokenizer: Tokenizer | None,
        out: Path,
        options: ExportOptions,
        progress: Progress,
    ) -> ExportReport:
        """Write the model to `out`, which is complete afterwards or absent.

        Args:
            decoder: the source, in its stored dtype, adapters merged; its layers may be quantized
                (`danlu.export.dense.DenseState` gives every parameter as a dense tensor). Its
                `published` names the family and holds config.json and generation_config.json. The
                writer may use it up: its weights may be gone afterwards.
            tokenizer: of the source; None: it has none, or none is wanted.
            out: a path where nothing is.
            options: only those that the target takes differ from their defaults.
            progress: of the work; the writer starts and finishes its own line.

        Raises:
            ExportError: if the model cannot be said in this form, with the reason, before anything
                is written; or if what was written does not give the source's logits.
        """


@dataclass(frozen=True)
class Target:
    """One form a model can leave in.

    Attributes:
        name: as in `--to`.
        summary: one line for the help.
        options: the fields of `ExportOptions` it takes, each with the values it may have besides
            its default; none listed: any.
        write: does it.
    """

    name: str
    summary: str
    options: Mapping[str, tuple[str, ...]]
    write: Writer
