"""The worker that holds one model on an accelerator; `benchmarks.gpu_decoding` asks it.

Options: path, device, quantize (a preset, or null for bf16) and kv_cache ("int8", or null).
"""

import gc
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

import torch

from benchmarks.process_memory import peak_bytes
from benchmarks.worker import Answer, options_of_worker, serve
from danlu.engine.generator import Generator
from danlu.engine.placement import choose_cache
from danlu.engine.sampling import SamplingParams
from danlu.engine.sequence import Request
from danlu.loading import load_decoder
from danlu.nn.linear import LinearLike
from danlu.quantize.linear import QuantizedLinear

SEED, WARM_TOKENS, REPEATS = 0, 8, 10
ANY_SIZE = 1 << 60  # bytes of cache: all rows in one batch


class GreedyDecoder:
    """A model that answers random prompts greedily, as `LLM` loads it for inference."""

    def __init__(self, path: str, device: str, quantize: str | None, kv_cache: str | None) -> None:
        self.decoder = load_decoder(
            path, torch.bfloat16, device, quantize=quantize, for_inference=True
        )
        choose_cache(self.decoder, "int8" if kv_cache else None)
        self.device = self.decoder.device

    def describe(self) -> Answer:
        """Return layers by the operator that multiplies by them."""
        layers = [linear for _, linear in self.decoder.linears()]
        return dict(Counter(_label(linear) for linear in layers))

    def measure(self, batch: int, prompt_tokens: int, new_tokens: int) -> Answer:
        """Return answered tokens per second after a warm-up, and peak bytes; {} if out of memory.

        Args:
            batch: prompts at once.
            prompt_tokens: of each.
            new_tokens: of each answer.
        """
        try:
            self._generate(batch, prompt_tokens, min(WARM_TOKENS, new_tokens))
            if self.device.type != "cpu":
                torch.accelerator.reset_peak_memory_stats(self.device)
            start = time.perf_counter()
            self._generate(batch, prompt_tokens, new_tokens)
            seconds = time.perf_counter() - start
        except torch.OutOfMemoryError:
            return {}
        finally:
            gc.collect()
            if self.device.type != "cpu":
                torch.accelerator.empty_cache()
        return {"tokens_per_s": batch * new_tokens / seconds, "peak": self._peak()}

    def _generate(self, batch: int, prompt_tokens: int, new_tokens: int) -> None:
        generator = torch.Generator().manual_seed(SEED)
        shape = (batch, prompt_tokens)
        prompts = torch.randint(self.decoder.config.vocab_size, shape, generator=generator)
        params = SamplingParams(temperature=0, max_tokens=new_tokens, ignore_eos=True)
        Generator(self.decoder, ANY_SIZE).run(
            [Request(ids, params, new_tokens, frozenset(), seed=0) for ids in prompts.tolist()]
        )

    def _peak(self) -> int:
        if self.device.type == "cpu":
            return peak_bytes()
        return torch.accelerator.max_memory_allocated(self.device)

    def products(self, rows: list[int]) -> Answer:
        """Return milliseconds of all linear layers of the first block, by rows of input."""
        block = self.decoder.blocks()[0]
        layers = [module for module in block.modules() if isinstance(module, LinearLike)]
        return {str(count): _timed(partial(self._multiply, layers, count)) for count in rows}

    @torch.inference_mode()
    def _multiply(self, layers: list[LinearLike], rows: int) -> None:
        for layer in layers:
            layer(torch.ones(rows, layer.in_features, dtype=torch.bfloat16, device=self.device))
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)


def _timed(work: Callable[[], None]) -> float:
    """Return the median milliseconds of some work, after it was done once."""
    work()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return sorted(times)[REPEATS // 2] * 1000


def _label(linear: LinearLike) -> str:
    return linear.operator.label if isinstance(linear, QuantizedLinear) else type(linear).__name__


if __name__ == "__main__":
    made = GreedyDecoder(**options_of_worker())
    serve({"describe": made.describe, "measure": made.measure, "products": made.products})
