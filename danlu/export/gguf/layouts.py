"""The modules that most architectures share, under the names that GGUF gives them."""

from danlu.export.gguf.architecture import Module, Rows, same_rows

BLOCK = "model.layers.{i}."
ATTENTION = f"{BLOCK}self_attn."
MLP = f"{BLOCK}mlp."


def ends(*, has_bias: bool = False) -> tuple[Module, ...]:
    """Return embedding, final norm and head; `has_bias` is about the norm."""
    return (
        Module("token_embd", ("model.embed_tokens",)),
        Module("output_norm", ("model.norm",), has_bias, is_exact=True),
        Module("output", ("lm_head",)),
    )


def norms(*, has_bias: bool = False) -> tuple[Module, ...]:
    """Return the norms in front of attention and MLP."""
    return (
        Module("blk.{i}.attn_norm", (f"{BLOCK}input_layernorm",), has_bias, is_exact=True),
        Module("blk.{i}.ffn_norm", (f"{BLOCK}post_attention_layernorm",), has_bias, is_exact=True),
    )


def attention(
    *, query_rows: Rows = same_rows, key_rows: Rows = same_rows, output_bias: bool = False
) -> tuple[Module, ...]:
    """Return the projections of attention, each on its own."""
    return (
        Module("blk.{i}.attn_q", (f"{ATTENTION}q_proj",), True, query_rows),
        Module("blk.{i}.attn_k", (f"{ATTENTION}k_proj",), True, key_rows),
        Module("blk.{i}.attn_v", (f"{ATTENTION}v_proj",), True),
        Module("blk.{i}.attn_output", (f"{ATTENTION}o_proj",), output_bias),
    )


def fused_attention(*, output_bias: bool = False) -> tuple[Module, ...]:
    """Return the projections of attention with queries, keys and values in one."""
    return (
        Module("blk.{i}.attn_qkv", tuple(f"{ATTENTION}{x}_proj" for x in "qkv"), True),
        Module("blk.{i}.attn_output", (f"{ATTENTION}o_proj",), output_bias),
    )


def gated_mlp(*, has_bias: bool = False) -> tuple[Module, ...]:
    """Return gate, up and down."""
    return (
        Module("blk.{i}.ffn_gate", (f"{MLP}gate_proj",), has_bias),
        Module("blk.{i}.ffn_up", (f"{MLP}up_proj",), has_bias),
        Module("blk.{i}.ffn_down", (f"{MLP}down_proj",), has_bias),
    )


def fused_mlp() -> tuple[Module, ...]:
    """Return gate and up in one, and down."""
    return (
        Module("blk.{i}.ffn_up", (f"{MLP}gate_proj", f"{MLP}up_proj")),
        Module("blk.{i}.ffn_down", (f"{MLP}down_proj",)),
    )


def plain_mlp() -> tuple[Module, ...]:
    """Return up and down, with biases."""
    return (
        Module("blk.{i}.ffn_up", (f"{MLP}up_proj",), True),
        Module("blk.{i}.ffn_down", (f"{MLP}down_proj",), True),
    )
