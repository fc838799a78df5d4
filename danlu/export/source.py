"""A model opened to be exported: exactly as it is stored, an adapter merged into it."""

from collections.abc import Iterable
from pathlib import Path

import torch

from danlu.adapters.handling import merge_adapters
from danlu.loading import load_decoder, read_model_config
from danlu.loading.building import family_named, family_of_folder
from danlu.loading.layout import published_layout
from danlu.models.decoder import Decoder
from danlu.quantize.linear import QuantizedLinear
from danlu.weights.files import find_weight_files, stream


def open_source(
    path: str | Path, adapter: str | Path | None = None, family: str | None = None
) -> Decoder:
    """Return the decoder of a folder without losing a bit of it.

    It is in the dtype of the file if all its numbers have one, else in float32. An adapter is
    merged in float32, as `danlu merge` does it. Keys and values are plain: how a cache rounds them
    is no part of an export.

    Raises:
        CheckpointError: if the folder cannot be opened.
        AdapterError: if the adapter does not fit it.
    """
    folder = Path(path)
    family = family_of_folder(folder, read_model_config(folder), family)
    dtype = torch.float32 if adapter else exact_dtype(folder, family)
    decoder = load_decoder(folder, dtype=dtype, adapter=adapter, family=family)
    if adapter is not None:
        merge_adapters(decoder)
    decoder.kv_cache = None
    return decoder


def exact_dtype(folder: Path, family: str) -> torch.dtype:
    """Return the dtype that holds every number of a checkpoint as it is stored."""
    ignored = tuple(ignored.ending for ignored in family_named(family).ignored_tensors)
    files = find_weight_files(folder)
    dtypes = {tensor.dtype for name, tensor, _ in stream(files) if not name.endswith(ignored)}
    only = dtypes.pop() if len(dtypes) == 1 else torch.float32
    return only if only in (torch.bfloat16, torch.float16) else torch.float32


def stored_dtypes(decoder: Decoder) -> dict[str, torch.dtype]:
    """Return the dtype each of our parameters was stored in; of quantized ones, as loaded."""
    published = decoder.published
    assert published is not None
    return {
        ours: published.dtypes[name]
        for name, entry in published_layout(decoder).entries.items()
        if name in published.dtypes
        for ours in entry.ours
    }


def widest(dtypes: Iterable[torch.dtype]) -> torch.dtype:
    """Return the dtype that holds the numbers of all."""
    found = set(dtypes)
    return found.pop() if len(found) == 1 else torch.float32


def has_quantized_layers(decoder: Decoder) -> bool:
    """Return whether some layers hold integers."""
    return any(isinstance(linear, QuantizedLinear) for _, linear in decoder.linears())
