"""Activation checkpointing (arXiv:1604.06174): blocks computed twice instead of remembered.

A recomputed block keeps its input only, and computes everything else again when the backward pass
reaches it. Random draws come out the same (dropout), so losses and gradients have the same bits as
without.

`selective` recomputes every other block: half the memory saved for half the extra time. Recomputing
parts of each block (attention only, say) would save less than its place in every family's block
would cost: with fused attention, the MLP holds most of what is kept.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from danlu.config.train import Recompute
from danlu.models.decoder import Decoder

_STRIDE: dict[Recompute, int] = {"selective": 2, "full": 1}


@contextmanager
def recomputed_blocks(decoder: Decoder, mode: Recompute) -> Iterator[None]:
    """Let blocks of `decoder` be recomputed in backward passes while the block lasts.

    Modules and parameters keep their names.
    """
    chosen = [] if mode == "none" else decoder.blocks()[:: _STRIDE[mode]]
    for block in chosen:
        block.forward = _recomputed(block.forward)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for block in chosen:
            del block.forward


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args)
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=True)

    return call
