"""bitsandbytes, as transformers writes it: NF4 and FP4 (arXiv:2305.14314), and LLM.int8().

Source: the published files of bitsandbytes 0.50. Of a layer X with weight [out, in]:

* 4 bits: X.weight uint8 [out * in / 2, 1], the flat weight, two codes in a byte, the first in its
  high half; X.weight.absmax, a scale for each block of the flat weight; X.weight.quant_map, the
  table; X.weight.quant_state.bitsandbytes__nf4 (or fp4), JSON in a uint8 tensor. With double
  quantization absmax is uint8, and X.weight.nested_absmax, X.weight.nested_quant_map and the JSON's
  nested_offset give its numbers.
* 8 bits (arXiv:2208.07339): X.weight int8 [out, in] and X.SCB float32 [out], 127 scales.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from danlu.config.quantize.run import Scheme
from danlu.errors import QuantizationError
from danlu.quantize.activations import InputRounding
from danlu.quantize.codebook import CodeBookWeight, DoubleScales
from danlu.quantize.format import Part, refuse, require
from danlu.quantize.grid import IntegerGrid
from danlu.quantize.layouts.stated import bits_problems
from danlu.quantize.layouts.stored_blocks import STATE, decode_blocks, encode_blocks, is_whole
from danlu.quantize.outliers import OutlierColumns
from danlu.quantize.weight import QuantizedWeight
from danlu.weights.rules import Ignore

INT8_PARTS = ("weight", "SCB", "weight_format")
ROW_MAJOR = 0  # of weight_format; the others were kept for one kernel
INT8_STEPS = 127
THRESHOLD = 6.0  # where a config tells none
FOUR_BIT_PARTS = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")


class BitsAndBytes:
    """The format; see the module docstring."""

    ignored: Sequence[Ignore] = ()
    names: Sequence[str] = ("bitsandbytes",)

    def claims(self, config: Mapping[str, Any]) -> bool:
        """Return whether the config names bitsandbytes."""
        by_flag = bool(config.get("load_in_4bit") or config.get("load_in_8bit"))
        method = config.get("quant_method")
        return method in ("bitsandbytes", "bitsandbytes_4bit", "bitsandbytes_8bit") or (
            method is None and by_flag
        )

    def check(self, config: Mapping[str, Any]) -> None:
        """Check the dtype that codes are stored in."""
        storage = str(config.get("bnb_4bit_quant_storage") or "uint8").removeprefix("torch.")
        known = isinstance(getattr(torch, storage, None), torch.dtype)
        refuse("bitsandbytes", [] if known else [f"storage {storage!r}"], "a dtype of torch")

    def summary(self, config: Mapping[str, Any]) -> str:
        """Return the book, or LLM.int8()."""
        if config.get("load_in_8bit"):
            return f"bitsandbytes LLM.int8(), threshold {config.get('llm_int8_threshold', 6.0)}"
        double = ", double quantization" if config.get("bnb_4bit_use_double_quant") else ""
        return f"bitsandbytes {config.get('bnb_4bit_quant_type', 'fp4')}, 4 bits{double}"

    def notes(self, config: Mapping[str, Any]) -> list[str]:
        """Return nothing: all that is quantized is read."""
        return []

    def disagreements(
        self, layers: Mapping[str, Mapping[str, Tensor]], config: Mapping[str, Any]
    ) -> list[str]:
        """Return a contradiction about bits."""
        stated = 8 if config.get("load_in_8bit") else 4 if config.get("load_in_4bit") else None
        return bits_problems(stated, [8 if "SCB" in parts else 4 for parts in layers.values()])

    def parts(self, names: Collection[str]) -> dict[str, Part]:
        """Return the parts of quantized layers."""
        found = {}
        for name in names:
            module, at, rest = name.rpartition(".weight.")
            if at and (rest in FOUR_BIT_PARTS or f"weight.{rest}".startswith(STATE)):
                found[name] = Part(module, f"weight.{rest}")
                found[f"{module}.weight"] = Part(module, "weight")
            module, _, leaf = name.rpartition(".")
            if leaf == "SCB":
                found |= {f"{module}.{part}": Part(module, part) for part in INT8_PARTS}
        return {name: part for name, part in found.items() if name in names}

    def decode(self, parts: Mapping[str, Tensor], config: Mapping[str, Any]) -> QuantizedWeight:
        """Return the weight of one layer."""
        return _decode_rows(parts) if "SCB" in parts else decode_blocks(parts)

    def fits(self, weight: QuantizedWeight, config: Mapping[str, Any]) -> bool:
        """Return whether the weight is of blocks, or of int8 rows."""
        if isinstance(weight, IntegerGrid):
            plain = weight.zero_points is None and weight.groups is None
            return plain and weight.bits == 8 and weight.whole_rows
        return isinstance(weight, CodeBookWeight) and is_whole(weight)

    def encode(self, weight: QuantizedWeight, config: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the tensors of one layer."""
        if isinstance(weight, IntegerGrid):
            return _encode_rows(weight)
        assert isinstance(weight, CodeBookWeight)
        parts = encode_blocks(weight)
        storage = str(config.get("bnb_4bit_quant_storage") or "uint8").removeprefix("torch.")
        parts["weight"] = parts["weight"].flatten().view(getattr(torch, storage))[:, None]
        return parts

    def inputs(
        self, module: str, parts: Mapping[str, Tensor], config: Mapping[str, Any]
    ) -> InputRounding | None:
        """Return that int8 rows round their inputs, but for outliers."""
        return OutlierColumns(_threshold(config)) if "SCB" in parts else None

    def fits_inputs(
        self, module: str, inputs: InputRounding | None, config: Mapping[str, Any]
    ) -> bool:
        """Return whether the inputs are rounded as the config tells."""
        told = OutlierColumns(_threshold(config)) if config.get("load_in_8bit") else None
        return inputs is None if told is None else told.same_as(inputs)

    def encode_inputs(self, inputs: InputRounding | None) -> dict[str, Tensor]:
        """Return nothing: the config holds the threshold."""
        return {}

    def kept(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the config as it is."""
        return dict(config)

    def holds(self, scheme: Scheme) -> bool:
        """Return whether it gives codes of a book, or LLM.int8()."""
        return scheme.method in ("nf4", "fp4", "llm_int8")

    def config(
        self,
        weights: Mapping[str, QuantizedWeight],
        unquantized: Sequence[str],
        name: str | None = None,
    ) -> dict[str, Any]:
        """Return the `quantization_config`: one for all layers."""
        return self.config_with_inputs(weights, {}, unquantized)

    def config_with_inputs(
        self,
        weights: Mapping[str, QuantizedWeight],
        inputs: Mapping[str, InputRounding],
        unquantized: Sequence[str],
    ) -> dict[str, Any]:
        """Return the `quantization_config`: LLM.int8() with one threshold, or one code book."""
        kind = _int8_config(weights, inputs) if inputs else _book_config(weights)
        return {
            "quant_method": "bitsandbytes",
            "bnb_4bit_compute_dtype": "float32",
            "bnb_4bit_quant_storage": "uint8",
            "bnb_4bit_quant_type": "fp4",
            "bnb_4bit_use_double_quant": False,
            "llm_int8_enable_fp32_cpu_offload": False,
            "llm_int8_has_fp16_weight": False,
            "llm_int8_skip_modules": list(unquantized),
            "llm_int8_threshold": THRESHOLD,
            **kind,
        }

    def files(self, config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return nothing: tools read config.json."""
        return {}


def _threshold(config: Mapping[str, Any]) -> float:
    return float(config.get("llm_int8_threshold", THRESHOLD))


def _loaded_in(bits: int) -> dict[str, bool]:
    keys = ("_load_in_{}bit", "load_in_{}bit")
    return {key.format(some): some == bits for key in keys for some in (4, 8)}


def _int8_config(
    weights: Mapping[str, QuantizedWeight], inputs: Mapping[str, InputRounding]
) -> dict[str, Any]:
    found = [inputs.get(name) for name in weights]
    thresholds = {one.threshold if isinstance(one, OutlierColumns) else None for one in found}
    in_rows = all(isinstance(weight, IntegerGrid) for weight in weights.values())
    if not in_rows or len(thresholds) != 1 or None in thresholds:
        raise QuantizationError(
            "bitsandbytes rounds the inputs of all layers with one threshold, or of none; expected "
            "the scheme llm_int8 for the whole model."
        )
    return {**_loaded_in(8), "llm_int8_threshold": thresholds.pop()}


def _book_config(weights: Mapping[str, QuantizedWeight]) -> dict[str, Any]:
    books = [weight for weight in weights.values() if isinstance(weight, CodeBookWeight)]
    kinds = {(book.name, isinstance(book.scales, DoubleScales)) for book in books}
    if len(books) < len(weights) or len(kinds) != 1:
        raise QuantizationError(
            "bitsandbytes has one kind of 4-bit weights for a whole model; expected all layers "
            "in one of nf4 and fp4, with or without double quantization."
        )
    (name, double), dtypes = kinds.pop(), {book.dtype for book in books}
    compute = dtypes.pop() if len(dtypes) == 1 else torch.float32
    return {
        **_loaded_in(4),
        "bnb_4bit_compute_dtype": str(compute).removeprefix("torch."),
        "bnb_4bit_quant_type": name,
        "bnb_4bit_use_double_quant": double,
    }


def _decode_rows(parts: Mapping[str, Tensor]) -> IntegerGrid:
    codes, largest = require(parts, "weight", "SCB")
    order = int(parts.get("weight_format", torch.tensor(ROW_MAJOR)))
    if order != ROW_MAJOR or codes.dtype != torch.int8:
        raise QuantizationError(
            f"holds {codes.dtype} in weight_format {order}, laid out for one kernel; expected int8 "
            "rows (weight_format 0): save it again with a newer bitsandbytes"
        )
    scales = largest.float().view(-1, 1) / INT8_STEPS
    return IntegerGrid(codes, scales, None, bits=8)


def _encode_rows(weight: IntegerGrid) -> dict[str, Tensor]:
    """Return the int8 rows, with an SCB that gives exactly these scales when it is read."""
    scales = weight.scales.float().flatten()
    about = (scales.double() * INT8_STEPS).float()
    near = [about, *(about.nextafter(torch.full_like(about, end)) for end in (0.0, torch.inf))]
    exact = torch.stack([torch.where(guess / INT8_STEPS == scales, guess, -1.0) for guess in near])
    largest = torch.where(exact.amax(0) >= 0, exact.amax(0), about)
    order = torch.tensor(ROW_MAJOR, dtype=torch.uint8)
    return {"weight": weight.codes, "SCB": largest, "weight_format": order}


FORMAT = BitsAndBytes()
