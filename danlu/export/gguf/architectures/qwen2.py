"""`qwen2`: RMSNorm, RoPE over pairs half a head apart, biased q, k and v, gated SiLU.

Source: llama.cpp, src/models/qwen2.cpp (llama-cpp-python 0.3.36).
"""

from danlu.export.gguf.architecture import Architecture, Module, Value
from danlu.export.gguf.hyperparameters import (
    block_problems,
    head_problems,
    rms_eps,
    sizes,
    window_notes,
)
from danlu.export.gguf.layouts import attention, ends, gated_mlp, norms
from danlu.export.gguf.rope import rope_keys, rope_problems
from danlu.models.decoder import Decoder


def modules(decoder: Decoder) -> tuple[Module, ...]:
    """Return the modules."""
    return (*ends(), *norms(), *attention(), *gated_mlp())


def hyperparameters(decoder: Decoder) -> dict[str, Value]:
    """Return the keys."""
    return {**sizes(decoder), **rms_eps(decoder), **rope_keys(decoder)}


def problems(decoder: Decoder) -> list[str]:
    """Return what the graph cannot do."""
    return [
        *block_problems(decoder, "silu"),
        *head_problems(decoder),
        *rope_problems(decoder, neighbours=False),
    ]


ARCHITECTURE = Architecture(
    families=("qwen2",),
    modules=modules,
    hyperparameters=hyperparameters,
    problems=problems,
    notes=window_notes,
)
