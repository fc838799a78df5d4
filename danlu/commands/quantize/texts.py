"""The texts of a quantization: what activations are watched on, and what is compared on."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from danlu.calibration.method import methods
from danlu.commands.quantize.source import Source
from danlu.commands.samples import comparison_batches, written_rows
from danlu.config.quantize.run import QuantizeRun
from danlu.files import write_json
from danlu.loading import load_decoder
from danlu.models.decoder import Decoder
from danlu.progress import Progress

Rows = list[list[int]]
WRITTEN = "{count} texts that the model wrote itself (seed {seed})"
COMPARED, WATCHED = "compared", "watched"
ERROR_ROWS = 16  # enough to measure errors of layers on, where a method watches nothing


@dataclass(frozen=True)
class Texts:
    """Rows of tokens, and what they are in words.

    Attributes:
        batches: what both models are compared on.
        compared: what that is.
        watched: calibration text.
        calibration: what that is.
    """

    batches: list[Rows]
    compared: str
    watched: Rows
    calibration: str

    @property
    def rows(self) -> Rows:
        """All rows that are compared on."""
        return [row for batch in self.batches for row in batch]


class Writer:
    """Lets the model write texts, which are kept in the work folder for a run that goes on.

    The model is opened when the first text is asked for.

    Args:
        source: the model.
        work: folder that keeps them.
        progress: of the writing.
    """

    def __init__(self, source: Source, work: Path, progress: Progress) -> None:
        self._source, self._progress = source, progress
        self._path = work / "written.json"
        self._decoder: Decoder | None = None

    def decoder(self) -> Decoder:
        """Return the model, computing in float32."""
        if self._decoder is None:
            self._decoder = load_decoder(self._source.folder, family=self._source.family)
        return self._decoder

    def keep(self, name: str, write: Callable[[Decoder], list[Rows]]) -> list[Rows]:
        """Return what was written under a name, or write it now."""
        kept = json.loads(self._path.read_text()) if self._path.exists() else {}
        if name not in kept:
            kept[name] = write(self.decoder())
            write_json(self._path, kept)
        found: list[Rows] = kept[name]
        return found


def read_texts(run: QuantizeRun, source: Source, work: Path, progress: Progress) -> Texts:
    """Return the texts of a run.

    Raises:
        DataError: if a text cannot be read, or does not fit the tokenizer.
    """
    writer = Writer(source, work, progress)
    batches = _compared(run, source, writer, progress)
    written = WRITTEN.format(count=sum(map(len, batches)), seed=run.seed)
    watched, calibration = _watched(run, source, writer, progress)
    if not watched:
        watched = [row for batch in batches for row in batch][:ERROR_ROWS]
        calibration = f"needs none; errors of layers on {len(watched)} of the rows compared on"
    return Texts(batches, run.report.text or written, watched, calibration)


def _compared(run: QuantizeRun, source: Source, writer: Writer, progress: Progress) -> list[Rows]:
    tokenizer, text = source.tokenizer, run.report.text
    if text is not None:
        return comparison_batches(source.shape(), tokenizer, Path(text), progress)
    return writer.keep(
        COMPARED, lambda model: comparison_batches(model, tokenizer, None, progress, run.seed)
    )


def _watched(
    run: QuantizeRun, source: Source, writer: Writer, progress: Progress
) -> tuple[Rows, str]:
    """Return calibration text and what it is; nothing where no method watches the model."""
    options = run.calibration
    if options.sources is None and not _needs_text(run):
        return [], ""
    if options.sources is not None:
        raise NotImplementedError
    seed = run.seed + 1  # not what is compared on
    [rows] = writer.keep(
        WATCHED,
        lambda model: [
            written_rows(
                model, source.tokenizer, progress, options.samples, options.max_tokens, seed
            )
        ],
    )
    return rows, WRITTEN.format(count=len(rows), seed=seed)


def _needs_text(run: QuantizeRun) -> bool:
    schemes = [run.scheme, *(override.scheme for override in run.overrides)]
    return any(scheme is not None and methods()[scheme.method].needs_text for scheme in schemes)
