"""What holds for trained keys and values in front of a text, in every family."""

from pathlib import Path

import pytest
import torch
from checkpoints import PLAIN_IDS, assert_close, sequences, tiny_decoder
from torch import Tensor

from danlu.adapters.handling import attach_adapter, disabled, merge_adapters, train_only
from danlu.adapters.methods.prompt import PromptPrefix
from danlu.config.adapter import LoraConfig, PrefixConfig, PromptConfig
from danlu.engine.runner import StaticBatch
from danlu.errors import AdapterError
from danlu.loading import load_adapter, save_adapter
from danlu.models import discover
from danlu.models.decoder import Decoder
from danlu.train.recompute import recomputed_blocks

EVERY = sorted(discover())
P = 5
CONFIGS = {
    "prefix": PrefixConfig(num_tokens=P),
    "projected": PrefixConfig(num_tokens=P, projection=True, projection_size=6),
    "prompt": PromptConfig(num_tokens=P),
}
every_family = pytest.mark.parametrize("family", EVERY)
every_kind = pytest.mark.parametrize("kind", CONFIGS)


def prefixed(family: str, kind: str = "prefix") -> Decoder:
    """A tiny decoder behind a fresh prefix."""
    decoder = tiny_decoder(family)
    attach_adapter(decoder, CONFIGS[kind], torch.Generator().manual_seed(1))
    return decoder


@torch.inference_mode()
def logits(decoder: Decoder, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    found: Tensor = decoder(ids, mask)
    return found


@every_family
def test_words_in_front_are_what_they_are_in_the_text(family: str) -> None:
    decoder = tiny_decoder(family)
    ids = torch.randint(PLAIN_IDS, (1, 12), generator=torch.Generator().manual_seed(2))
    whole = logits(decoder, ids)
    decoder.prefix = PromptPrefix(decoder.token_embeddings(ids[0, :P]).detach().clone())
    assert_close(logits(decoder, ids[:, P:]), whole[:, P:], 1e-5)


@every_family
def test_a_fresh_prefix_is_what_the_model_keeps_of_drawn_words(family: str) -> None:
    ids = sequences(tiny_decoder(family), 2, 8)
    prefix, prompt = prefixed(family), prefixed(family, "prompt")
    for ours, theirs in zip(
        prefix.in_front().keys_values, prompt.in_front().keys_values, strict=True
    ):
        assert all(map(torch.equal, ours, theirs))
    if prefix.config.counts_prefix:
        assert_close(logits(prefix, ids), logits(prompt, ids), 1e-5)


@every_family
@pytest.mark.parametrize("kind", ["projected", "prompt"])
def test_packed_and_padded_equal_alone(family: str, kind: str) -> None:
    decoder = prefixed(family, kind)
    lengths = (5, 9, 4)
    documents = [sequences(decoder, 1, length, seed=length) for length in lengths]
    alone = [logits(decoder, ids)[0] for ids in documents]
    packed = torch.cat([*documents, torch.zeros(1, 3, dtype=torch.long)], dim=1)
    numbers = torch.tensor([[0] * 5 + [1] * 9 + [2] * 4 + [-1] * 3])
    with torch.inference_mode():
        found = decoder.logits(decoder.packed_hidden(packed, numbers))[0]
    assert_close(found[: sum(lengths)], torch.cat(alone), 1e-5)
    for side in ("right", "left"):
        if family == "glm_10b" and side == "left":
            continue  # its learned positions count padding, as the original's do
        padded, mask = padded_rows(documents, side)
        assert_close(logits(decoder, padded, mask)[mask.bool()], torch.cat(alone), 1e-5)


def padded_rows(documents: list[Tensor], side: str) -> tuple[Tensor, Tensor]:
    width = max(ids.shape[1] for ids in documents)
    rows, masks = [], []
    for ids in documents:
        gap = width - ids.shape[1]
        amounts = (gap, 0) if side == "left" else (0, gap)
        rows.append(torch.nn.functional.pad(ids, amounts, value=7))
        masks.append(torch.nn.functional.pad(torch.ones_like(ids), amounts))
    return torch.cat(rows), torch.cat(masks)


@every_family
@pytest.mark.parametrize("kind", ["prefix", "prompt"])
def test_cached_equals_uncached(family: str, kind: str) -> None:
    decoder = prefixed(family, kind)
    lengths = [8, 8, 8] if family == "glm_10b" else [8, 6, 11]
    rows = [sequences(decoder, 1, length, seed=length) for length in lengths]
    answers = sequences(decoder, 3, 7, seed=9)[:, 4:]
    batch = StaticBatch(decoder, [row[0].tolist() for row in rows], 3, prefill_tokens=6)
    found = [batch.prefill(), batch.decode(answers[:, 0])]
    batch.select([2, 0])
    found += [batch.decode(answers[[2, 0], 1])]
    texts = [torch.cat((row, answers[None, i]), dim=1) for i, row in enumerate(rows)]
    whole = [logits(decoder, text)[0, -4:] for text in texts]
    assert_close(found[0], torch.stack([text[0] for text in whole]), 1e-5)
    assert_close(found[1], torch.stack([text[1] for text in whole]), 1e-5)
    assert_close(found[2], torch.stack([whole[2][2], whole[0][2]]), 1e-5)


@every_family
@pytest.mark.parametrize("kind", ["projected", "prompt"])
def test_it_comes_back_and_without_it_the_base_does(family: str, kind: str, tmp_path: Path) -> None:
    base, decoder = tiny_decoder(family), prefixed(family, kind)
    ids = sequences(base, 2, 8)
    behind = logits(decoder, ids)
    assert (behind - logits(base, ids)).abs().max() > 1e-3
    with disabled(decoder):
        assert torch.equal(logits(decoder, ids), logits(base, ids))
    assert torch.equal(logits(decoder, ids), behind)
    save_adapter(decoder, tmp_path, "base")
    load_adapter(base, tmp_path)
    assert torch.equal(logits(base, ids), behind)
    with pytest.raises(AdapterError, match="no place in the weights"):
        merge_adapters(decoder)
    assert torch.equal(logits(decoder, ids), behind)


@pytest.mark.parametrize(
    ("family", "kind"),
    [*((family, "prompt") for family in EVERY), ("chatglm", "projected"), ("mistral", "prefix")],
)
def test_gradients_of_packed_rows_equal_finite_differences(family: str, kind: str) -> None:
    decoder = prefixed(family, kind).double()
    rows = [sequences(decoder, 1, length, seed=length) for length in (6, 5)]
    packed, numbers = torch.cat(rows, dim=1), torch.tensor([[0] * 6 + [1] * 5])
    trained = {name: p for name, p in decoder.named_parameters() if p.requires_grad}
    assert len(trained) == {"prefix": 1, "projected": 5, "prompt": 1}[kind]
    assert all(name.startswith("prefix.") for name in trained)

    def loss() -> Tensor:
        scores = decoder.logits(decoder.packed_hidden(packed, numbers)).log_softmax(-1)
        return scores[0, torch.arange(10), packed[0, 1:]].sum()

    gradients = torch.autograd.grad(loss(), list(trained.values()))
    generator = torch.Generator().manual_seed(2)
    for (name, parameter), gradient in zip(trained.items(), gradients, strict=True):
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.double)
        with torch.no_grad():
            parameter.add_(direction, alpha=1e-6)
            above = loss()
            parameter.sub_(direction, alpha=2e-6)
            below = loss()
            parameter.add_(direction, alpha=1e-6)
        slope = float((above - below) / 2e-6)
        assert slope == pytest.approx(float((gradient * direction).sum()), rel=1e-4, abs=1e-5), name


@every_kind
def test_recomputed_blocks_give_the_same_gradients(kind: str) -> None:
    decoder = prefixed("llama", kind)
    ids, numbers = sequences(decoder, 1, 9), torch.tensor([[0] * 5 + [1] * 4])
    trained = [p for p in decoder.parameters() if p.requires_grad]
    found = []
    for mode in ("none", "full"):
        with recomputed_blocks(decoder, mode):
            loss = decoder.packed_hidden(ids, numbers).square().sum()
            found.append(torch.autograd.grad(loss, trained))
    assert all(map(torch.equal, *found))


@every_family
def test_it_stands_beside_lora(family: str, tmp_path: Path) -> None:
    decoder = tiny_decoder(family)
    ids, generator = sequences(decoder, 2, 8), torch.Generator().manual_seed(3)
    plain = logits(decoder, ids)
    attach_adapter(decoder, LoraConfig(lora_rank=3), generator, "lora")
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if name.endswith("lora_B"):
                parameter.normal_(0.0, 0.1, generator=generator)
    adapted = logits(decoder, ids)
    attach_adapter(decoder, CONFIGS["prefix"], generator, "prefix")
    both = logits(decoder, ids)
    assert (both - adapted).abs().max() > 1e-3
    with disabled(decoder):
        assert torch.equal(logits(decoder, ids), plain)
    train_only(decoder, "lora")
    assert not decoder.prefix.table.weight.requires_grad  # type: ignore[union-attr]
    again = tiny_decoder(family)
    for name in ("lora", "prefix"):
        save_adapter(decoder, tmp_path / name, "base", name)
        load_adapter(again, tmp_path / name, name)
    assert_close(logits(again, ids), both, 1e-5)
