"""A decoder written back in its published layout, tensor for tensor."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from danlu.errors import CheckpointError, QuantizationError
from danlu.files import write_json
from danlu.loading.building import family_named
from danlu.loading.layout import HEAD, published_layout
from danlu.models.decoder import Decoder
from danlu.models.published import Published
from danlu.quantize.format import formats
from danlu.quantize.linear import QuantizedLinear
from danlu.quantize.weight import QuantizedWeight
from danlu.weights.rules import Entry
from danlu.weights.writing import MAX_SHARD_BYTES, write_weights

WRITTEN_FORMAT = "compressed_tensors"


def save_decoder(
    decoder: Decoder,
    folder: str | Path,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write config.json, generation_config.json (if there was one) and weights into `folder`.

    Names, split and dtype are those of the checkpoint that was opened, so an untouched model is
    given back byte for byte. Quantized layers are written as compressed-tensors.

    Args:
        decoder: a decoder without adapters (merge them first).
        folder: made if needed; files of the same names are replaced.
        dtype: of all tensors; default: as they were published, else as they are.
        max_shard_bytes: more than that goes into several files.

    Raises:
        OutputError: if the folder cannot be written.
        QuantizationError: if a published tensor is quantized in part.
        CheckpointError: if the decoder was prepared for inference.
    """
    assert decoder.published is not None
    if decoder.prepared_for_inference:
        raise CheckpointError(
            "This decoder was prepared for inference: its layers are fused and packed. "
            "Load it again without for_inference=True to save it."
        )
    folder = Path(folder)
    quantized = _quantized_layers(decoder)
    tensors = _published_tensors(decoder, quantized, dtype)
    write_weights(folder, tensors, max_shard_bytes)
    write_json(folder / "config.json", _config(decoder, quantized, tensors))
    if decoder.published.generation_config is not None:
        write_json(folder / "generation_config.json", dict(decoder.published.generation_config))


def _quantized_layers(decoder: Decoder) -> dict[str, QuantizedLinear]:
    return {name: lin for name, lin in decoder.linears() if isinstance(lin, QuantizedLinear)}


def _published_tensors(
    decoder: Decoder, quantized: dict[str, QuantizedLinear], dtype: torch.dtype | None
) -> dict[str, Tensor]:
    published = decoder.published
    assert published is not None
    state = dict(decoder.named_parameters())
    tensors: dict[str, Tensor] = {}
    for name, entry in published_layout(decoder).entries.items():
        stored = _stored_name(name, published)
        owners = [ours.removesuffix(".weight") for ours in entry.ours]
        if any(owner in quantized for owner in owners):
            weight = _joined(entry, [quantized.get(owner) for owner in owners])
            module = stored.removesuffix(".weight")
            for leaf, part in formats()[WRITTEN_FORMAT].encode(weight).items():
                tensors[f"{module}.{leaf}"] = part
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


def _joined(entry: Entry, layers: Sequence[QuantizedLinear | None]) -> QuantizedWeight:
    """Return the quantized weight of one published tensor, from those of our layers."""
    weights = [layer.operator.quantized() for layer in layers if layer is not None]
    if len(weights) < len(layers) or len({(w.bits, w.zero_points is None) for w in weights}) > 1:
        raise QuantizationError(
            f"{entry.published} holds {', '.join(entry.ours)}, which are not all quantized alike. "
            "Quantize all of them with one scheme, or none."
        )
    if len(weights) == 1:
        return weights[0]
    zeros = [w.zero_points for w in weights if w.zero_points is not None]
    return QuantizedWeight(
        entry.arrangement.rows.join([w.codes for w in weights]),
        entry.arrangement.rows.join([w.scales for w in weights]),
        entry.arrangement.rows.join(zeros) if zeros else None,
        weights[0].bits,
    )


def _config(
    decoder: Decoder, quantized: dict[str, QuantizedLinear], tensors: dict[str, Tensor]
) -> dict[str, Any]:
    """Return the config.json: the published one, with what quantization changed."""
    assert decoder.published is not None
    config = dict(decoder.published.config)
    if not quantized:
        config.pop("quantization_config", None)
        return config
    weights, plain = {}, []
    for name, entry in published_layout(decoder).entries.items():
        owner = entry.ours[0].removesuffix(".weight")
        module = _stored_name(name, decoder.published).removesuffix(".weight")
        if owner in quantized:
            weights[module] = quantized[owner].operator.quantized()
        elif owner in decoder.linear_roles() and name.endswith(".weight"):
            plain.append(module)
    config["quantization_config"] = formats()[WRITTEN_FORMAT].config(weights, plain)
    if "lm_head" in quantized:
        config["tie_word_embeddings"] = False
    return config
