"""Prefill and decode before and after, the operators at work, and why it is slower where it is."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from danlu.eval.layer_times import LayerTimes, layer_times
from danlu.eval.speed import Speed, measure_speed
from danlu.loading import load_decoder
from danlu.quantize.operators.operator import DequantizeOperator

NOISE = 0.02  # what medians of three repeats differ by anyway
PHASES = ("prefill", "decode")


@dataclass(frozen=True)
class Served:
    """A model as it is served: in bfloat16, its layers prepared for inference.

    Attributes:
        speed: of one sequence.
        layers: where its matrix products spend their time, by operator.
    """

    speed: Speed
    layers: Sequence[LayerTimes]

    def layers_ms(self, phase: str) -> float:
        """Return the time of all matrix products, for one token or one prompt."""
        return sum(milliseconds(times, phase) for times in self.layers)

    def rate(self, phase: str) -> float:
        """Return tokens per second."""
        rate: float = getattr(self.speed, f"{phase}_tokens_per_s")
        return rate


def milliseconds(times: LayerTimes, phase: str) -> float:
    """Return the time of an operator's layers, for one token or one prompt."""
    return times.decode_ms if phase == "decode" else times.prefill_ms


def served(model: Path, device: torch.device, family: str | None = None) -> Served:
    """Measure a model folder on a device."""
    decoder = load_decoder(model, torch.bfloat16, device, family=family, for_inference=True)
    speed = measure_speed(decoder)
    return Served(speed, layer_times(decoder, speed.prompt_tokens))


def reasons(before: Served, after: Served, *, rounds_cache: bool = False) -> list[str]:
    """Return why the quantized model is slower, a text for each phase where it is.

    Args:
        before: the original.
        after: the quantized model.
        rounds_cache: whether it rounds keys and values, too.
    """
    slower = [p for p in PHASES if after.rate(p) < (1 - NOISE) * before.rate(p)]
    return [_reason(phase, before, after, rounds_cache) for phase in slower]


def _reason(phase: str, before: Served, after: Served, rounds_cache: bool) -> str:
    ratio = after.rate(phase) / before.rate(phase)
    old, new = before.layers_ms(phase), after.layers_ms(phase)
    said = f"{phase.capitalize()} is slower ({ratio:.2f}x). "
    products = f"its matrix products take {new:.2f} ms instead of {old:.2f} ms"
    if new <= old:
        rest = "rounding keys and values" if rounds_cache else "what is done between them"
        return (
            f"{said}Measured alone, {products}, so they are not the cause: it is {rest}, or the "
            "noise of a short measurement."
        )
    worst = max(after.layers, key=lambda times: milliseconds(times, phase))
    share = milliseconds(worst, phase) / new
    return (
        f"{said}Measured alone, {products}; {share:.0%} of it goes to {worst.operator!r} "
        f"({worst.layers} layers). {_cause(phase, before, worst)}"
    )


def _cause(phase: str, before: Served, worst: LayerTimes) -> str:
    """Return what makes the operator slower than a dense product."""
    calls = sum(times.layers for times in before.layers)
    if worst.operator == DequantizeOperator.label:
        return (
            "This machine has no kernel that reads this form of weights, so they are made dense "
            "again for every product."
        )
    if phase == "prefill":
        return (
            "A prompt is bound by arithmetic, not by reading weights: making them dense, or "
            "rounding the inputs, comes on top of it."
        )
    if worst.layers > calls:
        return (
            f"The original fuses projections that share an input ({calls} products per token); "
            f"here there are {worst.layers}, and in a small model each call costs more than the "
            "bytes it saves."
        )
    return "The matrices are so small that reading fewer bytes does not pay for unpacking them."


def layer_values(pair: tuple[Served, Served] | None) -> Mapping[str, Any] | None:
    """Return the times of matrix products of both as plain values."""
    if pair is None:
        return None
    names = ("original", "quantized")
    return {
        name: [asdict(times) for times in model.layers]
        for name, model in zip(names, pair, strict=True)
    }
