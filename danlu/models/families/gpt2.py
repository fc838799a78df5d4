"""GPT-2, and GPT-3, which is this architecture at size: learned positions, LayerNorm, tanh GELU.

Source: Radford et al. 2019; config keys as published for gpt2. Linear weights are published as
[inputs, outputs]; files occur with and without the prefix "transformer.".
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from danlu.models.config import DecoderConfig
from danlu.models.family import Family, RawConfig
from danlu.models.reexpressing import unchanged
from danlu.nn.embedding import LearnedPositions
from danlu.nn.mlp import PlainMLP
from danlu.nn.norms import LayerNorm
from danlu.nn.positions import Unrotated
from danlu.weights.rules import Ignore, Rename, Rule, Split, Transposed

IGNORED = {
    "rope_parameters": "some tools write it everywhere; this family has learned positions",
    "attn_pdrop": "dropout is a training option here",
    "embd_pdrop": "dropout is a training option here",
    "resid_pdrop": "dropout is a training option here",
    "n_ctx": "an older name of n_positions",
    "reorder_and_upcast_attn": "softmax is always computed in float32",
    "task_specific_params": "sampling settings of another tool",
    "summary_activation": "of a classifier head",
    "summary_first_dropout": "of a classifier head",
    "summary_proj_to_labels": "of a classifier head",
    "summary_type": "of a classifier head",
    "summary_use_proj": "of a classifier head",
    "add_cross_attention": "always false here",
}


def matches(values: Mapping[str, Any]) -> bool:
    """Return whether config.json says GPT-2."""
    return values.get("model_type") == "gpt2"


def read_config(raw: RawConfig) -> DecoderConfig:
    """Return the decoder config."""
    hidden_size, num_heads = raw.size("n_embd"), raw.size("n_head")
    num_positions = raw.size("n_positions", "n_ctx", default=1024)
    raw.expect("activation_function", "gelu_new", "gelu_pytorch_tanh")
    raw.expect("scale_attn_weights", True)
    raw.expect("scale_attn_by_inverse_layer_idx", False)
    return DecoderConfig(
        vocab_size=raw.size("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=raw.size("n_inner", default=4 * hidden_size),
        num_layers=raw.size("n_layer"),
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=hidden_size // num_heads,
        max_seq_len=num_positions,
        norm=partial(LayerNorm, eps=raw.take("layer_norm_epsilon", default=1e-5, kind=float)),
        mlp=partial(PlainMLP, activation="gelu_tanh"),
        position_scheme=Unrotated(),
        embed_positions=partial(LearnedPositions, num_positions, hidden_size),
        qkv_bias=True,
        output_bias=True,
        tie_word_embeddings=raw.take("tie_word_embeddings", default=True, kind=bool),
    )


def rules(config: DecoderConfig) -> tuple[Rule, ...]:
    """Return the published names."""
    ours, theirs = "model.layers.{i}.", "transformer.h.{i}."
    qkv = tuple(f"{ours}self_attn.{name}_proj" for name in "qkv")
    turned = Transposed()
    return (
        Rename("transformer.wte", "model.embed_tokens"),
        Rename("transformer.wpe", "model.embed_positions"),
        Rename(f"{theirs}ln_1", f"{ours}input_layernorm"),
        Split(f"{theirs}attn.c_attn", into=qkv, arrangement=turned),
        Rename(f"{theirs}attn.c_proj", f"{ours}self_attn.o_proj", turned),
        Rename(f"{theirs}ln_2", f"{ours}post_attention_layernorm"),
        Rename(f"{theirs}mlp.c_fc", f"{ours}mlp.up_proj", turned),
        Rename(f"{theirs}mlp.c_proj", f"{ours}mlp.down_proj", turned),
        Rename("transformer.ln_f", "model.norm"),
    )


def tiny() -> dict[str, Any]:
    """Return a config.json of a two-layer model."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_embd": 48,
        "n_head": 3,
        "n_layer": 2,
        "n_positions": 128,
        "vocab_size": 256,
    }


FAMILY = Family(
    summary="GPT-2 and its like at the size of GPT-3",
    matches=matches,
    read_config=read_config,
    rules=rules,
    tiny=tiny,
    ignored_keys=IGNORED,
    ignored_tensors=(
        Ignore(".attn.bias", "a causal mask, computed here"),
        Ignore(".attn.masked_bias", "a constant of the causal mask"),
    ),
    optional_prefix="transformer.",
    aliases=("gpt", "gpt3"),
    exports={"transformers": unchanged("gpt2")},
)
