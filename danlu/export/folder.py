"""A decoder written as the folder of another architecture, and read back to be compared."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from danlu.export.checking import check_logits, float32_logits, random_rows
from danlu.export.generation import generation_config, token_ids
from danlu.export.source import has_quantized_layers, open_source, widest
from danlu.export.target import ExportOptions, ExportReport, LogitCheck
from danlu.export.tensors import PublishedTensors
from danlu.export.tokenizing import write_tokenizer
from danlu.files import atomic_folder, write_json
from danlu.models.decoder import Decoder
from danlu.models.family import Reexpressed
from danlu.progress import Progress, working
from danlu.tokenizer import Tokenizer
from danlu.weights.writing import write_weights

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
OPTIONS: Mapping[str, tuple[str, ...]] = {"dtype": tuple(DTYPES), "max_shard_bytes": ()}

# What a config.json may carry that other tools would take for more than a note.
DROPPED_KEYS = (
    "auto_map",
    "custom_pipelines",
    "quantization_config",
    "torch_dtype",
    "transformers_version",
    "_name_or_path",
    "_from_model_config",
)


def write_folder(
    target: str,
    reexpressed: Reexpressed,
    decoder: Decoder,
    tokenizer: Tokenizer | None,
    out: Path,
    options: ExportOptions,
    progress: Progress,
) -> ExportReport:
    """Write `decoder` as the architecture of `reexpressed`; its weights are gone afterwards.

    Raises:
        OutputError: if `out` exists or cannot be written.
        ExportError: if the written folder gives other logits than the source, or other tokens.
    """
    assert decoder.published is not None
    family, notes = decoder.published.family, list(reexpressed.notes)
    if has_quantized_layers(decoder):
        notes.append("the quantized layers are written as the numbers they stand for")
    with atomic_folder(out) as folder, working(progress, "export", 2):
        tensors = PublishedTensors(decoder, reexpressed, DTYPES.get(options.dtype or ""))
        rows = random_rows(decoder.config.vocab_size, _shared_length(decoder, tensors.layout_of))
        expected = float32_logits(decoder, rows)
        write_weights(folder, tensors, options.max_shard_bytes)
        config = _write_configs(folder, reexpressed, decoder, tokenizer, tensors)
        about_tokenizer = write_tokenizer(tokenizer, folder, family, notes)
        progress.advance(1, "written")
        check = _prove(folder, reexpressed.family, tensors, decoder, rows, expected, out)
        progress.advance(1, "compared")
        return ExportReport(
            target=target,
            out=str(out),
            family=family,
            architecture=config["architectures"][0],
            dtype=config["dtype"],
            num_bytes=sum(file.stat().st_size for file in folder.iterdir()),
            tokenizer=about_tokenizer,
            check=check,
            notes=tuple(notes),
        )


def _shared_length(source: Decoder, other: Decoder) -> int:
    return min(source.config.max_seq_len, other.config.max_seq_len)


def _write_configs(
    folder: Path,
    reexpressed: Reexpressed,
    decoder: Decoder,
    tokenizer: Tokenizer | None,
    tensors: PublishedTensors,
) -> dict[str, Any]:
    """Write config.json and generation_config.json; return the first."""
    kept = {key: value for key, value in reexpressed.config.items() if key not in DROPPED_KEYS}
    dtype = str(widest(tensors.dtypes.values())).removeprefix("torch.")
    config = {**token_ids(decoder, tokenizer), **kept, "dtype": dtype}
    write_json(folder / "config.json", config)
    if generation := generation_config(decoder, tokenizer):
        write_json(folder / "generation_config.json", generation)
    return config


def _prove(
    folder: Path,
    family: str,
    tensors: PublishedTensors,
    decoder: Decoder,
    rows: Tensor,
    expected: Tensor,
    out: Path,
) -> LogitCheck:
    """Read the folder back and compare it with the source, whose weights are let go before."""
    rounded = expected
    if tensors.were_rounded:
        tensors.put_into(decoder)
        rounded = float32_logits(decoder, rows)
    tensors.release()
    decoder.to("meta")
    written = open_source(folder, family=family)
    return check_logits(expected, rounded, float32_logits(written, rows), str(out))
