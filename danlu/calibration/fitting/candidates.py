"""What a group of layers may become, and the bytes it then takes in a file.

Integers of 4 and 8 bits come first: one file holds them mixed, and kernels read them, ours and
vLLM's: 8 bits by whole rows, 4 bits in groups, by whole rows only where groups do not divide. Only
where a budget leaves no room for those, 3 and 2 bits and 8 for the output head are offered too.
"""

from collections.abc import Sequence

from torch import Size

from danlu.config.quantize.gptq import GptqScheme
from danlu.config.quantize.run import Scheme, for_inputs
from danlu.config.quantize.scheme import QuantScheme
from danlu.quantize.layouts.bits import stream_words

Candidate = Scheme | None  # None: left alone

USUAL: tuple[Scheme, ...] = (
    QuantScheme(bits=8),
    GptqScheme(bits=4, group_size=32),
    GptqScheme(bits=4, group_size=64),
    GptqScheme(bits=4, group_size=128),
    GptqScheme(bits=4, group_size=-1),
)
SMALLER: tuple[Scheme, ...] = (
    GptqScheme(bits=3, group_size=32),
    GptqScheme(bits=3, group_size=128),
    GptqScheme(bits=3, group_size=-1),
    GptqScheme(bits=2, group_size=32),
    GptqScheme(bits=2, group_size=128),
)
HEAD_SMALLER: tuple[Scheme, ...] = (QuantScheme(bits=8),)
SHAPE_BYTES = 16  # weight_shape
HEAD_OF_TENSOR = '"":{"dtype":"BF16","shape":[,],"data_offsets":[,]},'  # in a safetensors file


def dividing(schemes: Sequence[Scheme], inputs: Sequence[int]) -> list[Scheme]:
    """Return the schemes whose groups divide the inputs of all these layers.

    Whole rows of few bits are left out where a group divides.
    """
    sizes = {scheme: group_size(scheme) for scheme in schemes}
    divide = {s: size for s, size in sizes.items() if all(n % (size or n) == 0 for n in inputs)}
    grouped = {scheme.bits for scheme, size in divide.items() if size is not None}
    return [s for s, size in divide.items() if size or s.bits == 8 or s.bits not in grouped]


def group_size(scheme: Scheme) -> int | None:
    """Return the inputs that share a scale; None: all."""
    size = getattr(scheme, "group_size", None)
    return None if size in (None, -1) else int(size)


def stored_bytes(shape: Size, candidate: Candidate, itemsize: int) -> int:
    """Return the bytes of a weight [out, in] as compressed-tensors.

    Args:
        shape: of the weight.
        candidate: how it is rounded to integers; None: not at all.
        itemsize: bytes of a dense weight and of a scale.
    """
    outputs, inputs = shape
    if candidate is None:
        return outputs * inputs * itemsize
    groups = inputs // (group_size(for_inputs(candidate, inputs)) or inputs)
    words = outputs * stream_words(inputs, candidate.bits)
    zero_words = stream_words(outputs, candidate.bits) * groups if _has_zeros(candidate) else 0
    integers = words + zero_words + (inputs if _reorders(candidate) else 0)
    return 4 * integers + outputs * groups * itemsize + SHAPE_BYTES


def stored_parts(candidate: Candidate) -> list[str]:
    """Return the last names of the tensors that a weight is stored as."""
    if candidate is None:
        return ["weight"]
    optional = {"weight_zero_point": _has_zeros(candidate), "weight_g_idx": _reorders(candidate)}
    rare = [part for part, there in optional.items() if there]
    return ["weight_packed", "weight_scale", "weight_shape", *rare]


def header_bytes(name: str, shape: Size, file_bytes: int) -> int:
    """Return about what the head of a safetensors file takes for a tensor in it."""
    digits = sum(len(str(size)) for size in shape) + 2 * len(str(file_bytes))
    return len(HEAD_OF_TENSOR) + len(name) + digits


def _has_zeros(scheme: Scheme) -> bool:
    return not getattr(scheme, "symmetric", True)


def _reorders(scheme: Scheme) -> bool:
    """Return whether the group of each input is stored."""
    return isinstance(scheme, GptqScheme) and scheme.act_order and not scheme.static_groups
