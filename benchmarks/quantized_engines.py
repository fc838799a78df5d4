"""The worker that holds another tool's quantized model; `benchmarks.quantized_inference` asks it.

Options: engine ("llama.cpp" or "bitsandbytes"), path (a GGUF file, or a model folder), and bits
(bitsandbytes). It runs in the tool's own environment, which needs torch, and imports no Danlu.
"""

import ctypes
from typing import Any

import torch

from benchmarks.engines import Engine, Tell, Transformers
from benchmarks.process_memory import peak_bytes
from benchmarks.worker import Answer, options_of_worker, serve

CONTEXT = 1024


class LlamaCpp(Engine):
    """llama.cpp on as many threads as torch would take, keys and values in float16."""

    routes = ("generate",)
    device = torch.device("cpu")

    def __init__(self, path: str) -> None:
        import llama_cpp

        self._llama = llama_cpp
        llama_cpp.llama_backend_init()
        silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
        self._model = llama_cpp.llama_model_load_from_file(
            path.encode(), llama_cpp.llama_model_default_params()
        )
        vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(vocabulary)
        self._context = self._new_context()
        self._batch = llama_cpp.llama_batch_init(CONTEXT, 0, 1)

    def _new_context(self) -> Any:
        parameters = self._llama.llama_context_default_params()
        parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = CONTEXT
        parameters.n_threads = parameters.n_threads_batch = torch.get_num_threads()
        return self._llama.llama_init_from_model(self._model, parameters)

    def generate(self, route: str, prompt: list[int], new_tokens: int, tell: Tell) -> None:
        """Generate by the plain loop of its examples: one batch, then token by token."""
        memory = self._llama.llama_get_memory(self._context)
        self._llama.llama_memory_clear(memory, True)
        tokens, start = prompt, 0
        for _ in range(new_tokens):
            chosen = self._next(tokens, start)
            tell()
            start += len(tokens)
            tokens = [chosen]

    def _next(self, tokens: list[int], start: int) -> int:
        batch = self._batch
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i] = token, start + i
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            batch.logits[i] = i == len(tokens) - 1
        if self._llama.llama_decode(self._context, batch):
            raise SystemExit("llama.cpp cannot decode this batch")
        logits = self._llama.llama_get_logits_ith(self._context, len(tokens) - 1)
        row = ctypes.cast(logits, ctypes.POINTER(ctypes.c_float * self.vocab_size)).contents
        return int(torch.frombuffer(row, dtype=torch.float32).argmax())

    def weights(self) -> tuple[int, dict[str, int]]:
        """Count the file's tensors: those of a tied head are read for each token."""
        return int(self._llama.llama_model_size(self._model)), {"its own": 1}

    def memory(self) -> Answer:
        """Return the peak of resident memory."""
        return {"peak_bytes": peak_bytes()}


class BitsAndBytes(Transformers):
    """transformers on weights that bitsandbytes rounds when it loads them."""

    routes = ("generate",)

    def __init__(self, path: str, bits: str) -> None:
        from transformers import AutoModelForCausalLM, BitsAndBytesConfig

        rounding = (
            BitsAndBytesConfig(load_in_8bit=True)
            if bits == "int8"
            else BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type=bits,
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=torch.bfloat16,
            )
        )
        self._model = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.bfloat16, quantization_config=rounding, device_map="cpu"
        )
        self._model.generation_config.eos_token_id = None
        self.vocab_size = self._model.config.vocab_size
        self.device = self._model.device

    def memory(self) -> Answer:
        """Return the peak of resident memory."""
        return {"peak_bytes": peak_bytes()}


def make_engine(engine: str, **options: Any) -> Engine:
    """Return the engine that a worker's options describe."""
    return (LlamaCpp if engine == "llama.cpp" else BitsAndBytes)(**options)


if __name__ == "__main__":
    made = make_engine(**options_of_worker())
    serve({"describe": made.describe, "measure": made.measure, "memory": made.memory})
