"""`glm4` (GLM-4-0414): as `chatglm`, with norms behind attention and MLP too.

Source: llama.cpp, src/models/glm4.cpp and conversion/glm.py (llama-cpp-python 0.3.36).
"""

from danlu.export.gguf.architecture import Architecture, Module, Value
from danlu.export.gguf.hyperparameters import block_problems, head_sizes, rms_eps, sizes
from danlu.export.gguf.layouts import BLOCK, attention, ends, fused_mlp, norms
from danlu.export.gguf.rope import interleaved_problems, rope_keys, rope_problems
from danlu.models.decoder import Decoder


def modules(decoder: Decoder) -> tuple[Module, ...]:
    """Return the modules; rows are in the published order, which already has neighbouring pairs."""
    return (
        *ends(),
        *norms(),
        Module("blk.{i}.post_attention_norm", (f"{BLOCK}post_self_attn_layernorm",), is_exact=True),
        Module("blk.{i}.post_ffw_norm", (f"{BLOCK}post_mlp_layernorm",), is_exact=True),
        *attention(),
        *fused_mlp(),
    )


def hyperparameters(decoder: Decoder) -> dict[str, Value]:
    """Return the keys."""
    return {**sizes(decoder), **head_sizes(decoder), **rms_eps(decoder), **rope_keys(decoder)}


def problems(decoder: Decoder) -> list[str]:
    """Return what the graph cannot do."""
    return [
        *block_problems(decoder, "silu"),
        *rope_problems(decoder, neighbours=True, partial=True),
        *interleaved_problems(decoder),
    ]


ARCHITECTURE = Architecture(
    families=("glm4",), modules=modules, hyperparameters=hyperparameters, problems=problems
)
