"""The worker that quantizes a model by GPTQ with gptqmodel or llmcompressor. Imports no Danlu.

Options: `name` (which of the two), `rows` (JSON file of token rows).
"""

import json
import os
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.process_memory import peak_bytes
from benchmarks.worker import Answer, options_of_worker, serve

Row = dict[str, list[int]]


class Gptqmodel:
    """As its documentation shows it, all in memory."""

    def __init__(self) -> None:
        # Its pool waits for itself where it has as many workers as there are cores of a small
        # machine.
        os.environ.setdefault("GPTQMODEL_CPU_WORKERS", str(1 + len(os.sched_getaffinity(0))))
        import gptqmodel

        self._package: Any = gptqmodel

    def quantize(
        self, model: str, out: str, rows: list[Row], bits: int, group_size: int, damping: float
    ) -> None:
        """Write the quantized model into `out`."""
        config = self._package.QuantizeConfig(
            bits=bits, group_size=group_size, damp_percent=damping, offload_to_disk=False
        )
        opened = self._package.GPTQModel.load(model, config, device="cpu")
        opened.quantize(rows, batch_size=1)
        opened.save(out)


class Llmcompressor:
    """As its documentation shows it, with the groups asked for."""

    def __init__(self) -> None:
        import datasets
        import llmcompressor
        import transformers
        from llmcompressor.modifiers.gptq import GPTQModifier

        self._datasets: Any = datasets
        self._transformers: Any = transformers
        self._oneshot: Any = llmcompressor.oneshot
        self._modifier: Any = GPTQModifier

    def quantize(
        self, model: str, out: str, rows: list[Row], bits: int, group_size: int, damping: float
    ) -> None:
        """Write the quantized model into `out`."""
        weights = {
            "num_bits": bits,
            "type": "int",
            "symmetric": True,
            "strategy": "group",
            "group_size": group_size,
        }
        recipe = self._modifier(
            config_groups={"group_0": {"targets": ["Linear"], "weights": weights}},
            ignore=["lm_head"],
            dampening_frac=damping,
        )
        opened = self._transformers.AutoModelForCausalLM.from_pretrained(model, dtype="auto")
        self._oneshot(
            model=opened,
            dataset=self._datasets.Dataset.from_list(rows),
            recipe=recipe,
            max_seq_length=len(rows[0]["input_ids"]),
            num_calibration_samples=len(rows),
            shuffle_calibration_samples=False,
        )
        opened.save_pretrained(out, save_compressed=True)


TOOLS: dict[str, type[Gptqmodel] | type[Llmcompressor]] = {
    "gptqmodel": Gptqmodel,
    "llmcompressor": Llmcompressor,
}


class Quantizer:
    """One of the tools with the token rows."""

    def __init__(self, name: str, rows: str) -> None:
        self._name = name
        read = json.loads(Path(rows).read_text(encoding="utf-8"))["calibration"]
        self._rows = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in read]

    def quantize(self, model: str, out: str, **scheme: Any) -> Answer:
        """Write the quantized model into `out`; return seconds, peak bytes and the version."""
        tool = TOOLS[self._name]()  # only now: what it prints on import is no answer
        start = time.perf_counter()
        tool.quantize(model, out, self._rows, **scheme)
        seconds = time.perf_counter() - start
        version = metadata.version(self._name)
        return {"seconds": seconds, "peak": peak_bytes(), "version": version}


if __name__ == "__main__":
    quantizer = Quantizer(**options_of_worker())
    serve({"quantize": quantizer.quantize})
