"""What an alignment learns from preferences: one config for each method, chosen by `method`.

Names, defaults and formulas are those of TRL 1.16; where a paper or another tool means something
else by the same word, the description says so. With c and r the log-probability of the chosen and
the rejected answer, policy minus reference: z = beta * (c - r).
"""

from typing import Annotated, Literal, Self

from pydantic import Field, Tag, model_validator

from danlu.config.base import Config, by_method

DpoLoss = Literal[
    "sigmoid",
    "sigmoid_norm",
    "conservative",
    "robust",
    "hinge",
    "ipo",
    "exo_pair",
    "nca_pair",
    "sppo_hard",
    "apo_zero",
    "apo_down",
    "discopop",
    "dpop",
]
SMOOTHED = ("conservative", "robust", "exo_pair")


class DpoConfig(Config):
    """Direct preference optimization (arXiv:2305.18290) and its relatives, on pairs."""

    method: Literal["dpo"] = Field("dpo", description="dpo: pairs, beside a reference model")
    loss: DpoLoss = Field(
        "sigmoid",
        description="sigmoid, sigmoid_norm (per token), conservative and robust (wrong labels), "
        "hinge, ipo, exo_pair, nca_pair, sppo_hard, apo_zero, apo_down, discopop, dpop",
    )
    beta: float = Field(0.1, gt=0, description="how strongly the policy is held to the reference")
    label_smoothing: float | None = Field(
        None,
        gt=0,
        lt=0.5,
        description="part of the pairs whose labels are wrong; for conservative, robust, exo_pair",
    )
    dpop_lambda: float | None = Field(
        None,
        gt=0,
        description="weight of dpop's penalty on a falling chosen answer; null: 50, as PaddleNLP",
    )
    discopop_tau: float | None = Field(
        None, gt=0, description="temperature of discopop's blend; null: 0.05"
    )
    reference_free: bool = Field(
        False, description="compare with a model that finds every answer equally likely"
    )
    sft_weight: float = Field(
        0.0, ge=0, description="add this times the cross-entropy of the chosen answers (per token)"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.loss in SMOOTHED and self.label_smoothing is None:
            raise ValueError(
                f"loss {self.loss} needs label_smoothing, a number between 0 and 0.5 such as 0.1"
            )
        for key, losses in _ONLY_FOR.items():
            if getattr(self, key) is not None and self.loss not in losses:
                raise ValueError(
                    f"{key} would do nothing: it belongs to loss {' or '.join(losses)}, "
                    f"and loss is {self.loss}"
                )
        return self


_ONLY_FOR = {
    "label_smoothing": SMOOTHED,
    "dpop_lambda": ("dpop",),
    "discopop_tau": ("discopop",),
}


class KtoConfig(Config):
    """Kahneman-Tversky optimization (arXiv:2402.01306), on answers labelled good or bad."""

    method: Literal["kto"] = Field("kto", description="kto: answers labelled good or bad")
    loss: Literal["kto", "apo_zero_unpaired"] = Field(
        "kto", description="kto, or apo_zero_unpaired, which measures against no KL term"
    )
    beta: float = Field(0.1, gt=0, description="how strongly the policy is held to the reference")
    desirable_weight: float = Field(1.0, gt=0, description="how much a good answer counts")
    undesirable_weight: float = Field(1.0, gt=0, description="how much a bad answer counts")


class OrpoConfig(Config):
    """Odds ratio preference optimization (arXiv:2403.07691), on pairs, without a reference."""

    method: Literal["orpo"] = Field("orpo", description="orpo: pairs, without a reference model")
    beta: float = Field(0.1, gt=0, description="weight of the odds ratio (lambda in the paper)")
    learn_prompt: bool = Field(
        True,
        description="the cross-entropy takes in the prompt of the chosen answer, as in TRL; "
        "false: the answer alone, as in LLaMA-Factory",
    )


class SimpoConfig(Config):
    """Simple preference optimization (arXiv:2405.14734), on pairs, without a reference."""

    method: Literal["simpo"] = Field("simpo", description="simpo: pairs, without a reference model")
    beta: float = Field(2.0, gt=0, description="scale of the mean log-probability per token")
    gamma: float = Field(0.5, ge=0, description="margin that is asked for; not multiplied by beta")
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="part of the pairs whose labels are wrong"
    )
    sft_weight: float = Field(
        0.0, ge=0, description="add this times the cross-entropy of the chosen answers (per token)"
    )


class CpoConfig(Config):
    """Contrastive preference optimization (arXiv:2401.08417), on pairs, without a reference."""

    method: Literal["cpo"] = Field("cpo", description="cpo: pairs, without a reference model")
    beta: float = Field(0.1, gt=0, description="scale of the difference of log-probabilities")
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="part of the pairs whose labels are wrong"
    )
    sft_weight: float = Field(
        1.0, ge=0, description="add this times the cross-entropy of the chosen answers (per token)"
    )


class RewardConfig(Config):
    """A reward model (Bradley-Terry; arXiv:2203.02155, sec. 3.5): one score for a conversation."""

    method: Literal["reward"] = Field(
        "reward", description="reward: a model that scores conversations, from pairs"
    )
    center: float | None = Field(
        None,
        gt=0,
        description="add this times the squared sum of both scores, which keeps them around 0 "
        "(arXiv:2312.09244); null: no",
    )


ObjectiveConfig = Annotated[
    Annotated[DpoConfig, Tag("DpoConfig")]
    | Annotated[KtoConfig, Tag("KtoConfig")]
    | Annotated[OrpoConfig, Tag("OrpoConfig")]
    | Annotated[SimpoConfig, Tag("SimpoConfig")]
    | Annotated[CpoConfig, Tag("CpoConfig")]
    | Annotated[RewardConfig, Tag("RewardConfig")],
    by_method(DpoConfig, KtoConfig, OrpoConfig, SimpoConfig, CpoConfig, RewardConfig),
]
