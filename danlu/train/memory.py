"""What to lower when a step does not fit into memory."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from danlu.config.train import TrainOptions
from danlu.errors import TrainingError, bullet_list

_CPU_SAYS = ("not enough memory", "can't allocate memory")  # torch has no class for these


@contextmanager
def memory_errors(options: TrainOptions) -> Iterator[None]:
    """Turn running out of memory into one error that says what to lower.

    Raises:
        TrainingError: with the options that take memory, as they are set.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _explained(options, error) from error
    except RuntimeError as error:
        if any(words in str(error) for words in _CPU_SAYS):
            raise _explained(options, error) from error
        raise


def _explained(options: TrainOptions, error: Exception) -> TrainingError:
    first_line = (str(error) or "no room for a Python object").splitlines()[0]
    return TrainingError(
        f"The memory is used up: {first_line} Expected room for the model and a step. Checkpoints "
        "are intact, but the same run needs a smaller model or smaller options, in a new folder:"
        f"{bullet_list(_advice(options))}"
    )


def _advice(options: TrainOptions) -> list[str]:
    """Return what helps, the most harmless first."""
    lines = []
    if options.micro_batch_size > 1:
        lines.append(
            f"lower train.micro_batch_size {options.micro_batch_size}; global_batch_size stays, so "
            "the run computes the same"
        )
    if options.activation_checkpointing != "full":
        lines.append(
            "set train.activation_checkpointing to full (the same numbers, about a third slower); "
            f"it is {options.activation_checkpointing}"
        )
    if options.precision == "fp32":
        lines.append("set train.precision to bf16; it is fp32")
    if options.optimizer in ("adamw", "muon"):
        lines.append(f"set train.optimizer to adamw8bit; it is {options.optimizer}")
    if not options.offload_optimizer:
        lines.append("on an accelerator, set train.offload_optimizer to true")
    return [*lines, "lower data.max_seq_len", "train an adapter instead of all weights"]
