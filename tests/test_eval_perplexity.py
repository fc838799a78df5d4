import json
import math

import pytest
import torch
from engine_parts import tiny_decoder, tiny_tokenizer

from danlu.errors import DataError
from danlu.eval import scoring
from danlu.eval.perplexity import Score, cut_windows, perplexity, token_perplexity
from danlu.eval.scoring import by_length
from danlu.loading import load_decoder
from danlu.tokenizer import load_tokenizer


def plain_nll(decoder, ids):
    with torch.no_grad():
        logs = decoder(torch.tensor([ids[:-1]]))[0].log_softmax(-1)
    return -sum(logs[i, token].item() for i, token in enumerate(ids[1:]))


def test_published_perplexity_of_a_trained_model(shared):
    folder = shared / "data" / "models" / "stories260K"
    golden = json.loads((folder / "model_goldens.json").read_text(encoding="utf-8"))
    texts = [case["text"] for case in golden["perplexity"]]
    result = perplexity(load_decoder(folder), load_tokenizer(folder), texts)
    assert result.perplexity == pytest.approx(golden["total_ppl"], abs=1e-3)
    for score, case in zip(result.documents, golden["perplexity"], strict=True):
        assert score.num_tokens == case["tokens_scored"]
        assert score.nll_sum == pytest.approx(case["nll_sum"], abs=0.01)
        assert score.perplexity == pytest.approx(case["ppl"], abs=1e-3)


def test_each_token_is_scored_once_with_its_window(monkeypatch):
    monkeypatch.setattr(scoring, "LOGIT_NUMBERS", 300 * 7)  # seven tokens in a chunk of logits
    decoder = tiny_decoder()
    generator = torch.Generator().manual_seed(1)
    lengths = (3, 40, 1, 9, 17)
    documents = [torch.randint(300, (n,), generator=generator).tolist() for n in lengths]
    result = token_perplexity(decoder, documents, prefix=[0], max_seq_len=16)
    assert [score.num_tokens for score in result.documents] == list(lengths)
    for ids, score in zip(documents, result.documents, strict=True):
        full = [0, *ids]
        starts = range(0, len(full) - 1, 16)
        expected = sum(plain_nll(decoder, full[start : start + 17]) for start in starts)
        assert score.nll_sum == pytest.approx(expected, abs=1e-3)
    assert result.num_tokens == sum(lengths)
    assert result.nll_sum == pytest.approx(sum(score.nll_sum for score in result.documents))


def test_without_a_prefix_the_first_token_is_not_scored():
    result = token_perplexity(tiny_decoder(), [[1, 2, 3], [4]])
    assert [score.num_tokens for score in result.documents] == [2, 0]


def test_windows_meet_without_overlap_of_scored_tokens():
    windows = cut_windows(0, list(range(8)), 3)
    assert [window.ids for window in windows] == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7]]


def test_batches_hold_each_index_once_within_the_budget():
    lengths = [5, 100, 7, 7, 60, 1, 1, 1]
    batches = by_length(lengths, 64)
    assert sorted(index for batch in batches for index in batch) == list(range(8))
    assert batches[0] == [1]
    assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= 64 for b in batches)


def test_nothing_to_score_is_an_error():
    for documents in ([], [""], ["", ""]):
        with pytest.raises(DataError, match=f"no token to score in {len(documents)} documents"):
            perplexity(tiny_decoder(), tiny_tokenizer(), documents)


def test_a_hopeless_model_has_infinite_perplexity():
    assert Score(1e6, 1).perplexity == math.inf
    assert Score(0.0, 5).perplexity == 1.0
