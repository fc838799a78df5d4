"""What a model is trained for: an objective turns a batch into a summed loss."""

from typing import Protocol, TypeVar

from torch import Tensor

from danlu.data.batch import Batch
from danlu.models.decoder import Decoder
from danlu.train.loss import head_loss

B_contra = TypeVar("B_contra", contravariant=True)


class Objective(Protocol[B_contra]):
    """The seam of every training method (STYLE section 3)."""

    def loss(self, model: Decoder, batch: B_contra) -> tuple[Tensor, int]:
        """Return the loss summed over the batch (float32 scalar) and how many terms it sums.

        The loop divides by the terms of the whole global batch, so the result never depends on
        how that batch was split.
        """


class CausalLM:
    """Next-token prediction on packed rows: pre-training, and SFT where the targets are masked."""

    def loss(self, model: Decoder, batch: Batch) -> tuple[Tensor, int]:
        """Return the summed cross-entropy in nats and the number of targets."""
        hidden_BTD = model.packed_hidden(batch.tokens_BT, batch.documents_BT)
        return head_loss(model, hidden_BTD, batch.targets_BT), batch.num_targets
