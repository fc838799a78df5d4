"""The speed of a model folder as it is served: in bfloat16, with layers prepared for inference."""

from pathlib import Path

import torch

from danlu.config.quantize.scheme import QuantScheme
from danlu.eval.speed import Speed, measure_speed
from danlu.loading import load_decoder


def served_speed(
    model: str | Path,
    adapter: str | Path | None = None,
    quantize: str | QuantScheme | None = None,
    device: torch.device | str = "cpu",
    family: str | None = None,
) -> Speed:
    """Return prefill and decode speed of one sequence on this machine."""
    decoder = load_decoder(
        model, torch.bfloat16, device, adapter, quantize, family, for_inference=True
    )
    return measure_speed(decoder)
