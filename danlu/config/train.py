"""How a model is trained; the same for every objective."""

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from danlu.config.base import Config

Precision = Literal["fp32", "bf16", "fp16"]
OptimizerName = Literal["adamw", "adamw8bit", "adafactor", "muon", "sgd"]
ScheduleName = Literal["constant", "linear", "cosine", "wsd"]
Recompute = Literal["none", "selective", "full"]

# Options that only some optimizers or schedules read, and which ones do.
_READ_BY: dict[str, tuple[str, tuple[str, ...]]] = {
    "momentum": ("optimizer", ("muon", "sgd")),
    "betas": ("optimizer", ("adamw", "adamw8bit", "muon")),
    "eps": ("optimizer", ("adamw", "adamw8bit", "muon")),
    "decay_ratio": ("schedule", ("wsd",)),
    "cycles": ("schedule", ("cosine",)),
}
_OF_BEST = ("patience", "min_delta", "load_best")


class FreezeConfig(Config):
    """Which weights of a model are trained, when it is trained without an adapter.

    Patterns are names, or parts of names between dots, of this model's parameters or of the
    tensors of its checkpoint; `*` stands for anything. `q_proj`, `layers.*.mlp` and
    `transformer.h.0` are patterns.
    """

    top_layers: int | None = Field(
        None, ge=1, description="train this many of the last layers; null: not chosen by layer"
    )
    names: list[str] = Field(
        default_factory=list,
        description="also train parameters with these names, such as lm_head or layers.*.mlp",
    )
    frozen: list[str] = Field(
        default_factory=list,
        description="keep parameters with these names as they are; alone, all others are trained",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.top_layers is None and not self.names and not self.frozen:
            raise ValueError("give top_layers, names or frozen; found none of them")
        return self


class TrainOptions(Config):
    """How a model is trained; the same for every objective."""

    steps: int | None = Field(
        None,
        ge=1,
        le=1_000_000_000,
        description="optimizer steps; give this or epochs",
        examples=[1000],
    )
    epochs: float | None = Field(
        None,
        gt=0,
        le=1_000_000,
        description="passes over the data; give this or steps",
        examples=[1.0],
    )
    micro_batch_size: int = Field(8, ge=1, description="rows per forward and backward pass")
    global_batch_size: int = Field(
        8, ge=1, description="rows per optimizer step; a multiple of micro_batch_size"
    )
    learning_rate: float = Field(3e-4, gt=0, description="peak learning rate, after warm-up")
    schedule: ScheduleName = Field(
        "cosine",
        description="how the rate falls after warm-up: constant, linear, cosine, or wsd (stable, "
        "then a linear decay at the end)",
    )
    min_lr_ratio: float = Field(
        0.1, ge=0, le=1, description="linear, cosine and wsd end at this part of the peak"
    )
    decay_ratio: float = Field(
        0.2, gt=0, le=1, description="wsd: the part of all steps in which the rate falls"
    )
    cycles: int = Field(
        1, ge=1, description="cosine: how often it falls from the peak (warm restarts)"
    )
    warmup_steps: int = Field(0, ge=0, description="steps of linear warm-up from 0")
    warmup_ratio: float | None = Field(
        None, ge=0, le=1, description="the warm-up as a part of all steps, instead of warmup_steps"
    )
    optimizer: OptimizerName = Field(
        "adamw",
        description="adamw (8 bytes per trained weight), adamw8bit (2), adafactor (almost none), "
        "muon (4; matrices only, the rest adamw) or sgd (4)",
    )
    momentum: float | None = Field(
        None, ge=0, lt=1, description="muon and sgd: null is 0.95 and 0.9"
    )
    weight_decay: float = Field(
        0.1,
        ge=0,
        description="decay of matrices (never of biases and norm weights); decoupled, but for sgd",
    )
    betas: Annotated[tuple[float, float], Field(strict=False)] = Field(
        (0.9, 0.95), description="AdamW's decay rates of the first and second moment"
    )
    eps: float = Field(1e-8, gt=0, description="AdamW's epsilon")
    offload_optimizer: bool = Field(
        False,
        description="keep the optimizer's states in the memory of the host: slower, for adapters "
        "or models that do not fit otherwise",
    )
    max_grad_norm: float | None = Field(
        1.0, gt=0, description="gradients are clipped to this norm; null: not clipped"
    )
    neftune_alpha: float | None = Field(
        None, gt=0, description="noise on embeddings while training (NEFTune), often 5; null: none"
    )
    precision: Precision = Field(
        "fp32",
        description="what it computes in: fp32, bf16, or fp16 (with loss scaling); trained weights "
        "and their gradients are float32 in all",
    )
    activation_checkpointing: Recompute = Field(
        "none",
        description="compute layers a second time instead of keeping what they computed: in none, "
        "in every other (selective) or in every layer (full); less memory, more time, same numbers",
    )
    device: str = Field(
        "auto", description="auto (the accelerator if there is one), cpu, cuda, cuda:1, ..."
    )
    save_dtype: Precision | None = Field(
        None, description="dtype of the model that is written at the end; null: as precision"
    )
    save_every_steps: int = Field(200, ge=1, description="steps between checkpoints")
    save_every_epochs: float | None = Field(
        None, gt=0, description="epochs between checkpoints, instead of save_every_steps"
    )
    save_every_minutes: float | None = Field(
        None, gt=0, description="also write a checkpoint after this much time; null: no"
    )
    keep_checkpoints: int = Field(
        2, ge=1, description="checkpoints that are kept; the best one is kept besides"
    )
    eval_every_steps: int | None = Field(
        None, ge=1, description="steps between evaluations; null: only at the end"
    )
    eval_every_epochs: float | None = Field(
        None, gt=0, description="epochs between evaluations, instead of eval_every_steps"
    )
    log_every_steps: int = Field(1, ge=1, description="steps between lines of metrics.jsonl")
    best_metric: str | None = Field(
        None,
        description="the number by which evaluations are compared, such as held_out_loss or bleu4; "
        "null: the last weights are the result",
    )
    load_best: bool = Field(
        True, description="with best_metric: the weights of the best evaluation are the result"
    )
    patience: int | None = Field(
        None, ge=1, description="stop after this many evaluations that are not better; null: never"
    )
    min_delta: float = Field(
        0.0, ge=0, description="with best_metric: how much better counts as better"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        problems = [*_contradictions(self), *_unread(self)]
        if problems:
            raise ValueError("; ".join(problems))
        return self


def _contradictions(options: TrainOptions) -> Iterator[str]:
    """Yield what cannot be meant together."""
    o = options
    if (o.steps is None) == (o.epochs is None):
        yield f"give either steps or epochs; found {'neither' if o.steps is None else 'both'}"
    if o.global_batch_size % o.micro_batch_size:
        yield (
            f"global_batch_size {o.global_batch_size} is no multiple of "
            f"micro_batch_size {o.micro_batch_size}"
        )
    if not all(0 <= beta < 1 for beta in o.betas):
        yield f"betas must be at least 0 and below 1; found {list(o.betas)}"
    if o.steps is not None and o.warmup_steps > o.steps:
        yield f"warmup_steps {o.warmup_steps} is more than all steps, {o.steps}"
    if o.warmup_ratio is not None and o.warmup_steps:
        yield "give either warmup_steps or warmup_ratio; found both"
    if o.eval_every_steps is not None and o.eval_every_epochs is not None:
        yield "give either eval_every_steps or eval_every_epochs; found both"
    if o.save_every_epochs is not None and _is_given(o, "save_every_steps"):
        yield "give either save_every_steps or save_every_epochs; found both"


def _unread(options: TrainOptions) -> Iterator[str]:
    """Yield options that were given and that nothing would read."""
    for name, (chooser, readers) in _READ_BY.items():
        chosen = getattr(options, chooser)
        if chosen not in readers and _is_given(options, name):
            yield f"{name} is not read by {chooser} {chosen}, only by {' and '.join(readers)}"
    if options.best_metric is None:
        for name in _OF_BEST:
            if _is_given(options, name):
                yield f"{name} needs best_metric, the number that is compared"


def _is_given(options: TrainOptions, name: str) -> bool:
    """Return whether an option is not at its default; a resolved config gives all of them."""
    default: object = TrainOptions.model_fields[name].default
    return bool(getattr(options, name) != default)
