"""`baichuan`: RMSNorm, gated SiLU; RoPE with 32 layers (7B), ALiBi with 40 (13B).

The graph decides by the depth, and with any other number of layers it knows no positions at all. A
7B of another depth leaves as `llama`, which computes the same; a 13B of another depth cannot leave.
The head of Baichuan 2 is normalised before it is written.

Source: llama.cpp, src/models/baichuan.cpp and conversion/baichuan.py (llama-cpp-python 0.3.36).
"""

from danlu.export.gguf.architecture import Architecture, Module, Value
from danlu.export.gguf.hyperparameters import block_problems, head_problems, rms_eps, sizes
from danlu.export.gguf.layouts import attention, ends, gated_mlp, norms
from danlu.export.gguf.rope import neighbouring, rope_keys, rope_of, rope_problems
from danlu.models.decoder import Decoder
from danlu.nn.positions import Alibi

ROPE_LAYERS, ALIBI_LAYERS = 32, 40


def modules(decoder: Decoder) -> tuple[Module, ...]:
    """Return the modules, queries and keys with the pairs of RoPE side by side.

    With ALiBi every order of rows is the same, as long as queries and keys share it; llama.cpp's
    own converter reorders these too, so files stay comparable.
    """
    rows = neighbouring(decoder)
    return (*ends(), *norms(), *attention(query_rows=rows, key_rows=rows), *gated_mlp())


def hyperparameters(decoder: Decoder) -> dict[str, Value]:
    """Return the keys."""
    rope = rope_keys(decoder) if rope_of(decoder) else {}
    return {
        **sizes(decoder),
        **rms_eps(decoder),
        "rope.dimension_count": decoder.config.head_dim,
        **rope,
        "tensor_data_layout": "Meta AI original pth",
    }


def problems(decoder: Decoder) -> list[str]:
    """Return what the graph cannot do."""
    found = [*block_problems(decoder, "silu"), *head_problems(decoder)]
    layers = decoder.config.num_layers
    if isinstance(decoder.config.position_scheme, Alibi):
        if layers != ALIBI_LAYERS:
            found.append(f"it has ALiBi and {layers} layers; the graph has ALiBi with 40 only")
        return found
    if layers != ROPE_LAYERS:
        found.append(f"it has RoPE and {layers} layers; the graph has RoPE with 32 only")
    return [*found, *rope_problems(decoder, neighbours=True)]


ARCHITECTURE = Architecture(
    families=("baichuan_7b", "baichuan2_7b", "baichuan_13b", "baichuan2_13b"),
    modules=modules,
    hyperparameters=hyperparameters,
    problems=problems,
    shares_head=False,
    depths=(ROPE_LAYERS, ALIBI_LAYERS),
)
