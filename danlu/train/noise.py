"""NEFTune (arXiv:2310.05914): uniform noise on the embeddings while training.

Each number of an embedded text of L tokens in D dimensions gets noise from (-1, 1), times
alpha / sqrt(L D). L is the length of the token's own document, so that the noise is as large in a
packed row as alone. It is drawn from torch's generator, whose state is in every checkpoint.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from danlu.models.decoder import Decoder


@contextmanager
def noisy_embeddings(decoder: Decoder, alpha: float | None) -> Iterator[None]:
    """Add noise to what `decoder.packed_hidden` embeds, while the block lasts.

    Only in training mode and where gradients are computed: not in evaluations, and not when a
    reference model is asked. Nothing happens if `alpha` is None.
    """
    if alpha is None:
        yield
        return
    noise = _Noise(alpha)
    plain = decoder.packed_hidden

    def packed_hidden(tokens_BT: Tensor, documents_BT: Tensor) -> Tensor:
        noise.lengths_BT = document_lengths(documents_BT)
        return plain(tokens_BT, documents_BT)

    handle = decoder.model.embed_tokens.register_forward_hook(noise)
    decoder.packed_hidden = packed_hidden  # type: ignore[method-assign]
    try:
        yield
    finally:
        del decoder.packed_hidden
        handle.remove()


def document_lengths(documents_BT: Tensor) -> Tensor:
    """Return the number of tokens in the document of each token [B, T]."""
    num_tokens = documents_BT.shape[1]
    rows_B1 = torch.arange(len(documents_BT), device=documents_BT.device)[:, None]
    keys_N = (documents_BT + 1 + rows_B1 * (num_tokens + 1)).flatten()
    _, inverse_N, counts_M = keys_N.unique(return_inverse=True, return_counts=True)
    lengths_N: Tensor = counts_M[inverse_N]
    return lengths_N.view_as(documents_BT)


class _Noise:
    """The forward hook; told the lengths of the documents before each pass."""

    def __init__(self, alpha: float) -> None:
        self._alpha = alpha
        self.lengths_BT: Tensor | None = None

    def __call__(self, module: nn.Module, inputs: tuple[Tensor], x_BTD: Tensor) -> Tensor:
        lengths_BT = self.lengths_BT
        if lengths_BT is None or not (module.training and torch.is_grad_enabled()):
            return x_BTD
        sizes_BT1 = (lengths_BT * x_BTD.shape[-1])[..., None]
        noise_BTD = torch.rand(x_BTD.shape, device=x_BTD.device) * 2 - 1
        noisy_BTD: Tensor = x_BTD + (noise_BTD * self._alpha / sizes_BT1.sqrt()).to(x_BTD.dtype)
        return noisy_BTD
