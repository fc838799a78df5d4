"""A quantized folder beside the original: quality, answers, size and speed."""

import platform
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

import danlu
from danlu.calibration.block import LayerResult
from danlu.calibration.plan import HEAD
from danlu.commands.compare import weight_bytes
from danlu.commands.quantize.answers import answers
from danlu.commands.quantize.precision import compared_dtype
from danlu.commands.quantize.report import Measured
from danlu.commands.quantize.source import Source
from danlu.commands.quantize.speed import Served, served
from danlu.commands.quantize.texts import Texts
from danlu.config.quantize.run import QuantizeRun
from danlu.engine.placement import choose_device
from danlu.eval.compare import compare_decoders
from danlu.eval.layer_times import operator_label
from danlu.loading import load_decoder, read_model_config
from danlu.loading.quantized import Layers, quantization_of
from danlu.models.decoder import Decoder
from danlu.nn.cache_rounding import CacheRounding
from danlu.progress import Progress, working
from danlu.quantize.linear import QuantizedLinear
from danlu.weights.files import find_weight_files, stream

HEAD_NOTE = (
    "the output head is in {bits} bits too, which vLLM 0.32 does not open; for it, leave the head "
    "alone: --head-bits 16"
)


def measure(
    run: QuantizeRun, source: Source, folder: Path, texts: Texts, progress: Progress
) -> Measured:
    """Measure the quantized model in `folder` beside its source.

    Both compute in float32 where they are compared, if that fits into the memory, and in bfloat16
    where they are timed.
    """
    device = choose_device(run.device)
    with working(progress, "measure", 3):
        dtype = compared_dtype(source, device)
        original = load_decoder(source.folder, dtype, device, family=source.family)
        quantized = load_decoder(folder, dtype, device, family=source.family)
        comparison = compare_decoders(original, quantized, texts.batches)
        progress.advance(1, "compared")
        said = answers(original, quantized, source.tokenizer, texts.rows, run.report.samples)
        operators = _operators(quantized)
        caches = _cache_bytes(source, None), _cache_bytes(source, quantized.kv_cache)
        del original, quantized
        progress.advance(1, "answered")
        speeds = _served(source, folder, device) if run.report.speed else None
        progress.advance(1, "timed")
    sizes = weight_bytes(source.folder), weight_bytes(folder), layer_bytes(folder)
    name = str(dtype).removeprefix("torch.")
    return Measured(operators, comparison, name, said, *sizes, caches, speeds, written_as(folder))


def _served(source: Source, folder: Path, device: torch.device) -> tuple[Served, Served]:
    return (
        served(source.folder, device, source.family),
        served(folder, device, source.family),
    )


def _cache_bytes(source: Source, rounding: CacheRounding | None) -> int:
    """Return what keys and values of one token take as they are served."""
    decoder = source.shape().to(torch.bfloat16)
    decoder.kv_cache = rounding
    return decoder.cache_token_bytes()


def _operators(decoder: Decoder) -> dict[str, int]:
    layers = [linear for _, linear in decoder.linears() if isinstance(linear, QuantizedLinear)]
    return dict(Counter(map(operator_label, layers)).most_common())


def written_as(folder: Path) -> str:
    """Return the format of a quantized folder, as its config.json calls it."""
    values = read_model_config(folder).get("quantization_config") or {}
    return str(values.get("quant_method", "dense"))


def layer_bytes(folder: Path) -> int:
    """Return the size of the tensors that quantized layers of a folder consist of."""
    files = find_weight_files(folder)
    names = [name for file in files for name in file.names()]
    layers = Layers(quantization_of(folder, read_model_config(folder)), names)
    return sum(tensor.nbytes for name, tensor, _ in stream(files) if layers.holds(name))


def notes(run: QuantizeRun, source: Source, layers: Sequence[LayerResult]) -> list[str]:
    """Return what is good to know about a run."""
    said = [source.exported] if source.exported else []
    paths = {each.path for each in run.calibration.sources or ()}
    if run.report.text in paths:
        said.append(f"{run.report.text} was calibrated on and compared on: the comparison flatters")
    said += [f"{layer.name}: {note}" for layer in layers for note in layer.notes]
    said += [HEAD_NOTE.format(bits=layer.bits) for layer in layers if layer.name == HEAD]
    return said


def machine() -> dict[str, str]:
    """Return what measured all this."""
    return {
        "machine": f"{platform.platform()}, {torch.get_num_threads()} threads",
        "versions": f"danlu {danlu.__version__}, torch {torch.__version__}, "
        f"Python {platform.python_version()}",
    }
