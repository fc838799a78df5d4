"""A step without room is one error that says what to lower."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from train_parts import tiny_job

from danlu.data.batch import Batch
from danlu.errors import TrainingError
from danlu.models.decoder import Decoder
from danlu.train.checkpoint import checkpoint_folders
from danlu.train.loop import CHECKPOINTS, Job, train
from danlu.train.objective import CausalLM

ERRORS = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ..."),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"),
    MemoryError(),
)


class Greedy(CausalLM):
    """Fails in its fifth micro-batch."""

    def __init__(self, error: Exception) -> None:
        self.error, self.left = error, 5

    def loss(self, model: Decoder, batch: Batch) -> tuple[Tensor, int | float]:
        self.left -= 1
        if not self.left:
            raise self.error
        return super().loss(model, batch)


def failing(error: Exception, **options: Any) -> Job[Batch]:
    return Job(**{**vars(tiny_job(**options)), "objective": Greedy(error)})


@pytest.mark.parametrize("error", ERRORS, ids=["accelerator", "cpu", "python"])
def test_it_says_what_to_lower(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as caught:
        train(failing(error), tmp_path)
    message = str(caught.value)
    assert message.startswith("The memory is used up: ")
    assert "GPU 0" not in message
    for advice in (
        "train.micro_batch_size 2; global_batch_size stays",
        "train.activation_checkpointing to full",
        "train.precision to bf16; it is fp32",
        "train.optimizer to adamw8bit; it is adamw",
        "data.max_seq_len",
    ):
        assert advice in message
    assert [path.name for path in checkpoint_folders(tmp_path / CHECKPOINTS)] == ["step-000002"]


def test_it_does_not_advise_what_is_done(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "micro_batch_size": 1,
        "activation_checkpointing": "full",
        "precision": "bf16",
        "optimizer": "adamw8bit",
        "offload_optimizer": True,
    }
    with pytest.raises(TrainingError) as caught:
        train(failing(MemoryError(), **options), tmp_path)
    assert "train." not in str(caught.value)


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        train(failing(RuntimeError("a bug")), tmp_path)
