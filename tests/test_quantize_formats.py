"""Which format a quantized model is written in, and what is refused before any work is done."""

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import tiny_checkpoint

from danlu.calibration.walk import quantize_decoder
from danlu.config.quantize.run import QuantizeRun
from danlu.config.quantize.scheme import QuantScheme
from danlu.errors import QuantizationError
from danlu.loading import load_decoder, save_decoder
from danlu.progress import Silent
from danlu.quantize.format import written_formats


@pytest.mark.parametrize("name", ["awq", "compressed-tensors", "gptq", "gptq_v2"])
def test_a_model_is_written_in_the_format_that_is_asked_for(name: str, tmp_path: Path) -> None:
    source = tiny_checkpoint(tmp_path / "source", "qwen2")
    scheme = QuantScheme(bits=4, group_size=16, symmetric=True, head_bits=16)
    decoder = load_decoder(source, quantize=scheme)
    save_decoder(decoder, tmp_path / "out", quant_format=name)
    again = load_decoder(tmp_path / "out")
    assert again.published is not None
    assert again.published.quantization is not None
    stated = again.published.quantization
    assert name in (stated["quant_method"], stated.get("checkpoint_format"))
    ids = torch.arange(10)[None]
    with torch.inference_mode():
        assert torch.equal(again(ids), decoder(ids))


@pytest.mark.parametrize(
    ("name", "scheme", "told"),
    [
        ("awq", QuantScheme(bits=8, head_bits=16), r"found model\.layers\.0\..*4 bits"),
        ("bitsandbytes", QuantScheme(bits=4, group_size=16, head_bits=16), "one kind of 4-bit"),
        ("gptq", QuantScheme(method="nf4"), "no grid of integers"),
        ("gguf", QuantScheme(bits=8), r"no format 'gguf'.*compressed-tensors, gptq, gptq_v2"),
        ("aqw", QuantScheme(bits=8), r"Did you mean 'awq'"),
    ],
)
def test_numbers_that_a_format_cannot_hold_are_refused(
    name: str, scheme: QuantScheme, told: str, tmp_path: Path
) -> None:
    decoder = load_decoder(tiny_checkpoint(tmp_path / "source"), quantize=scheme)
    with pytest.raises(QuantizationError, match=told):
        save_decoder(decoder, tmp_path / "out", quant_format=name)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"format": "bitsandbytes"}, r"bitsandbytes lacks rtn \(4 bits\)"),
        ({"format": "awq", "scheme": {"bits": 8}}, r"awq lacks rtn \(8 bits\)"),
        ({"format": "gptq", "scheme": {"method": "w8a8"}}, r"gptq lacks w8a8"),
        (
            {"overrides": [{"match": "*.o_proj", "scheme": {"method": "nf4"}}]},
            r"nf4 \(4 bits\) cannot be written: awq lacks nf4.*bitsandbytes lacks rtn",
        ),
        ({"format": "gtpq"}, "Did you mean 'gptq'"),
    ],
)
def test_a_run_that_cannot_be_written_does_not_begin(
    changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    folder = tiny_checkpoint(tmp_path / "source")
    values = {"model": str(folder), "out": "out", "scheme": {"group_size": 16}, "device": "cpu"}
    run = QuantizeRun.model_validate({**values, **changes})
    with pytest.raises(QuantizationError, match=told):
        quantize_decoder(folder, run, [[1, 2]], tmp_path / "work", Silent())
    assert not (tmp_path / "work").exists()


def test_every_format_that_is_written_is_known() -> None:
    names = ["awq", "bitsandbytes", "compressed-tensors", "gptq", "gptq_v2"]
    assert sorted(written_formats()) == names
