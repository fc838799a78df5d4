"""transformers' Trainer with a clock, as its users run it. Imports nothing of Danlu.

It does not log, evaluate or save, on the CPU.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainingArguments

from benchmarks.step_times import StepTimes

IGNORE = -100


def timed_trainer(
    network: Any,
    rows: Sequence[dict[str, Any]],
    collator: Any,
    folder: str,
    times: StepTimes,
    **arguments: Any,
) -> Trainer:
    """Return a Trainer that notes in `times` when its steps end, and what their tokens are.

    Args:
        network: the model.
        rows: of the data set.
        collator: makes batches of them.
        folder: for whatever it writes.
        times: gets an entry for each step.
        **arguments: of `TrainingArguments`.
    """
    fixed = {
        "optim": "adamw_torch_fused",
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    counts: list[tuple[int, int]] = []  # of the micro-batches of a step

    class Counting(Trainer):
        def training_step(self, model: Any, inputs: Any, *rest: Any) -> Tensor:
            counts.append(_count(inputs))
            return super().training_step(model, inputs, *rest)

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.end_step()
            tokens, targets = (sum(column) for column in zip(*counts, strict=True))
            times.counts.append((tokens, targets))
            counts.clear()

    return Counting(
        model=network,
        args=TrainingArguments(output_dir=folder, **fixed, **arguments),
        train_dataset=rows,
        data_collator=collator,
        callbacks=[Clock()],
    )


def optimizer_bytes(trainer: Trainer) -> int:
    """Return the size of the tensors that the optimizer keeps."""
    states = trainer.optimizer.state.values()
    tensors = (each for state in states for each in state.values() if isinstance(each, Tensor))
    return sum(each.numel() * each.element_size() for each in tensors)


def _count(inputs: dict[str, Tensor]) -> tuple[int, int]:
    """Return the real tokens of a batch, and its learned ones."""
    labels, mask = inputs["labels"], inputs.get("attention_mask")
    real = labels.numel() if mask is None else int(mask.sum())
    return real, int((labels[:, 1:] != IGNORE).sum())
