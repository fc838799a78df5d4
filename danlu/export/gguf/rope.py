"""Rotary embeddings in GGUF: keys, the factors of Llama 3, and the order of rows they ask for.

A graph turns either neighbouring pairs ("normal") or pairs half a head apart ("neox"); which one is
fixed by the architecture. Rows of queries and keys are put in the order that its graph expects.

Source: llama.cpp (llama-cpp-python 0.3.36), how its graphs read `rope.*`; YaRN: arXiv:2309.00071.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from danlu.export.gguf.architecture import Rows, Value, same_rows
from danlu.models.decoder import Decoder
from danlu.nn.positions import Rope
from danlu.nn.rope_scaling import (
    LinearScaling,
    Llama3Scaling,
    RopeScaling,
    YarnScaling,
    plain_frequencies,
    yarn_magnitude,
)

SCALINGS: tuple[type[RopeScaling], ...] = (RopeScaling, LinearScaling, YarnScaling)


def rope_of(decoder: Decoder) -> Rope | None:
    """Return the decoder's rotary embedding, None if it has another position scheme."""
    scheme = decoder.config.position_scheme
    return scheme if isinstance(scheme, Rope) else None


def rope_problems(
    decoder: Decoder,
    *,
    neighbours: bool,
    partial: bool = False,
    scalings: Sequence[type[RopeScaling]] = SCALINGS,
) -> list[str]:
    """Return why the decoder's positions cannot be said by a graph.

    Args:
        decoder: the source.
        neighbours: the graph turns neighbouring pairs.
        partial: the graph can turn the first dims of a head and leave the others.
        scalings: what the graph knows of long contexts.
    """
    rope = rope_of(decoder)
    if rope is None:
        scheme = type(decoder.config.position_scheme).__name__
        return [f"its positions are {scheme}; the graph turns queries and keys (RoPE)"]
    problems = []
    if rope.interleaved and not neighbours:
        problems.append("it turns neighbouring pairs; the graph turns pairs half a head apart")
    if rope.rotary_dim != decoder.config.head_dim and not partial:
        problems.append(
            f"it turns {rope.rotary_dim} of the {decoder.config.head_dim} dims of a head; "
            "the graph turns all"
        )
    if type(rope.scaling) not in scalings:
        problems.append(f"the graph does not know {type(rope.scaling).__name__}")
    return problems


def interleaved_problems(decoder: Decoder) -> list[str]:
    """Return the problem of pairs half a head apart, where rows are not reordered."""
    rope = rope_of(decoder)
    if rope is None or rope.interleaved:
        return []
    return ["it turns pairs half a head apart; the graph turns neighbouring ones"]


def rope_keys(decoder: Decoder) -> dict[str, Value]:
    """Return the keys that say the decoder's rotary embedding."""
    rope = rope_of(decoder)
    assert rope is not None
    keys: dict[str, Value] = {
        "rope.dimension_count": rope.rotary_dim,
        "rope.freq_base": float(rope.theta),
    }
    return keys | _scaling_keys(rope.scaling)


def _scaling_keys(scaling: RopeScaling) -> dict[str, Value]:
    if isinstance(scaling, LinearScaling):
        return {"rope.scaling.type": "linear", "rope.scaling.factor": float(scaling.factor)}
    if isinstance(scaling, YarnScaling):
        return {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": float(scaling.factor),
            "rope.scaling.original_context_length": scaling.original_max_seq_len,
            "rope.scaling.yarn_beta_fast": float(scaling.beta_fast),
            "rope.scaling.yarn_beta_slow": float(scaling.beta_slow),
            # the graph multiplies by the paper's magnitude itself
            "rope.scaling.attn_factor": scaling.magnitude / yarn_magnitude(scaling.factor),
        }
    return {}


def llama3_factors(decoder: Decoder) -> dict[str, Tensor]:
    """Return what each frequency is divided by, as the tensor that the `llama` graph reads."""
    rope = rope_of(decoder)
    if rope is None or not isinstance(rope.scaling, Llama3Scaling):
        return {}
    given = (rope.rotary_dim, rope.theta, torch.device("cpu"))
    return {"rope_freqs.weight": plain_frequencies(*given) / rope.scaling.frequencies(*given)}


def neighbouring(decoder: Decoder) -> Rows:
    """Return how rows of queries and keys are put for a graph that turns neighbouring pairs."""
    rope = rope_of(decoder)
    if rope is None or rope.interleaved:
        return same_rows
    head_dim = decoder.config.head_dim

    def pair_up(tensor: Tensor) -> Tensor:
        """Put row i of each head beside row i + head_dim / 2."""
        halves = tensor.unflatten(0, (-1, 2, head_dim // 2))  # [heads, half, pair, ...]
        paired: Tensor = halves.transpose(1, 2).flatten(0, 2)
        return paired

    return pair_up
