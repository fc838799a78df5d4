"""NEFTune: noise of the stated size on embeddings, in training only, the same packed and alone."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from train_parts import tiny_decoder, tiny_job

from danlu.models.decoder import Decoder
from danlu.train.loop import METRICS, train
from danlu.train.metrics import read_metrics
from danlu.train.noise import document_lengths, noisy_embeddings

TOKENS = torch.tensor([[3, 4, 5, 6, 7, 8, 9, 9]])
DOCUMENTS = torch.tensor([[0, 0, 1, 1, 1, 1, -1, -1]])


def embedded(decoder: Decoder, alpha: float | None, tokens: Tensor, documents: Tensor) -> Tensor:
    found: list[Tensor] = []
    with noisy_embeddings(decoder, alpha):
        handle = decoder.model.embed_norm.register_forward_pre_hook(
            lambda module, inputs: found.append(inputs[0].detach().clone())
        )
        decoder.packed_hidden(tokens, documents)
        handle.remove()
    return found[0]


def test_lengths_are_those_of_documents() -> None:
    documents = torch.cat((DOCUMENTS, torch.zeros_like(DOCUMENTS)))
    assert document_lengths(documents).tolist() == [[2, 2, 4, 4, 4, 4, 2, 2], [8] * 8]


def test_noise_has_the_size_of_the_paper_whatever_is_packed_beside() -> None:
    decoder = tiny_decoder().train()
    plain = embedded(decoder, None, TOKENS, DOCUMENTS)
    noise = torch.stack([embedded(decoder, 5.0, TOKENS, DOCUMENTS) - plain for _ in range(200)])
    for place, length in ((slice(0, 2), 2), (slice(2, 6), 4)):
        bound = 5.0 / (length * 16) ** 0.5
        found = noise[:, 0, place]
        assert found.abs().max() <= bound * (1 + 1e-6)
        assert found.abs().max() > 0.98 * bound
        assert abs(found.mean()) < 0.02 * bound
        assert found.std() == pytest.approx(bound / 3**0.5, rel=0.02)


def test_no_noise_in_evaluation_or_without_gradients() -> None:
    decoder = tiny_decoder()
    plain = embedded(decoder.eval(), None, TOKENS, DOCUMENTS)
    assert torch.equal(embedded(decoder, 5.0, TOKENS, DOCUMENTS), plain)
    decoder.train()
    with torch.no_grad():
        assert torch.equal(embedded(decoder, 5.0, TOKENS, DOCUMENTS), plain)
    assert not torch.equal(embedded(decoder, 5.0, TOKENS, DOCUMENTS), plain)


def test_it_is_taken_off_again() -> None:
    decoder = tiny_decoder().train()
    before = dict(vars(decoder))
    embedded(decoder, 5.0, TOKENS, DOCUMENTS)
    assert vars(decoder) == before
    assert not decoder.model.embed_tokens._forward_hooks


def test_a_run_with_noise_learns_and_evaluates_without_it(tmp_path: Path) -> None:
    plain, noisy = tiny_job(eval_every_steps=1), tiny_job(eval_every_steps=1, neftune_alpha=5.0)
    train(plain, tmp_path / "plain")
    train(noisy, tmp_path / "noisy")
    records = [read_metrics(tmp_path / name / METRICS) for name in ("plain", "noisy")]
    # The first step of the warm-up has rate 0, so only noise can tell the two apart there.
    assert records[0][0]["loss"] != records[1][0]["loss"]
    assert records[0][1] == records[1][1]
    assert records[0][3] != records[1][3]
