"""`danlu quantize`: fewer bits per weight, and what they cost and gain on this machine."""

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from danlu.commands.compare import comparison_rows, megabytes, speed_rows, weight_bytes
from danlu.commands.manifest import write_manifest
from danlu.commands.samples import comparison_batches
from danlu.commands.speed import served_speed
from danlu.config.quantize.scheme import QuantScheme
from danlu.errors import QuantizationError
from danlu.eval.compare import Comparison, compare_decoders
from danlu.eval.speed import Speed
from danlu.files import atomic_folder, write_json
from danlu.loading import load_decoder, load_tokenizer, save_decoder
from danlu.models.decoder import Decoder
from danlu.progress import Progress, Silent, working
from danlu.quantize.linear import QuantizedLinear
from danlu.tokenizer.stamp import write_stamp


@dataclass(frozen=True)
class QuantizeReport:
    """A quantized model beside the original.

    Attributes:
        out: folder of the quantized model.
        scheme: bits, group size and so on.
        operators: operator chosen on this machine -> number of layers.
        comparison: the quantized model as stored, against the original; both in float32.
        original_bytes: size of the original's weight files.
        quantized_bytes: of the quantized ones.
        original_speed: on this machine, in bfloat16.
        quantized_speed: likewise.
    """

    out: str
    scheme: QuantScheme
    operators: dict[str, int]
    comparison: Comparison
    original_bytes: int
    quantized_bytes: int
    original_speed: Speed | None
    quantized_speed: Speed | None

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {**asdict(self), "scheme": self.scheme.model_dump()}

    def rows(self) -> list[tuple[str, str]]:
        """Return labels and values for a table."""
        ratio = self.quantized_bytes / self.original_bytes
        sizes = f"{megabytes(self.original_bytes)} -> {megabytes(self.quantized_bytes)}"
        return [
            ("scheme", self.scheme.summary),
            ("size", f"{sizes} ({ratio:.0%})"),
            *comparison_rows(self.comparison),
            *speed_rows(self.original_speed, self.quantized_speed),
            *[("operator", f"{name}: {count} layers") for name, count in self.operators.items()],
        ]


def quantize(
    model: str | Path,
    out: str | Path,
    scheme: QuantScheme,
    text: str | Path | None = None,
    with_speed: bool = True,
    family: str | None = None,
    progress: Progress | None = None,
) -> QuantizeReport:
    """Write the model with quantized linear layers to the folder `out`, complete to use.

    Args:
        model: folder of the original.
        out: a new folder; gets config, tokenizer, weights and quantization_report.json.
        scheme: how.
        text: a corpus to compare on; None: texts that the original writes.
        with_speed: also measure prefill and decode of both, in bfloat16.
        family: of the model, where its config.json does not tell it.
        progress: of the work.

    Raises:
        OutputError: if `out` exists.
        QuantizationError: if the model is quantized already, or a layer does not fit the scheme.
    """
    report = progress or Silent()
    tokenizer = load_tokenizer(model, family)
    original = load_decoder(model, family=family)
    if any(isinstance(linear, QuantizedLinear) for _, linear in original.linears()):
        raise QuantizationError(f"'{model}' is quantized already. Quantize the original instead.")
    with atomic_folder(Path(out)) as folder, working(report, "quantize", 4):
        save_decoder(load_decoder(model, quantize=scheme, family=family), folder)
        tokenizer.save(folder)
        write_stamp(folder, tokenizer, family=family)
        report.advance(1, "stored")
        quantized = load_decoder(folder)
        batches = comparison_batches(original, tokenizer, Path(text) if text else None, Silent())
        comparison = compare_decoders(original, quantized, batches)
        report.advance(1, "compared")
        speeds = (served_speed(model), served_speed(folder)) if with_speed else (None, None)
        report.advance(1, "speed measured")
        result = QuantizeReport(
            str(out),
            scheme,
            _operators(quantized),
            comparison,
            weight_bytes(Path(model)),
            weight_bytes(folder),
            *speeds,
        )
        write_json(folder / "quantization_report.json", result.as_dict())
        write_manifest(
            folder, "quantize", {"model": str(model)}, scheme.model_dump(), result.as_dict()
        )
        report.advance(1, "done")
    return result


def _operators(decoder: Decoder) -> dict[str, int]:
    layers = [linear for _, linear in decoder.linears()]
    labels = [x.operator.label for x in layers if isinstance(x, QuantizedLinear)]
    return dict(Counter(labels).most_common())
