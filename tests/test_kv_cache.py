"""Keys and values in 8 bits: bounds of the rounding, and every way of attending to them."""

import random

import pytest
import torch
from checkpoints import PLAIN_IDS, assert_close, sequences, tiny_decoder
from kv_cache_parts import decoded, served
from torch import Tensor

from danlu.adapters.handling import attach_adapter
from danlu.config.adapter import PrefixConfig, PromptConfig
from danlu.engine.runner import StaticBatch
from danlu.models import discover
from danlu.models.decoder import Decoder
from danlu.nn import int8_attention
from danlu.nn.cache_rounding import CacheRounding, FixedRounding, TokenRounding
from danlu.nn.scaled_attention import scaled_attention
from danlu.nn.stores import KVShape, Room

EVERY = sorted(discover())
COUNTS_PADDING = ("glm_10b", "qwen")  # padding moves their keys, which are rounded otherwise there
FLIPS = 0.2  # of what rounding costs: codes at a half fall either way with the order of sums
SHAPE = KVShape(num_kv_heads=2, head_dim=16, value_dim=12)


def fixed(per_head: bool, num_layers: int = 1, largest: float = 4.0) -> FixedRounding:
    heads = SHAPE.num_kv_heads if per_head else 1
    scales = [torch.linspace(1.0, 0.5, heads) * largest / 127.5 for _ in range(num_layers)]
    return FixedRounding(scales, [scale / 2 for scale in scales])


def drawn(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def filled(rounding: CacheRounding, batch: int, tokens: int):
    """A store with room to spare, and what was written into it [B, S, K, d]."""
    store = rounding.store(0, SHAPE, Room(batch, tokens + 3, torch.float32, "cpu"))
    keys, values = drawn(batch, tokens, 2, 16), drawn(batch, tokens, 2, 12, seed=1) / 2
    store.write(0, keys[:, :5], values[:, :5])
    store.write(5, keys[:, 5:], values[:, 5:])
    return store, keys, values


@pytest.mark.parametrize("rounding", [TokenRounding(), fixed(False), fixed(True)])
def test_what_is_read_is_what_was_written_but_for_half_a_step(rounding: CacheRounding) -> None:
    store, keys, values = filled(rounding, 3, 9)
    for found, wanted, end in zip(store.read(9), (keys, values), (4.0, 2.0), strict=True):
        found = found.transpose(1, 2)
        if isinstance(rounding, TokenRounding):
            step = wanted.abs().amax(-1, keepdim=True) / 127
        else:
            step = (rounding.keys if end == 4.0 else rounding.values)[0][:, None]
            wanted = wanted.clamp(-128 * step, 127 * step)
        error = (found - wanted).abs()
        assert (error <= step * 0.5001).all()
        assert (error > step * 0.4).any()  # 8 bits, no more
    alike = rounding.rounded(0, keys, values)
    for found, wanted in zip(store.read(9), alike, strict=True):
        assert torch.equal(found.transpose(1, 2), wanted)


def test_zeros_stay_zeros_and_large_tokens_spoil_no_others() -> None:
    heads = torch.zeros(1, 3, 2, 16)
    heads[0, 1] = 1e6
    heads[0, 2] = 1e-3
    rounded, _ = TokenRounding().rounded(0, heads, heads)
    assert torch.allclose(rounded, heads)


MASKS = {
    "none": lambda t: None,
    "boolean": lambda t: drawn(3, 1, t, 9) > -0.5,
    "per head": lambda t: drawn(1, 6, t, 9),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=list(MASKS))
@pytest.mark.parametrize("queries", [1, 4, 9])
@pytest.mark.parametrize("rounding", [TokenRounding(), fixed(True)], ids=["token", "fixed"])
def test_attention_is_that_over_what_is_read(monkeypatch, rounding, queries, mask) -> None:
    monkeypatch.setattr(int8_attention, "CPU_SLICE", 200)
    monkeypatch.setattr(int8_attention, "FEW_QUERIES", 12)
    store, _, _ = filled(rounding, 3, 9)
    q, given = drawn(3, 6, queries, 16, seed=2), mask(queries)
    if given is not None and given.dtype == torch.bool:
        given[..., 0] = True
    wanted = scaled_attention(q, *store.read(9), 0.3, given)
    torch.testing.assert_close(store.attend(q, 9, 0.3, given), wanted, atol=2e-6, rtol=1e-5)


def prompts_of(decoder: Decoder, lengths: tuple[int, ...]) -> list[list[int]]:
    return [sequences(decoder, 1, length, seed=length)[0].tolist() for length in lengths]


@pytest.mark.parametrize("family", EVERY)
def test_every_family_serves_what_its_forward_pass_computes(family: str) -> None:
    """Left-padded, in chunks, rows exchanged: all see the keys and values of the full pass."""
    decoder = tiny_decoder(family)
    prompts, generator = prompts_of(decoder, (9, 5, 7)), random.Random(0)
    answers = [[generator.randrange(PLAIN_IDS) for _ in range(3)] for _ in prompts]
    plain = served(decoder, prompts, answers)
    decoder.kv_cache = TokenRounding()
    whole = served(decoder, prompts, answers)
    cost = (whole - plain).norm()
    other_expert = 0.2 if family == "qwen3_moe" else 0.02  # a token close to two of them moves over
    assert 1e-4 < cost / plain.norm() < other_expert
    order = [2, 0, 1]
    chunked = StaticBatch(decoder, prompts, 3, prefill_tokens=6)
    with torch.inference_mode():
        chunked.prefill()
        chunked.select(order)
    moved = decoded(chunked, [answers[row] for row in order])
    assert (moved - whole[order, 1:]).norm() < FLIPS * cost
    for row in range(1 if family in COUNTS_PADDING else 3):
        text = torch.tensor([prompts[row] + answers[row]])
        with torch.inference_mode():
            alone = decoder(text)[0, len(prompts[row]) - 1 :]
        assert (whole[row] - alone).norm() < FLIPS * cost


@pytest.mark.parametrize("kind", [PrefixConfig(num_tokens=4), PromptConfig(num_tokens=4)])
@pytest.mark.parametrize("family", ["llama", "bloom", "chatglm", "deepseek_v3"])
def test_what_stands_in_front_of_a_text_is_rounded_too(family: str, kind: object) -> None:
    decoder = tiny_decoder(family)
    attach_adapter(decoder, kind, torch.Generator().manual_seed(1))
    ids = sequences(decoder, 1, 9)
    with torch.inference_mode():
        plain = decoder(ids)[0, -3:]
        decoder.kv_cache = TokenRounding()
        alone = decoder(ids)[0, -3:]
    [found] = served(decoder, ids[:, :-2].tolist(), ids[:, -2:].tolist())
    cost = (alone - plain).norm()
    assert cost > 1e-4 * plain.norm()
    assert (found - alone).norm() < FLIPS * cost


def test_documents_learn_on_rounded_keys_and_values_and_gradients_pass() -> None:
    decoder = tiny_decoder("llama")
    ids = sequences(decoder, 1, 12)
    documents = torch.tensor([[0] * 5 + [1] * 7])
    weight = decoder.model.layers[0].self_attn.k_proj.weight

    def learned() -> tuple[Tensor, Tensor]:
        hidden = decoder.packed_hidden(ids, documents)
        return hidden.detach(), torch.autograd.grad(hidden.square().sum(), weight)[0]

    plain, plain_gradient = learned()
    decoder.kv_cache = TokenRounding()
    packed, gradient = learned()
    with torch.no_grad():
        alone = torch.cat([decoder(ids[:, :5]), decoder(ids[:, 5:])], dim=1)
        assert_close(decoder.logits(packed), alone, 1e-5)
    assert not torch.allclose(packed, plain, atol=1e-4)
    assert (gradient - plain_gradient).norm() < 0.05 * plain_gradient.norm()
