"""The proof behind an export: the written model gives the source's logits, computed in float32."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from danlu.errors import ExportError
from danlu.export.target import LogitCheck
from danlu.models.decoder import Decoder

ROWS = 3
MAX_TOKENS = 48  # of a row
BOUND = 1e-4


def random_rows(vocab_size: int, max_seq_len: int) -> Tensor:
    """Return token ids [B, T], the same for the same sizes."""
    generator = torch.Generator().manual_seed(vocab_size)
    length = max(1, min(MAX_TOKENS, max_seq_len))
    return torch.randint(vocab_size, (ROWS, length), generator=generator)


@torch.inference_mode()
def float32_logits(decoder: Decoder, tokens_BT: Tensor) -> Tensor:
    """Return the logits [B, T, V], computed in float32 whatever dtype the weights have."""
    with _computing_in_float32(decoder):
        logits_BTV: Tensor = decoder(tokens_BT.to(decoder.device))
    return logits_BTV.float().cpu()


def difference(a_BTV: Tensor, b_BTV: Tensor) -> float:
    """Return the largest absolute difference over max(1, largest absolute value of `a_BTV`)."""
    return float((a_BTV - b_BTV).abs().max()) / max(1.0, float(a_BTV.abs().max()))


def check_logits(
    source_BTV: Tensor, rounded_BTV: Tensor, written_BTV: Tensor, where: str
) -> LogitCheck:
    """Return how far the written model is from its source.

    Args:
        source_BTV: logits of the source.
        rounded_BTV: of the source with its weights rounded as they are stored.
        written_BTV: of what was written.
        where: what was written, for the error.

    Raises:
        ExportError: if the written model is not the rounded source.
    """
    found = difference(rounded_BTV, written_BTV)
    tokens = source_BTV[..., 0].numel()
    check = LogitCheck(found, BOUND, tokens, difference(source_BTV, rounded_BTV))
    if not found <= BOUND:  # NaN fails too
        raise ExportError(
            f"What was written to '{where}' does not compute what its source does: "
            f"{check.summary()}. Nothing was kept. Expected the same logits: see whether the "
            "source's config.json describes its weights, and whether these are finite numbers."
        )
    return check


@contextmanager
def _computing_in_float32(decoder: Decoder) -> Iterator[None]:
    """Cast each module's own weights to float32 while it runs, so that one at a time is large."""
    hooks = []
    for module in decoder.modules():
        if any(_is_small_float(p) for p in module.parameters(recurse=False)):
            hooks.append(module.register_forward_pre_hook(_widen))
            hooks.append(module.register_forward_hook(_narrow, always_call=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _is_small_float(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dtype != torch.float32


def _widen(module: nn.Module, args: Any) -> None:
    for parameter in module.parameters(recurse=False):
        if _is_small_float(parameter):
            module.__dict__.setdefault("_stored", {})[parameter] = parameter.data
            parameter.data = parameter.data.float()


def _narrow(module: nn.Module, args: Any, output: Any) -> None:
    for parameter, stored in module.__dict__.pop("_stored", {}).items():
        parameter.data = stored
