"""What a model in training is asked to write, and how its answers are judged."""

from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from danlu.config.base import Config

TextMetric = Literal["bleu4", "rouge1", "rouge2", "rougeL", "exact_match"]
TEXT_METRICS: tuple[TextMetric, ...] = get_args(TextMetric)


class EvaluationConfig(Config):
    """Answers of a model in training: to held-out conversations, judged, and to your own prompts.

    The decoding is greedy, so equal weights write equal answers.
    """

    rows: int | None = Field(
        64, ge=1, description="held-out conversations that are answered, the first; null: all"
    )
    metrics: list[TextMetric] = Field(
        default_factory=lambda: list(TEXT_METRICS),
        description="how answers are compared with the expected ones, each from 0 to 1",
    )
    samples: list[str] = Field(
        default_factory=list, description="prompts whose answers are written to samples.jsonl"
    )
    max_new_tokens: int = Field(128, ge=1, description="longest answer")
    batch_size: int = Field(16, ge=1, description="answers that are written side by side")
    every_steps: int | None = Field(
        None, ge=1, description="steps between these evaluations; null: as train.eval_every_steps"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.metrics and not self.samples:
            raise ValueError("give metrics or samples; found neither, so there is nothing to do")
        if len(set(self.metrics)) < len(self.metrics):
            raise ValueError(f"metrics are named twice: {', '.join(self.metrics)}")
        return self
