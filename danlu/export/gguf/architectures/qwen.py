"""`qwen` (Qwen-1): RMSNorm, RoPE over pairs half a head apart, fused biased q, k and v, gated SiLU.

The graph counts both halves of the MLP as its width, as Qwen-1 does, and knows neither dynamic NTK
nor LogN: within the trained length they do nothing, and that is the context of the file.
Source: llama.cpp, src/models/qwen.cpp (llama-cpp-python 0.3.36).
"""

from danlu.export.gguf.architecture import Architecture, Module, Value
from danlu.export.gguf.hyperparameters import block_problems, head_problems, rms_eps, sizes
from danlu.export.gguf.layouts import ends, fused_attention, gated_mlp, norms
from danlu.models.decoder import Decoder
from danlu.models.families.qwen import DynamicRope, SlotPositions


def modules(decoder: Decoder) -> tuple[Module, ...]:
    """Return the modules."""
    return (*ends(), *norms(), *fused_attention(), *gated_mlp())


def hyperparameters(decoder: Decoder) -> dict[str, Value]:
    """Return the keys."""
    rope = decoder.config.position_scheme
    assert isinstance(rope, DynamicRope)
    return {
        **sizes(decoder),
        "context_length": _trained_length(decoder) or decoder.config.max_seq_len,
        "feed_forward_length": 2 * decoder.config.intermediate_size,
        **rms_eps(decoder),
        "rope.dimension_count": rope.rotary_dim,
        "rope.freq_base": rope.theta,
    }


def _trained_length(decoder: Decoder) -> int | None:
    """Return the length from which on the original bends positions or queries, None for never."""
    rope, rule = decoder.config.position_scheme, decoder.config.sequence_rule
    assert isinstance(rope, DynamicRope)
    assert isinstance(rule, SlotPositions)
    return rule.seq_length if rule.dynamic_ntk else rope.logn_length


def problems(decoder: Decoder) -> list[str]:
    """Return what the graph cannot do."""
    return [*block_problems(decoder, "silu"), *head_problems(decoder)]


def notes(decoder: Decoder) -> list[str]:
    """Return what to know of long contexts."""
    length = _trained_length(decoder)
    if length is None:
        return []
    return [
        f"valid up to the trained length of {length} tokens: the graph has no dynamic NTK and no "
        "LogN, so that is its context"
    ]


ARCHITECTURE = Architecture(
    families=("qwen",),
    modules=modules,
    hyperparameters=hyperparameters,
    problems=problems,
    shares_head=False,
    notes=notes,
)
