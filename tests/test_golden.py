"""Every family against its original code: logits, greedy ids, loss, gradient, saved bytes."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoints import FAMILIES, assert_close, expected, golden
from torch import nn
from torch.nn import functional as F

from danlu.loading import load_decoder, save_decoder
from danlu.models import discover
from danlu.models.decoder import Decoder
from danlu.nn.positions import Alibi, Rope
from danlu.weights.files import find_weight_files, stream

Tensors = dict[str, torch.Tensor]


def padded_logits(decoder: Decoder, folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    wanted = expected(folder)
    with torch.inference_mode():
        found = decoder(wanted["input_ids"], wanted["attention_mask"])
    mask = wanted["compare_mask"]
    return found[mask], wanted["logits"][mask]


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_of_padded_batches(name: str) -> None:
    assert_close(*padded_logits(load_decoder(golden(name)), golden(name)))


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_and_hidden_of_the_larger_goldens(name: str, shared: Path) -> None:
    folder = shared / "golden" / name
    decoder, wanted = load_decoder(folder), expected(folder)
    assert_close(*padded_logits(decoder, folder))
    caught = []
    handle = decoder.lm_head.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    with torch.inference_mode():
        decoder(wanted["input_ids"], wanted["attention_mask"])
    handle.remove()
    mask = wanted["compare_mask"]
    assert_close(caught[0][mask], wanted["hidden"][mask])


@pytest.mark.parametrize("name", ["llama", "bloom"])
def test_loss_and_gradient(name: str) -> None:
    wanted, decoder = expected(golden(name)), load_decoder(golden(name))
    logits = decoder(wanted["input_ids"], wanted["attention_mask"])
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), wanted["labels"][:, 1:].flatten())
    assert_close(loss.detach(), wanted["loss"])
    loss.backward()
    [(key, gradient)] = [(k, v) for k, v in wanted.items() if k.startswith("grad.")]
    layout_name = key.removeprefix("grad.")
    from danlu.loading.layout import published_layout

    entries = published_layout(decoder).entries
    entry = entries.get(layout_name) or entries["transformer." + layout_name]
    grads = {n: p.grad for n, p in decoder.named_parameters() if p.grad is not None}
    assert_close(entry.save(grads), gradient)


@pytest.mark.parametrize("name", FAMILIES)
def test_saved_tensors_are_the_published_bytes(name: str, tmp_path: Path) -> None:
    save_decoder(load_decoder(golden(name)), tmp_path)
    before = read_all(golden(name))
    after = read_all(tmp_path)
    before = {k: v for k, v in before.items() if not is_ignored(name, k)}
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        assert tensor.dtype == after[key].dtype
        assert torch.equal(tensor, after[key]), key


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", FAMILIES)
def test_half_precision_checkpoints_come_back_in_their_dtype(
    name: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    save_decoder(load_decoder(golden(name)), tmp_path / "half", dtype)
    save_decoder(load_decoder(tmp_path / "half"), tmp_path / "again", max_shard_bytes=20_000)
    assert len(list((tmp_path / "again").glob("*.safetensors"))) > 1
    before, after = read_all(tmp_path / "half"), read_all(tmp_path / "again")
    assert {tensor.dtype for tensor in before.values()} == {dtype}
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())


def is_ignored(name: str, tensor: str) -> bool:
    """Whether the family says that a tensor is no parameter."""
    published = load_decoder(golden(name)).published
    assert published is not None
    ignored = discover()[published.family].ignored_tensors
    return tensor.endswith(tuple(i.ending for i in ignored))


def read_all(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor, _ in stream(find_weight_files(folder))}


@pytest.mark.parametrize("name", FAMILIES)
def test_inference_layout_computes_the_same(name: str) -> None:
    decoder = load_decoder(golden(name), for_inference=True)
    assert_close(*padded_logits(decoder, golden(name)))


# Mutations: each of these mistakes must show in the goldens (STYLE section 9).


def swap_heads(decoder: Decoder) -> None:
    attention = decoder.blocks()[0].self_attn
    queries = attention.q_proj if hasattr(attention, "q_proj") else attention.q_b_proj
    weight, head = queries.dense_weight().data, decoder.config.head_dim
    weight[:head], weight[head : 2 * head] = (
        weight[head : 2 * head].clone(),
        weight[:head].clone(),
    )


def drop_scale(decoder: Decoder) -> None:
    for module in decoder.modules():
        if isinstance(module, nn.Module) and type(module).__name__ in ("RMSNorm", "LayerNorm"):
            module.weight.data.fill_(1.0)


def shift_positions(decoder: Decoder) -> None:
    scheme = decoder.model.position_scheme
    if isinstance(scheme, Rope):
        decoder.model.position_scheme = replace(scheme, interleaved=not scheme.interleaved)
    else:
        for block in decoder.blocks():
            slopes = Alibi().slopes(2 * decoder.config.num_heads)[: decoder.config.num_heads]
            object.__setattr__(block.self_attn.layer, "slopes", slopes)


@pytest.mark.parametrize("mistake", [swap_heads, drop_scale, shift_positions])
@pytest.mark.parametrize("name", FAMILIES)
def test_goldens_notice(name: str, mistake: object) -> None:
    decoder = load_decoder(golden(name))
    assert callable(mistake)
    mistake(decoder)
    with pytest.raises(AssertionError):
        assert_close(*padded_logits(decoder, golden(name)))


# Layouts: names with and without a prefix, `.bin` in both formats, shards.


@pytest.mark.parametrize("name", ["bloom", "glm-10b", "gpt2", "opt", "opt-350m"])
def test_names_with_and_without_a_prefix(name: str, tmp_path: Path) -> None:
    opened = load_decoder(golden(name)).published
    assert opened is not None
    prefix = discover()[opened.family].optional_prefix
    names = {
        stored: _turned(stored, prefix, opened.has_prefix) for stored in read_all(golden(name))
    }
    folder = relaid(name, tmp_path / "turned", lambda tensors: [_renamed(tensors, names)])
    again = load_decoder(folder)
    assert again.published is not None
    assert again.published.has_prefix is not opened.has_prefix
    assert_close(*padded_logits(again, golden(name)))
    save_decoder(again, tmp_path / "saved")
    kept = {new for old, new in names.items() if not is_ignored(name, old)}
    assert read_all(tmp_path / "saved").keys() == kept


def _turned(stored: str, prefix: str, has_prefix: bool) -> str:
    if stored == "lm_head.weight":
        return stored
    return stored.removeprefix(prefix) if has_prefix else prefix + stored


def _renamed(tensors: Tensors, names: dict[str, str]) -> Tensors:
    return {names[name]: tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", ["qwen", "gpt2", "glm4-0414"])
def test_bin_shards_in_both_formats(name: str, legacy: bool, tmp_path: Path) -> None:
    folder = relaid(name, tmp_path / "shards", halves, legacy=legacy)
    assert len(list(folder.glob("*.bin"))) == 2
    assert_close(*padded_logits(load_decoder(folder), golden(name)))


def halves(tensors: Tensors) -> list[Tensors]:
    items, middle = list(tensors.items()), len(tensors) // 2
    return [dict(items[:middle]), dict(items[middle:])]


def relaid(
    name: str,
    folder: Path,
    split: Callable[[Tensors], list[Tensors]],
    legacy: bool = False,
) -> Path:
    """A golden checkpoint written again as `.bin` files."""
    folder.mkdir()
    shutil.copy(golden(name) / "config.json", folder)
    parts = split(read_all(golden(name)))
    files = {f"pytorch_model-{i}.bin": part for i, part in enumerate(parts)}
    for file, part in files.items():
        torch.save(part, folder / file, _use_new_zipfile_serialization=not legacy)
    places = {tensor: file for file, part in files.items() for tensor in part}
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    return folder
