"""The sizes of a decoder as GGUF keys, without the architecture's name in front.

Source: the GGUF specification, "[llm].*" keys.
"""

from danlu.export.gguf.architecture import Value
from danlu.models.decoder import Decoder
from danlu.nn.mlp import ACTIVATIONS


def sizes(decoder: Decoder) -> dict[str, Value]:
    """Return what every architecture asks for."""
    config = decoder.config
    return {
        "vocab_size": config.vocab_size,
        "context_length": context_length(decoder),
        "embedding_length": config.hidden_size,
        "block_count": config.num_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_heads,
        "attention.head_count_kv": config.num_kv_heads,
    }


def context_length(decoder: Decoder) -> int:
    """Return how many tokens the file is good for: the trained length, or the sliding window.

    No graph here slides a window; up to its length, seeing all is the same.
    """
    windows = [window for window in decoder.config.windows if window is not None]
    return min([decoder.config.max_seq_len, *windows])


def window_notes(decoder: Decoder) -> list[str]:
    """Return what to know of a model with a sliding window."""
    length = context_length(decoder)
    if length == decoder.config.max_seq_len:
        return []
    return [f"valid up to {length} tokens: the graph has no sliding window, so that is its context"]


def head_sizes(decoder: Decoder) -> dict[str, Value]:
    """Return the dims of a head, for graphs that do not divide the hidden size by the heads."""
    head_dim = decoder.config.head_dim
    return {"attention.key_length": head_dim, "attention.value_length": head_dim}


def rms_eps(decoder: Decoder) -> dict[str, Value]:
    """Return the epsilon of the root-mean-square norms."""
    return {"attention.layer_norm_rms_epsilon": _eps(decoder)}


def layer_norm_eps(decoder: Decoder) -> dict[str, Value]:
    """Return the epsilon of the layer norms."""
    return {"attention.layer_norm_epsilon": _eps(decoder)}


def _eps(decoder: Decoder) -> float:
    eps = decoder.model.norm.eps
    assert isinstance(eps, float)
    return eps


def block_problems(decoder: Decoder, activation: str) -> list[str]:
    """Return what no graph of gated or plain blocks can do, and an activation that differs."""
    config, problems = decoder.config, []
    if config.attention_scale not in (None, config.head_dim**-0.5):
        problems.append(f"its attention scores are scaled by {config.attention_scale:g}")
    if config.embedding_width != config.hidden_size:
        problems.append(f"its embedding is {config.embedding_width} wide and projected")
    for i, block in enumerate(decoder.blocks()):
        if getattr(block.mlp, "activation", None) is not ACTIVATIONS[activation]:
            problems.append(f"the MLP of layer {i} is no plain one with {activation}")
            break
    return problems


def head_problems(decoder: Decoder) -> list[str]:
    """Return the problem of heads that do not add up to the hidden size, for most graphs."""
    config = decoder.config
    if config.num_heads * config.head_dim == config.hidden_size:
        return []
    return [
        f"its {config.num_heads} heads of {config.head_dim} dims are {config.num_heads} x "
        f"{config.head_dim} = {config.num_heads * config.head_dim}; the graph wants the hidden "
        f"size, {config.hidden_size}"
    ]
