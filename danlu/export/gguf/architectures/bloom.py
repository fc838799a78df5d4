"""`bloom`: ALiBi (fixed in the graph), layer norms with bias, one behind the embedding, tanh GELU.

Queries, keys and values are stacked, not dealt out to the heads as BLOOM publishes them.
Source: llama.cpp, src/models/bloom.cpp and conversion/bloom.py (llama-cpp-python 0.3.36).
"""

from danlu.export.gguf.architecture import Architecture, Module, Value
from danlu.export.gguf.hyperparameters import block_problems, head_problems, layer_norm_eps, sizes
from danlu.export.gguf.layouts import ends, fused_attention, norms, plain_mlp
from danlu.models.decoder import Decoder


def modules(decoder: Decoder) -> tuple[Module, ...]:
    """Return the modules."""
    return (
        Module("token_embd_norm", ("model.embed_norm",), True, is_exact=True),
        *ends(has_bias=True),
        *norms(has_bias=True),
        *fused_attention(output_bias=True),
        *plain_mlp(),
    )


def hyperparameters(decoder: Decoder) -> dict[str, Value]:
    """Return the keys."""
    return {**sizes(decoder), **layer_norm_eps(decoder)}


def problems(decoder: Decoder) -> list[str]:
    """Return what the graph cannot do."""
    return [*block_problems(decoder, "gelu_tanh"), *head_problems(decoder)]


ARCHITECTURE = Architecture(
    families=("bloom",), modules=modules, hyperparameters=hyperparameters, problems=problems
)
