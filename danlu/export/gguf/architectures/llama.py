"""`llama`: RMSNorm, RoPE over neighbouring pairs, gated SiLU; biases where the file has them.

Rows of queries and keys are reordered, since published checkpoints turn pairs half a head apart.
Source: llama.cpp, src/models/llama.cpp and conversion/llama.py (llama-cpp-python 0.3.36).
"""

from danlu.export.gguf.architecture import Architecture, Module, Value
from danlu.export.gguf.hyperparameters import (
    block_problems,
    head_sizes,
    rms_eps,
    sizes,
    window_notes,
)
from danlu.export.gguf.layouts import attention, ends, gated_mlp, norms
from danlu.export.gguf.rope import (
    SCALINGS,
    llama3_factors,
    neighbouring,
    rope_keys,
    rope_problems,
)
from danlu.models.decoder import Decoder
from danlu.nn.rope_scaling import Llama3Scaling


def modules(decoder: Decoder) -> tuple[Module, ...]:
    """Return the modules, queries and keys with their pairs side by side."""
    rows = neighbouring(decoder)
    projections = attention(query_rows=rows, key_rows=rows, output_bias=True)
    return (*ends(), *norms(), *projections, *gated_mlp(has_bias=True))


def hyperparameters(decoder: Decoder) -> dict[str, Value]:
    """Return the keys."""
    return {**sizes(decoder), **head_sizes(decoder), **rms_eps(decoder), **rope_keys(decoder)}


def problems(decoder: Decoder) -> list[str]:
    """Return what the graph cannot do."""
    scalings = (*SCALINGS, Llama3Scaling)
    return [
        *block_problems(decoder, "silu"),
        *rope_problems(decoder, neighbours=True, scalings=scalings),
    ]


ARCHITECTURE = Architecture(
    families=("llama", "mistral"),
    modules=modules,
    hyperparameters=hyperparameters,
    problems=problems,
    computed=llama3_factors,
    notes=window_notes,
)
