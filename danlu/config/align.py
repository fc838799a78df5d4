"""The run file of preference alignment, and its only defaults."""

from typing import Literal, Self

from pydantic import Field, model_validator

from danlu.config.base import Config
from danlu.config.data import DataSource, Sources, sources
from danlu.config.objective import (
    CpoConfig,
    DpoConfig,
    KtoConfig,
    ObjectiveConfig,
    OrpoConfig,
    RewardConfig,
    SimpoConfig,
)
from danlu.config.train import TrainOptions
from danlu.config.tuning import Tuning


class AlignData(Config):
    """The preferences of an alignment run: pairs, or for KTO answers labelled good or bad."""

    preferences: Sources = Field(
        description="pairs (chosen and rejected), for KTO labelled answers: a file, a folder, "
        "hub:OWNER/NAME, or a list of them",
        examples=["preferences.jsonl"],
    )
    held_out: Sources | None = Field(
        None, description="preferences that are only evaluated on; null: none"
    )
    pairs_as_labels: bool = Field(
        False, description="KTO: read pairs, each as one good and one bad answer"
    )
    max_seq_len: int = Field(1024, ge=2, description="tokens of a prompt with its answer")
    long: Literal["truncate", "drop"] = Field(
        "truncate",
        description="truncate: longer examples lose the oldest rounds of the prompt, then the end "
        "of the question, then of the answer, the prompts of a pair alike; drop: they are left out",
    )
    chat_format: str | None = Field(
        None, description="a built-in format or template file; null: the model's own"
    )
    max_dropped: int = Field(
        0, ge=0, description="stop if more examples than this do not fit or teach nothing"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.preferences:
            raise ValueError("preferences is empty; give at least one path")
        both = [*self.preferences, *(self.held_out or [])]
        weighted = [source.path for source in both if source.weight != 1]
        if weighted:
            raise ValueError(
                f"preferences are not mixed by weight; leave out that of {', '.join(weighted)}"
            )
        return self

    @property
    def sources(self) -> list[DataSource]:
        """The preferences as a list of sources."""
        return self.preferences

    @property
    def held_out_sources(self) -> list[DataSource]:
        """The held-out preferences as a list of sources."""
        return self.held_out or []


class ReferenceConfig(Config):
    """What the policy is compared with, for dpo and kto."""

    model: str | None = Field(
        None, description="folder of another model; null: the model as it is before training"
    )
    precompute: bool | None = Field(
        None,
        description="compute what it says once before training, so that it takes no memory; false: "
        "in each step; null: true, but for a fresh adapter, which is switched off instead",
    )


class AlignRun(Tuning):
    """A model that is taught what people prefer, with an adapter or whole."""

    data: AlignData = Field(description="what it reads")
    objective: ObjectiveConfig = Field(
        default_factory=DpoConfig, description="what it learns from preferences"
    )
    reference: ReferenceConfig = Field(
        default_factory=ReferenceConfig, description="what dpo and kto compare the model with"
    )
    train: TrainOptions = Field(description="how it learns; a row is a pair or an answer")

    @property
    def needs_reference(self) -> bool:
        """Whether the objective compares the policy with another model."""
        if isinstance(self.objective, DpoConfig):
            return not self.objective.reference_free
        return isinstance(self.objective, KtoConfig)

    @property
    def precomputes(self) -> bool:
        """Whether the reference is asked once before training."""
        if not self.needs_reference:
            return False
        if self.reference.precompute is not None:
            return self.reference.precompute
        is_fresh_adapter = self.adapter is not None and self.warm_start is None
        return self.reference.model is not None or not is_fresh_adapter

    @model_validator(mode="after")
    def _check_reference(self) -> Self:
        problems = [problem for wrong, problem in _problems(self) if wrong]
        if problems:
            raise ValueError("; ".join(problems))
        return self


def _problems(run: AlignRun) -> list[tuple[bool, str]]:
    """Return what cannot be meant together: whether it is so, and what to say."""
    method, reference = run.objective.method, run.reference
    alone = reference.precompute is False and reference.model is None
    return [
        (
            not run.needs_reference and reference != ReferenceConfig(),
            f"reference would do nothing: {method} compares with no other model here",
        ),
        (
            alone and run.adapter is None,
            "reference.precompute false would need a second copy of the model; name it in "
            "reference.model, or leave precompute null",
        ),
        (
            alone and run.warm_start is not None,
            "reference.precompute false would compare with the base without the adapter of "
            "warm_start; leave precompute null",
        ),
        (
            run.data.pairs_as_labels and not isinstance(run.objective, KtoConfig),
            f"data.pairs_as_labels would do nothing: {method} reads pairs as they are",
        ),
    ]


def starter() -> AlignRun:
    """Return the run file that `danlu init` writes."""
    return AlignRun(
        out="runs/align",
        model="runs/finetune/merged",
        data=AlignData(preferences=sources("preferences.jsonl"), max_seq_len=512),
        train=TrainOptions(
            epochs=1.0, learning_rate=5e-6, weight_decay=0.0, micro_batch_size=2, warmup_ratio=0.1
        ),
    )


__all__ = [
    "AlignData",
    "AlignRun",
    "CpoConfig",
    "DpoConfig",
    "KtoConfig",
    "OrpoConfig",
    "ReferenceConfig",
    "RewardConfig",
    "SimpoConfig",
    "starter",
]
