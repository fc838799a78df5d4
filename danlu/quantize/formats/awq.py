"""AWQ in the layout "GEMM", as AutoAWQ, GPTQModel and transformers write it (arXiv:2306.00978).

Source: the published files of AutoAWQ 0.2 and GPTQModel 7.6. Of a layer X with weight [out, in]:
X.qweight int32 [in, out / 8] and X.qzeros int32 [G, out / 8] hold eight outputs in a word, in the
order of `ORDER`, lowest bits first; X.scales [G, out].
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from danlu.config.quantize.run import Scheme
from danlu.errors import QuantizationError
from danlu.quantize.format import Part, is_integers, parts_with, refuse, require
from danlu.quantize.grid import IntegerGrid
from danlu.quantize.layouts.bits import pack, unpack
from danlu.quantize.layouts.stated import group_problems
from danlu.quantize.weight import QuantizedWeight
from danlu.weights.rules import Ignore

BITS = 4
PER_WORD = 8
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # output of a word's eight that each field holds, low bits first
PARTS = ("qweight", "qzeros", "scales")
SHOWN = 5  # names in an error
LAYOUTS = ("gemm", "exllama")  # exllama: the same file, meant for another kernel


class Awq:
    """The format; see the module docstring."""

    ignored: Sequence[Ignore] = (Ignore(".rotary_emb.inv_freq", "computed from the config"),)
    names: Sequence[str] = ("awq",)

    def claims(self, config: Mapping[str, Any]) -> bool:
        """Return whether the config names AWQ."""
        return config.get("quant_method") == "awq"

    def check(self, config: Mapping[str, Any]) -> None:
        """Check layout and bits."""
        problems = []
        if _layout(config) not in LAYOUTS:
            problems.append(f"the layout {_layout(config)!r}")
        bits = config.get("bits", config.get("w_bit"))
        if bits not in (None, BITS):
            problems.append(f"{bits} bits")
        refuse("AWQ", problems, "4 bits in the layout gemm")

    def summary(self, config: Mapping[str, Any]) -> str:
        """Return bits, groups and layout."""
        size = _group_size(config)
        spans = "groups of unknown size" if size is None else f"groups of {size}"
        zeros = "with zero points" if config.get("zero_point", True) else "symmetric"
        rows = "whole rows" if size == -1 else spans
        return f"AWQ, {BITS} bits, {rows}, {zeros} (layout {_layout(config)})"

    def notes(self, config: Mapping[str, Any]) -> list[str]:
        """Return nothing: only weights are quantized."""
        return []

    def disagreements(
        self, layers: Mapping[str, Mapping[str, Tensor]], config: Mapping[str, Any]
    ) -> list[str]:
        """Return a contradiction about groups."""
        whole = [parts for parts in layers.values() if set(PARTS) <= parts.keys()]
        held = [(len(parts["qweight"]), len(parts["scales"])) for parts in whole]
        return group_problems(_group_size(config), held)

    def parts(self, names: Collection[str]) -> dict[str, Part]:
        """Return the parts of quantized layers."""
        return parts_with(names, PARTS)

    def decode(self, parts: Mapping[str, Tensor], config: Mapping[str, Any]) -> IntegerGrid:
        """Return the weight of one layer."""
        words, zero_words, scales = require(parts, *PARTS)
        (inputs, columns), (num_groups, outputs) = words.shape, scales.shape
        if columns * PER_WORD != outputs or zero_words.shape != (num_groups, columns):
            raise QuantizationError(
                f"has qweight {list(words.shape)}, qzeros {list(zero_words.shape)} and scales "
                f"{list(scales.shape)}, which are not in the layout gemm"
            )
        if inputs % num_groups:
            raise QuantizationError(f"has {inputs} inputs in {num_groups} groups")
        zeros = _natural(zero_words, outputs).t().contiguous()
        return IntegerGrid(
            codes=_natural(words, outputs).t().contiguous(),
            scales=scales.t().contiguous(),
            zero_points=zeros if bool(zeros.any()) else None,
            bits=BITS,
        )

    def fits(self, weight: QuantizedWeight, config: Mapping[str, Any]) -> bool:
        """Return whether the weight is on a grid of 4 bits with equal groups in order."""
        if not isinstance(weight, IntegerGrid):
            return False
        return weight.bits == BITS and weight.groups is None and weight.shape[0] % PER_WORD == 0

    def encode(self, weight: QuantizedWeight, config: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the tensors of one layer."""
        assert isinstance(weight, IntegerGrid)
        zeros = weight.zero_points
        if zeros is None:
            zeros = torch.zeros_like(weight.scales, dtype=torch.int8)
        return {
            "qweight": _shuffled(weight.codes.t()),
            "qzeros": _shuffled(zeros.t()),
            "scales": weight.scales.t().contiguous(),
        }

    def kept(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the config as it is."""
        return dict(config)

    def holds(self, scheme: Scheme) -> bool:
        """Return whether it gives integers of 4 bits, groups in order."""
        in_order = not getattr(scheme, "act_order", False) or getattr(scheme, "static_groups", True)
        return is_integers(scheme) and scheme.bits == BITS and in_order

    def config(
        self,
        weights: Mapping[str, QuantizedWeight],
        unquantized: Sequence[str],
        name: str | None = None,
    ) -> dict[str, Any]:
        """Return the `quantization_config`: one group size for all layers."""
        grids = {layer: w for layer, w in weights.items() if isinstance(w, IntegerGrid)}
        wrong = sorted(layer for layer, w in weights.items() if not self.fits(w, {}))
        sizes = {-1 if grid.whole_rows else grid.group_size for grid in grids.values()}
        if wrong or len(sizes) != 1:
            several = f"groups of {', '.join(map(str, sorted(sizes)))}"
            raise QuantizationError(
                f"AWQ files hold 4-bit integers in groups of one size; found "
                f"{', '.join(wrong[:SHOWN]) if wrong else several}. Expected one scheme of 4 bits "
                "for all layers, or the format compressed-tensors."
            )
        return {
            "quant_method": "awq",
            "bits": BITS,
            "group_size": sizes.pop(),
            "zero_point": any(grid.zero_points is not None for grid in grids.values()),
            "version": "gemm",
            "modules_to_not_convert": list(unquantized) or None,
        }

    def files(self, config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return nothing: tools read config.json."""
        return {}


def _layout(config: Mapping[str, Any]) -> str:
    keys = ("version", "checkpoint_format", "format")
    return next((str(config[key]).lower() for key in keys if config.get(key)), "gemm")


def _group_size(config: Mapping[str, Any]) -> Any:
    """Return inputs that share a scale, as newer or older tools call them; None if not told."""
    return config.get("group_size", config.get("q_group_size"))


def _natural(words: Tensor, outputs: int) -> Tensor:
    """Return the signed codes [rows, out] of words, outputs in order."""
    places = torch.tensor(ORDER, device=words.device).argsort()
    fields: Tensor = unpack(words, BITS, outputs).unflatten(1, (-1, PER_WORD))
    return fields[..., places].flatten(1)


def _shuffled(codes: Tensor) -> Tensor:
    """Return the words of signed codes [rows, out]; the inverse of `_natural`."""
    fields = codes.unflatten(1, (-1, PER_WORD))[..., torch.tensor(ORDER)]
    return pack(fields.flatten(1), BITS)


FORMAT = Awq()
