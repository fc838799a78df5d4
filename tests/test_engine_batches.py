import random

import pytest

from danlu.engine.batches import plan_batches
from danlu.engine.sampling import SamplingParams
from danlu.engine.sequence import Request


def request(prompt_tokens, new_tokens=4, n=1):
    return Request([0] * prompt_tokens, SamplingParams(n=n), new_tokens, frozenset(), seed=0)


def test_similar_lengths_share_a_batch_longest_first():
    batches = plan_batches([request(n) for n in (2, 90, 3, 100)], 208, max_rows=8)
    assert [[part.request for part in batch] for batch in batches] == [[3, 1], [2, 0]]


def test_nothing_to_do_is_no_batch():
    assert plan_batches([], 100) == []


def test_one_long_prompt_gets_its_batch_beyond_the_budget():
    assert len(plan_batches([request(1000), request(1000)], 100)) == 2


@pytest.mark.parametrize("seed", range(30))
def test_every_answer_is_planned_once_within_the_budget(seed):
    rng = random.Random(seed)
    requests = [
        request(rng.randint(1, 60), rng.randint(1, 30), rng.randint(1, 9)) for _ in range(25)
    ]
    planned = []
    for batch in plan_batches(requests, 300, max_rows=6):
        rows = sum(len(part.samples) for part in batch)
        prompt = max(len(requests[part.request].prompt_ids) for part in batch)
        answer = max(requests[part.request].max_new_tokens for part in batch)
        assert rows <= 6
        assert rows * (prompt + answer) <= 300
        planned += [(part.request, index) for part in batch for index in part.samples]
    assert sorted(planned) == [(i, k) for i, r in enumerate(requests) for k in range(r.params.n)]
