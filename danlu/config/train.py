"""How a model is trained; the same for every objective."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from danlu.config.base import Config

Precision = Literal["fp32", "bf16"]


class TrainOptions(Config):
    """How a model is trained; the same for every objective."""

    steps: int | None = Field(
        None, ge=1, description="optimizer steps; give this or epochs", examples=[1000]
    )
    epochs: float | None = Field(
        None, gt=0, description="passes over the data; give this or steps", examples=[1.0]
    )
    micro_batch_size: int = Field(8, ge=1, description="rows per forward and backward pass")
    global_batch_size: int = Field(
        8, ge=1, description="rows per optimizer step; a multiple of micro_batch_size"
    )
    learning_rate: float = Field(3e-4, gt=0, description="peak learning rate, after warm-up")
    min_lr_ratio: float = Field(
        0.1, ge=0, le=1, description="the cosine ends at this part of the peak"
    )
    warmup_steps: int = Field(0, ge=0, description="steps of linear warm-up from 0")
    weight_decay: float = Field(
        0.1, ge=0, description="decoupled decay of matrices (never of biases and norm weights)"
    )
    betas: Annotated[tuple[float, float], Field(strict=False)] = Field(
        (0.9, 0.95), description="AdamW's decay rates of the first and second moment"
    )
    eps: float = Field(1e-8, gt=0, description="AdamW's epsilon")
    max_grad_norm: float | None = Field(
        1.0, gt=0, description="gradients are clipped to this norm; null: not clipped"
    )
    precision: Precision = Field(
        "fp32",
        description="fp32, or bf16: computes in bfloat16 with float32 master weights and gradients",
    )
    device: str = Field(
        "auto", description="auto (the accelerator if there is one), cpu, cuda, cuda:1, ..."
    )
    save_dtype: Precision | None = Field(
        None, description="dtype of the model that is written at the end; null: as precision"
    )
    save_every_steps: int = Field(200, ge=1, description="steps between checkpoints")
    save_every_minutes: float | None = Field(
        None, gt=0, description="also write a checkpoint after this much time; null: no"
    )
    eval_every_steps: int | None = Field(
        None, ge=1, description="steps between held-out losses; null: only at the end"
    )
    log_every_steps: int = Field(1, ge=1, description="steps between lines of metrics.jsonl")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            found = "neither" if self.steps is None else "both"
            raise ValueError(f"give either steps or epochs; found {found}")
        if self.global_batch_size % self.micro_batch_size:
            raise ValueError(
                f"global_batch_size {self.global_batch_size} is no multiple of "
                f"micro_batch_size {self.micro_batch_size}"
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be at least 0 and below 1; found {list(self.betas)}")
        if self.steps is not None and self.warmup_steps > self.steps:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} is more than all steps, {self.steps}"
            )
        return self
