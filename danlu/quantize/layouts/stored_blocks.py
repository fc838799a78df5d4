"""Blocks of 4-bit codes as bitsandbytes stores them; its format file tells the layout."""

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from danlu.errors import QuantizationError
from danlu.quantize.books import code_book
from danlu.quantize.codebook import (
    BlockScales,
    CodeBookWeight,
    DoubleScales,
    PlainScales,
    flat_pairs,
    rows_of_pairs,
)
from danlu.quantize.format import require

STATE = "weight.quant_state.bitsandbytes__"


def decode_blocks(parts: Mapping[str, Tensor]) -> CodeBookWeight:
    """Return the weight of one layer.

    Raises:
        QuantizationError: if a part is missing or does not fit the others.
    """
    packed, absmax = require(parts, "weight", "weight.absmax")
    state = _state(parts)
    book = parts.get("weight.quant_map", code_book(state["quant_type"]))  # the oldest have none
    outputs, inputs = state["shape"]
    flat, count = packed.contiguous().view(torch.uint8).flatten(), outputs * inputs
    if len(flat) != -(-count // 2) or len(absmax) != -(-count // state["blocksize"]):
        raise QuantizationError(
            f"has {len(flat)} bytes of codes and {len(absmax)} scales; its quant_state tells of "
            f"{outputs} x {inputs} weights in blocks of {state['blocksize']}"
        )
    return CodeBookWeight(
        packed=rows_of_pairs(flat, outputs, inputs),
        book=book.float(),
        scales=_scales(parts, state),
        starts=torch.arange(outputs) * inputs,
        block_size=state["blocksize"],
        num_inputs=inputs,
        number_dtype=getattr(torch, state["dtype"]),
        name=state["quant_type"],
    )


def encode_blocks(weight: CodeBookWeight) -> dict[str, Tensor]:
    """Return the parts of one layer, the codes as bytes; the inverse of `decode_blocks`."""
    outputs, inputs = weight.shape
    state: dict[str, Any] = {
        "quant_type": weight.name,
        "blocksize": weight.block_size,
        "dtype": str(weight.dtype).removeprefix("torch."),
        "shape": [outputs, inputs],
    }
    parts = {
        "weight": flat_pairs(weight.packed, inputs)[:, None],
        "weight.quant_map": weight.book,
    }
    scales = weight.scales
    if isinstance(scales, DoubleScales):
        state |= {
            "nested_blocksize": scales.block_size,
            "nested_dtype": "float32",
            "nested_offset": scales.offset.item(),
        }
        parts["weight.absmax"] = scales.codes
        parts |= {"weight.nested_absmax": scales.absmax, "weight.nested_quant_map": scales.book}
    else:
        parts["weight.absmax"] = scales.tensors()["values"]
    text = json.dumps(state).encode()
    parts[STATE + weight.name] = torch.tensor(list(text), dtype=torch.uint8)
    return parts


def is_whole(weight: CodeBookWeight) -> bool:
    """Return whether the outputs are those of the flat weight that was cut, all and in order."""
    outputs, inputs = weight.shape
    in_order = torch.equal(weight.starts.cpu(), torch.arange(outputs) * inputs)
    blocks = weight.scales.tensors().get("codes", weight.scales.tensors().get("values"))
    assert blocks is not None
    return in_order and len(blocks) == -(-outputs * inputs // weight.block_size)


def _state(parts: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the JSON of a layer, with the keys that are needed, in the types that are needed."""
    texts = [part for name, part in parts.items() if name.startswith(STATE)]
    if len(texts) != 1:
        raise QuantizationError(f"has {len(texts)} tensors {STATE}...; expected one")
    try:
        state: dict[str, Any] = json.loads(bytes(texts[0].tolist()))
        outputs, inputs = state["shape"]
        state |= {"shape": (int(outputs), int(inputs)), "blocksize": int(state["blocksize"])}
        known = isinstance(getattr(torch, state["dtype"]), torch.dtype) and state["quant_type"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise QuantizationError(f"has a quant_state that cannot be read ({error!r})") from error
    if known not in ("nf4", "fp4"):
        raise QuantizationError(f"is of the kind {known!r}; expected nf4 or fp4")
    return state


def _scales(parts: Mapping[str, Tensor], state: Mapping[str, Any]) -> BlockScales:
    absmax = parts["weight.absmax"]
    if "nested_offset" not in state:
        return PlainScales(absmax.float())
    nested, book = require(parts, "weight.nested_absmax", "weight.nested_quant_map")
    offset = torch.tensor(state["nested_offset"], dtype=torch.float32)
    return DoubleScales(
        absmax, book.float(), nested.float(), offset, int(state["nested_blocksize"])
    )
