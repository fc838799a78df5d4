"""Quantized projections on one input become one layer where a folder is opened for inference."""

import pytest
import torch
from checkpoints import HERE

from danlu.loading import load_decoder


@pytest.mark.parametrize(
    ("case", "layers"),
    [("ct-w4a16-asym-g32", 9), ("ct-w8a8-kv8", 9), ("gptq-qwen1", 13), ("bnb-nf4-dq", 15)],
)
def test_fused_layers_compute_the_same_bits(case: str, layers: int) -> None:
    folder = HERE / "interop-quant" / case
    plain, fused = load_decoder(folder), load_decoder(folder, for_inference=True)
    ids = torch.randint(200, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(fused(ids), plain(ids))
    assert len(list(fused.linears())) == layers
