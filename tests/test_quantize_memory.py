"""Quantizing while weights stream in: the dense model is never in memory beside the quantized."""

import gc
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from danlu.loading import decoder_from_config, load_decoder, save_decoder, weight_reader
from danlu.models.family import discover
from danlu.weights.files import find_weight_files, stream

SIZES = {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 6, "vocab_size": 256}


@pytest.fixture
def only_new_objects() -> Iterator[None]:
    """Let the garbage collector know what is made from now on alone."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def num_bytes(things: Iterable[object]) -> int:
    """Return what the tensors among things take, each storage once."""
    tensors = [thing for thing in things if isinstance(thing, Tensor)]
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Baichuan2, whose q, k and v are one tensor, in bfloat16."""
    values = {**discover()["baichuan2_7b"].tiny(), **SIZES}
    decoder = decoder_from_config(values).to(torch.bfloat16).to_empty(device="cpu")
    for parameter in decoder.parameters():
        parameter.data.fill_(0.01)
    path = tmp_path_factory.mktemp("baichuan2") / "model"
    save_decoder(decoder, path)
    return path


@pytest.mark.usefixtures("only_new_objects")
@pytest.mark.parametrize("scheme", ["int8", "int4", "nf4", "w8a8"])
def test_never_more_than_the_quantized_model_and_its_largest_tensor(
    scheme: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`quantize(8)` and `quantize(4)` of Baichuan2, as they are called here."""
    stored = [tensor.nbytes for _, tensor, _ in stream(find_weight_files(folder))]
    seen: list[int] = []

    def watched(*args: Any) -> Iterator[Any]:
        for item in stream(*args):
            yield item
            seen.append(num_bytes(gc.get_objects()))

    monkeypatch.setattr(weight_reader, "stream", watched)
    decoder = load_decoder(folder, torch.bfloat16, quantize=scheme)
    held = num_bytes([*decoder.parameters(), *decoder.buffers()])
    assert len(seen) == len(stored)
    assert seen[-1] >= held, "not all of them were seen"
    assert max(seen) <= held + max(stored) < sum(stored)
