"""Calibration text on its way into the first block."""

from collections.abc import Sequence

import torch
from torch import Tensor

from danlu.calibration.listening import refuse_not_finite
from danlu.calibration.text import Batch
from danlu.models.decoder import Decoder


@torch.no_grad()
def entering_states(
    decoder: Decoder, text: Sequence[Batch], dtype: torch.dtype, device: torch.device
) -> list[Tensor]:
    """Return what the first block gets [B, T, D], for each batch.

    Args:
        decoder: whose embedding, and all before the blocks, has weights, on the CPU.
        text: the batches.
        dtype: that blocks compute in.
        device: where they do.

    Raises:
        QuantizationError: if it is not finite.
    """
    states = []
    for batch in text:
        positions_BT, _ = decoder.sequence_rule().context(batch.ids_BT, None, None)
        embedded_BTD = decoder.token_embeddings(batch.ids_BT).to(dtype)
        x_BTD = decoder.model.enter(embedded_BTD, positions_BT)
        refuse_not_finite("the first block", x_BTD, batch)
        states.append(x_BTD.to(device))
    return states
