"""The worker that quantizes a model by Danlu's GPTQ, and measures what a quantized folder lost.

`benchmarks.quantizing` asks it. Options: `name` (not used here), `rows` (JSON file of token rows).
"""

import json
import tempfile
import time
from pathlib import Path

import torch

import danlu
from benchmarks.process_memory import peak_bytes
from benchmarks.worker import Answer, options_of_worker, serve
from danlu.calibration.walk import quantize_decoder
from danlu.config.quantize.gptq import GptqScheme
from danlu.config.quantize.run import QuantizeRun
from danlu.eval.compare import compare_decoders
from danlu.loading import load_decoder, save_decoder
from danlu.progress import Silent


class Quantizer:
    """Holds the token rows."""

    def __init__(self, name: str, rows: str) -> None:
        self.rows = json.loads(Path(rows).read_text(encoding="utf-8"))

    def quantize(self, model: str, out: str, bits: int, group_size: int, damping: float) -> Answer:
        """Write the quantized model into `out`; return seconds, peak bytes and the version."""
        scheme = GptqScheme.model_validate(
            {"bits": bits, "group_size": group_size, "damping": damping}
        )
        run = QuantizeRun(model=model, out=out, scheme=scheme, device="cpu")
        start = time.perf_counter()
        with tempfile.TemporaryDirectory(dir=Path(out).parent) as work:
            rows = self.rows["calibration"]
            result = quantize_decoder(model, run, rows, Path(work) / "blocks", Silent())
            save_decoder(result.decoder, out, quant_format="gptq")
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "peak": peak_bytes(), "version": danlu.__version__}

    @torch.inference_mode()
    def cost(self, model: str, out: str) -> Answer:
        """Return how far logits and predictions are from those of the original, on held-out rows.

        Both compute in float32.
        """
        original = load_decoder(model, dtype=torch.float32)
        quantized = load_decoder(out, dtype=torch.float32)
        rows = torch.tensor(self.rows["held_out"])
        lost, size = 0.0, 0.0
        for row in rows:
            exact = original(row[None])
            lost += float((quantized(row[None]) - exact).square().sum(dtype=torch.float64))
            size += float(exact.square().sum(dtype=torch.float64))
        compared = compare_decoders(original, quantized, [row[None] for row in rows])
        return {"logit_error": (lost / size) ** 0.5, "kl": compared.kl_mean}


if __name__ == "__main__":
    quantizer = Quantizer(**options_of_worker())
    serve({"quantize": quantizer.quantize, "cost": quantizer.cost})
