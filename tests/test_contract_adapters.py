"""What holds for adapters of every method on every family: one parametrised suite."""

from pathlib import Path

import pytest
import torch
from checkpoints import assert_close, sequences, tiny_checkpoint, tiny_decoder
from torch import Tensor

from danlu.adapters.method import methods
from danlu.config.adapter import Ia3Config, LoraConfig, TokenRowsConfig
from danlu.config.base import Config
from danlu.loading import (
    adapter_names,
    attach_adapter,
    disabled,
    load_adapter,
    load_decoder,
    merge_adapters,
    save_adapter,
    save_decoder,
    train_only,
    unmerge_adapters,
)
from danlu.models import discover
from danlu.models.decoder import Decoder

EVERY = sorted(discover())
ROWS: list[int | str] = [3, 7, 200]
CONFIGS: dict[str, Config] = {
    "lora": LoraConfig(lora_rank=3, lora_dropout=0.1, bias="lora_only"),
    "dora": LoraConfig(lora_rank=2, dora=True, rank_stabilized=True),
    "pissa": LoraConfig(lora_rank=2, init="pissa", targets=["attention"], layers=[1]),
    "embedding": LoraConfig(lora_rank=3, targets=["embed_tokens", "o_proj"], bias="all"),
    "whole": LoraConfig(lora_rank=3, targets=["row"], whole=["embed_tokens", "lm_head"]),
    "rows": LoraConfig(lora_rank=2, targets=["mlp"], token_rows=ROWS),
    "token_rows": TokenRowsConfig(token_rows=ROWS),
    "ia3": Ia3Config(targets=["attention", "mlp"], feedforward=["down_proj", "o_proj"]),
}


@torch.inference_mode()
def full(decoder: Decoder, ids: Tensor) -> Tensor:
    return decoder(ids)


def inputs(decoder: Decoder) -> Tensor:
    ids = sequences(decoder, 2, 8)
    ids[:, :2] = torch.tensor([3, 7])
    return ids


def attached(decoder: Decoder, config: Config, name: str = "default") -> list[str]:
    return attach_adapter(decoder, config, torch.Generator().manual_seed(1), name)


@torch.no_grad()
def moved(decoder: Decoder, seed: int = 2) -> Decoder:
    """The decoder with every trained parameter moved by noise, as if it had been trained."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in decoder.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return decoder


def loss_of(decoder: Decoder, ids: Tensor) -> Tensor:
    scores = decoder(ids).log_softmax(-1)[:, :-1]
    return -scores.gather(-1, ids[:, 1:, None]).mean()


def test_every_method_of_layers_is_here() -> None:
    others = {"prefix", "prompt"}  # what stands in front of a text has tests of its own
    assert {config.method for config in CONFIGS.values()} == methods().keys() - others  # type: ignore[attr-defined]


@pytest.fixture(params=[(family, kind) for family in EVERY for kind in CONFIGS], ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[Decoder, Config]:
    family, kind = request.param
    return tiny_decoder(family), CONFIGS[kind]


def test_a_fresh_adapter_changes_nothing_and_trains_alone(case: tuple[Decoder, Config]) -> None:
    decoder, config = case
    ids, before = inputs(decoder), dict(decoder.named_parameters())
    wanted = full(decoder, ids)
    assert attached(decoder, config)
    assert torch.equal(full(decoder, ids), wanted)
    first = loss_of(decoder, ids)
    first.backward()
    trained = decoder.adapters["default"].parameters()
    assert {id(p) for p in decoder.parameters() if p.grad is not None} <= {*map(id, trained)}
    assert all(p.grad is None for p in before.values())
    with torch.no_grad():
        norm = sum(float(p.grad.square().sum()) for p in trained if p.grad is not None) ** 0.5
        for parameter in trained:
            if parameter.grad is not None:
                parameter.sub_(parameter.grad, alpha=0.02 / norm)
        assert loss_of(decoder, ids) < first


def test_it_comes_back_from_a_folder_switches_off_and_merges(
    case: tuple[Decoder, Config], tmp_path: Path
) -> None:
    decoder, config = case
    ids = inputs(decoder)
    base = full(decoder, ids)
    names = attached(decoder, config)
    adapted = full(moved(decoder), ids)
    save_adapter(decoder, tmp_path, "base")
    assert (adapted - base).abs().max() > 0.01
    with disabled(decoder):
        assert torch.equal(full(decoder, ids), base)
    assert torch.equal(full(decoder, ids), adapted)
    assert merge_adapters(decoder, reversible=True) == names
    assert adapter_names(decoder) == []
    assert_close(full(decoder, ids), adapted, 1e-5)
    assert unmerge_adapters(decoder) == ["default"]
    assert torch.equal(full(decoder, ids), adapted)
    with disabled(decoder):
        assert torch.equal(full(decoder, ids), base)
        load_adapter(decoder, tmp_path, "again")  # onto the base alone
        assert_close(full(decoder, ids), adapted, 1e-5)
    with disabled(decoder):
        assert torch.equal(full(decoder, ids), base)


@pytest.mark.parametrize("kind", ["part", "pissa"])
@pytest.mark.parametrize("family", EVERY)
def test_warm_starts_train_what_was_read(family: str, kind: str, tmp_path: Path) -> None:
    part = LoraConfig(lora_rank=2, targets=["q_proj", "up_proj"], dora=True)
    decoder = tiny_decoder(family)
    if kind == "part" and family == "deepseek_v3":
        part = part.model_copy(update={"targets": ["q_a_proj", "up_proj"]})
    attached(decoder, part if kind == "part" else CONFIGS[kind])
    save_adapter(moved(decoder), tmp_path, "base")
    again, ids = tiny_decoder(family), inputs(decoder)
    load_adapter(again, tmp_path)
    train_only(again)
    loss_of(again, ids).backward()
    wanted = {name: p for name, p in decoder.named_parameters() if p.requires_grad}
    found = {name: p for name, p in again.named_parameters() if p.requires_grad}
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert {p.grad is None for p in again.parameters() if not p.requires_grad} == {True}
    assert sum(p.grad is not None for p in found.values()) > 2


@pytest.mark.parametrize("kind", ["embedding", "rows"])
@pytest.mark.parametrize("family", EVERY)
def test_merged_it_is_a_checkpoint(family: str, kind: str, tmp_path: Path) -> None:
    decoder = tiny_decoder(family)
    attached(decoder, CONFIGS[kind])
    adapted = full(moved(decoder), inputs(decoder))
    merge_adapters(decoder)
    save_decoder(decoder, tmp_path)
    assert_close(full(load_decoder(tmp_path), inputs(decoder)), adapted, 1e-5)


@pytest.mark.parametrize("family", EVERY)
def test_several_adapters_add_up_in_any_order(family: str) -> None:
    kinds = ["lora", "dora", "ia3", "token_rows"]
    outputs = []
    for order in (kinds, kinds[::-1]):
        decoder = tiny_decoder(family)
        for kind in order:
            attached(decoder, CONFIGS[kind], kind)
            moved(decoder, seed=kinds.index(kind))
        assert adapter_names(decoder) == order
        outputs.append(full(decoder, inputs(decoder)))
        merge_adapters(decoder)
        assert_close(full(decoder, inputs(decoder)), outputs[-1], 1e-5)
    assert_close(*outputs, 1e-5)


@pytest.mark.parametrize("family", ["baichuan2_7b", "baichuan2_13b"])
def test_a_head_that_normalises_its_rows_is_adapted_as_it_is_stored(
    family: str, tmp_path: Path
) -> None:
    decoder = tiny_decoder(family)
    ids = inputs(decoder)
    base = full(decoder, ids)
    attached(decoder, LoraConfig(lora_rank=3, targets=["lm_head"]))
    assert torch.equal(full(decoder, ids), base)
    adapted = full(moved(decoder), ids)
    loss_of(decoder, ids).backward()
    merge_adapters(decoder)
    save_decoder(decoder, tmp_path)
    assert (adapted - base).abs().max() > 0.01
    assert_close(full(load_decoder(tmp_path), ids), adapted, 1e-5)


@pytest.mark.parametrize("kind", ["lora", "dora", "ia3", "rows", "whole"])
@pytest.mark.parametrize("scheme", ["int8", "nf4"])
def test_quantized_bases_are_adapted_and_merged_as_they_were_seen(
    kind: str, scheme: str, tmp_path: Path
) -> None:
    decoder = load_decoder(tiny_checkpoint(tmp_path / "base"), quantize=scheme)
    ids = inputs(decoder)
    base = full(decoder, ids)
    attached(decoder, CONFIGS[kind])
    assert_close(full(decoder, ids), base, 1e-6)
    adapted = full(moved(decoder), ids)
    assert_close(decoder(ids).detach(), adapted, 1e-4)
    merge_adapters(decoder)
    assert_close(full(decoder, ids), adapted, 1e-4)
    save_decoder(decoder, tmp_path / "merged")
    assert_close(full(load_decoder(tmp_path / "merged"), ids), adapted, 1e-4)
