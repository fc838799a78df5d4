"""The chunked loss equals cross-entropy on full logits, in value and gradient."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from train_parts import tiny_decoder

from danlu.adapters.handling import attach_adapter
from danlu.config.adapter import LoraConfig, TokenRowsConfig
from danlu.config.base import Config
from danlu.data.batch import IGNORE
from danlu.models.decoder import Decoder
from danlu.nn.linear import Linear, LinearLike, NormalizedLinear
from danlu.train.loss import chunk_size, chunked_cross_entropy, head_loss, head_scores

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


def with_head(head: LinearLike) -> Decoder:
    decoder = tiny_decoder()
    for parameter in head.parameters():
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(2))
    decoder.lm_head = head
    return decoder


def adapted(config: Config) -> Decoder:
    decoder = tiny_decoder(tie_word_embeddings=False)
    attach_adapter(decoder, config, torch.Generator().manual_seed(1))
    with torch.no_grad():
        for parameter in decoder.parameters():
            if parameter.requires_grad:  # a fresh adapter changes nothing
                parameter.add_(0.1)
    return decoder


HEADS: dict[str, Callable[[], Decoder]] = {
    "plain": lambda: tiny_decoder(tie_word_embeddings=False),
    "tied": tiny_decoder,
    "bias": lambda: with_head(Linear(16, 61, bias=True)),
    "wrapped": lambda: with_head(Doubled(Linear(16, 61))),
    "normalized": lambda: with_head(NormalizedLinear(16, 61)),
    "lora": lambda: adapted(LoraConfig(lora_rank=2, targets=["lm_head"])),
    "rows": lambda: adapted(TokenRowsConfig(token_rows=[3, 60])),
}


class Sizes(TorchDispatchMode):
    """Remembers the size of the largest tensor that any operation made."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.numel())
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("kind", HEADS)
def test_every_head_gives_the_plain_loss_and_never_holds_its_logits(
    kind: str, dtype: torch.dtype
) -> None:
    decoder = HEADS[kind]().to(dtype)
    generator = torch.Generator().manual_seed(4)
    hidden = torch.randn(2, 45, 16, generator=generator).to(dtype).requires_grad_()
    targets = torch.randint(61, (2, 45), generator=generator)
    targets[0, :9] = IGNORE
    head = [p for p in decoder.lm_head.parameters() if p.requires_grad]
    logits = decoder.logits(hidden).float()
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
    wanted = gradients(expected, hidden, *head)
    with Sizes() as sizes:
        found = head_loss(decoder, hidden, targets, chunk_tokens=8)
        got = gradients(found, hidden, *head)
    assert 8 * 61 < sizes.largest < logits.numel() / 2
    rounding = 1e-5 if dtype == torch.float32 else 0.03
    torch.testing.assert_close(found, expected, rtol=rounding, atol=0)
    for one, other in zip(got, wanted, strict=True):
        assert one.dtype == other.dtype
        bound = rounding * other.abs().max().item()
        torch.testing.assert_close(one, other, rtol=0, atol=bound)


@pytest.mark.parametrize("kind", HEADS)
def test_scores_are_the_loss_and_the_hits_of_full_logits(kind: str) -> None:
    decoder = HEADS[kind]()
    generator = torch.Generator().manual_seed(4)
    hidden = torch.randn(2, 45, 16, generator=generator)
    targets = decoder.logits(hidden).argmax(-1)
    targets[0, ::2] = 7
    targets[1, :9] = IGNORE
    learned = targets != IGNORE
    loss, hits = head_scores(decoder, hidden, targets)
    torch.testing.assert_close(loss, head_loss(decoder, hidden, targets).detach())
    expected = (decoder.logits(hidden).argmax(-1) == targets)[learned].sum()
    assert 0 < hits == expected < learned.sum()


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


def test_positions_without_a_target_are_never_hits() -> None:
    decoder = with_head(Linear(16, 61))
    nn.init.zeros_(decoder.lm_head.dense_weight())  # token 0 wins every tie
    targets = torch.full((1, 9), IGNORE)
    targets[0, 2:5] = torch.tensor([0, 7, 0])
    loss, hits = head_scores(decoder, torch.randn(1, 9, 16), targets)
    assert hits == 2
    torch.testing.assert_close(loss, torch.tensor(3 * math.log(61)))
