"""A quantized folder in the tool of its format; run by `quantized_peers.py` without danlu.

Reads one JSON object from stdin, {"tool": ..., "folder": ..., "dtype": ..., "ids": [[ids], ...],
"prompts": [[ids], ...], "max_tokens": n, "logits": a file to write}, and writes the last line of
stdout: {"versions": {...}, "token_ids": [[ids], ...], "kernel": ...}. The logits of `ids` go to the
file as float32, where the tool gives logits at all.
"""

import importlib.metadata
import json
import os
import sys
from collections.abc import Callable
from typing import Any

SETTINGS = {
    "GPTQMODEL_CPU_WORKERS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
}
PACKAGES = ("torch", "transformers", "gptqmodel", "bitsandbytes", "compressed-tensors", "vllm-cpu")


def with_gptqmodel(job: dict[str, Any]) -> dict[str, Any]:
    import gptqmodel
    import torch

    with open(os.path.join(job["folder"], "config.json")) as handle:
        whole_rows = json.load(handle)["quantization_config"]["group_size"] == -1
    # The kernel that it chooses fails on a row that is no group of 32, 64, 128 or 256.
    backend = gptqmodel.BACKEND.TORCH if whole_rows else gptqmodel.BACKEND.AUTO
    dtype = getattr(torch, job["dtype"])
    model = gptqmodel.GPTQModel.load(job["folder"], device="cpu", dtype=dtype, backend=backend)
    return from_torch(model.model, job)


def with_transformers(job: dict[str, Any]) -> dict[str, Any]:
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(
        job["folder"], dtype=getattr(torch, job["dtype"]), device_map="cpu"
    )
    return from_torch(model, job)


def from_torch(model: Any, job: dict[str, Any]) -> dict[str, Any]:
    """Write the logits, and continue the prompts greedily without a cache."""
    import torch
    from safetensors.torch import save_file

    model.eval()
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor(job["ids"])).logits
        save_file({"logits": logits.float().contiguous()}, job["logits"])
        answers = []
        for prompt in job["prompts"]:
            ids = torch.tensor([prompt])
            for _ in range(job["max_tokens"]):
                following = model(input_ids=ids).logits[:, -1:].argmax(-1)
                ids = torch.cat((ids, following), dim=1)
            answers.append(ids[0, len(prompt) :].tolist())
    return {"token_ids": answers, "kernel": type(model.model.layers[0].mlp.down_proj).__name__}


def with_vllm(job: dict[str, Any]) -> dict[str, Any]:
    import vllm

    llm = vllm.LLM(
        job["folder"],
        dtype=job["dtype"],
        enforce_eager=True,
        max_model_len=max(map(len, job["prompts"])) + job["max_tokens"],
        max_num_seqs=8,
        skip_tokenizer_init=True,
    )
    params = vllm.SamplingParams(
        temperature=0.0, max_tokens=job["max_tokens"], ignore_eos=True, detokenize=False
    )
    prompts = [{"prompt_token_ids": ids} for ids in job["prompts"]]
    answers = llm.generate(prompts, params, use_tqdm=False)
    quantization = llm.llm_engine.model_config.quantization
    token_ids = [list(answer.outputs[0].token_ids) for answer in answers]
    return {"token_ids": token_ids, "kernel": str(quantization)}


TOOLS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "gptqmodel": with_gptqmodel,
    "transformers": with_transformers,
    "vllm": with_vllm,
}


def versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def main() -> None:
    job = json.load(sys.stdin)
    os.environ.update(SETTINGS)
    result = TOOLS[job["tool"]](job)
    print()
    print(json.dumps({**result, "versions": versions()}))


if __name__ == "__main__":
    main()
