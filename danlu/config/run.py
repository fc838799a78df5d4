"""The run files of pre-training and fine-tuning, and their only defaults."""

from typing import Self

from pydantic import Field, model_validator

from danlu.config.adapter import AdapterConfig, LoraConfig
from danlu.config.base import Config
from danlu.config.data import FinetuneData, PretrainData
from danlu.config.model import ModelShape
from danlu.config.train import TrainOptions


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
    adapter: AdapterConfig | None = Field(
        default_factory=LoraConfig,
        description="the adapter, by its method; null: train every weight",
    )
    train: TrainOptions = Field(description="how it learns")
