"""GPTQ, as AutoGPTQ, GPTQModel and transformers write it (arXiv:2210.17323).

Source: the published files of AutoGPTQ 0.3 and GPTQModel 7.6. Of a layer X with weight [out, in]:
X.qweight int32 [in * bits / 32, out], a stream along the inputs; X.qzeros int32
[G, out * bits / 32], a stream along the outputs; X.scales [G, out]; X.g_idx int32 [in], the group
of each input, in no order where columns were quantized by activation (desc_act). The first version
stores zero points less one; only symmetric weights are written in it, since tools disagree about a
zero point of 0. Bits and groups are read from the shapes, since a config may give single layers
others ("dynamic"); the rest of a config tells how the codes were found.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from danlu.config.quantize.run import Scheme
from danlu.errors import QuantizationError
from danlu.quantize.format import Part, is_integers, parts_with, refuse, require
from danlu.quantize.grid import IntegerGrid, regular_groups
from danlu.quantize.layouts.bits import WORD_BITS, pack_stream, unpack_stream
from danlu.quantize.layouts.gptq_config import gptq_config
from danlu.quantize.layouts.gptq_version import mean_above_zero_point, stored_less
from danlu.quantize.layouts.stated import bits_problems, group_problems
from danlu.quantize.weight import QuantizedWeight
from danlu.weights.rules import Ignore

BITS = (4, 8, 3, 2)
PARTS = ("qweight", "qzeros", "scales", "g_idx")
LAYOUTS = ("gptq", "gptq_v2")


class Gptq:
    """The format; see the module docstring.

    Written under the name gptq, weights with zero points are of the second version all the same.
    """

    names = LAYOUTS
    ignored: Sequence[Ignore] = (Ignore(".rotary_emb.inv_freq", "computed from the config"),)

    def claims(self, config: Mapping[str, Any]) -> bool:
        """Return whether the config names GPTQ."""
        return config.get("quant_method") == "gptq"

    def check(self, config: Mapping[str, Any]) -> None:
        """Check layout, bits and words."""
        problems = []
        if _layout(config) not in LAYOUTS:
            problems.append(f"the layout {_layout(config)!r}")
        if config.get("is_marlin_format"):
            problems.append("the layout 'marlin'")
        if config.get("bits") not in (None, *BITS):
            problems.append(f"{config['bits']!r} bits")
        if str(config.get("pack_dtype") or "int32").removeprefix("torch.") != "int32":
            problems.append(f"words of {config['pack_dtype']}")
        refuse("GPTQ", problems, "2, 3, 4 or 8 bits in int32, in the layout gptq or gptq_v2")

    def summary(self, config: Mapping[str, Any]) -> str:
        """Return bits, groups and order, and how zero points are stored."""
        size = config.get("group_size")
        spans = "groups of unknown size" if size is None else f"groups of {size}"
        told = [
            f"GPTQ, {config.get('bits', 'unknown')} bits",
            "whole rows" if size == -1 else spans,
            "symmetric" if config.get("sym", True) else "with zero points",
            *(["act-order"] if config.get("desc_act") else []),
        ]
        return f"{', '.join(told)} (file format {_layout(config)})"

    def notes(self, config: Mapping[str, Any]) -> list[str]:
        """Return nothing: only weights are quantized."""
        return []

    def disagreements(
        self, layers: Mapping[str, Mapping[str, Tensor]], config: Mapping[str, Any]
    ) -> list[str]:
        """Return contradictions about bits, groups, and how zero points are stored."""
        told = {name: whole for name, each in layers.items() if (whole := _held(each)) is not None}
        held = list(told.values())
        means = [
            mean_above_zero_point(layers[name], points, bits, shape[0])
            for name, (bits, shape, points) in told.items()
            if not bool((points == points.flatten()[0]).all())
        ]
        return [
            *bits_problems(config.get("bits"), [bits for bits, _, _ in held]),
            *group_problems(config.get("group_size"), [shape for _, shape, _ in held]),
            *_other_version(stored_less([points for _, _, points in held], means), config),
        ]

    def parts(self, names: Collection[str]) -> dict[str, Part]:
        """Return the parts of quantized layers."""
        return parts_with(names, PARTS)

    def decode(self, parts: Mapping[str, Tensor], config: Mapping[str, Any]) -> IntegerGrid:
        """Return the weight of one layer."""
        words, zero_words, scales = require(parts, "qweight", "qzeros", "scales")
        num_groups, outputs = scales.shape
        bits = _bits(zero_words.shape[1], outputs, config)
        inputs = words.shape[0] * WORD_BITS // bits
        if words.shape[1] != outputs or zero_words.shape[0] != num_groups:
            raise QuantizationError("has qweight, qzeros and scales of different layers")
        return IntegerGrid(
            codes=unpack_stream(words.t(), bits, inputs),
            scales=scales.t().contiguous(),
            zero_points=_zero_points(unpack_stream(zero_words, bits, outputs), bits, config),
            bits=bits,
            groups=_groups(parts.get("g_idx"), inputs, num_groups, config),
        )

    def fits(self, weight: QuantizedWeight, config: Mapping[str, Any]) -> bool:
        """Return whether the weight is on a grid whose words are full."""
        if not isinstance(weight, IntegerGrid) or weight.bits not in BITS:
            return False
        return all(size * weight.bits % WORD_BITS == 0 for size in weight.shape)

    def encode(self, weight: QuantizedWeight, config: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the tensors of one layer."""
        assert isinstance(weight, IntegerGrid)
        groups, zeros = weight.groups, weight.zero_points
        if groups is None:
            groups = torch.arange(weight.shape[1]) // weight.group_size
        if zeros is None:
            zeros = torch.zeros_like(weight.scales, dtype=torch.int8)
        stored = _shifted(zeros, weight.bits, -_stored_less(config))
        return {
            "qweight": pack_stream(weight.codes, weight.bits).t().contiguous(),
            "qzeros": pack_stream(stored.t(), weight.bits),
            "scales": weight.scales.t().contiguous(),
            "g_idx": groups.to(torch.int32),
        }

    def holds(self, scheme: Scheme) -> bool:
        """Return whether it gives integers."""
        return is_integers(scheme)

    def config(
        self,
        weights: Mapping[str, QuantizedWeight],
        unquantized: Sequence[str],
        name: str | None = None,
    ) -> dict[str, Any]:
        """Return the `quantization_config`: what most layers are, and the others by name."""
        return gptq_config(weights, unquantized, name)

    def files(self, config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the config in the file where tools looked before it was in config.json."""
        return {"quantize_config.json": dict(config)}

    def kept(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the config as it is."""
        return dict(config)


def _held(parts: Mapping[str, Tensor]) -> tuple[int, tuple[int, int], Tensor] | None:
    """Return bits, (inputs, groups) and stored zero points of a layer that is whole."""
    if not {"qweight", "qzeros", "scales"} <= parts.keys() or parts["scales"].ndim != 2:
        return None
    num_groups, outputs = parts["scales"].shape
    bits, rest = divmod(parts["qzeros"].shape[1] * WORD_BITS, outputs)
    if rest or bits not in BITS:
        return None
    inputs = parts["qweight"].shape[0] * WORD_BITS // bits
    return bits, (inputs, num_groups), unpack_stream(parts["qzeros"], bits, outputs)


def _other_version(found: int | None, config: Mapping[str, Any]) -> list[str]:
    """Return the problem of zero points that are stored as the other version stores them.

    Args:
        found: by how much they are stored less, as the weights tell.
        config: the `quantization_config`.
    """
    less = _stored_less(config)
    if found in (None, less):
        return []
    own, other = ("gptq", "gptq_v2") if less else ("gptq_v2", "gptq")
    return [
        f"it says the file format {_layout(config)!r}, but the zero points of its layers are "
        f"stored as {other!r} stores them, one off from {own!r}; "
        f'expected "checkpoint_format": "{other}"'
    ]


def _layout(config: Mapping[str, Any]) -> str:
    return str(config.get("checkpoint_format") or config.get("format") or "gptq")


def _stored_less(config: Mapping[str, Any]) -> int:
    """Return by how much stored zero points are less than those that are meant."""
    return 0 if _layout(config) == "gptq_v2" else 1


def _bits(zero_words: int, outputs: int, config: Mapping[str, Any]) -> int:
    """Return the bits whose packing gives this many words for the zero points of a group."""
    for bits in (config.get("bits") or BITS[0], *BITS):
        if zero_words == -(-outputs * bits // WORD_BITS):
            return int(bits)
    raise QuantizationError(
        f"has {zero_words} words of zero points for {outputs} outputs, which fits none of "
        f"{', '.join(map(str, sorted(BITS)))} bits"
    )


def _shifted(points: Tensor, bits: int, by: int) -> Tensor:
    """Return signed numbers of so many bits plus `by`, from the largest on to the smallest."""
    half = 2 ** (bits - 1)
    moved: Tensor = ((points.to(torch.int16) + half + by) & (2**bits - 1)) - half
    return moved.to(torch.int8)


def _zero_points(stored_GO: Tensor, bits: int, config: Mapping[str, Any]) -> Tensor | None:
    points = _shifted(stored_GO, bits, _stored_less(config)).t().contiguous()
    return points if bool(points.any()) else None


def _groups(
    g_idx: Tensor | None, inputs: int, num_groups: int, config: Mapping[str, Any]
) -> Tensor | None:
    if g_idx is None and config.get("desc_act") and num_groups > 1:
        raise QuantizationError("lacks g_idx, which desc_act needs")
    if g_idx is None:
        size = int(config.get("group_size") or -1)
        even = -(-inputs // num_groups)
        g_idx = torch.arange(inputs) // (size if -(-inputs // max(size, 1)) == num_groups else even)
    if len(g_idx) != inputs or int(g_idx.min()) < 0 or int(g_idx.max()) >= num_groups:
        raise QuantizationError(
            f"has a g_idx of {len(g_idx)} numbers up to {int(g_idx.max())}; "
            f"expected {inputs} numbers below {num_groups}"
        )
    return regular_groups(g_idx, num_groups)


FORMAT = Gptq()
