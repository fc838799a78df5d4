"""Run a GGUF file in llama.cpp: logits of token ids, greedy continuations, ids of texts.

    python benchmarks/llama_reader.py MODEL.gguf REQUEST.json ANSWER.npz

It needs llama-cpp-python and numpy, and nothing of Danlu, so that an interpreter of its own can run
it. Keys and values are kept in float32. The request has `rows` (lists of token ids), `new_tokens`
(to add to the first `prompt_tokens` of each row, greedily) and `texts` (to be tokenized).
"""

import ctypes
import json
import sys

import llama_cpp
import numpy as np

FLOAT32 = 0  # ggml's number of the type


def main(model_path: str, request_path: str, answer_path: str) -> None:
    with open(request_path, encoding="utf-8") as file:
        request = json.load(file)
    llama_cpp.llama_backend_init()
    silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    parameters = llama_cpp.llama_model_default_params()
    parameters.use_mmap = True
    model = llama_cpp.llama_model_load_from_file(model_path.encode(), parameters)
    if not model:
        raise SystemExit(f"llama.cpp refuses {model_path}")
    vocab = llama_cpp.llama_model_get_vocab(model)
    size = llama_cpp.llama_vocab_n_tokens(vocab)
    answer = {"context_length": np.array(llama_cpp.llama_model_n_ctx_train(model))}
    for number, row in enumerate(request.get("rows", [])):
        answer[f"logits_{number}"] = logits(model, size, row)
        prompt = row[: request.get("prompt_tokens", len(row))]
        answer[f"greedy_{number}"] = greedy(model, size, prompt, request.get("new_tokens", 0))
    for number, text in enumerate(request.get("texts", [])):
        answer[f"ids_{number}"] = tokenize(vocab, text)
    np.savez(answer_path, **answer)


def context(model: object, num_tokens: int) -> object:
    parameters = llama_cpp.llama_context_default_params()
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = max(num_tokens, 32)
    parameters.n_threads = parameters.n_threads_batch = 1
    parameters.type_k = parameters.type_v = FLOAT32
    parameters.flash_attn_type = 0  # disabled: it rounds to float16
    parameters.offload_kqv = False
    return llama_cpp.llama_init_from_model(model, parameters)


def decode(ctx: object, tokens: list[int], start: int, size: int) -> np.ndarray:
    """Return the logits [tokens, size] of `tokens` at the positions from `start` on."""
    batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for i, token in enumerate(tokens):
        batch.token[i], batch.pos[i] = token, start + i
        batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, 0, True
    if llama_cpp.llama_decode(ctx, batch):
        raise SystemExit("llama.cpp cannot decode this batch")
    rows = [
        np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(ctx, i), shape=(size,)).copy()
        for i in range(len(tokens))
    ]
    llama_cpp.llama_batch_free(batch)
    return np.stack(rows)


def logits(model: object, size: int, row: list[int]) -> np.ndarray:
    ctx = context(model, len(row))
    found = decode(ctx, row, 0, size)
    llama_cpp.llama_free(ctx)
    return found


def greedy(model: object, size: int, prompt: list[int], new_tokens: int) -> np.ndarray:
    """Return the new ids, decoded one at a time through llama.cpp's cache."""
    ctx = context(model, len(prompt) + new_tokens)
    ids: list[int] = []
    step, start = list(prompt), 0
    for _ in range(new_tokens):
        ids.append(int(decode(ctx, step, start, size)[-1].argmax()))
        start += len(step)
        step = [ids[-1]]
    llama_cpp.llama_free(ctx)
    return np.array(ids, dtype=np.int64)


def tokenize(vocab: object, text: str) -> np.ndarray:
    """Return the ids of a text without control tokens, in it or in front."""
    data = text.encode()
    room = len(data) + 16
    ids = (llama_cpp.llama_token * room)()
    count = llama_cpp.llama_tokenize(vocab, data, len(data), ids, room, False, False)
    return np.array(ids[: max(count, 0)], dtype=np.int64)


if __name__ == "__main__":
    main(*sys.argv[1:])
