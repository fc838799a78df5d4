"""What fine-tuning and alignment share: the model that is taught, and what of it is trained."""

from typing import Self

from pydantic import Field, model_validator

from danlu.config.adapter import AdapterConfig, LoraConfig
from danlu.config.base import Config, Seed
from danlu.config.quantize.scheme import Quantization
from danlu.config.train import FreezeConfig


class Tuning(Config):
    """A model that is taught further, with an adapter or whole."""

    out: str = Field(
        min_length=1, description="output folder of the run", examples=["runs/finetune"]
    )
    seed: Seed = Field(0, description="decides adapter weights, order of rows and dropout")
    model: str = Field(
        min_length=1, description="folder of the model", examples=["runs/pretrain/model"]
    )
    family: str | None = Field(
        None, description="family of the model, where its config.json does not tell it"
    )
    quantize: Quantization | None = Field(
        None,
        description="few bits for the base under an adapter (Q-LoRA): nf4, fp4, int8, int4 or a "
        "scheme; null: as it is stored, and a quantized checkpoint stays quantized",
    )
    adapter: AdapterConfig | None = Field(
        default_factory=LoraConfig,
        description="the adapter, by its method: lora, prefix, prompt, token_rows or ia3; null: "
        "train the weights themselves",
    )
    warm_start: str | None = Field(
        None, description="folder of an adapter to go on with, instead of a fresh one"
    )
    freeze: FreezeConfig | None = Field(
        None, description="with adapter: null, which weights are trained; null: all"
    )

    @model_validator(mode="after")
    def _check_tuning(self) -> Self:
        problems = [problem for wrong, problem in _problems(self) if wrong]
        if problems:
            raise ValueError("; ".join(problems))
        return self


def _problems(run: Tuning) -> list[tuple[bool, str]]:
    """Return what cannot be meant together: whether it is so, and what to say."""
    return [
        (
            run.quantize is not None and run.adapter is None,
            "quantize needs an adapter, since rounded weights are not trained",
        ),
        (
            run.warm_start is not None and run.adapter is None,
            "warm_start needs an adapter; merge the earlier one to train the weights",
        ),
        (
            run.warm_start is not None and run.adapter not in (None, LoraConfig()),
            "adapter would do nothing: with warm_start the adapter is the one in that folder; "
            "leave it out",
        ),
        (
            run.freeze is not None and run.adapter is not None,
            "freeze would do nothing: an adapter freezes every other weight; set adapter: null",
        ),
    ]
