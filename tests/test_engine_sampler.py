from itertools import zip_longest

import pytest
import torch
from engine_parts import sequence

from danlu.engine.processors import make_min_p, make_temperature, make_top_k, make_top_p
from danlu.engine.sampler import BatchSampler, draw, greedy, make_sampler
from danlu.engine.sampling import SamplingParams

CPU = torch.device("cpu")


def scores(rows=4, vocab=50, seed=0):
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * 3


def sampler_for(*params, seeds=()):
    rows = [sequence(p, seed) for p, seed in zip_longest(params, seeds, fillvalue=0)]
    return make_sampler(rows, 50, CPU)


def reference_distribution(logits, params):
    """Token by token, in plain Python: what one row may draw, and how likely."""
    scaled = {i: float(x) / params.temperature for i, x in enumerate(logits.tolist())}
    order = sorted(scaled, key=lambda i: -scaled[i])
    if params.top_k > 0:
        order = order[: params.top_k]
    weight = {i: torch.tensor(scaled[i], dtype=torch.float64).exp().item() for i in order}
    total, mass, kept = sum(weight.values()), 0.0, []
    for i in order:
        if mass < params.top_p * total or not kept:
            kept.append(i)
        mass += weight[i]
    kept = [i for i in kept if weight[i] >= params.min_p * weight[order[0]]]
    total = sum(weight[i] for i in kept)
    return {i: weight[i] / total for i in kept}


def filtered(logits_BV, params):
    for factory in (make_temperature, make_top_k, make_top_p, make_min_p):
        process = factory(params, CPU)
        logits_BV = process(logits_BV) if process else logits_BV
    return logits_BV.softmax(-1)


VARIED = [
    SamplingParams(),
    SamplingParams(temperature=0.7, top_k=5),
    SamplingParams(temperature=1.5, top_p=0.8),
    SamplingParams(min_p=0.1),
    SamplingParams(temperature=0.9, top_k=20, top_p=0.7, min_p=0.05),
    SamplingParams(top_k=1),
    SamplingParams(top_p=1e-6),
    SamplingParams(temperature=5.0, top_p=0.99, top_k=500),
]


@pytest.mark.parametrize("seed", range(5))
def test_filters_match_a_brute_force_reference(seed):
    logits = scores(len(VARIED), 50, seed)
    got = filtered(logits, VARIED)
    for row, params in enumerate(VARIED):
        expected = torch.zeros(50, dtype=torch.float64)
        for token, share in reference_distribution(logits[row], params).items():
            expected[token] = share
        torch.testing.assert_close(got[row].double(), expected, atol=1e-6, rtol=1e-5)


def test_a_flat_nucleus_needs_more_than_the_first_candidates():
    logits = scores(2, 5000) * 0.01
    params = [SamplingParams(top_p=0.9), SamplingParams(top_p=0.999)]
    kept = (filtered(logits, params) > 0).sum(-1)
    expected = [len(reference_distribution(logits[row], params[row])) for row in range(2)]
    assert (kept - torch.tensor(expected)).abs().max() <= 1  # float32 against float64 mass


def test_ties_at_the_limit_are_all_kept():
    logits = torch.tensor([[1.0, 3.0, 3.0, 3.0, 0.0]])
    kept = filtered(logits, [SamplingParams(top_k=2)]) > 0
    assert kept.tolist() == [[False, True, True, True, False]]


def test_draws_follow_the_distribution():
    logits = scores(1, 8)
    rows = [sequence(SamplingParams(temperature=2.0), seed) for seed in range(20000)]
    tokens = BatchSampler(rows, 8, CPU)(logits.expand(len(rows), -1)).tokens_B
    shares = torch.bincount(tokens, minlength=8) / len(rows)
    expected = (logits[0] / 2).softmax(-1)
    assert (shares - expected).abs().max() < 0.015


def test_extreme_numbers_draw_a_possible_token():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf], [5.0, -torch.inf, -torch.inf]])
    last = 1 - 2**-53
    assert draw(logits, [0.0, 0.0]).tolist() == [1, 0]
    assert draw(logits, [last, last]).tolist() == [1, 0]
    assert draw(logits, [1.0, 1.0]).tolist() == [1, 0]  # what float32 makes of the number before


def test_greedy_takes_the_first_of_equal_logits():
    assert greedy(torch.tensor([[1.0, 2.0, 2.0]])).tokens_B.tolist() == [1]


def test_plain_greedy_rows_get_the_fast_sampler():
    assert sampler_for(SamplingParams(temperature=0.0, top_p=0.5)) is greedy
    assert sampler_for(SamplingParams(temperature=0.0, logprobs=0)) is not greedy
    assert sampler_for(SamplingParams(temperature=0.0, presence_penalty=1.0)) is not greedy


def test_a_row_does_not_depend_on_its_neighbours():
    logits = scores(len(VARIED), 50, 3)
    together = sampler_for(*VARIED, seeds=range(len(VARIED)))
    tokens = [together(logits).tokens_B.tolist() for _ in range(20)]
    for row, params in enumerate(VARIED):
        alone = sampler_for(params, seeds=[row])
        assert [alone(logits[row : row + 1]).tokens_B.item() for _ in range(20)] == [
            step[row] for step in tokens
        ]


def test_greedy_rows_beside_sampled_ones_stay_greedy():
    logits = scores(2)
    sampler = sampler_for(SamplingParams(temperature=0.0), SamplingParams(temperature=9.0))
    assert {sampler(logits).tokens_B[0].item() for _ in range(10)} == {logits[0].argmax().item()}


def test_a_seed_repeats_and_answers_differ():
    def tokens(seed, index):
        row = sequence(SamplingParams(temperature=3.0), seed)
        row = type(row)(row.request, index)
        sampler = make_sampler([row], 50, CPU)
        return [sampler(scores(1)).tokens_B.item() for _ in range(12)]

    assert tokens(7, 0) == tokens(7, 0)
    assert tokens(7, 0) != tokens(7, 1)
    assert tokens(7, 0) != tokens(8, 0)


def test_penalties_follow_the_published_formulas():
    params = SamplingParams(
        temperature=0.0, repetition_penalty=2.0, presence_penalty=0.5, frequency_penalty=0.25
    )
    row = sequence(params, prompt=(0, 1))
    row.append(2)
    row.append(2)
    logits = torch.tensor([[4.0, -4.0, 3.9, 2.1, 0.0]])
    sampler = BatchSampler([row], 5, CPU)
    # token 0: 4/2; 1: -4*2; 2: 3.9/2 - 0.5 - 2*0.25; 3 untouched and best; then 3 is penalised too
    assert sampler(logits).tokens_B.tolist() == [3]
    assert sampler(logits).tokens_B.tolist() == [0]


def test_penalty_counts_survive_a_new_sampler():
    params = SamplingParams(temperature=0.0, frequency_penalty=2.0)
    row, fresh = sequence(params), sequence(params)
    sampler = make_sampler([row], 50, CPU)
    for step in range(10):
        logits = scores(1, 50, step % 2)
        token = sampler(logits).tokens_B.item()
        assert make_sampler([fresh], 50, CPU)(logits).tokens_B.item() == token
        fresh.append(token)


def test_bias_forces_and_forbids():
    logits = scores(2)
    best = logits[0].argmax().item()
    sampler = sampler_for(
        SamplingParams(temperature=0.0, logit_bias={best: -100.0}),
        SamplingParams(temperature=0.0, logit_bias={9: 100.0}),
    )
    tokens = sampler(logits).tokens_B.tolist()
    assert tokens[0] != best
    assert tokens[1] == 9


def test_logprobs_are_those_of_the_model():
    logits = scores(3)
    sampler = sampler_for(
        SamplingParams(temperature=0.5, top_k=3, logprobs=4),
        SamplingParams(),
        SamplingParams(temperature=0.0, logprobs=0),
    )
    sampled = sampler(logits)
    first, second, third = sampled.logprobs
    expected = logits.log_softmax(-1)
    assert second is None
    assert third.top == {}
    assert first.token_id == sampled.tokens_B[0].item()
    assert first.logprob == pytest.approx(expected[0, first.token_id].item())
    assert list(first.top) == logits[0].topk(4).indices.tolist()
    assert third.logprob == pytest.approx(expected[2].max().item())


def test_bfloat16_logits_are_worked_on_in_float32():
    logits = scores(1).bfloat16()
    sampler = sampler_for(SamplingParams(logprobs=1))
    report = sampler(logits).logprobs[0]
    assert report.logprob == pytest.approx(
        logits.float().log_softmax(-1)[0, report.token_id].item()
    )
