"""The state of every random generator that training may draw from, as plain JSON."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_all(seed: int) -> None:
    """Seed python, numpy and torch, all devices included."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def rng_state() -> dict[str, Any]:
    """Return the state of all generators: numbers, and bytes in hexadecimal."""
    version, words, gauss = random.getstate()
    kind, key, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(words), gauss],
        "numpy": [kind, np.asarray(key).tobytes().hex(), position, has_gauss, cached],
        "torch": _to_hex(torch.get_rng_state()),
        "cuda": [_to_hex(state) for state in _cuda_states()],
    }


def restore_rng(state: dict[str, Any]) -> None:
    """Set all generators to what `rng_state` returned."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    kind, key, position, has_gauss, cached = state["numpy"]
    words_array = np.frombuffer(bytes.fromhex(key), dtype=np.uint32)
    np.random.set_state((kind, words_array, position, has_gauss, cached))
    torch.set_rng_state(_from_hex(state["torch"]))
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([_from_hex(text) for text in state["cuda"]])


@contextmanager
def own_rng(seed: int) -> Iterator[None]:
    """Run a block from freshly seeded generators; the caller's states come back afterwards."""
    with unchanged_rng():
        seed_all(seed)
        yield


@contextmanager
def unchanged_rng() -> Iterator[None]:
    """Run a block; afterwards all generators are as they were before it."""
    before = rng_state()
    try:
        yield
    finally:
        restore_rng(before)


def _cuda_states() -> list[torch.Tensor]:
    used = torch.cuda.is_initialized()
    return torch.cuda.get_rng_state_all() if used else []


def _to_hex(state: torch.Tensor) -> str:
    return state.cpu().numpy().tobytes().hex()


def _from_hex(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
