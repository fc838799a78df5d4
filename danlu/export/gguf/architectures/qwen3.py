"""`qwen3`: RMSNorm on query and key heads, RoPE over pairs half a head apart, gated SiLU.

Source: llama.cpp, src/models/qwen3.cpp (llama-cpp-python 0.3.36).
"""

from danlu.export.gguf.architecture import Architecture, Module, Value
from danlu.export.gguf.hyperparameters import (
    block_problems,
    head_sizes,
    rms_eps,
    sizes,
    window_notes,
)
from danlu.export.gguf.layouts import ATTENTION, attention, ends, gated_mlp, norms
from danlu.export.gguf.rope import rope_keys, rope_problems
from danlu.models.decoder import Decoder


def modules(decoder: Decoder) -> tuple[Module, ...]:
    """Return the modules."""
    return (
        *ends(),
        *norms(),
        Module("blk.{i}.attn_q_norm", (f"{ATTENTION}q_norm",), is_exact=True),
        Module("blk.{i}.attn_k_norm", (f"{ATTENTION}k_norm",), is_exact=True),
        *attention(),
        *gated_mlp(),
    )


def hyperparameters(decoder: Decoder) -> dict[str, Value]:
    """Return the keys."""
    return {**sizes(decoder), **head_sizes(decoder), **rms_eps(decoder), **rope_keys(decoder)}


def problems(decoder: Decoder) -> list[str]:
    """Return what the graph cannot do."""
    return [*block_problems(decoder, "silu"), *rope_problems(decoder, neighbours=False)]


ARCHITECTURE = Architecture(
    families=("qwen3",),
    modules=modules,
    hyperparameters=hyperparameters,
    problems=problems,
    notes=window_notes,
)
