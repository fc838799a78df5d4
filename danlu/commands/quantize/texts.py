"""The texts of a quantization: what activations are watched on, and what is compared on."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from danlu.calibration.method import methods
from danlu.commands.quantize.precision import compared_dtype
from danlu.commands.quantize.source import Source
from danlu.commands.samples import comparison_batches, written_rows
from danlu.config.data import DataSource, sources
from danlu.config.quantize.run import CalibrationData, QuantizeRun
from danlu.data.any_source import kind_of
from danlu.data.calibration import read_calibration
from danlu.eval.scoring import by_length
from danlu.files import write_json
from danlu.loading import load_decoder
from danlu.loading.adapting import base_fingerprint
from danlu.loading.blocks import StoredModel
from danlu.models.decoder import Decoder
from danlu.progress import Progress

Rows = list[list[int]]
WRITTEN = "{count} texts that the model wrote itself (seed {seed})"
COMPARED, WATCHED, MODEL = "compared", "watched", "model"
ERROR_ROWS = 16  # enough to measure errors of layers on, where a method watches nothing
COMPARED_ROWS = 64


@dataclass(frozen=True)
class Texts:
    """Rows of tokens, and what they are in words.

    Attributes:
        batches: what both models are compared on.
        compared: what that is.
        watched: calibration text.
        calibration: what that is.
        ledger: what became of the user's calibration data, row by row and in tokens.
    """

    batches: list[Rows]
    compared: str
    watched: Sequence[Sequence[int]]
    calibration: str
    ledger: Mapping[str, Any] | None

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
        """Return the model, in the dtype that models are compared in."""
        if self._decoder is None:
            source = self._source
            dtype = compared_dtype(source, torch.device("cpu"))
            self._decoder = load_decoder(source.folder, dtype, family=source.family)
        return self._decoder

    def keep(self, name: str, write: Callable[[Decoder], list[Rows]]) -> list[Rows]:
        """Return what this model wrote under a name, or let it write that now.

        Args:
            name: of the texts, with everything that decides them but the model.
            write: them, in batches.
        """
        source = self._source
        model = base_fingerprint(StoredModel(source.folder, source.family).decoder)
        kept = json.loads(self._path.read_text()) if self._path.exists() else {}
        if kept.get(MODEL) != model:
            kept = {MODEL: model}
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
    given = _given(run, source)  # before anything is written: errors come at once
    batches = _compared(run, source, writer, progress)
    compared = [row for batch in batches for row in batch]
    written = WRITTEN.format(count=len(compared), seed=run.seed)
    watched = given or _watched(run, source, writer, compared, progress)
    return Texts(batches, run.report.text or written, watched.rows, watched.about, watched.ledger)


def _compared(run: QuantizeRun, source: Source, writer: Writer, progress: Progress) -> list[Rows]:
    tokenizer, text = source.tokenizer, run.report.text
    if text is None:
        return writer.keep(
            f"{COMPARED}, seed {run.seed}",
            lambda model: comparison_batches(model, tokenizer, None, progress, run.seed),
        )
    shape = source.shape()
    if kind_of(DataSource(path=text)) is None:
        return comparison_batches(shape, tokenizer, Path(text), progress)
    data = CalibrationData(sources=sources(text), samples=COMPARED_ROWS)
    rows = read_calibration(data, tokenizer, run.seed, shape.max_text_tokens).rows
    return [[list(rows[i]) for i in batch] for batch in by_length([len(row) for row in rows])]


@dataclass(frozen=True)
class _Watched:
    """Calibration text: its rows, what it is, and what became of the data."""

    rows: Sequence[Sequence[int]]
    about: str
    ledger: Mapping[str, Any] | None = None


def _given(run: QuantizeRun, source: Source) -> _Watched | None:
    """Return the user's calibration rows; None if there are none."""
    options = run.calibration
    if options.sources is None:
        return None
    found = read_calibration(options, source.tokenizer, run.seed, source.shape().max_text_tokens)
    paths = ", ".join(each.path for each in options.sources)
    about = f"{len(found.rows)} rows of {paths}, {found.ledger.kept_tokens:,} tokens"
    return _Watched(found.rows, about, found.ledger.summary())


def _watched(
    run: QuantizeRun, source: Source, writer: Writer, compared: Rows, progress: Progress
) -> _Watched:
    """Return rows to watch activations on where the user gives none."""
    options, tokenizer = run.calibration, source.tokenizer
    if not _needs_text(run):
        rows = compared[:ERROR_ROWS]
        return _Watched(rows, f"none is needed; errors are measured on {len(rows)} compared rows")
    seed = run.seed + 1  # not what is compared on
    sizes = options.samples, options.max_tokens
    [rows] = writer.keep(
        f"{WATCHED}, seed {seed}, {sizes[0]} of {sizes[1]} tokens",
        lambda model: [written_rows(model, tokenizer, progress, *sizes, seed)],
    )
    return _Watched(rows, WRITTEN.format(count=len(rows), seed=seed))


def _needs_text(run: QuantizeRun) -> bool:
    if run.fit is not None or (run.kv_cache is not None and run.kv_cache.scales != "token"):
        return True
    schemes = [run.scheme, *(override.scheme for override in run.overrides)]
    return any(scheme is not None and methods()[scheme.method].needs_text for scheme in schemes)
