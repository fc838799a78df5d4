"""Weights of single tokens: the loss and its gradient are those of a weighted cross-entropy."""

import pytest
import torch
from torch.nn import functional as F
from train_parts import tiny_decoder

from danlu.data.batch import IGNORE, collate
from danlu.data.packing import PackedRow, TokenDocument
from danlu.nn.linear import Linear
from danlu.train.loss import head_loss
from danlu.train.objective import CausalLM


@pytest.mark.parametrize("bias", [False, True], ids=["product", "any head"])
def test_each_position_counts_by_its_weight(bias: bool) -> None:
    decoder = tiny_decoder()
    decoder.lm_head = Linear(decoder.config.hidden_size, decoder.config.vocab_size, bias=bias)
    generator = torch.Generator().manual_seed(0)
    for parameter in decoder.lm_head.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    shape = (2, 9, decoder.config.hidden_size)
    hidden = torch.randn(shape, generator=generator, requires_grad=True)
    targets = torch.randint(decoder.config.vocab_size, (2, 9), generator=generator)
    targets[0, :4] = IGNORE
    weights = torch.rand(2, 9, generator=generator)

    logits = decoder.logits(hidden).flatten(0, 1)
    each = F.cross_entropy(logits, targets.flatten(), reduction="none", ignore_index=IGNORE)
    expected = (each * weights.flatten()).sum()
    found = head_loss(decoder, hidden, targets, weights, chunk_tokens=4)
    torch.testing.assert_close(found, expected)
    inputs = (hidden, *decoder.lm_head.parameters())
    pairs = zip(
        torch.autograd.grad(found, inputs), torch.autograd.grad(expected, inputs), strict=True
    )
    for got, want in pairs:
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_weights_of_one_change_no_bit_and_weights_of_two_are_two_documents() -> None:
    decoder = tiny_decoder()
    ids, labels = [3, 1, 4, 1, 5], [IGNORE, IGNORE, 4, 1, 5]
    documents = [TokenDocument(ids, labels, w) for w in (None, [1] * 5, [2] * 5)]
    results = [CausalLM().loss(decoder, collate([PackedRow([each])])) for each in documents]
    (plain, count), (ones, one_count), (twos, two_count) = results
    assert plain.item() == ones.item()
    assert (count, one_count, two_count) == (3, 3.0, 6.0)
    torch.testing.assert_close(twos, 2 * plain)
