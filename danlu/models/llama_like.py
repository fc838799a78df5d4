"""What families share that spell their config.json as Llama does: RMSNorm, RoPE, gated SiLU."""

from collections.abc import Callable
from functools import partial

from danlu.models.config import DecoderConfig
from danlu.models.family import RawConfig
from danlu.models.rope_config import read_rope
from danlu.nn.mlp import GatedMLP
from danlu.nn.norms import RMSNorm
from danlu.nn.positions import PositionScheme

ReadPositions = Callable[[RawConfig, int], PositionScheme]  # config, head_dim -> scheme

CONTEXT_KEYS = ("max_position_embeddings", "model_max_length", "max_sequence_length")
IGNORED = {
    "attention_dropout": "dropout is a training option here",
    "gradient_checkpointing": "a training option",
    "_from_model_config": "a note of another tool",
    "tokenizer_class": "the tokenizer's business",
    "max_window_layers": "used only with use_sliding_window",
}


def read_llama_like(
    raw: RawConfig,
    positions: ReadPositions = read_rope,
    *,
    max_seq_len: int = 2048,
    rms_norm_eps: float = 1e-6,
) -> DecoderConfig:
    """Return a decoder with Llama's parts and no biases; families replace what differs.

    Args:
        raw: the config.json.
        positions: reads the position scheme.
        max_seq_len: context where the config does not tell.
        rms_norm_eps: likewise.
    """
    hidden_size = raw.size("hidden_size")
    num_heads = raw.size("num_attention_heads")
    head_dim = raw.size("head_dim", default=hidden_size // num_heads)
    raw.expect("hidden_act", "silu")
    return DecoderConfig(
        vocab_size=raw.size("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=raw.size("intermediate_size"),
        num_layers=raw.size("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=raw.size("num_key_value_heads", default=num_heads),
        head_dim=head_dim,
        max_seq_len=raw.size(*CONTEXT_KEYS, default=max_seq_len),
        norm=partial(RMSNorm, eps=raw.take("rms_norm_eps", default=rms_norm_eps, kind=float)),
        mlp=partial(GatedMLP, activation="silu"),
        position_scheme=positions(raw, head_dim),
        tie_word_embeddings=raw.take("tie_word_embeddings", default=False, kind=bool),
    )


def read_windows(raw: RawConfig, num_layers: int) -> tuple[int | None, ...]:
    """Return the sliding window of each layer, as Qwen2 and Qwen3 spell it; () without any.

    Layers from `max_window_layers` on are windowed, unless `layer_types` names each layer's kind.
    """
    enabled = raw.take("use_sliding_window", default=False, kind=bool)
    window = raw.take("sliding_window", default=None)
    first = raw.take("max_window_layers", default=0, kind=int)
    kinds = raw.take("layer_types", default=None)
    if kinds is None:
        kinds = ["sliding_attention" if i >= first else "full_attention" for i in range(num_layers)]
    elif len(kinds) != num_layers or set(kinds) - {"sliding_attention", "full_attention"}:
        raw.problem(
            f"'layer_types' is {kinds!r}; expected 'full_attention' or 'sliding_attention' for "
            f"each of the {num_layers} layers"
        )
    if not enabled or window is None:
        return ()
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def tiny_llama_like(architecture: str, model_type: str) -> dict[str, object]:
    """Return a config.json of a two-layer model in Llama's spelling."""
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "hidden_size": 64,
        "intermediate_size": 112,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "vocab_size": 256,
    }
