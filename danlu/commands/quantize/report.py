"""What a quantization cost and gained, as plain values and as rows to print."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from danlu.calibration.block import LayerResult
from danlu.calibration.fitting.fit import Fitted
from danlu.commands.compare import comparison_rows, speed_rows
from danlu.commands.quantize.answers import Answers
from danlu.commands.quantize.fitting import fit_rows, fit_values
from danlu.commands.quantize.speed import Served, layer_values, reasons
from danlu.config.quantize.run import QuantizeRun, Scheme
from danlu.eval.compare import Comparison
from danlu.eval.speed import Speed
from danlu.files import size_text


@dataclass(frozen=True)
class Measured:
    """What was measured of a quantized folder beside the original.

    Attributes:
        operators: operator chosen on this machine -> number of layers.
        comparison: the quantized model as stored, against the original.
        compared_in: the dtype that both computed in for it.
        answers: greedy answers of both.
        original_bytes: size of the original's weight files.
        quantized_bytes: of the quantized ones.
        layer_bytes: what of that are quantized layers.
        cache_bytes: that keys and values of a token take in bfloat16, before and after.
        served: both as they are served on this machine; None: not measured.
        written_as: the format of the files.
    """

    operators: Mapping[str, int]
    comparison: Comparison
    compared_in: str
    answers: Sequence[Answers]
    original_bytes: int
    quantized_bytes: int
    layer_bytes: int
    cache_bytes: tuple[int, int]
    served: tuple[Served, Served] | None
    written_as: str


@dataclass(frozen=True)
class QuantizeReport(Measured):
    """A quantized model beside the original.

    Attributes:
        run: the resolved run.
        layers: what became of each layer.
        fitted: how it was made to fit a budget; None: there was none.
        compared_on: the text of the comparison, in words.
        calibrated_on: the text that activations were watched on, in words.
        ledger: what became of the user's calibration data; None: there was none.
        broken: a sentence for each bound that is broken.
        notes: what is good to know.
        machine: what measured all this.
        seconds: all of it took.
    """

    run: QuantizeRun
    layers: Sequence[LayerResult]
    fitted: Fitted | None
    compared_on: str
    calibrated_on: str
    ledger: Mapping[str, Any] | None
    broken: Sequence[str]
    notes: Sequence[str]
    machine: Mapping[str, str]
    seconds: float

    @property
    def out(self) -> str:
        """Folder of the quantized model."""
        return self.run.out

    @property
    def scheme(self) -> Scheme:
        """How weights were rounded, where nothing else was said."""
        return self.run.scheme

    @property
    def scheme_text(self) -> str:
        """How weights were rounded, in words."""
        return self.scheme.summary if self.fitted is None else "what fits, layer by layer"

    @property
    def original_speed(self) -> Speed | None:
        """Speed of the original; None if not measured."""
        return None if self.served is None else self.served[0].speed

    @property
    def quantized_speed(self) -> Speed | None:
        """Speed of the quantized model; None if not measured."""
        return None if self.served is None else self.served[1].speed

    @property
    def ppl_increase(self) -> float:
        """Growth of the perplexity, 0.01 for one percent."""
        return self.comparison.perplexity_candidate / self.comparison.perplexity_reference - 1

    @property
    def same_answers(self) -> int:
        """How many answers are the same to the last character."""
        return sum(answer.original == answer.quantized for answer in self.answers)

    @property
    def slower(self) -> list[str]:
        """Why it is slower, where it is."""
        if self.served is None:
            return []
        return reasons(*self.served, rounds_cache=self.run.kv_cache is not None)

    def cache_text(self) -> str:
        """Return what keys and values of a thousand tokens take, in words."""
        was, now = (size_text(1000 * size) for size in self.cache_bytes)
        return f"{was} -> {now} for 1,000 tokens"

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON; what is not finite is null."""
        speeds = [
            None if speed is None else asdict(speed)
            for speed in (self.original_speed, self.quantized_speed)
        ]
        values = {
            "out": self.out,
            "model": self.run.model,
            "scheme": self.scheme.model_dump(mode="json"),
            "summary": self.scheme_text,
            "fit": None if self.fitted is None else fit_values(self.fitted),
            "written_as": self.written_as,
            "original_bytes": self.original_bytes,
            "quantized_bytes": self.quantized_bytes,
            "layer_bytes": self.layer_bytes,
            "cache_token_bytes": list(self.cache_bytes),
            "comparison": asdict(self.comparison),
            "compared_in": self.compared_in,
            "ppl_increase": self.ppl_increase,
            "bounds": {**self.run.bounds.model_dump(mode="json"), "broken": list(self.broken)},
            "operators": dict(self.operators),
            "original_speed": speeds[0],
            "quantized_speed": speeds[1],
            "layer_times": layer_values(self.served),
            "slower": self.slower,
            "layers": [asdict(layer) for layer in self.layers],
            "answers": [asdict(answer) for answer in self.answers],
            "compared_on": self.compared_on,
            "calibrated_on": self.calibrated_on,
            "calibration_ledger": self.ledger,
            "notes": list(self.notes),
            "machine": dict(self.machine),
            "seconds": round(self.seconds, 3),
        }
        plain: dict[str, Any] = _finite(values)
        return plain

    def rows(self) -> list[tuple[str, str]]:
        """Return labels and values for a table."""
        ratio = self.quantized_bytes / self.original_bytes
        sizes = f"{size_text(self.original_bytes)} -> {size_text(self.quantized_bytes)}"
        same = [("greedy answers", f"{self.same_answers} of {len(self.answers)} the same")]
        return [
            *([("scheme", self.scheme_text)] if self.fitted is None else fit_rows(self.fitted)),
            ("size", f"{sizes} ({ratio:.0%})"),
            *([("cache", self.cache_text())] if self.run.kv_cache else []),
            *comparison_rows(self.comparison),
            *(same if self.answers else []),
            *speed_rows(self.original_speed, self.quantized_speed),
            *[("operator", f"{name}: {count} layers") for name, count in self.operators.items()],
            *[("slower", text) for text in self.slower],
            *[("note", note) for note in self.notes],
            *[("bound broken", text) for text in self.broken],
        ]


def _finite(value: Any) -> Any:
    """Return plain values with null in the place of what JSON has no number for."""
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
