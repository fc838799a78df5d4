"""Which weights a folder holds, told by a hash that is quick to make.

Every tensor counts with its name, its shape and a few of its numbers, rounded to bfloat16: so the
same weights have one fingerprint in one file or in shards, as safetensors or `.bin`, in float32 or
bfloat16; weights that were trained further, merged, quantized or extended have another.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from danlu.weights.files import find_weight_files

SAMPLES = 64  # numbers read of each tensor


def weights_fingerprint(folder: Path, canonical: Callable[[str], str | None]) -> str:
    """Return the fingerprint (sha256, hexadecimal) of the weights in a folder.

    Args:
        folder: of a checkpoint.
        canonical: the name a tensor counts under, None if it does not count.

    Raises:
        CheckpointError: if there are no weights, or a file is damaged.
    """
    lines = []
    for file in find_weight_files(folder):
        for stored in file.names():
            name = canonical(stored)
            if name is not None:
                tensor = file.read(stored)
                lines.append(f"{name} {list(tensor.shape)} {_sample(tensor)}")
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def _sample(tensor: Tensor) -> str:
    flat = tensor.reshape(-1) if tensor.is_contiguous() else tensor.flatten()
    places = torch.linspace(0, max(len(flat) - 1, 0), min(SAMPLES, len(flat)), dtype=torch.float64)
    numbers = flat[places.long()]
    if numbers.is_floating_point():
        return numbers.to(torch.bfloat16).view(torch.int16).numpy().tobytes().hex()
    return numbers.numpy().tobytes().hex()
