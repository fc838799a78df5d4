"""How one request is answered: `SamplingParams`, checked when it is made.

The field names are those of vLLM's `SamplingParams`. Imports no torch, so a command line or a
server can describe and check a request without loading a model. `danlu.engine.sampler` says what is
done in which order.
"""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    field_validator,
    model_validator,
)

from danlu.config.base import Config
from danlu.errors import RequestError, bullet_list, did_you_mean

# Below this a temperature would overflow float32; the most likely token is taken instead.
GREEDY_BELOW = 1e-5


class SamplingParams(Config):
    """How to continue one prompt: what to draw, and when to stop.

    Raises:
        RequestError: if a value is out of range or a name is unknown; all problems in one message.
    """

    max_tokens: int | None = Field(
        256, ge=1, description="most new tokens; null: as many as the model's context allows"
    )
    temperature: float = Field(
        1.0,
        ge=0,
        allow_inf_nan=False,
        description="0: always the most likely token; 1: as the model says",
    )
    top_k: int = Field(
        0, ge=-1, description="draw from the k most likely tokens; 0 or -1: from all"
    )
    top_p: float = Field(
        1.0, gt=0, le=1, description="draw from the smallest set with this probability"
    )
    min_p: float = Field(
        0.0,
        ge=0,
        le=1,
        description="drop tokens less likely than this share of the most likely one",
    )
    repetition_penalty: float = Field(
        1.0,
        gt=0,
        allow_inf_nan=False,
        description="above 1: makes tokens of prompt and answer less likely",
    )
    presence_penalty: float = Field(
        0.0, ge=-2, le=2, description="taken once from the logit of each token of the answer so far"
    )
    frequency_penalty: float = Field(
        0.0, ge=-2, le=2, description="taken from a logit for each time its token is in the answer"
    )
    stop: tuple[str, ...] = Field(
        (), description="texts that end the answer; they are not part of it"
    )
    stop_token_ids: tuple[int, ...] = Field((), description="token ids that end the answer")
    ignore_eos: bool = Field(False, description="go on after the model's own end of text")
    seed: int | None = Field(
        None,
        ge=-(2**63),
        lt=2**64,
        description="same seed, same answer, whatever else is in the batch",
    )
    n: int = Field(1, ge=1, description="answers to draw for each prompt")
    logprobs: int | None = Field(
        None, ge=0, description="log probabilities to report for each token, beside the token's own"
    )
    logit_bias: dict[int, float] | None = Field(
        None, description="token id -> value from -100 to 100 added to its logit"
    )
    response_format: dict[str, Any] | None = Field(
        None, description='the form of the answer; only {"type": "text"} for now'
    )

    @property
    def is_greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature < GREEDY_BELOW

    @model_validator(mode="wrap")
    @classmethod
    def _one_error(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(data)
        except ValidationError as error:
            problems = [_problem(dict(detail), cls.model_fields) for detail in error.errors()]
            raise RequestError(
                f"{len(problems)} wrong sampling parameter{'s' * (len(problems) > 1)}:"
                + bullet_list(problems)
            ) from None

    @field_validator("stop", "stop_token_ids", mode="before")
    @classmethod
    def _several(cls, value: object) -> object:
        if value is None:
            return ()
        if isinstance(value, str | int):
            return (value,)
        return tuple(value) if isinstance(value, list) else value

    @field_validator("stop")
    @classmethod
    def _no_empty_stop(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "" in value:
            raise ValueError("an empty text would stop every answer at once")
        return value

    @field_validator("logit_bias", mode="before")
    @classmethod
    def _integer_keys(cls, value: object) -> object:
        """Accept the string keys that JSON forces on OpenAI clients."""
        if not isinstance(value, Mapping):
            return value
        return {int(key) if _is_number(key) else key: bias for key, bias in value.items()}

    @field_validator("logit_bias")
    @classmethod
    def _bias_range(cls, value: dict[int, float] | None) -> dict[int, float] | None:
        wrong = [
            f"{token}: {bias}" for token, bias in (value or {}).items() if not -100 <= bias <= 100
        ]
        if wrong:
            raise ValueError(f"expected values from -100 to 100, found {', '.join(wrong)}")
        return value

    @field_validator("response_format")
    @classmethod
    def _only_text(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None and value != {"type": "text"}:
            raise ValueError(
                'structured answers are not available yet; leave it out, or give {"type": "text"}'
            )
        return value


def _is_number(key: object) -> bool:
    return isinstance(key, str) and key.isdecimal()


def _problem(detail: dict[str, Any], known: Mapping[str, object]) -> str:
    """One line about one wrong value: its name, what was expected, what was found."""
    name = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"{name!r} is not a sampling parameter.{did_you_mean(name, known)}"
    expected = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return f"{name}: expected {expected}; found {detail['input']!r}"
