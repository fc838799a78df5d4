"""The run files of pre-training and fine-tuning, and their only defaults."""

from typing import Self

from pydantic import Field, model_validator

from danlu.config.base import Config, Seed
from danlu.config.data import FinetuneData, PretrainData
from danlu.config.evaluation import EvaluationConfig
from danlu.config.model import ModelShape
from danlu.config.train import TrainOptions
from danlu.config.tuning import Tuning


class PretrainRun(Config):
    """A model trained from scratch on raw text."""

    out: str = Field(
        min_length=1, description="output folder of the run", examples=["runs/pretrain"]
    )
    seed: Seed = Field(0, description="decides weights, order of rows and dropout")
    model: ModelShape = Field(default_factory=ModelShape, description="sizes of the model")
    tokenizer: str = Field(
        min_length=1, description="folder of the tokenizer", examples=["runs/tokenizer"]
    )
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


class FinetuneRun(Tuning):
    """A model that is taught conversations, with an adapter or whole."""

    data: FinetuneData = Field(description="what it reads")
    evaluation: EvaluationConfig | None = Field(
        None, description="answers that it writes on the way; null: only the held-out loss"
    )
    train: TrainOptions = Field(description="how it learns")

    @model_validator(mode="after")
    def _check_evaluation(self) -> Self:
        judged = self.evaluation is not None and bool(self.evaluation.metrics)
        if judged and not self.data.held_out:
            raise ValueError(
                "evaluation.metrics judge answers to held-out conversations; give data.held_out, "
                "or set evaluation.metrics to [] for samples only"
            )
        return self
