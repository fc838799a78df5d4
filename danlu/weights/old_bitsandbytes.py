"""4-bit weights as bitsandbytes 0.39 to 0.41 pickled them, under the names it has used since.

Source: functional.quantize_4bit of bitsandbytes 0.41, and the published Baichuan2-*-Chat-4bits. Of
a layer X, the state dict holds X.weight.data, the codes, and X.weight.quant_state, a list:

    [absmax, shape, dtype, blocksize, nested, quant_type, quant_map]

nested is None or [offset, [nested_absmax, nested_quant_map, nested_blocksize, ...]]; the oldest
lists end before quant_map.
"""

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from danlu.errors import CheckpointError

DATA, STATE = ".weight.data", ".weight.quant_state"
NESTED_BLOCK = 256  # of lists that do not tell


def renamed(content: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return a state dict with every old 4-bit layer as tensors, and all else as it is.

    Raises:
        CheckpointError: if a list is not what bitsandbytes wrote.
    """
    layers = [str(name).removesuffix(STATE) for name in content if str(name).endswith(STATE)]
    found: dict[Any, Any] = {}
    for name, value in content.items():
        layer = str(name).removesuffix(DATA).removesuffix(STATE)
        if layer == name or layer not in layers:
            found[name] = value
        elif str(name).endswith(DATA):
            found[f"{layer}.weight"] = value
        else:
            found |= {f"{layer}.weight.{part}": t for part, t in _parts(layer, value).items()}
    return found


def _parts(layer: str, state: Any) -> dict[str, Tensor]:
    """Return the tensors that a list is now."""
    try:
        absmax, shape, dtype, blocksize, nested, kind, *table = state
        plain = {
            "quant_type": str(kind),
            "blocksize": int(blocksize),
            "dtype": str(dtype).removeprefix("torch."),
            "shape": [int(size) for size in shape],
        }
        parts = {"absmax": absmax, **({"quant_map": table[0]} if table else {})}
        if nested is not None:
            offset, (nested_absmax, nested_map, *rest) = nested
            plain |= _nested(offset, rest)
            parts |= {"nested_absmax": nested_absmax, "nested_quant_map": nested_map}
    except (ValueError, TypeError, AttributeError) as error:
        raise _strange(layer, str(error)) from error
    other = [name for name, part in parts.items() if not isinstance(part, Tensor)]
    if other:
        raise _strange(layer, f"{', '.join(other)} is no tensor")
    text = json.dumps(plain).encode()
    state_name = f"quant_state.bitsandbytes__{plain['quant_type']}"
    return parts | {state_name: torch.tensor(list(text), dtype=torch.uint8)}


def _nested(offset: Any, rest: list[Any]) -> dict[str, Any]:
    blocksize = rest[0] if rest and isinstance(rest[0], int) else NESTED_BLOCK
    return {
        "nested_blocksize": blocksize,
        "nested_dtype": "float32",
        "nested_offset": float(offset),
    }


def _strange(layer: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"{layer}{STATE} is no list as bitsandbytes 0.39 to 0.41 wrote it ({why}). Expected "
        "[absmax, shape, dtype, blocksize, nested, quant_type, quant_map]; copy or download the "
        "file again."
    )
