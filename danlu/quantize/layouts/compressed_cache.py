"""Keys and values as compressed-tensors rounds them: `kv_cache_scheme`, `k_scale` and `v_scale`.

Source: compressed-tensors 0.19. Keys are rounded after they are rotated, on scales that are fixed:
[1] for a layer (strategy "tensor") or [K, 1, 1] for its heads ("attn_head"), beside the attention
module's projections.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from danlu.nn.cache_rounding import FixedRounding

METHOD = "compressed-tensors"
KEYS, VALUES = "k_scale", "v_scale"
NOT_READ = (
    "keys and values are kept as they come; of kv_cache_scheme only 8-bit integers on fixed, "
    "symmetric scales for each layer or head are read"
)
STRATEGIES = {"tensor": "tensor", "attn_head": "head"}


def reads_cache(config: Mapping[str, Any]) -> bool:
    """Return whether a `quantization_config` rounds keys and values, in a way that is read here."""
    scheme = config.get("kv_cache_scheme") or {}
    if config.get("quant_method") != METHOD:
        return False
    integers = scheme.get("type") == "int" and scheme.get("num_bits") == 8
    fixed = not scheme.get("dynamic") and scheme.get("symmetric", True)
    return bool(integers and fixed and scheme.get("strategy") in STRATEGIES)


def cache_notes(config: Mapping[str, Any]) -> list[str]:
    """Return that keys and values stay as they are, if the config says otherwise."""
    return [NOT_READ] if config.get("kv_cache_scheme") and not reads_cache(config) else []


def cache_scheme(rounding: FixedRounding) -> dict[str, Any]:
    """Return the `kv_cache_scheme` of fixed scales."""
    return {
        "num_bits": 8,
        "type": "int",
        "symmetric": True,
        "strategy": "attn_head" if rounding.per_head else "tensor",
        "group_size": None,
        "dynamic": False,
        "actorder": None,
        "block_structure": None,
        "observer": "static_minmax",
        "observer_kwargs": {},
        "scale_dtype": None,
        "zp_dtype": None,
    }


def stored_scales(rounding: FixedRounding, layer: int) -> dict[str, Tensor]:
    """Return the scales of a layer as they are stored, by the names of their tensors."""
    shape = (-1, 1, 1) if rounding.per_head else (1,)
    keys, values = rounding.keys[layer], rounding.values[layer]
    return {KEYS: keys.reshape(shape), VALUES: values.reshape(shape)}
