"""One answer in the making: its tokens, its random numbers, when it ends. Pure Python."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Literal

from danlu.engine.sampling import SamplingParams
from danlu.engine.text import AnswerText

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class TokenLogprob:
    """The log probability (natural, of the model's own distribution) of one answered token.

    Attributes:
        token_id: the token that was answered.
        logprob: its log probability.
        top: the most likely tokens and theirs, most likely first; as many as were asked for.
    """

    token_id: int
    logprob: float
    top: dict[int, float]


@dataclass(frozen=True)
class Request:
    """A prompt to continue, in tokens, with everything the loop needs to know about it.

    Attributes:
        prompt_ids: the prompt, at least one token.
        params: how to continue it.
        max_new_tokens: `params.max_tokens`, clipped to the context that is left.
        stop_ids: tokens that end the answer.
        seed: the seed all its answers derive from.
        continues_text: whether the answer's text goes on where the prompt's ends (a completion), so
            that a first word keeps the space before it; if not, it is a text of its own (a chat
            answer).
    """

    prompt_ids: Sequence[int]
    params: SamplingParams
    max_new_tokens: int
    stop_ids: frozenset[int]
    seed: int
    continues_text: bool = True


@dataclass
class GenerationSequence:
    """One of a request's `n` answers.

    Attributes:
        request: what is answered.
        index: which of the request's answers this is, from 0.
        text: follows the answer's text where stop strings or streaming need it while it grows.
        token_ids: the answer so far; a token that ended it is its last.
        logprobs: one entry per token, if the request asks for them.
        finish_reason: None while it grows; "stop": a stop token or text; "length": max_tokens or
            the context.
    """

    request: Request
    index: int = 0
    text: AnswerText | None = None
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    def __post_init__(self) -> None:
        # Its own stream of numbers, so that neither batch nor other answers change it.
        self._random = Random(f"{self.request.seed}:{self.index}")

    @property
    def params(self) -> SamplingParams:
        """The request's parameters."""
        return self.request.params

    @property
    def prompt_ids(self) -> Sequence[int]:
        """The request's prompt."""
        return self.request.prompt_ids

    @property
    def stopped_by_token(self) -> bool:
        """Whether the last token ended the answer, and so is not part of its text."""
        return self.finish_reason == "stop" and self.token_ids[-1] in self.request.stop_ids

    def uniform(self) -> float:
        """The next random number in [0, 1) of this answer; one is drawn for each sampled token."""
        return self._random.random()

    def append(self, token_id: int) -> bool:
        """Add one token; return whether the answer has ended with it."""
        self.token_ids.append(token_id)
        request = self.request
        if token_id in request.stop_ids:
            return self._finish("stop")
        if self.text is not None and self.text.push(token_id):
            return self._finish("stop")
        if len(self.token_ids) >= request.max_new_tokens:
            return self._finish("length")
        return False

    def _finish(self, reason: FinishReason) -> bool:
        self.finish_reason = reason
        if self.text is not None and self.text.finish():
            self.finish_reason = "stop"
        return True
