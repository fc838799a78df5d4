"""Every kind of batch gives the loss and the gradient that its documents give alone.

ALiBi, a prefix mask with two coordinates, sliding windows and positions by slot are among the
families: each of them numbers and masks a sequence in its own way.
"""

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from checkpoints import sequences, tiny_decoder
from torch import Tensor

from danlu.data.documents import IGNORE, DocumentList, TokenDocument
from danlu.data.mixing.mixture import Mixture
from danlu.data.mixing.passes import MixedPasses
from danlu.models.decoder import Decoder
from danlu.train.objective import CausalLM
from danlu.train.source import BATCHINGS, LENGTH_STEP, RowSource

FAMILIES = ("llama", "bloom", "baichuan_13b", "chatglm", "glm_10b", "mistral", "qwen2", "qwen")
LENGTHS = (5, 12, 33, 7, 20, 5, 9, 28)
MAX_SEQ_LEN, MICRO, GLOBAL = 40, 2, 4


@cache
def decoder_of(family: str) -> Decoder:
    return tiny_decoder(family)


@cache
def documents_of(family: str) -> tuple[TokenDocument, ...]:
    """Documents of several lengths; of some a part is learned, one has weights."""
    made = []
    for number, length in enumerate(LENGTHS):
        ids = sequences(decoder_of(family), 1, length, seed=number)[0].numpy()
        learned = np.arange(length) >= 4 if number % 2 else np.arange(length) >= length // 2
        weights = np.linspace(0.5, 2, length) if number == 3 else None
        made.append(TokenDocument(ids, np.where(learned, ids, IGNORE), weights, f"x:{number}"))
    return tuple(made)


def result(decoder: Decoder, batches: list) -> tuple[Tensor, float, list[Tensor]]:
    """The summed loss over all batches, its terms, and the gradient of every parameter."""
    losses, terms = zip(*(CausalLM().loss(decoder, batch) for batch in batches), strict=True)
    total = torch.stack(losses).sum()
    gradients = torch.autograd.grad(total, list(decoder.parameters()), allow_unused=True)
    return total.detach(), sum(terms), [each for each in gradients if each is not None]


@cache
def alone(family: str) -> tuple[Tensor, float, list[Tensor]]:
    source = source_of(family, "padded", micro=1)
    return result(decoder_of(family), source.next_step() + source.next_step())


def source_of(family: str, batching: str, micro: int = MICRO) -> RowSource:
    """All documents once in a pass; packed rows are fewer."""
    documents, kind = DocumentList(documents_of(family)), BATCHINGS[batching]
    mixture = Mixture([np.arange(len(LENGTHS))], [1.0], seed=0)
    passes = MixedPasses(documents, mixture, kind.arrange, MAX_SEQ_LEN, seed=0)
    rows = len(passes.rows(0))
    size = GLOBAL if rows % GLOBAL == 0 else rows
    return RowSource(passes, 0, micro if size % micro == 0 else 1, size, batching=kind)


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_documents_alone(family: str, batching: str) -> None:
    source = source_of(family, batching)
    batches, seen = source.next_step(), source.num_tokens()
    while seen < sum(LENGTHS):
        batches, seen = batches + source.next_step(), seen + source.num_tokens()
    loss, terms, gradients = result(decoder_of(family), batches)
    expected_loss, expected_terms, expected_gradients = alone(family)
    assert terms == pytest.approx(expected_terms)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=0)
    for found, wanted in zip(gradients, expected_gradients, strict=True):
        bound = 1e-4 * max(1.0, float(wanted.abs().max()))
        torch.testing.assert_close(found, wanted, rtol=0, atol=bound)


def test_what_the_kinds_are() -> None:
    shapes = {}
    for name in BATCHINGS:
        source = source_of("llama", name)
        steps = [source.next_step()] if name == "packed" else [source.next_step() for _ in "ab"]
        shapes[name] = [tuple(batch.tokens_BT.shape) for step in steps for batch in step]
    tokens = {name: sum(b * t for b, t in found) for name, found in shapes.items()}
    assert all(rows == 1 for rows, _ in shapes["padding-free"])
    assert len(shapes["padded"]) == len(shapes["grouped"]) == len(shapes["padding-free"]) == 4
    assert tokens["padding-free"] <= tokens["grouped"] <= tokens["padded"]
    assert sum(rows for rows, _ in shapes["packed"]) == -(-sum(LENGTHS) // MAX_SEQ_LEN)
    assert {t % LENGTH_STEP for found in shapes.values() for _, t in found} == {0}


def test_grouped_rows_of_a_step_are_of_similar_length_and_every_row_comes_once() -> None:
    lengths = np.random.default_rng(0).integers(2, 200, 103)
    documents = DocumentList([TokenDocument(np.zeros(n)) for n in lengths])
    kind = BATCHINGS["grouped"]
    mixture = Mixture([np.arange(len(lengths))], [1.0], seed=0)
    passes = MixedPasses(documents, mixture, kind.arrange, 200, seed=0)
    source = RowSource(passes, 0, 2, 4, batching=kind)
    spreads, seen = [], 0
    for _ in range(25):
        batches = source.next_step()
        sizes = [int((batch.documents_BT >= 0).sum(1)[row]) for batch in batches for row in (0, 1)]
        assert sizes == sorted(sizes, reverse=True)
        spreads.append(sizes[0] - sizes[-1])
        seen += sum(sizes)
    assert max(spreads) < 20
    assert 0 <= lengths.sum() - seen <= 3 * 200
    assert any(a != b for a, b in pairwise(spreads))
