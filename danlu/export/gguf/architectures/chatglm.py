"""`chatglm` (ChatGLM2, ChatGLM3, GLM-4): RoPE over neighbouring pairs of half a head; fused parts.

Source: llama.cpp, src/models/chatglm.cpp and conversion/chatglm.py (llama-cpp-python 0.3.36).
"""

from danlu.export.gguf.architecture import Architecture, Module, Value
from danlu.export.gguf.hyperparameters import block_problems, head_problems, rms_eps, sizes
from danlu.export.gguf.layouts import ends, fused_attention, fused_mlp, norms
from danlu.export.gguf.rope import interleaved_problems, rope_keys, rope_problems
from danlu.models.decoder import Decoder


def modules(decoder: Decoder) -> tuple[Module, ...]:
    """Return the modules; rows are in the published order, which already has neighbouring pairs."""
    return (*ends(), *norms(), *fused_attention(), *fused_mlp())


def hyperparameters(decoder: Decoder) -> dict[str, Value]:
    """Return the keys."""
    return {**sizes(decoder), **rms_eps(decoder), **rope_keys(decoder)}


def problems(decoder: Decoder) -> list[str]:
    """Return what the graph cannot do."""
    return [
        *block_problems(decoder, "silu"),
        *head_problems(decoder),
        *rope_problems(decoder, neighbours=True, partial=True),
        *interleaved_problems(decoder),
    ]


ARCHITECTURE = Architecture(
    families=("chatglm2", "glm"),
    modules=modules,
    hyperparameters=hyperparameters,
    problems=problems,
)
