"""From a run file to a complete folder in fewer bits, with what that cost and gained."""

import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from danlu.calibration.fitting.fit import Fitted, check_fit
from danlu.calibration.kv_cache import cache_rounding
from danlu.calibration.walk import Quantized, planned, quantize_decoder
from danlu.commands.manifest import write_manifest
from danlu.commands.quantize.bounds import broken_bounds, mark
from danlu.commands.quantize.fitting import fitted_run
from danlu.commands.quantize.measuring import machine, measure, notes
from danlu.commands.quantize.page import page
from danlu.commands.quantize.report import QuantizeReport
from danlu.commands.quantize.source import Source, open_source
from danlu.commands.quantize.texts import Texts, read_texts
from danlu.config.quantize.run import QuantizeReporting, QuantizeRun, Scheme
from danlu.errors import DanluError, QuantizationError
from danlu.files import atomic_folder, only_run, refuse_existing, write_json, write_text
from danlu.hub import resolve
from danlu.loading import save_decoder
from danlu.loading.written import written_quantization
from danlu.progress import Progress, Silent
from danlu.quantize.format import format_named, written_formats
from danlu.tokenizer.stamp import write_stamp

log = logging.getLogger(__name__)

FINISHED = "block-*"  # in the work folder
REPORT, PAGE = "quantization_report.json", "quantization_report.html"


def quantize(
    model: str | Path,
    out: str | Path,
    scheme: Scheme,
    text: str | Path | None = None,
    with_speed: bool = True,
    family: str | None = None,
    progress: Progress | None = None,
) -> QuantizeReport:
    """Write the model with quantized linear layers to the folder `out`; see `run_quantize`.

    Args:
        model: folder of the original.
        out: a new folder.
        scheme: how weights are rounded.
        text: a corpus to compare on; None: texts that the original writes.
        with_speed: also measure prefill and decode of both.
        family: of the model, where its config.json does not tell it.
        progress: of the work.
    """
    run = QuantizeRun(
        model=str(model),
        out=str(out),
        family=family,
        scheme=scheme,
        report=QuantizeReporting(text=None if text is None else str(text), speed=with_speed),
    )
    return run_quantize(run, progress)


def run_quantize(run: QuantizeRun, progress: Progress | None = None) -> QuantizeReport:
    """Quantize a model as a run says, into a folder that is complete to use.

    The folder gets config, generation config, weights, tokenizer, stamp, run.json and
    quantization_report.json and .html. A run that is killed goes on with the next block when it is
    given again; until it is finished, its work is in a hidden folder beside `run.out`.

    Args:
        run: what, how, and what it may cost.
        progress: of the work.

    Returns:
        What it cost and gained; `broken` lists the bounds that it does not keep, which the folder's
        stamp says too.

    Raises:
        OutputError: if `run.out` exists, or cannot be written.
        CheckpointError: if there is no model.
        QuantizationError: if the model is quantized already, or does not fit the run.
        DataError: if a text cannot be read.
        ExportError: if the model has no living form and one is asked for.
    """
    report, started, out = progress or Silent(), time.perf_counter(), Path(run.out)
    refuse_existing(out)
    if run.format is not None:
        format_named(run.format)  # better now than after hours
    with _work_folder(out) as work:
        source = open_source(run, work, report)
        walked = _walked(run, source)
        for note in planned(source.folder, walked).notes:
            log.warning("%s.", note)
        if run.fit is not None:
            check_fit(source.folder, walked)
        texts = read_texts(run, source, work, report)
        fitted = fitted_run(walked, texts.watched, work, report)
        applied = walked if fitted is None else fitted.run
        result = quantize_decoder(source.folder, applied, texts.watched, work / "blocks", report)
        if run.kv_cache is not None:
            result.decoder.kv_cache = cache_rounding(
                result.decoder, run.kv_cache, texts.watched, report
            )
        with atomic_folder(out) as folder:
            finished = _finish(run, source, texts, result, fitted, folder, report, started)
    return finished


@contextmanager
def _work_folder(out: Path) -> Iterator[Path]:
    """Yield the folder beside `out` that keeps finished work; it is gone once all is done.

    After an error or Ctrl-C it stays only if a block is finished, for the same run to go on from.
    """
    work = out.with_name(f".{out.name}.work")
    with only_run(work):
        before = set(work.rglob(FINISHED))
        try:
            yield work
        except (DanluError, KeyboardInterrupt) as error:
            finished = set(work.rglob(FINISHED))
            if not finished:
                _remove_inside(work)
            elif finished > before or isinstance(error, KeyboardInterrupt):
                log.info("Finished blocks are kept in '%s': the same run goes on from there.", work)
            raise
        shutil.rmtree(work, ignore_errors=True)


def _remove_inside(folder: Path) -> None:
    """Remove everything but the lock, which its holder removes."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != ".lock":
            path.unlink(missing_ok=True)


def _walked(run: QuantizeRun, source: Source) -> QuantizeRun:
    """Return the run as it applies to what is quantized."""
    return run.model_copy(update={"model": str(source.folder), "family": source.family})


def _finish(
    run: QuantizeRun,
    source: Source,
    texts: Texts,
    result: Quantized,
    fitted: Fitted | None,
    folder: Path,
    progress: Progress,
    started: float,
) -> QuantizeReport:
    """Write the model into `folder`, measure what was written, and report it there."""
    own = own_format(run, result) if fitted is None else fitted.run.format
    save_decoder(result.decoder, folder, quant_format=run.format or own)
    result.decoder.to("meta")
    source.tokenizer.save(folder)
    write_stamp(folder, source.tokenizer, family=source.family)
    measured = measure(run, source, folder, texts, progress)
    report = QuantizeReport(
        **vars(measured),
        run=run,
        layers=result.layers,
        fitted=fitted,
        compared_on=texts.compared,
        calibrated_on=texts.calibration,
        ledger=texts.ledger,
        broken=broken_bounds(run.bounds, measured.comparison),
        notes=notes(run, source, result.layers),
        machine=machine(),
        seconds=time.perf_counter() - started,
    )
    write_json(folder / REPORT, report.as_dict())
    write_text(folder / PAGE, page(report))
    mark(folder, list(report.broken))
    _write_manifest(folder, report)
    return report


def own_format(run: QuantizeRun, result: Quantized) -> str | None:
    """Return the format called like the method, if there is one and it holds all layers."""
    method = run.scheme.method
    if method not in written_formats():
        return None
    try:
        written_quantization(result.decoder, method)
    except QuantizationError:
        return None
    return method


def _write_manifest(folder: Path, report: QuantizeReport) -> None:
    """Write run.json, which `danlu quantize` takes as a run file; the report has the details."""
    values = report.as_dict()
    kept = ("comparison", "ppl_increase", "original_bytes", "quantized_bytes", "bounds")
    result = {key: values[key] for key in kept}
    parents = {"model": str(resolve(report.run.model))}
    write_manifest(folder, "quantize", parents, report.run.model_dump(mode="json"), result)
