"""What enters linear layers while a block runs, and the check that it is finite."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from danlu.calibration.method import Watch
from danlu.calibration.text import Batch
from danlu.errors import QuantizationError


class _Enough(Exception):
    """All layers that are listened to were heard; the rest of the block need not run."""


@contextmanager
def listening(layers: Mapping[str, nn.Module], watch: Watch, batch: Batch) -> Iterator[None]:
    """Let `watch(name, x_NI)` hear what enters layers while a block runs inside.

    The block is left as soon as all of them were heard. Layers that get the very same tensor, one
    after the other, hear the very same rows.

    Args:
        layers: of the block, by name.
        watch: hears.
        batch: the text that runs.

    Raises:
        QuantizationError: if an input is not finite, naming layer and row of text.
    """
    listener = _Listener(layers, watch, batch)
    hooks = [layer.register_forward_pre_hook(listener.hook(name)) for name, layer in layers.items()]
    try:
        yield
    except _Enough:
        pass
    finally:
        for hook in hooks:
            hook.remove()


class _Listener:
    """Tells a watcher what enters some layers on one batch, if it is finite."""

    def __init__(self, names: Iterable[str], watch: Watch, batch: Batch) -> None:
        self._watch = watch
        self._batch = batch
        self._waiting = set(names)
        self._last: tuple[Tensor, Tensor] | None = None

    def hook(self, name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        """Return the hook of a layer."""

        def hear(module: nn.Module, args: tuple[Any, ...]) -> None:
            self._waiting.discard(name)
            self._watch(name, self._rows(name, args[0]))
            if not self._waiting:
                raise _Enough

        return hear

    def _rows(self, name: str, x: Tensor) -> Tensor:
        """Return inputs [N, in]; the same object again for the same inputs."""
        if self._last is None or self._last[0] is not x:
            refuse_not_finite(name, x, self._batch)
            self._last = (x, x.reshape(-1, x.shape[-1]))
        return self._last[1]


def refuse_not_finite(name: str, x: Tensor, batch: Batch) -> None:
    """Check what enters a layer on a batch.

    Args:
        name: of the layer.
        x: [B, T, in] of the batch, or [N, in] of some of its tokens.
        batch: what the text was.

    Raises:
        QuantizationError: naming layer and row of text, if there is a NaN or an infinity.
    """
    if math.isfinite(float(x.sum())):  # what is not finite shows in the sum, which is cheaper
        return
    finite = torch.isfinite(x)
    if bool(finite.all()):  # finite numbers, too large for their sum
        return
    place = int((~finite).flatten().nonzero()[0]) // x.shape[-1]
    where = batch.row_of(place) if x.ndim == 3 else batch.row_names()
    raise QuantizationError(
        f"What enters {name} is not finite on {where} of the calibration text; expected numbers. "
        "If that is so on every row, the weights are damaged: check or download them again. If it "
        "is so on one row alone, remove that row."
    )
