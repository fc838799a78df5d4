"""OPT: learned positions (two unused rows in front), LayerNorm, ReLU, biases everywhere.

Source: arXiv:2205.01068; config keys as published for opt-125m and opt-350m. The 350M is the odd
one: its norms follow the residual sums, and its embedding is narrower than its blocks.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from danlu.models.block import DecoderBlock
from danlu.models.config import DecoderConfig, no_norm
from danlu.models.family import Family, RawConfig
from danlu.models.reexpressing import unchanged
from danlu.nn.attention import AttentionContext
from danlu.nn.embedding import LearnedPositions
from danlu.nn.mlp import PlainMLP
from danlu.nn.norms import LayerNorm
from danlu.nn.positions import Rotation, Unrotated
from danlu.weights.rules import Rename, Rule

POSITION_OFFSET = 2
IGNORED = {
    "rope_parameters": "some tools write it everywhere; this family has learned positions",
    "activation_dropout": "dropout is a training option here",
    "attention_dropout": "dropout is a training option here",
    "dropout": "dropout is a training option here",
    "layerdrop": "dropout is a training option here",
    "init_std": "weights are loaded, not drawn",
    "output_projection": "a note of the publisher",
    "share_decoder_input_output_embed": "the same as tie_word_embeddings",
    "prefix": "a setting of another tool's pipeline",
}


class PostNormBlock(DecoderBlock):
    """norm(x + attention(x)), then norm(x + mlp(x))."""

    norms_for_sublayers = ()

    def forward(self, x_BTD: Tensor, rotation: Rotation, attn: AttentionContext) -> Tensor:
        """Return the residual stream after this block."""
        x_BTD = self.input_layernorm(x_BTD + self.self_attn(x_BTD, rotation, attn))
        out_BTD: Tensor = self.post_attention_layernorm(x_BTD + self.mlp(x_BTD))
        return out_BTD


def matches(values: Mapping[str, Any]) -> bool:
    """Return whether config.json says OPT."""
    return values.get("model_type") == "opt"


def read_config(raw: RawConfig) -> DecoderConfig:
    """Return the decoder config."""
    hidden_size, num_heads = raw.size("hidden_size"), raw.size("num_attention_heads")
    num_positions = raw.size("max_position_embeddings")
    norm_first = raw.take("do_layer_norm_before", default=True, kind=bool)
    without_last = raw.take("_remove_final_layer_norm", default=False, kind=bool)
    raw.expect("activation_function", "relu")
    raw.expect("enable_bias", True)
    raw.expect("layer_norm_elementwise_affine", True)
    return DecoderConfig(
        vocab_size=raw.size("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=raw.size("ffn_dim"),
        num_layers=raw.size("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=hidden_size // num_heads,
        max_seq_len=num_positions,
        norm=partial(LayerNorm, eps=1e-5),
        mlp=partial(PlainMLP, activation="relu"),
        block=DecoderBlock if norm_first else PostNormBlock,
        final_norm=None if norm_first and not without_last else no_norm,
        position_scheme=Unrotated(),
        embed_positions=partial(
            LearnedPositions, num_positions, hidden_size, offset=POSITION_OFFSET
        ),
        embedding_size=raw.size("word_embed_proj_dim", default=hidden_size),
        qkv_bias=True,
        output_bias=True,
        tie_word_embeddings=raw.take("tie_word_embeddings", default=True, kind=bool),
    )


def rules(config: DecoderConfig) -> tuple[Rule, ...]:
    """Return the published names."""
    ours, theirs = "model.layers.{i}.", "model.decoder.layers.{i}."
    whole = ("embed_tokens", "embed_positions", "project_in", "project_out")
    projections = (
        Rename(f"{theirs}self_attn.{n}_proj", f"{ours}self_attn.{n}_proj") for n in "qkv"
    )
    return (
        *(Rename(f"model.decoder.{name}", f"model.{name}") for name in whole),
        *projections,
        Rename(f"{theirs}self_attn.out_proj", f"{ours}self_attn.o_proj"),
        Rename(f"{theirs}self_attn_layer_norm", f"{ours}input_layernorm"),
        Rename(f"{theirs}fc1", f"{ours}mlp.up_proj"),
        Rename(f"{theirs}fc2", f"{ours}mlp.down_proj"),
        Rename(f"{theirs}final_layer_norm", f"{ours}post_attention_layernorm"),
        Rename("model.decoder.final_layer_norm", "model.norm"),
    )


def tiny() -> dict[str, Any]:
    """Return a config.json of a two-layer model shaped like the 350M."""
    return {
        "architectures": ["OPTForCausalLM"],
        "model_type": "opt",
        "hidden_size": 64,
        "ffn_dim": 112,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "word_embed_proj_dim": 48,
        "do_layer_norm_before": False,
        "vocab_size": 256,
    }


FAMILY = Family(
    summary="OPT, 125M to 66B (the post-norm 350M too)",
    matches=matches,
    read_config=read_config,
    rules=rules,
    tiny=tiny,
    ignored_keys=IGNORED,
    optional_prefix="model.",
    aliases=("opt_350m",),
    exports={"transformers": unchanged("opt")},
)
