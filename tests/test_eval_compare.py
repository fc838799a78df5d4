from copy import deepcopy

import pytest
import torch
from engine_parts import tiny_decoder

from danlu.errors import DataError, ShapeError
from danlu.eval import scoring
from danlu.eval.compare import compare_decoders
from danlu.eval.speed import measure_speed


@pytest.fixture
def changed():
    decoder = deepcopy(tiny_decoder())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
    return decoder


def tokens(rows, length):
    return torch.randint(300, (rows, length), generator=torch.Generator().manual_seed(2))


def test_a_model_equals_itself():
    result = compare_decoders(tiny_decoder(), tiny_decoder(), [tokens(3, 20)])
    assert (result.kl_mean, result.kl_max, result.max_logit_difference) == (0.0, 0.0, 0.0)
    assert result.top1_agreement == 1.0
    assert result.perplexity_reference == result.perplexity_candidate
    assert result.num_tokens == 60


def test_figures_equal_their_definitions(changed, monkeypatch):
    monkeypatch.setattr(scoring, "LOGIT_NUMBERS", 300 * 11)
    batches = [tokens(3, 20), tokens(1, 33)]
    result = compare_decoders(tiny_decoder(), changed, batches)
    pairs = []
    with torch.no_grad():
        for batch in batches:
            pairs.append([d(batch).double().flatten(0, 1) for d in (tiny_decoder(), changed)])
        a, b = (torch.cat(logits) for logits in zip(*pairs, strict=True))
        nll = [
            -d(t).double().log_softmax(-1)[:, :-1].gather(2, t[:, 1:, None]).sum()
            for d in (tiny_decoder(), changed)
            for t in batches
        ]
    p, q = a.log_softmax(-1), b.log_softmax(-1)
    kl = (p.exp() * (p - q)).sum(-1)
    assert result.kl_mean == pytest.approx(kl.mean().item(), rel=1e-4)
    assert result.kl_max == pytest.approx(kl.max().item(), rel=1e-4)
    assert result.top1_agreement == pytest.approx((a.argmax(-1) == b.argmax(-1)).double().mean())
    assert result.max_logit_difference == pytest.approx((a - b).abs().max().item(), rel=1e-4)
    assert result.num_tokens == 93
    scored = 3 * 19 + 32
    expected = [((nll[i] + nll[i + 1]) / scored).exp().item() for i in (0, 2)]
    found = [result.perplexity_reference, result.perplexity_candidate]
    assert found == pytest.approx(expected, rel=1e-4)
    assert 0 < result.top1_agreement < 1
    assert f"over {result.num_tokens} tokens" in result.summary()


def test_rows_of_different_lengths_are_compared_alone(changed):
    rows = [[1, 2, 3, 4, 5], [9, 8], [7]]
    together = compare_decoders(tiny_decoder(), changed, [rows])
    apart = compare_decoders(tiny_decoder(), changed, [[row] for row in rows])
    assert together.num_tokens == apart.num_tokens == 8
    assert together.kl_mean == pytest.approx(apart.kl_mean, rel=1e-4)
    assert together.perplexity_candidate == pytest.approx(apart.perplexity_candidate, rel=1e-4)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ShapeError, match="vocabularies of 300 and 290 tokens"):
        compare_decoders(tiny_decoder(), tiny_decoder(vocab_size=290), [[[1, 2]]])
    with pytest.raises(DataError, match="no tokens"):
        compare_decoders(tiny_decoder(), tiny_decoder(), [[[]]])


def test_speed_is_measured_within_the_context():
    speed = measure_speed(tiny_decoder(), prompt_tokens=500, new_tokens=8, repeats=2)
    assert (speed.prompt_tokens, speed.new_tokens, speed.repeats) == (88, 8, 2)
    assert speed.prefill_tokens_per_s > 0
    assert speed.decode_tokens_per_s > 0
