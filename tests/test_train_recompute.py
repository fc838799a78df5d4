"""Recomputed blocks: the same losses and gradients, bit for bit, with less remembered."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from train_parts import packed_rows, tiny_decoder

from danlu.adapters.handling import attach_adapter
from danlu.config.adapter import LoraConfig, PrefixConfig
from danlu.data.batch import Batch
from danlu.loading import load_decoder
from danlu.models.decoder import Decoder
from danlu.models.family import discover
from danlu.train.objective import CausalLM
from danlu.train.recompute import recomputed_blocks
from danlu.train.source import batches_of

HERE = Path(__file__).parent


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def lora(decoder: Decoder) -> Decoder:
    attach_adapter(decoder, LoraConfig(lora_rank=2, lora_dropout=0.5), generator())
    return decoder


def prefix(decoder: Decoder) -> Decoder:
    attach_adapter(decoder, PrefixConfig(num_tokens=3), generator())
    return decoder


DECODERS: dict[str, Callable[[], Decoder]] = {
    "plain": tiny_decoder,
    "lora-dropout": lambda: lora(tiny_decoder()),
    "lora-on-int8": lambda: lora(load_decoder(HERE / "golden-small/llama", quantize="int8")),
    "prefix": lambda: prefix(tiny_decoder()),
    "bf16": lambda: tiny_decoder().to(torch.bfloat16),
}


def results(
    decoder: Decoder, batches: list[Batch], mode: Any
) -> tuple[list[float], dict[str, Tensor], int]:
    """Return losses, gradients, and how many bytes were kept for the backward passes."""
    torch.manual_seed(0)
    decoder.train()
    decoder.zero_grad()
    kept, losses = 0, []

    def keep(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    with recomputed_blocks(decoder, mode):
        for batch in batches:
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                loss, _ = CausalLM().loss(decoder, batch)
            loss.backward()
            losses.append(loss.item())
    grads = {name: p.grad for name, p in decoder.named_parameters() if p.grad is not None}
    return losses, grads, kept


def same(found: Any, expected: Any) -> bool:
    return (
        found[0] == expected[0]
        and found[1].keys() == expected[1].keys()
        and all(torch.equal(found[1][name], expected[1][name]) for name in expected[1])
    )


@pytest.mark.parametrize("kind", DECODERS)
def test_losses_and_gradients_keep_their_bits(kind: str) -> None:
    decoder = DECODERS[kind]()
    names = [name for name, _ in decoder.named_parameters()]
    batches = batches_of(packed_rows()[:4], 2)
    plain, selective, full = (results(decoder, batches, m) for m in ("none", "selective", "full"))
    assert same(selective, plain)
    assert same(full, plain)
    assert plain[2] > selective[2] > full[2]
    assert [name for name, _ in decoder.named_parameters()] == names
    assert "forward" not in vars(decoder.blocks()[0])


@pytest.mark.parametrize("family", sorted(discover()))
def test_every_family_can_be_recomputed(family: str) -> None:
    known = discover()[family]
    decoder = Decoder(known.config(family, known.tiny()))
    draws = generator()
    for tensor in decoder.state_dict().values():
        tensor.normal_(0.0, 0.1, generator=draws)
    ids = torch.randint(5, decoder.config.vocab_size, (2, 12), generator=generator())
    documents = torch.tensor([[0] * 5 + [1] * 7, [0] * 12])
    targets = ids.roll(-1, dims=1)
    targets[:, -1] = -100
    batches = [Batch(ids, targets, documents, 22)]
    assert same(results(decoder, batches, "full"), results(decoder, batches, "none"))


def test_nothing_is_recomputed_without_gradients() -> None:
    decoder = tiny_decoder()
    calls = []
    decoder.blocks()[0].input_layernorm.register_forward_hook(lambda *args: calls.append(1))
    with recomputed_blocks(decoder, "full"), torch.no_grad():
        decoder(torch.tensor([[1, 2]]))
    assert len(calls) == 1
    with recomputed_blocks(decoder, "full"):
        decoder(torch.tensor([[1, 2]])).sum().backward()
    assert len(calls) == 3
