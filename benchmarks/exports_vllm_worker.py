"""Greedy generation in vLLM; run by `exports_vllm.py` in an environment of vLLM, without danlu.

Reads one JSON object from stdin, {"folder": ..., "prompts": [[ids], ...], "max_tokens": n}, and
writes the last line of stdout: {"version": ..., "architecture": ..., "token_ids": [[ids], ...]}.
"""

import json
import os
import sys

SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
}


def main() -> None:
    job = json.load(sys.stdin)
    os.environ.update(SETTINGS)
    import vllm

    longest = max(map(len, job["prompts"])) + job["max_tokens"]
    llm = vllm.LLM(
        job["folder"],
        dtype="float32",
        enforce_eager=True,
        max_model_len=longest,
        max_num_seqs=8,
        skip_tokenizer_init=True,
    )
    params = vllm.SamplingParams(
        temperature=0.0, max_tokens=job["max_tokens"], ignore_eos=True, detokenize=False
    )
    prompts = [{"prompt_token_ids": ids} for ids in job["prompts"]]
    answers = llm.generate(prompts, params, use_tqdm=False)
    result = {
        "version": vllm.__version__,
        "architecture": llm.llm_engine.model_config.architecture,
        "token_ids": [list(answer.outputs[0].token_ids) for answer in answers],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
