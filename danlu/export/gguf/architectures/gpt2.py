"""`gpt2`: learned positions, layer norms with bias, tanh GELU; GPT-3 at size.

Source: llama.cpp, src/models/gpt2.cpp and conversion/gpt2.py (llama-cpp-python 0.3.36).
"""

from danlu.export.gguf.architecture import Architecture, Module, Value
from danlu.export.gguf.hyperparameters import (
    block_problems,
    head_problems,
    layer_norm_eps,
    sizes,
)
from danlu.export.gguf.layouts import ends, fused_attention, norms, plain_mlp
from danlu.models.decoder import Decoder


def modules(decoder: Decoder) -> tuple[Module, ...]:
    """Return the modules; positions stay float32, as the graph adds them to float32."""
    return (
        Module("position_embd", ("model.embed_positions",), is_exact=True),
        *ends(has_bias=True),
        *norms(has_bias=True),
        *fused_attention(output_bias=True),
        *plain_mlp(),
    )


def hyperparameters(decoder: Decoder) -> dict[str, Value]:
    """Return the keys; the context is as long as the table of positions."""
    return {**sizes(decoder), **layer_norm_eps(decoder)}


def problems(decoder: Decoder) -> list[str]:
    """Return what the graph cannot do."""
    return [*block_problems(decoder, "gelu_tanh"), *head_problems(decoder)]


ARCHITECTURE = Architecture(
    families=("gpt2",), modules=modules, hyperparameters=hyperparameters, problems=problems
)
