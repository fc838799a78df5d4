"""A decoder written back in its published layout, tensor for tensor."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from danlu.errors import CheckpointError, QuantizationError
from danlu.files import write_json
from danlu.loading.building import family_named
from danlu.loading.layout import HEAD, published_layout
from danlu.loading.quantized import joined_rows
from danlu.models.decoder import Decoder
from danlu.models.published import Published
from danlu.quantize.codebook import CodeBookWeight
from danlu.quantize.format import QuantFormat, find_format
from danlu.quantize.formats import bitsandbytes, compressed_tensors
from danlu.quantize.linear import QuantizedLinear
from danlu.quantize.weight import QuantizedWeight
from danlu.weights.rules import Entry
from danlu.weights.writing import MAX_SHARD_BYTES, write_weights


def save_decoder(
    decoder: Decoder,
    folder: str | Path,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write config.json, generation_config.json (if there was one) and weights into `folder`.

    Names, split and dtype are those of the checkpoint that was opened, so an untouched model is
    given back byte for byte. Quantized layers are written in the format they were read in; where
    others are quantized now, integers go as compressed-tensors, NF4 and FP4 as bitsandbytes. Always
    the numbers stay the same.

    Args:
        decoder: a decoder without adapters (merge them first).
        folder: made if needed; files of the same names are replaced.
        dtype: of all tensors; default: as they were published, else as they are.
        max_shard_bytes: more than that goes into several files.

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
    written = _written_quantization(decoder)
    tensors = _published_tensors(decoder, written, dtype)
    write_weights(folder, tensors, max_shard_bytes)
    write_json(folder / "config.json", _config(decoder, written))
    if decoder.published.generation_config is not None:
        write_json(folder / "generation_config.json", dict(decoder.published.generation_config))


@dataclass(frozen=True)
class _Written:
    """How quantized layers are written.

    Attributes:
        weights: by stored module name.
        format: of their tensors.
        config: the `quantization_config`.
    """

    weights: Mapping[str, QuantizedWeight]
    format: QuantFormat
    config: Mapping[str, Any]


def _written_quantization(decoder: Decoder) -> _Written | None:
    """Return how the quantized layers are written; None if there are none."""
    published = decoder.published
    assert published is not None
    layers = {name: lin for name, lin in decoder.linears() if isinstance(lin, QuantizedLinear)}
    weights: dict[str, QuantizedWeight] = {}
    plain = []
    for name, entry in published_layout(decoder).entries.items():
        owners = [ours.removesuffix(".weight") for ours in entry.ours]
        module = _stored_name(name, published).removesuffix(".weight")
        if any(owner in layers for owner in owners):
            weights[module] = _joined(entry, [layers.get(owner) for owner in owners])
        elif owners[0] in decoder.linear_roles() and name.endswith(".weight"):
            plain.append(module)
    if not weights:
        return None
    if published.quantization is not None and published.quantized.keys() == weights.keys():
        read = find_format(published.quantization)
        weights = {module: w.to(published.quantized[module]) for module, w in weights.items()}
        if all(read.fits(weight, published.quantization) for weight in weights.values()):
            return _Written(weights, read, read.kept(published.quantization))
    in_books = all(isinstance(weight, CodeBookWeight) for weight in weights.values())
    chosen = bitsandbytes.FORMAT if in_books else compressed_tensors.FORMAT
    config = chosen.config(weights, plain)
    wrong = [module for module, weight in weights.items() if not chosen.fits(weight, config)]
    if wrong:
        raise QuantizationError(
            f"{', '.join(wrong)} cannot be written as {config['quant_method']} without changing "
            "numbers. Make the layers dense with danlu.loading.dequantize(decoder), then save."
        )
    return _Written(weights, chosen, config)


def _published_tensors(
    decoder: Decoder, written: _Written | None, dtype: torch.dtype | None
) -> dict[str, Tensor]:
    published = decoder.published
    assert published is not None
    state = dict(decoder.named_parameters())
    tensors: dict[str, Tensor] = {}
    for name, entry in published_layout(decoder).entries.items():
        stored = _stored_name(name, published)
        module = stored.removesuffix(".weight")
        if written is not None and stored != module and module in written.weights:
            parts = written.format.encode(written.weights[module], written.config)
            tensors |= {f"{module}.{part}": tensor for part, tensor in parts.items()}
        elif entry.ours == (HEAD,) and HEAD not in state:
            if published.stores_tied_head:
                head = state["model.embed_tokens.weight"].detach().clone()
                tensors[stored] = head.to(dtype or published.dtypes.get(name, head.dtype))
        else:
            tensor = entry.save(state).detach()
            tensors[stored] = tensor.to(dtype or published.dtypes.get(name, tensor.dtype))
    return tensors


def _stored_name(name: str, published: Published) -> str:
    prefix = family_named(published.family).optional_prefix
    return name if published.has_prefix or not prefix else name.removeprefix(prefix)


def _joined(entry: Entry, layers: list[QuantizedLinear | None]) -> QuantizedWeight:
    """Return the quantized weight of one published tensor, from those of our layers."""
    weights = [layer.quantized() for layer in layers if layer is not None]
    reason = "they are not all quantized"
    if len(weights) == len(layers):
        try:
            return joined_rows(entry, weights)
        except QuantizationError as error:
            reason = str(error)
    raise QuantizationError(
        f"{entry.published} holds {', '.join(entry.ours)}, which cannot be written together: "
        f"{reason} Quantize all of them with one scheme, or none "
        "(danlu.loading.dequantize(decoder) makes them dense)."
    )


def _config(decoder: Decoder, written: _Written | None) -> dict[str, Any]:
    """Return the config.json: the published one, with what quantization changed."""
    assert decoder.published is not None
    config = dict(decoder.published.config)
    config.pop("compression_config", None)
    if written is None:
        config.pop("quantization_config", None)
        return config
    config["quantization_config"] = dict(written.config)
    if isinstance(decoder.lm_head, QuantizedLinear):
        config["tie_word_embeddings"] = False
    return config
