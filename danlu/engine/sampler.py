"""From logits to tokens: penalties, bias, temperature, top-k, top-p, min-p, then one draw per row.

Order of operations (as in transformers; vLLM applies min-p before top-k):

    logits (float32)
      -> repetition, presence, frequency penalty -> logit_bias
      -> temperature -> top_k -> top_p -> min_p
      -> softmax, inverse CDF in the order of the vocabulary with the row's own random number

Reported log probabilities are those of the model, before all of this (as vLLM's raw_logprobs). A
row with temperature 0 takes the highest score after penalties and bias; of equal scores, the lowest
token id. Nothing a row gets depends on which other rows are in the batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from danlu.engine.processors import (
    LogitsProcessor,
    Penalties,
    make_bias,
    make_min_p,
    make_temperature,
    make_top_k,
    make_top_p,
    needs_penalties,
)
from danlu.engine.sampling import SamplingParams
from danlu.engine.sequence import GenerationSequence, TokenLogprob


@dataclass(frozen=True)
class Sampled:
    """One new token for each row.

    Attributes:
        tokens_B: the tokens, on the device of the logits.
        logprobs: one entry per row, None in rows that did not ask; None if no row asked.
    """

    tokens_B: Tensor
    logprobs: list[TokenLogprob | None] | None = None


Sampler = Callable[[Tensor], Sampled]


def make_sampler(
    sequences: Sequence[GenerationSequence], vocab_size: int, device: torch.device
) -> Sampler:
    """Return the sampler of a batch: ``sampler(logits_BV) -> Sampled``.

    It is valid while the batch has these rows; make a new one when rows leave. Token counts are
    taken from the sequences now, and then follow the sampler's own tokens.
    """
    params = [sequence.params for sequence in sequences]
    plain = not needs_penalties(params) and not any(p.logit_bias for p in params)
    if plain and all(p.is_greedy and p.logprobs is None for p in params):
        return greedy
    return BatchSampler(sequences, vocab_size, device)


@torch.inference_mode()
def greedy(logits_BV: Tensor) -> Sampled:
    """Take the highest logit of each row; of equal ones, the first."""
    return Sampled(logits_BV.argmax(-1))


class BatchSampler:
    """The sampler for rows of any kind."""

    def __init__(
        self, sequences: Sequence[GenerationSequence], vocab_size: int, device: torch.device
    ) -> None:
        params = [sequence.params for sequence in sequences]
        self._sequences = sequences
        self._penalties = (
            Penalties(sequences, vocab_size, device) if needs_penalties(params) else None
        )
        self._bias = make_bias(params, device)
        self._filters = _filters(params, device)
        self._greedy = [p.is_greedy for p in params]
        self._greedy_B = torch.tensor(self._greedy, device=device)

    @torch.inference_mode()
    def __call__(self, logits_BV: Tensor) -> Sampled:
        """Draw one token for each row."""
        raw_BV = logits_BV.float()
        scores_BV = self._penalties(raw_BV) if self._penalties else raw_BV
        scores_BV = self._bias(scores_BV) if self._bias else scores_BV
        tokens_B = self._choose(scores_BV)
        if self._penalties:
            self._penalties.update(tokens_B)
        return Sampled(tokens_B, report_logprobs(raw_BV, tokens_B, self._sequences))

    def _choose(self, scores_BV: Tensor) -> Tensor:
        best_B = scores_BV.argmax(-1)
        if all(self._greedy):
            return best_B
        for process in self._filters:
            scores_BV = process(scores_BV)
        uniforms = [0.0 if s.params.is_greedy else s.uniform() for s in self._sequences]
        return torch.where(self._greedy_B, best_B, draw(scores_BV, uniforms))


def _filters(params: Sequence[SamplingParams], device: torch.device) -> list[LogitsProcessor]:
    """The processors that shape the distribution and that some row needs, in their order."""
    factories = (make_temperature, make_top_k, make_top_p, make_min_p)
    made = [factory(params, device) for factory in factories]
    return [process for process in made if process is not None]


def draw(scores_BV: Tensor, uniforms: Sequence[float]) -> Tensor:
    """Return the tokens [B] where each row's cumulative probability passes its number in [0, 1)."""
    precise = torch.float32 if scores_BV.device.type == "mps" else torch.float64
    cumulative_BV = scores_BV.softmax(-1).cumsum(-1, dtype=precise)
    total_B1 = cumulative_BV[:, -1:]
    target_B1 = torch.tensor(uniforms, dtype=precise, device=scores_BV.device)[:, None] * total_B1
    # Below the total, or rounding could point behind the last token that has any probability.
    target_B1 = torch.minimum(target_B1, torch.nextafter(total_B1, torch.zeros_like(total_B1)))
    return torch.searchsorted(cumulative_BV, target_B1, right=True)[:, 0]


def report_logprobs(
    logits_BV: Tensor, tokens_B: Tensor, sequences: Sequence[GenerationSequence]
) -> list[TokenLogprob | None] | None:
    """Return the log probabilities of the rows that asked for them; None if no row did."""
    counts = [sequence.params.logprobs for sequence in sequences]
    asked = [row for row, count in enumerate(counts) if count is not None]
    if not asked:
        return None
    logprobs_AV = logits_BV[asked].log_softmax(-1)
    tokens = tokens_B[asked]
    own = logprobs_AV.gather(1, tokens[:, None])[:, 0].tolist()
    most = min(max(counts[row] or 0 for row in asked), logprobs_AV.shape[1])
    top = logprobs_AV.topk(most, dim=-1)
    reports: list[TokenLogprob | None] = [None] * len(sequences)
    for i, row in enumerate(asked):
        count = counts[row] or 0
        pairs = zip(top.indices[i, :count].tolist(), top.values[i, :count].tolist(), strict=True)
        reports[row] = TokenLogprob(int(tokens[i]), own[i], dict(pairs))
    return reports
