"""The tables that codes of a few bits name entries of.

NF4 holds quantiles of the normal distribution (QLoRA, arXiv:2305.14314, appendix E), FP4 the
numbers of a sign, two bits of exponent and one of mantissa; the dynamic map is the 8-bit code of
arXiv:2110.02861, sec. 2.2, which double quantization writes scales in. The numbers are those that
bitsandbytes stores in its files.
"""

import torch
from torch import Tensor

NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
FP4_MAGNITUDES = (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0)
MAP_EXPONENTS = 7  # of ten, in the dynamic map


def code_book(name: str) -> Tensor:
    """Return the float32 [16] table called "nf4" or "fp4"."""
    return {"nf4": _nf4, "fp4": _fp4}[name]()


def _nf4() -> Tensor:
    return torch.tensor(NF4)


def _fp4() -> Tensor:
    magnitudes = torch.tensor(FP4_MAGNITUDES)
    signed = torch.cat((magnitudes, -magnitudes))
    return signed / signed.max()


def dynamic_map() -> Tensor:
    """Return the sorted float32 [256] table of the 8-bit dynamic code.

    An exponent of ten is written as leading zeros; the bits behind them are a fraction, so large
    numbers have more of them. Entries are the middles of equal parts of [0.1, 1].
    """
    positive = []
    for exponent in range(MAP_EXPONENTS):
        edges = torch.linspace(0.1, 1, 2**exponent + 1, dtype=torch.float32)
        positive += (10.0 ** (exponent - MAP_EXPONENTS + 1) * (edges[:-1] + edges[1:]) / 2).tolist()
    values = sorted([*positive, *(-value for value in positive), 0.0, 1.0])
    return torch.tensor(values, dtype=torch.float32)
