"""One cold process from its start to its first token; `benchmarks.startup` runs and watches it.

python -m benchmarks.first_token danlu|transformers CHECKPOINT
"""

import sys
from typing import Any

PROMPT = "Once upon a time"


def danlu_token(path: str) -> None:
    """Open a model as a user does and write one token."""
    from danlu import LLM, SamplingParams

    LLM(path, dtype="bf16", device="cpu").generate(
        PROMPT, SamplingParams(temperature=0, max_tokens=1, ignore_eos=True)
    )


def transformers_token(path: str) -> None:
    """Do the same with transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16)
    ids = tokenizer(PROMPT, return_tensors="pt")
    output = model.generate(**ids, max_new_tokens=1, do_sample=False)
    tokenizer.decode(output[0])


if __name__ == "__main__":
    {"danlu": danlu_token, "transformers": transformers_token}[sys.argv[1]](sys.argv[2])
    print("token", flush=True)
