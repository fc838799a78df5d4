"""Decoders without weights, and the factories that make linear layers of arriving weights."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from danlu.config.model import ModelShape
from danlu.config.quantize.scheme import PRESETS, QuantScheme
from danlu.errors import CheckpointError, ConfigError, did_you_mean
from danlu.files import parse_json
from danlu.models.decoder import Decoder
from danlu.models.family import Family, detect_family, discover, family_name
from danlu.models.published import Published
from danlu.nn.linear import Linear, LinearLike
from danlu.nn.packed import PackedLinear, can_pack
from danlu.quantize.linear import QuantizedLinear
from danlu.quantize.rounding.weights import input_rounding, quantize_weight
from danlu.tokenizer.stamp import stamped_family

LinearFactory = Callable[[str, Tensor, nn.Parameter | None], LinearLike]


def read_model_config(folder: Path) -> dict[str, Any]:
    """Return the config.json of a checkpoint folder.

    Raises:
        CheckpointError: if it is missing or no JSON object.
    """
    if not folder.is_dir():
        raise CheckpointError(
            f"'{folder}' is not a folder. Expected the folder of a checkpoint, with config.json."
        )
    return read_json(folder / "config.json")


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file of a checkpoint; anything else is a `CheckpointError`."""
    try:
        values = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if path.name == "config.json" and (path.parent / "adapter_config.json").exists():
            raise CheckpointError(
                f"'{path.parent}' is an adapter; expected the folder of a model. Name its base, "
                "and this folder as the adapter."
            ) from None
        raise CheckpointError(
            f"'{path}' is missing. Expected the {path.name} published with the weights."
        ) from None
    except (ValueError, OSError) as error:
        raise CheckpointError(
            f"'{path}' cannot be read ({error}). Expected JSON in UTF-8; copy or download it again."
        ) from error
    if not isinstance(values, dict):
        raise CheckpointError(f"'{path}' holds a {type(values).__name__}; expected a JSON object.")
    return values


def named_family(spelling: str) -> str:
    """Return the family that a name or alias means, or raise a `ConfigError` with the closest."""
    name = family_name(spelling)
    if name is None:
        known = discover()
        raise ConfigError(
            f"There is no family {spelling!r}.{did_you_mean(spelling, known)} "
            f"Known: {', '.join(known)}."
        )
    return name


def family_named(spelling: str) -> Family:
    """Return a family by its name or alias; an unknown one is a `ConfigError`."""
    return discover()[named_family(spelling)]


def family_of_folder(folder: Path, values: Mapping[str, Any], family: str | None = None) -> str:
    """Return the family of a checkpoint: the caller's, else the folder's own note, else by config.

    Args:
        folder: of the checkpoint.
        values: its config.json.
        family: what the caller says: a name or an alias.

    Raises:
        ConfigError: if there is no such family.
        UnsupportedModelError: if no family opens it.
    """
    said = family or stamped_family(folder)
    return named_family(said) if said else detect_family(values)


def decoder_from_config(values: Mapping[str, Any], family: str | None = None) -> Decoder:
    """Return the decoder that a config.json describes, on the meta device: no memory, no weights.

    Raises:
        UnsupportedModelError: if no family opens it.
        CheckpointError: with every key that is missing, wrong or unknown.
    """
    name = named_family(family) if family else detect_family(values)
    config = discover()[name].config(name, values)
    with torch.device("meta"):
        decoder = Decoder(config)
    decoder.published = Published(family=name, config=dict(values))
    return decoder


def new_decoder(shape: ModelShape, vocab_size: int) -> Decoder:
    """Return a Llama-style decoder with undefined parameters; call its `init_weights` next."""
    values = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "max_position_embeddings": shape.max_seq_len,
        "rms_norm_eps": shape.rms_norm_eps,
        "rope_theta": shape.rope_theta,
        "hidden_act": "silu",
        "tie_word_embeddings": shape.tie_word_embeddings,
    }
    decoder = decoder_from_config(values).to_empty(device="cpu")
    decoder.tie_head()
    return decoder


def dense(name: str, weight: Tensor, bias: nn.Parameter | None) -> LinearLike:
    """Return a plain linear layer on `weight`: the factory that converts nothing."""
    with torch.device("meta"):
        linear = Linear(weight.shape[1], weight.shape[0])
    linear.weight = nn.Parameter(weight)
    linear.bias = bias
    return linear


def rounding(scheme: QuantScheme) -> LinearFactory:
    """Return the factory that rounds every weight to integers, row by row."""

    def make(name: str, weight: Tensor, bias: nn.Parameter | None) -> LinearLike:
        chosen = scheme_for(name, scheme)
        if chosen is None:
            return dense(name, weight.clone(), bias)
        rounded = quantize_weight(weight, chosen, name)
        return QuantizedLinear(rounded, bias, weight.dtype, input_rounding(chosen))

    return make


def packed(name: str, weight: Tensor, bias: nn.Parameter | None) -> LinearLike:
    """Return a linear layer laid out for inference on this machine."""
    if weight.device.type == "cpu" and can_pack(weight.dtype):
        return PackedLinear(weight, bias)
    return dense(name, weight.clone(), bias)


def scheme_for(name: str, scheme: QuantScheme) -> QuantScheme | None:
    """Return the scheme of the layer called `name`; None for a head that is left alone."""
    weights_alone = not scheme.rounds_inputs
    if name != "lm_head" or (scheme.head_bits == scheme.bits and weights_alone):
        return scheme
    if scheme.head_bits is None:
        return scheme if weights_alone and not scheme.is_code_book else None
    return PRESETS.get(f"int{scheme.head_bits}")
