"""Chunked log-probabilities equal those of full logits: values, gradients, any head, bfloat16."""

import pytest
import torch
from checkpoints import tiny_decoder
from torch import Tensor
from torch.nn import functional as F

from danlu.data.batch import IGNORE
from danlu.models.decoder import Decoder
from danlu.nn.linear import Linear
from danlu.train.log_probs import sequence_log_probs, token_log_probs

DOCUMENTS_BT = torch.tensor([[0] * 5 + [1] * 7, [2] * 9 + [-1] * 3])


def inputs(decoder: Decoder, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    width, vocab = decoder.config.embedding_width, decoder.config.vocab_size
    hidden_BTD = torch.randn(2, 12, width, generator=generator).requires_grad_()
    targets_BT = torch.randint(vocab, (2, 12), generator=generator)
    targets_BT[0, [1, 4, 11]], targets_BT[1, 8:] = IGNORE, IGNORE
    return hidden_BTD, targets_BT


def plain(decoder: Decoder, hidden_BTD: Tensor, targets_BT: Tensor) -> Tensor:
    log_p_BTV = F.log_softmax(decoder.logits(hidden_BTD).float(), dim=-1)
    picked = log_p_BTV.gather(2, targets_BT.clamp(min=0)[..., None])[..., 0]
    return picked.masked_fill(targets_BT == IGNORE, 0.0)


def with_bias(decoder: Decoder) -> Linear:
    head = Linear(decoder.config.embedding_width, decoder.config.vocab_size, bias=True)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    return head


@pytest.mark.parametrize("head", ["plain", "normalised", "with a bias"])
@pytest.mark.parametrize("trained", [True, False], ids=["trained head", "frozen head"])
def test_chunked_equals_plain(head: str, trained: bool) -> None:
    decoder = tiny_decoder("baichuan2_7b" if head == "normalised" else "llama")
    if head == "with a bias":
        decoder.lm_head = with_bias(decoder)
    weight = decoder.lm_head.get_parameter("weight").requires_grad_(trained)
    scales_BT = torch.randn(2, 12, generator=torch.Generator().manual_seed(1))
    results = []
    for chunked in (False, True):
        hidden_BTD, targets_BT = inputs(decoder)
        found = (
            token_log_probs(decoder, hidden_BTD, targets_BT, chunk_tokens=5)
            if chunked
            else plain(decoder, hidden_BTD, targets_BT)
        )
        wanted = [hidden_BTD, weight] if trained else [hidden_BTD]
        results.append([found.detach(), *torch.autograd.grad((found * scales_BT).sum(), wanted)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_a_sum_for_each_document() -> None:
    decoder = tiny_decoder("llama")
    hidden_BTD, targets_BT = inputs(decoder)
    found = sequence_log_probs(decoder, hidden_BTD, targets_BT, DOCUMENTS_BT)
    everywhere = plain(decoder, hidden_BTD, targets_BT)
    wanted = [everywhere[number == DOCUMENTS_BT].sum() for number in range(3)]
    torch.testing.assert_close(found, torch.stack(wanted))


def test_the_softmax_is_float32_in_a_bfloat16_model() -> None:
    decoder = tiny_decoder("llama").bfloat16()
    hidden_BTD, targets_BT = inputs(decoder)
    found = token_log_probs(decoder, hidden_BTD.bfloat16(), targets_BT)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, plain(decoder, hidden_BTD.bfloat16(), targets_BT))
    assert bool((found != found.bfloat16().float()).any())


def test_memory_of_a_pair_is_that_of_its_tokens() -> None:
    """Nothing of size tokens x vocabulary is kept for the backward pass."""
    decoder = tiny_decoder("llama")
    hidden_BTD, targets_BT = inputs(decoder)
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        token_log_probs(decoder, hidden_BTD, targets_BT, chunk_tokens=4)
    num_targets = int((targets_BT != IGNORE).sum())
    assert num_targets * decoder.config.vocab_size not in kept
    assert max(kept) <= max(hidden_BTD.numel(), decoder.lm_head.get_parameter("weight").numel())
