"""Quantizing while weights stream in: the dense model is never in memory beside the quantized."""

import ctypes
import gc
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.process_memory import peak_bytes, resident_bytes
from danlu.loading import decoder_from_config, load_decoder, save_decoder
from danlu.models.family import discover
from danlu.weights.files import find_weight_files, stream

SIZES = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 12, "vocab_size": 1024}
# What does not grow with the model: a few slices in float32, and the holes they leave.
WORK_BYTES = 30 * 2**20


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


@pytest.mark.skipif(sys.platform != "linux", reason="reads the kernel's own figures")
@pytest.mark.parametrize("scheme", ["int8", "nf4"])
def test_peak_is_the_quantized_model_and_its_largest_tensor(scheme: str, folder: Path) -> None:
    """`quantize(8)` and `quantize(4)` of Baichuan2, as they are called here."""
    load_decoder(folder, torch.bfloat16, quantize=scheme)
    stored = [tensor.nbytes for _, tensor, _ in stream(find_weight_files(folder))]
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident_bytes()
    decoder = load_decoder(folder, torch.bfloat16, quantize=scheme)
    grown = peak_bytes() - before
    held = sum(tensor.nbytes for tensor in (*decoder.parameters(), *decoder.buffers()))
    assert grown <= held + max(stored) + WORK_BYTES < sum(stored)
    assert grown > 0.5 * held, "the kernel's figure is not what it was"
