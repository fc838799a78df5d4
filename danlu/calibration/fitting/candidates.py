"""What a group of layers may become, and the bytes it then takes in a file.

Integers of 4 and 8 bits come first: one file holds them mixed, and vLLM's kernels read them. Only
where a budget leaves no room for those, 3 and 2 bits and the output head are offered too.
"""

from collections.abc import Sequence
from math import ceil

from torch import Size

from danlu.config.quantize.gptq import GptqScheme
from danlu.config.quantize.run import Scheme
from danlu.config.quantize.scheme import QuantScheme
from danlu.quantize.bits import WORD_BITS

Candidate = Scheme | None  # None: left alone

USUAL: tuple[Scheme, ...] = (
    QuantScheme(bits=8),
    QuantScheme(bits=4, head_bits=16),
    GptqScheme(bits=4, group_size=32),
    GptqScheme(bits=4, group_size=128),
    GptqScheme(bits=4, group_size=-1),
)
SMALLER: tuple[Scheme, ...] = (
    GptqScheme(bits=3, group_size=32),
    GptqScheme(bits=3, group_size=128),
    GptqScheme(bits=2, group_size=32),
    GptqScheme(bits=2, group_size=128),
)
HEAD: tuple[Scheme, ...] = (QuantScheme(bits=8),)
SHAPE_BYTES = 16  # weight_shape


def dividing(schemes: Sequence[Scheme], inputs: Sequence[int]) -> list[Scheme]:
    """Return the schemes whose groups divide the inputs of all these layers."""
    groups = [group_size(scheme) for scheme in schemes]
    pairs = zip(schemes, groups, strict=True)
    return [scheme for scheme, group in pairs if all(n % (group or n) == 0 for n in inputs)]


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
    groups = inputs // (group_size(candidate) or inputs)
    per_word = WORD_BITS // candidate.bits
    words = outputs * ceil(inputs / per_word)
    symmetric = getattr(candidate, "symmetric", True)
    zero_words = 0 if symmetric else ceil(outputs / per_word) * groups
    integers = words + zero_words + (inputs if _reorders(candidate) else 0)
    return 4 * integers + outputs * groups * itemsize + SHAPE_BYTES


def _reorders(scheme: Scheme) -> bool:
    """Return whether the group of each input is stored."""
    return isinstance(scheme, GptqScheme) and scheme.act_order and not scheme.static_groups
