"""What the config of a GPTQ folder says about its layers, as GPTQModel 7.6 and vLLM read it.

The config tells what most layers are; "dynamic" holds patterns of the names of others, with what is
different about them ("+:"), or that they are left alone ("-:").
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from danlu import __version__
from danlu.errors import QuantizationError
from danlu.quantize.grid import IntegerGrid
from danlu.quantize.weight import QuantizedWeight

HEAD = "lm_head"


class Kind(NamedTuple):
    """What is said about a layer, under the keys it is said with."""

    bits: int
    group_size: int
    desc_act: bool
    sym: bool


def gptq_config(
    weights: Mapping[str, QuantizedWeight], unquantized: Sequence[str], layout: str | None
) -> dict[str, Any]:
    """Return the `quantization_config` of a model.

    Args:
        weights: quantized weights by module name.
        unquantized: linear layers left as they are.
        layout: "gptq_v2", or anything else for the one that most tools read: the first where all
            weights are symmetric, since tools disagree about a zero point of 0 in it.

    Raises:
        QuantizationError: if a weight is no grid of integers.
    """
    kinds = {name: _kind(name, weight) for name, weight in weights.items()}
    usual = Counter(kinds.values()).most_common(1)[0][0]
    first = layout != "gptq_v2" and all(kind.sym for kind in kinds.values())
    return {
        "quant_method": "gptq",
        "method": "gptq",
        **usual._asdict(),
        "lm_head": HEAD in weights,
        "checkpoint_format": "gptq" if first else "gptq_v2",
        "format": "gptq" if first else "gptq_v2",
        "pack_dtype": "int32",
        "dynamic": _dynamic(kinds, usual, unquantized) or None,
        "meta": {"quantizer": [f"danlu:{__version__}"]},
    }


def _dynamic(
    kinds: Mapping[str, Kind], usual: Kind, unquantized: Sequence[str]
) -> dict[str, dict[str, Any]]:
    others = {name: kind._asdict() for name, kind in kinds.items() if kind != usual}
    differing = {f"+:^{re.escape(name)}$": values for name, values in others.items()}
    return differing | {f"-:^{re.escape(name)}$": {} for name in unquantized if name != HEAD}


def _kind(name: str, weight: QuantizedWeight) -> Kind:
    if not isinstance(weight, IntegerGrid):
        raise QuantizationError(
            f"{name} is no grid of integers, which is all that GPTQ files hold. "
            "Quantize all layers as integers, or choose another format."
        )
    return Kind(
        bits=weight.bits,
        group_size=-1 if weight.whole_rows else weight.group_size,
        desc_act=weight.groups is not None,
        sym=weight.zero_points is None,
    )
