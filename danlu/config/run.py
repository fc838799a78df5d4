"""The run files of pre-training and fine-tuning, and their only defaults."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from danlu.config.adapter import LoraConfig
from danlu.config.base import Config
from danlu.config.model import ModelShape

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


class PretrainData(Config):
    """The raw text of a pre-training run."""

    corpus: str | list[str] = Field(
        description="text, JSONL or folder, or a list of them", examples=["corpus.txt"]
    )
    held_out: str | None = Field(
        None, description="text that is only evaluated on; null: take held_out_fraction"
    )
    held_out_fraction: float = Field(
        0.0, ge=0, lt=1, description="part of the corpus' documents that is only evaluated on"
    )
    max_seq_len: int = Field(256, ge=2, description="tokens per packed row")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.held_out is not None and self.held_out_fraction:
            raise ValueError("give either held_out or held_out_fraction; found both")
        if not self.corpus:
            raise ValueError("corpus is empty; give at least one path")
        return self

    @property
    def corpus_paths(self) -> list[str]:
        """The corpus as a list of paths."""
        return [self.corpus] if isinstance(self.corpus, str) else list(self.corpus)


class FinetuneData(Config):
    """The conversations of a fine-tuning run."""

    instructions: str | list[str] = Field(
        description="JSONL or JSON of conversations, or a list of them",
        examples=["instructions.jsonl"],
    )
    held_out: str | None = Field(
        None, description="conversations that are only evaluated on; null: none"
    )
    max_seq_len: int = Field(256, ge=2, description="tokens per packed row")
    chat_format: str | None = Field(
        None, description="a built-in format or template file; null: the model's own"
    )
    max_dropped: int = Field(
        0, ge=0, description="stop if more conversations than this do not fit or teach nothing"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.instructions:
            raise ValueError("instructions is empty; give at least one path")
        return self

    @property
    def instruction_paths(self) -> list[str]:
        """The instructions as a list of paths."""
        return [self.instructions] if isinstance(self.instructions, str) else [*self.instructions]


class PretrainRun(Config):
    """A model trained from scratch on raw text."""

    out: str = Field(description="output folder of the run", examples=["runs/pretrain"])
    seed: int = Field(0, ge=0, description="decides weights, order of rows and dropout")
    model: ModelShape = Field(default_factory=ModelShape, description="sizes of the model")
    tokenizer: str = Field(description="folder of the tokenizer", examples=["runs/tokenizer"])
    data: PretrainData = Field(description="what it reads")
    train: TrainOptions = Field(description="how it learns")

    @model_validator(mode="after")
    def _check_length(self) -> Self:
        if self.data.max_seq_len > self.model.max_seq_len:
            raise ValueError(
                f"data.max_seq_len {self.data.max_seq_len} is longer than the model allows: "
                f"model.max_seq_len is {self.model.max_seq_len}"
            )
        return self


class FinetuneRun(Config):
    """A model that is taught conversations, with an adapter or whole."""

    out: str = Field(description="output folder of the run", examples=["runs/finetune"])
    seed: int = Field(0, ge=0, description="decides adapter weights, order of rows and dropout")
    model: str = Field(description="folder of the model", examples=["runs/pretrain/model"])
    family: str | None = Field(
        None, description="family of the model, where its config.json does not tell it"
    )
    data: FinetuneData = Field(description="what it reads")
    adapter: LoraConfig | None = Field(
        default_factory=LoraConfig, description="the LoRA adapter; null: train every weight"
    )
    train: TrainOptions = Field(description="how it learns")
