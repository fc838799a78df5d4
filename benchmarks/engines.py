"""The worker that holds one inference engine; `benchmarks.inference` and `benchmarks.gpu` ask it.

Options: engine ("danlu" or "transformers"), path, device, and quantize and compiled (Danlu) or
attention (transformers). Both compute in bf16.
"""

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.worker import Answer, options_of_worker, serve

PROMPT_SEED = 0
Tell = Callable[[], None]


class Engine(ABC):
    """A loaded model that writes greedily after a random prompt.

    Attributes:
        routes: the ways to generate that it offers.
        vocab_size: prompts are drawn from this many tokens.
        device: where it runs.
    """

    routes: tuple[str, ...]
    vocab_size: int
    device: torch.device

    @abstractmethod
    def generate(self, route: str, prompt: list[int], new_tokens: int, tell: Tell) -> None:
        """Generate; call `tell` as soon as each new token is known on the host."""

    @abstractmethod
    def weights(self) -> tuple[int, dict[str, int]]:
        """Return the bytes that one decoded token reads, and layers by their operator."""

    def measure(self, route: str, prompt_tokens: int, new_tokens: int) -> Answer:
        """Return the seconds to the first token, and those of all tokens after it."""
        generator = torch.Generator().manual_seed(PROMPT_SEED)
        prompt = torch.randint(self.vocab_size, (prompt_tokens,), generator=generator).tolist()
        times = [time.perf_counter()]
        self.generate(route, prompt, new_tokens, lambda: times.append(time.perf_counter()))
        assert len(times) == new_tokens + 1, f"{len(times) - 1} tokens came, not {new_tokens}"
        return {"first_s": times[1] - times[0], "decode_s": times[-1] - times[1]}

    def describe(self) -> Answer:
        """Return the routes, weights and operators."""
        read, operators = self.weights()
        return {"routes": self.routes, "bytes_per_token": read, "operators": operators}

    def memory(self) -> Answer:
        """Return the peak memory so far: on an accelerator its own, else resident on the host."""
        if self.device.type != "cpu":
            return {"peak_bytes": torch.accelerator.max_memory_allocated(self.device)}
        from danlu.train.metrics import peak_bytes

        return {"peak_bytes": peak_bytes()}


class Danlu(Engine):
    """The engine behind `danlu.LLM`, on a decoder loaded as `LLM` loads it for inference."""

    routes = ("generate",)

    def __init__(self, path: str, device: str, quantize: Any, compiled: bool = False) -> None:
        from danlu.engine.generator import Generator
        from danlu.loading import load_decoder
        from danlu.quantize.operators.compiled_rows import compile_products

        self._decoder = load_decoder(
            path, torch.bfloat16, device, quantize=quantize, for_inference=True
        )
        if compiled:
            compile_products(self._decoder)
        self._generator = Generator(self._decoder)
        self.vocab_size = self._decoder.config.vocab_size
        self.device = self._decoder.device

    def generate(self, route: str, prompt: list[int], new_tokens: int, tell: Tell) -> None:
        """Generate with the loop that `LLM.generate` and `LLM.stream` run."""
        from danlu.engine.sampling import SamplingParams
        from danlu.engine.sequence import Request

        params = SamplingParams(temperature=0, max_tokens=new_tokens, ignore_eos=True)
        request = Request(prompt, params, new_tokens, frozenset(), seed=0)
        for _ in self._generator.stream(request, None):
            tell()

    def weights(self) -> tuple[int, dict[str, int]]:
        """Count the linear layers, as they are stored; the embedding is only looked up."""
        linears = [linear for _, linear in self._decoder.linears()]
        labels = (
            getattr(getattr(linear, "operator", None), "label", type(linear).__name__)
            for linear in linears
        )
        return sum(map(_stored_bytes, linears)), dict(Counter(labels))


def _stored_bytes(linear: nn.Module) -> int:
    """Return the bytes of a linear layer's weight: quantized in buffers, or two per weight."""
    if hasattr(linear, "operator"):
        return sum(buffer.nbytes for buffer in linear.buffers())
    features: int = linear.in_features * linear.out_features  # type: ignore[operator,assignment]
    return features * torch.bfloat16.itemsize


class Transformers(Engine):
    """`AutoModelForCausalLM`, by its own `generate` and by a bare loop over the model."""

    routes = ("generate", "loop")

    def __init__(self, path: str, device: str, attention: str) -> None:
        from transformers import AutoModelForCausalLM

        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.bfloat16, attn_implementation=attention
        )
        self._model = loaded.to(device)
        self._model.generation_config.eos_token_id = None
        self.vocab_size = self._model.config.vocab_size
        self.device = self._model.device

    @torch.inference_mode()
    def generate(self, route: str, prompt: list[int], new_tokens: int, tell: Tell) -> None:
        """Generate by one of the two routes."""
        ids = torch.tensor([prompt], device=self.device)
        if route == "loop":
            self._loop(ids, new_tokens, tell)
        else:
            self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new_tokens,
                do_sample=False,
                streamer=_Streamer(tell),
            )

    def _loop(self, ids: Tensor, new_tokens: int, tell: Tell) -> None:
        from transformers import DynamicCache

        cache = DynamicCache(config=self._model.config)
        for _ in range(new_tokens):
            out = self._model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            ids = out.logits[:, -1].argmax(-1, keepdim=True)
            ids.tolist()  # waits for the device
            tell()

    def weights(self) -> tuple[int, dict[str, int]]:
        """Count the linear layers; a tied head reads the whole embedding."""
        linears = [module for module in self._model.modules() if isinstance(module, nn.Linear)]
        labels = Counter(type(linear).__name__ for linear in linears)
        return sum(linear.weight.nbytes for linear in linears), dict(labels)


class _Streamer:
    """What `generate` hands its tokens to: first the prompt, then each new one."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._prompt_came = False

    def put(self, tokens: Tensor) -> None:
        """Take the prompt or a token."""
        if self._prompt_came:
            self._tell()
        self._prompt_came = True

    def end(self) -> None:
        """Take the end."""


def make_engine(engine: str, **options: Any) -> Engine:
    """Return the engine that a worker's options describe."""
    return (Danlu if engine == "danlu" else Transformers)(**options)


if __name__ == "__main__":
    made = make_engine(**options_of_worker())
    serve({"describe": made.describe, "measure": made.measure, "memory": made.memory})
