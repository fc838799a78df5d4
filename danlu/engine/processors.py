"""Logits processors: plain callables from factories, over all rows of a batch at once.

A factory reads one value per row and returns ``process(scores_BV) -> scores_BV``, or None when no
row asks for it. The filters are thresholds: a token is dropped when its score is *below* a limit,
so tokens that tie with the last one kept are kept too, and the result depends neither on the sort
nor on the other rows.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from danlu.engine.sampling import SamplingParams
from danlu.engine.sequence import GenerationSequence

LogitsProcessor = Callable[[Tensor], Tensor]

# So many candidates hold nearly every nucleus; only where they do not is everything sorted.
NUCLEUS_CANDIDATES = 512


def _column(values: Sequence[float], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)[:, None]


def make_bias(params: Sequence[SamplingParams], device: torch.device) -> LogitsProcessor | None:
    """Add each row's `logit_bias`."""
    entries = [(row, i, b) for row, p in enumerate(params) for i, b in (p.logit_bias or {}).items()]
    if not entries:
        return None
    rows, ids, values = zip(*entries, strict=True)
    index = (torch.tensor(rows, device=device), torch.tensor(ids, device=device))
    bias = torch.tensor(values, dtype=torch.float32, device=device)
    return lambda scores_BV: scores_BV.index_put(index, bias, accumulate=True)


def make_temperature(
    params: Sequence[SamplingParams], device: torch.device
) -> LogitsProcessor | None:
    """Divide by the temperature; greedy rows keep their scores."""
    values = [1.0 if p.is_greedy else p.temperature for p in params]
    if all(value == 1.0 for value in values):
        return None
    temperature_B1 = _column(values, device)
    return lambda scores_BV: scores_BV / temperature_B1


def make_top_k(params: Sequence[SamplingParams], device: torch.device) -> LogitsProcessor | None:
    """Keep each row's `top_k` highest scores."""
    values = [max(p.top_k, 0) for p in params]
    if not any(values):
        return None
    last_B1 = torch.tensor([[max(value - 1, 0)] for value in values], device=device)
    unlimited_B1 = torch.tensor([[value == 0] for value in values], device=device)

    def process(scores_BV: Tensor) -> Tensor:
        size = scores_BV.shape[-1]
        highest_BC = scores_BV.topk(min(max(values), size), dim=-1).values
        limit_B1 = highest_BC.gather(1, last_B1.clamp(max=highest_BC.shape[1] - 1))
        return _drop_below(scores_BV, limit_B1.masked_fill(unlimited_B1, -torch.inf))

    return process


def make_top_p(params: Sequence[SamplingParams], device: torch.device) -> LogitsProcessor | None:
    """Keep the most likely tokens up to the one that reaches `top_p` (arXiv:1904.09751)."""
    values = [p.top_p for p in params]
    if all(value == 1.0 for value in values):
        return None
    top_p_B1 = _column(values, device)
    unlimited_B1 = top_p_B1 == 1.0

    def process(scores_BV: Tensor) -> Tensor:
        limit_B1 = _nucleus_limit(scores_BV, top_p_B1, unlimited_B1)
        return _drop_below(scores_BV, limit_B1.masked_fill(unlimited_B1, -torch.inf))

    return process


def _nucleus_limit(scores_BV: Tensor, top_p_B1: Tensor, unlimited_B1: Tensor) -> Tensor:
    """The lowest score inside each row's nucleus, [B,1]."""
    total_B1 = scores_BV.logsumexp(-1, keepdim=True)
    size = scores_BV.shape[-1]
    for candidates in (min(NUCLEUS_CANDIDATES, size), size):
        highest_BC = scores_BV.topk(candidates, dim=-1).values
        mass_BC = (highest_BC - total_B1).exp().cumsum(-1)
        if candidates == size or bool(((mass_BC[:, -1:] >= top_p_B1) | unlimited_B1).all()):
            break
    # A token is inside while the mass before it has not reached top_p; the first always is.
    inside_B1 = (mass_BC < top_p_B1).sum(-1, keepdim=True)
    return highest_BC.gather(1, inside_B1.clamp(max=highest_BC.shape[1] - 1))


def make_min_p(params: Sequence[SamplingParams], device: torch.device) -> LogitsProcessor | None:
    """Keep tokens at least `min_p` times as likely as the most likely one (arXiv:2407.01082)."""
    values = [p.min_p for p in params]
    if not any(values):
        return None
    distance_B1 = _column(values, device).log()
    return lambda scores_BV: _drop_below(scores_BV, scores_BV.amax(-1, keepdim=True) + distance_B1)


def _drop_below(scores_BV: Tensor, limit_B1: Tensor) -> Tensor:
    return scores_BV.masked_fill(scores_BV < limit_B1, -torch.inf)


def needs_penalties(params: Sequence[SamplingParams]) -> bool:
    """Whether any row has a penalty that changes something."""
    return any(
        p.repetition_penalty != 1.0 or p.presence_penalty or p.frequency_penalty for p in params
    )


class Penalties:
    """Repetition, presence and frequency penalties, with the token counts they need.

    Repetition (arXiv:1909.05858, sec. 4.1) looks at prompt and answer: positive logits are divided
    by it, negative ones multiplied. Presence and frequency look at the answer only, as OpenAI's API
    defines them. Calling it changes nothing; `update` counts the tokens drawn from its scores.
    """

    def __init__(
        self, sequences: Sequence[GenerationSequence], vocab_size: int, device: torch.device
    ) -> None:
        params = [sequence.params for sequence in sequences]
        self._repetition_B1 = _column([p.repetition_penalty for p in params], device)
        self._presence_B1 = _column([p.presence_penalty for p in params], device)
        self._frequency_B1 = _column([p.frequency_penalty for p in params], device)
        shape = (len(sequences), vocab_size)
        self._seen_BV = torch.zeros(shape, dtype=torch.bool, device=device)
        self._counts_BV = torch.zeros(shape, device=device)
        for row, sequence in enumerate(sequences):
            self._count(row, sequence, device)

    def _count(self, row: int, sequence: GenerationSequence, device: torch.device) -> None:
        prompt = torch.tensor(sequence.prompt_ids, device=device)
        answer = torch.tensor(sequence.token_ids, dtype=torch.long, device=device)
        self._seen_BV[row, prompt] = True
        self._seen_BV[row, answer] = True
        self._counts_BV[row].scatter_add_(0, answer, torch.ones(len(answer), device=device))

    def __call__(self, scores_BV: Tensor) -> Tensor:
        """Return the scores with all three penalties applied."""
        penalised_BV = torch.where(
            scores_BV > 0, scores_BV / self._repetition_B1, scores_BV * self._repetition_B1
        )
        scores_BV = torch.where(self._seen_BV, penalised_BV, scores_BV)
        answered_BV = self._counts_BV > 0
        return scores_BV - answered_BV * self._presence_B1 - self._counts_BV * self._frequency_B1

    def update(self, tokens_B: Tensor) -> None:
        """Count one new token in each row."""
        tokens_B1 = tokens_B[:, None]
        self._seen_BV.scatter_(1, tokens_B1, True)
        self._counts_BV.scatter_add_(1, tokens_B1, torch.ones_like(tokens_B1, dtype=torch.float32))
