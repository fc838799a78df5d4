"""A decoder and its tokenizer as one GGUF file."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Size, Tensor

from danlu.errors import ExportError, did_you_mean
from danlu.export.dense import DenseState
from danlu.export.gguf.architecture import Architecture, GgufTensor, Value, plan_tensors
from danlu.export.gguf.choosing import Choice, choose
from danlu.export.gguf.encoding import EXACT, FILE_TYPES, FileType, gguf_package, storage_of
from danlu.export.gguf.file import Planned, write_gguf
from danlu.export.gguf.vocabulary import vocabulary
from danlu.export.source import stored_dtypes, widest
from danlu.export.target import ExportOptions, ExportReport
from danlu.models.decoder import Decoder
from danlu.progress import Progress
from danlu.tokenizer import Tokenizer

STORED_AS = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}


def export_gguf(
    decoder: Decoder,
    tokenizer: Tokenizer | None,
    out: Path,
    options: ExportOptions,
    progress: Progress,
) -> ExportReport:
    """Write a decoder as one GGUF file; see `danlu.export.target.Writer`.

    Raises:
        ExportError: if llama.cpp has no graph or no tokenizer that computes the same, or a number
            cannot be stored as asked.
        OutputError: if the file cannot be written.
        MissingExtraError: if the `gguf` package is not installed.
    """
    gguf_package()
    chosen = choose(decoder)
    file_type = _file_type(decoder, options.dtype)
    words = vocabulary(tokenizer, decoder.config.vocab_size)
    tensors = _planned(chosen.architecture, decoder, file_type)
    metadata = _metadata(chosen, decoder, file_type, out) | dict(words.metadata)
    error = write_gguf(out, chosen.name, metadata, tensors, progress)
    return ExportReport(
        target="gguf",
        out=str(out),
        family=chosen.family,
        architecture=chosen.name,
        dtype=file_type.name,
        num_bytes=out.stat().st_size,
        tokenizer=words.summary,
        check=None,
        notes=(
            *chosen.notes,
            *words.notes,
            *_fallback_notes(tensors, file_type),
            f"{len(tensors)} tensors were read back and compared with the source: largest "
            f"rounding error {error:.1e} of the largest number of its tensor",
        ),
    )


def _file_type(decoder: Decoder, asked: str | None) -> FileType:
    if asked is None:
        return FILE_TYPES[STORED_AS[widest(stored_dtypes(decoder).values())]]
    if asked not in FILE_TYPES:
        raise ExportError(
            f"GGUF files of type {asked!r} are not written.{did_you_mean(asked, FILE_TYPES)} "
            f"Expected one of: {', '.join(FILE_TYPES)}."
        )
    return FILE_TYPES[asked]


def _planned(architecture: Architecture, decoder: Decoder, file_type: FileType) -> list[Planned]:
    state = DenseState(decoder)
    shapes = _shapes(decoder)
    planned = [
        Planned(
            storage_of(tensor.name, _joined_shape(tensor, shapes), file_type, tensor.is_exact),
            partial(_make, tensor, state),
        )
        for tensor in plan_tensors(architecture, decoder, list(state))
    ]
    for name, computed in architecture.computed(decoder).items():
        planned.append(
            Planned(storage_of(name, computed.shape, EXACT, True), partial(_same, computed))
        )
    return planned


def _shapes(decoder: Decoder) -> dict[str, Size]:
    """Return the shape of every parameter of the plain model, whatever its layers have become."""
    with torch.device("meta"):
        return {name: p.shape for name, p in Decoder(decoder.config).named_parameters()}


def _joined_shape(tensor: GgufTensor, shapes: Mapping[str, Size]) -> tuple[int, ...]:
    parts = [shapes[name] for name in tensor.ours]
    return (sum(part[0] for part in parts), *parts[0][1:])


def _make(tensor: GgufTensor, state: Mapping[str, Tensor]) -> Tensor:
    parts = [state[name] for name in tensor.ours]
    return tensor.rows(parts[0] if len(parts) == 1 else torch.cat(parts))


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _metadata(chosen: Choice, decoder: Decoder, file_type: FileType, out: Path) -> dict[str, Value]:
    package = gguf_package()
    keys = dict(chosen.architecture.hyperparameters(decoder))
    keys["context_length"] = chosen.context_length
    num_parameters = sum(shape.numel() for shape in _shapes(decoder).values())
    return {
        "general.type": "model",
        "general.name": out.stem,
        "general.size_label": package.size_label(num_parameters, num_parameters, 0, 0),
        "general.file_type": file_type.number,
        "general.quantization_version": package.GGML_QUANT_VERSION,
        **{f"{chosen.name}.{key}": value for key, value in keys.items()},
    }


def _fallback_notes(tensors: list[Planned], file_type: FileType) -> list[str]:
    """Return what to know of matrices that could not be stored as asked."""
    others = [t.stored for t in tensors if t.stored.file_type not in (file_type, EXACT)]
    if not others:
        return []
    sizes = sorted({stored.shape[-1] for stored in others})
    return [
        f"{len(others)} matrices are stored as f16: their rows of "
        f"{', '.join(map(str, sizes))} numbers do not make whole blocks of 32"
    ]
