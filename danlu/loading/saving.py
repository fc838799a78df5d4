"""A decoder written back in its published layout, tensor for tensor."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from danlu.errors import CheckpointError
from danlu.files import write_json
from danlu.loading.kv_cache import WrittenCache, note_rounding, written_cache
from danlu.loading.layout import HEAD, published_layout, stored_name
from danlu.loading.written import Written, written_quantization
from danlu.models.decoder import Decoder
from danlu.quantize.linear import QuantizedLinear
from danlu.weights.writing import MAX_SHARD_BYTES, write_weights


def save_decoder(
    decoder: Decoder,
    folder: str | Path,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    quant_format: str | None = None,
) -> None:
    """Write config.json, generation_config.json (if there was one) and weights into `folder`.

    Names, split and dtype are those of the checkpoint that was opened, so an untouched model is
    given back byte for byte. Quantized layers are written in the format they were read in; where
    others are quantized now, in the first of `FORMATS` that holds all of them. Always the numbers
    stay the same. How keys and values are rounded is in danlu.json where the format has no place.

    Args:
        decoder: a decoder without adapters (merge them first).
        folder: made if needed; files of the same names are replaced.
        dtype: of all tensors; default: as they were published, else as they are.
        max_shard_bytes: more than that goes into several files.
        quant_format: of quantized layers (see `danlu.quantize.format.written_formats`).

    Raises:
        OutputError: if the folder cannot be written.
        QuantizationError: if a published tensor is quantized in part, or no format holds all
            quantized layers (`danlu.loading.dequantize` makes them dense).
        CheckpointError: if the decoder was prepared for inference, or carries adapters.
    """
    assert decoder.published is not None
    if decoder.prepared_for_inference:
        raise CheckpointError(
            "This decoder was prepared for inference: its layers are fused and packed. "
            "Load it again without for_inference=True to save it."
        )
    if decoder.adapters:
        raise CheckpointError(
            f"This decoder carries adapters ({', '.join(decoder.adapters)}), which are no part of "
            "a checkpoint. Merge them into it, or save them beside it with save_adapter."
        )
    folder = Path(folder)
    written = written_quantization(decoder, quant_format)
    cache = written_cache(decoder, written.config if written else None)
    tensors = _published_tensors(decoder, written, dtype) | dict(cache.tensors)
    write_weights(folder, tensors, max_shard_bytes)
    write_json(folder / "config.json", _config(decoder, written, cache))
    note_rounding(folder, cache.note)
    for name, values in (written.files() if written else {}).items():
        write_json(folder / name, values)
    if decoder.published.generation_config is not None:
        write_json(folder / "generation_config.json", dict(decoder.published.generation_config))


def _published_tensors(
    decoder: Decoder, written: Written | None, dtype: torch.dtype | None
) -> dict[str, Tensor]:
    published = decoder.published
    assert published is not None
    state = dict(decoder.named_parameters())
    tensors: dict[str, Tensor] = {}
    for name, entry in published_layout(decoder).entries.items():
        stored = stored_name(name, published)
        module = stored.removesuffix(".weight")
        if written is not None and stored != module and module in written.weights:
            parts = written.parts(module)
            tensors |= {f"{module}.{part}": tensor for part, tensor in parts.items()}
        elif entry.ours == (HEAD,) and HEAD not in state:
            if published.stores_tied_head:
                head = state["model.embed_tokens.weight"].detach().clone()
                tensors[stored] = head.to(dtype or published.dtypes.get(name, head.dtype))
        else:
            tensor = entry.save(state).detach()
            tensors[stored] = tensor.to(dtype or published.dtypes.get(name, tensor.dtype))
    return tensors


def _config(decoder: Decoder, written: Written | None, cache: WrittenCache) -> dict[str, Any]:
    """Return the config.json: the published one, with what quantization changed."""
    assert decoder.published is not None
    config = dict(decoder.published.config)
    config.pop("compression_config", None)
    if written is None:
        config.pop("quantization_config", None)
        return config
    config["quantization_config"] = dict(written.config)
    if cache.scheme is not None:
        config["quantization_config"]["kv_cache_scheme"] = dict(cache.scheme)
    if isinstance(decoder.lm_head, QuantizedLinear):
        config["tie_word_embeddings"] = False
    return config
