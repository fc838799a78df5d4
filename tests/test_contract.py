"""What holds for every family: one parametrised suite over all that are discovered."""

from pathlib import Path

import pytest
import torch
from checkpoints import assert_close, sequences, tiny_decoder
from torch import Tensor

from danlu.adapters.handling import attach_adapter, merge_adapters
from danlu.config.adapter import LoraConfig
from danlu.loading import load_adapter, load_decoder, save_adapter, save_decoder
from danlu.loading.layout import published_layout
from danlu.models import discover
from danlu.models.decoder import Decoder
from danlu.nn.cache import KVCache
from danlu.nn.moe import CorrectedRouter, Router
from danlu.nn.packing import PackedContext

EVERY = sorted(discover())
ROUTERS = (Router, CorrectedRouter)


def test_families_are_discovered() -> None:
    assert EVERY == [
        "aquila",
        "baichuan2_13b",
        "baichuan2_7b",
        "baichuan_13b",
        "baichuan_7b",
        "bloom",
        "chatglm",
        "chatglm2",
        "deepseek_v3",
        "glm",
        "glm4",
        "glm_10b",
        "gpt2",
        "llama",
        "mistral",
        "opt",
        "qwen",
        "qwen2",
        "qwen3",
        "qwen3_moe",
    ]


@torch.inference_mode()
def full(decoder: Decoder, ids: Tensor) -> Tensor:
    return decoder(ids)


@torch.inference_mode()
def cached(decoder: Decoder, ids: Tensor, cuts: list[int]) -> Tensor:
    """Logits through a cache, fed in pieces that end at `cuts`; a prefix is in the first piece."""
    cache = KVCache(decoder.kv_shapes(), len(ids), ids.shape[1], decoder.dtype, "cpu")
    return fed(decoder, cache, ids, cuts)


def fed(decoder: Decoder, cache: KVCache, ids: Tensor, cuts: list[int], begin: int = 0) -> Tensor:
    """Logits of the tokens from `begin` on, fed into `cache`."""
    numbering = decoder.config.sequence_rule.number(ids, None)
    prefix = 0 if numbering.prefix_end_B is None else int(numbering.prefix_end_B.max())
    cuts = [cut for cut in cuts if cut >= prefix and cut > begin]
    parts = []
    for start, end in zip([begin, *cuts], [*cuts, ids.shape[1]], strict=True):
        positions = numbering.positions_BT[..., start:end]
        context = cache.context(None, positions, numbering.prefix_end_B)
        parts.append(decoder.logits(decoder.model(ids[:, start:end], positions, context)))
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("family", EVERY)
@pytest.mark.parametrize("cuts", [[8], [3, 9], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]])
def test_prefill_and_decode_equal_the_full_forward(family: str, cuts: list[int]) -> None:
    decoder = tiny_decoder(family)
    ids = sequences(decoder, 2, 12)
    assert_close(cached(decoder, ids, cuts), full(decoder, ids), 1e-5)


@pytest.mark.parametrize("family", EVERY)
def test_packed_equals_alone(family: str) -> None:
    decoder = tiny_decoder(family)
    documents = [sequences(decoder, 1, length, seed=length) for length in (5, 9, 4)]
    packed = torch.cat([*documents, torch.zeros(1, 3, dtype=torch.long)], dim=1)
    numbers = torch.tensor([[0] * 5 + [1] * 9 + [2] * 4 + [-1] * 3])
    with torch.inference_mode():
        attn = PackedContext(packed, numbers, decoder.config.sequence_rule)
        hidden = decoder.model(packed, attn.positions_BT, attn)
        found = decoder.logits(hidden).split([5, 9, 4, 3], dim=1)
    for document, logits in zip(documents, found, strict=False):
        assert_close(logits, full(decoder, document), 1e-5)


@pytest.mark.parametrize("family", EVERY)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_equals_alone(family: str, side: str) -> None:
    decoder = tiny_decoder(family)
    ids = sequences(decoder, 1, 6)
    padding = torch.full((1, 4), 7)
    left = side == "left"
    padded = torch.cat([padding, ids] if left else [ids, padding], dim=1)
    mask = torch.cat([torch.zeros(1, 4), torch.ones(1, 6)], dim=1)
    mask = mask if left else mask.flip(1)
    with torch.inference_mode():
        found = decoder(padded, mask)[mask.bool()]
    alone = full(decoder, ids)[0]
    if family == "glm_10b" and left:  # its learned positions count padding, as the original's do
        assert (found - alone).abs().max() > 0.01
    else:
        assert_close(found, alone, 1e-5)


@pytest.mark.parametrize("family", EVERY)
def test_batch_order_does_not_matter(family: str) -> None:
    decoder = tiny_decoder(family)
    ids = sequences(decoder, 4, 7)
    order = torch.tensor([2, 0, 3, 1])
    assert_close(full(decoder, ids[order]), full(decoder, ids)[order], 1e-5)


@pytest.mark.parametrize("family", EVERY)
def test_cache_rows_can_be_selected(family: str) -> None:
    decoder = tiny_decoder(family)
    ids, rows = sequences(decoder, 3, 6), torch.tensor([2, 0])
    cache = KVCache(decoder.kv_shapes(), 3, 6, torch.float32, "cpu")
    with torch.inference_mode():
        fed(decoder, cache, ids[:, :5], [])
        cache.select(rows)
        found = fed(decoder, cache, ids[rows], [], begin=5)
    assert_close(found[:, 0], full(decoder, ids)[rows, 5], 1e-5)


@pytest.mark.parametrize("family", EVERY)
def test_prefix_keys_and_values_stand_for_their_tokens(family: str) -> None:
    decoder = tiny_decoder(family)
    ids, length = sequences(decoder, 2, 9), 5
    first = KVCache(decoder.kv_shapes(), 2, length, torch.float32, "cpu")
    second = KVCache(decoder.kv_shapes(), 2, 9, torch.float32, "cpu")
    with torch.inference_mode():
        fed(decoder, first, ids[:, :length], [])
        prefix = [first.read(layer, length) for layer in range(decoder.config.num_layers)]
        second.preload(prefix, first.key_positions(length))
        found = fed(decoder, second, ids, [7], begin=length)
    assert_close(found, full(decoder, ids)[:, length:], 1e-5)


@pytest.mark.parametrize("family", EVERY)
def test_roles_and_names_cover_every_parameter(family: str) -> None:
    decoder = tiny_decoder(family)
    roles = decoder.linear_roles()
    routers = {f"{n}.weight" for n, m in decoder.named_modules() if isinstance(m, ROUTERS)}
    tables = {n for n, _ in decoder.named_parameters() if n.startswith("model.embed_")}
    matrices = {n for n, p in decoder.named_parameters() if p.ndim == 2} - routers - tables
    assert matrices - {"lm_head.weight"} == {f"{n}.weight" for n in roles if n != "lm_head"}
    assert {"column", "row", "vocab"} <= set(roles.values())
    assert set(roles.values()) <= {"column", "row", "vocab", "replicated"}
    claimed = [ours for e in published_layout(decoder).entries.values() for ours in e.ours]
    assert sorted(claimed) == sorted({*dict(decoder.named_parameters()), "lm_head.weight"})


def test_layers_stand_in_the_order_that_seeded_weights_are_drawn_in() -> None:
    block = [
        *(f"self_attn.{name}_proj" for name in "qkvo"),
        *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
    ]
    wanted = [f"model.layers.{i}.{name}" for i in range(2) for name in block]
    assert list(tiny_decoder("llama").linear_roles()) == [*wanted, "lm_head"]


@pytest.mark.parametrize("family", EVERY)
def test_names_go_to_and_fro(family: str) -> None:
    decoder = tiny_decoder(family)
    state = dict(decoder.named_parameters())
    state.setdefault("lm_head.weight", state["model.embed_tokens.weight"])
    for entry in published_layout(decoder).entries.values():
        published = entry.save(state)
        assert published.shape == entry.shape
        for name, tensor in entry.load(published).items():
            assert torch.equal(tensor, state[name])


@pytest.mark.parametrize("family", EVERY)
def test_fresh_lora_is_the_base_and_merging_changes_nothing(family: str) -> None:
    decoder = tiny_decoder(family)
    ids = sequences(decoder, 2, 8)
    before = full(decoder, ids)
    generator = torch.Generator().manual_seed(1)
    names = attach_adapter(decoder, LoraConfig(lora_rank=4), generator)
    assert len(names) == len(decoder.linear_roles()) - 1
    assert torch.equal(full(decoder, ids), before)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if name.endswith("lora_B"):
                parameter.normal_(0.0, 0.1, generator=generator)
    adapted = full(decoder, ids)
    assert (adapted - before).abs().max() > 0.01
    assert merge_adapters(decoder) == names
    assert_close(full(decoder, ids), adapted, 1e-5)


@pytest.mark.parametrize("family", EVERY)
def test_gradients_equal_finite_differences(family: str) -> None:
    decoder = tiny_decoder(family).double()
    ids = sequences(decoder, 1, 5)
    generator = torch.Generator().manual_seed(2)
    parameters = dict(decoder.named_parameters())

    def loss() -> Tensor:
        return decoder(ids).log_softmax(-1)[0, torch.arange(4), ids[0, 1:]].sum()

    found = torch.autograd.grad(loss(), list(parameters.values()), allow_unused=True)
    for (name, parameter), used in zip(parameters.items(), found, strict=True):
        gradient = torch.zeros_like(parameter) if used is None else used  # an expert nobody asked
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.double)
        with torch.no_grad():
            parameter.add_(direction, alpha=1e-6)
            above = loss()
            parameter.sub_(direction, alpha=2e-6)
            below = loss()
            parameter.add_(direction, alpha=1e-6)
        slope = float((above - below) / 2e-6)
        assert slope == pytest.approx(float((gradient * direction).sum()), rel=1e-4, abs=1e-5), name


@pytest.mark.parametrize("family", EVERY)
def test_saved_it_comes_back(family: str, tmp_path: Path) -> None:
    decoder = tiny_decoder(family)
    ids = sequences(decoder, 2, 8)
    save_decoder(decoder, tmp_path)
    assert torch.equal(full(load_decoder(tmp_path), ids), full(decoder, ids))
    inference = load_decoder(tmp_path, for_inference=True)
    assert_close(full(inference, ids), full(decoder, ids), 1e-5)


@pytest.mark.parametrize("family", EVERY)
def test_quantized_it_comes_back(family: str, tmp_path: Path) -> None:
    decoder = tiny_decoder(family)
    ids = sequences(decoder, 2, 8)
    save_decoder(decoder, tmp_path / "plain")
    rounded = load_decoder(tmp_path / "plain", quantize="int8")
    moved = float((full(rounded, ids) - full(decoder, ids)).abs().max())
    assert 0 < moved < 0.2 * float(full(decoder, ids).abs().max())
    save_decoder(rounded, tmp_path / "int8")
    assert_close(full(load_decoder(tmp_path / "int8"), ids), full(rounded, ids), 1e-5)


@pytest.mark.parametrize("family", EVERY)
def test_an_adapter_comes_back(family: str, tmp_path: Path) -> None:
    decoder = tiny_decoder(family)
    ids, generator = sequences(decoder, 2, 8), torch.Generator().manual_seed(3)
    attach_adapter(decoder, LoraConfig(lora_rank=3), generator)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if name.endswith("lora_B"):
                parameter.normal_(0.0, 0.1, generator=generator)
    save_adapter(decoder, tmp_path / "adapter", "base")
    again = tiny_decoder(family)
    load_adapter(again, tmp_path / "adapter")
    assert_close(full(again, ids), full(decoder, ids), 1e-5)
