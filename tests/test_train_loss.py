"""The chunked loss equals cross-entropy on full logits, in value and gradient."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from train_parts import tiny_decoder

from danlu.data.batch import IGNORE
from danlu.nn.linear import Linear, LinearLike
from danlu.train.loss import chunk_size, chunked_cross_entropy, head_loss

VOCAB, HIDDEN, TOKENS = 37, 16, 23


def problem(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(TOKENS, HIDDEN, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(VOCAB, HIDDEN, generator=generator).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(VOCAB, (TOKENS,), generator=generator)


def gradients(loss: Tensor, *tensors: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, tensors))


@pytest.mark.parametrize("chunk_tokens", [1, 5, 23, 100])
def test_equals_cross_entropy_in_float32(chunk_tokens: int) -> None:
    hidden, weight, targets = problem()
    expected = F.cross_entropy(hidden @ weight.T, targets, reduction="sum")
    found = chunked_cross_entropy(hidden, weight, targets, chunk_tokens)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    pairs = zip(
        gradients(3 * found, hidden, weight), gradients(3 * expected, hidden, weight), strict=True
    )
    for got, want in pairs:
        torch.testing.assert_close(got, want, rtol=1e-6, atol=3e-6)


def test_is_close_in_bfloat16_and_float32_where_it_matters() -> None:
    hidden, weight, targets = problem(torch.bfloat16)
    full = hidden.detach().float(), weight.detach().float()
    exact = [tensor.requires_grad_() for tensor in full]
    expected = F.cross_entropy(exact[0] @ exact[1].T, targets, reduction="sum")
    found = chunked_cross_entropy(hidden, weight, targets, chunk_tokens=7)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=0)
    for got, want in zip(
        gradients(found, hidden, weight), gradients(expected, *exact), strict=True
    ):
        assert got.dtype == torch.bfloat16
        torch.testing.assert_close(got.float(), want, rtol=0.05, atol=0.05)


def test_frozen_head_gets_no_gradient_and_frozen_everything_is_a_plain_number() -> None:
    hidden, weight, targets = problem()
    frozen = weight.detach()
    loss = chunked_cross_entropy(hidden, frozen, targets, 4)
    full = F.cross_entropy(hidden @ frozen.T, targets, reduction="sum")
    torch.testing.assert_close(gradients(loss, hidden)[0], gradients(full, hidden)[0])
    with torch.no_grad():
        assert not chunked_cross_entropy(hidden, weight, targets, 4).requires_grad


def test_backward_runs_once() -> None:
    hidden, weight, targets = problem()
    loss = chunked_cross_entropy(hidden, weight, targets, 4)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_no_targets_give_zero_and_zero_gradients() -> None:
    decoder = tiny_decoder()
    hidden = torch.randn(2, 5, decoder.config.hidden_size, requires_grad=True)
    loss = head_loss(decoder, hidden, torch.full((2, 5), IGNORE))
    assert loss.item() == 0
    assert not gradients(loss, hidden)[0].any()


class Doubled(LinearLike):
    """A head that is no plain matrix product."""

    def __init__(self, base: Linear) -> None:
        super().__init__()
        self.base = base
        self.in_features, self.out_features = base.in_features, base.out_features

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.base(x)

    def dense_weight(self) -> Tensor:
        return 2 * self.base.weight

    def bias_or_none(self) -> None:
        return None


def heads() -> Iterator[LinearLike]:
    decoder = tiny_decoder()
    assert isinstance(decoder.lm_head, Linear)
    yield Doubled(decoder.lm_head)
    with_bias = Linear(decoder.config.hidden_size, decoder.config.vocab_size, bias=True)
    for parameter in with_bias.parameters():
        nn.init.normal_(parameter)
    yield with_bias


@pytest.mark.parametrize("head", list(heads()), ids=["wrapped", "bias"])
def test_any_other_head_goes_through_the_decoder(head: LinearLike) -> None:
    decoder = tiny_decoder()
    decoder.lm_head = head
    hidden = torch.randn(2, 9, decoder.config.hidden_size, requires_grad=True)
    targets = torch.randint(decoder.config.vocab_size, (2, 9))
    targets[0, :4] = IGNORE
    expected = F.cross_entropy(
        decoder.logits(hidden).flatten(0, 1), targets.flatten(), reduction="sum"
    )
    found = head_loss(decoder, hidden, targets, chunk_tokens=4)
    parameters = (hidden, *head.parameters())
    torch.testing.assert_close(found, expected)
    for got, want in zip(
        gradients(found, *parameters), gradients(expected, *parameters), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_full_logits_never_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    original = F.log_softmax

    def spy(x: Tensor, **kwargs: object) -> Tensor:
        sizes.append(tuple(x.shape))
        return original(x, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr("danlu.train.loss.F.log_softmax", spy)
    hidden, weight, targets = problem()
    chunked_cross_entropy(hidden, weight, targets, 10)
    assert sizes == [(10, VOCAB), (10, VOCAB), (3, VOCAB)]


def test_chunks_shrink_with_the_vocabulary_but_stay_worth_a_product() -> None:
    assert chunk_size(151936) == 256
    assert chunk_size(4096) == 1024
