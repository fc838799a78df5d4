"""ChatGLM-6B: a prompt that sees itself, two rotary coordinates, residuals from normalised input.

Source: arXiv:2103.10360 and the files published with ChatGLM-6B. The fused query_key_value holds q,
k and v of head 0, then of head 1, ... The context is everything before the first bos token.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from danlu.errors import ShapeError
from danlu.models.block import DecoderBlock
from danlu.models.config import DecoderConfig, NormFactory
from danlu.models.family import Family, RawConfig, always
from danlu.models.prefix_encoder import refuse_prefix_encoder
from danlu.models.prefix_sequence import PrefixSequence, block_positions, first_slot, with_self
from danlu.nn.attention import AttentionContext, SelfAttention
from danlu.nn.mlp import PlainMLP
from danlu.nn.norms import LayerNorm
from danlu.nn.positions import HalfSplitRotation, Rotation, Unbiased, half_split_rotation
from danlu.nn.rope_scaling import plain_frequencies
from danlu.nn.sequence import Numbering, counted
from danlu.weights.rules import Ignore, PerHead, Rename, Rule, Split

# sqrt(2 * 28): the published code builds every block for 28 layers, whatever config.json says.
RESIDUAL_SCALE = 56**0.5

IGNORED = {
    "max_length": "a sampling setting",
    "num_beams": "a sampling setting",
}


@dataclass(frozen=True)
class ContextFromIds(PrefixSequence):
    """The context ends at the first bos; what follows stands at the position of the mask token.

    Without a bos there is no context, and the text is numbered and masked as plain causal text.

    Attributes:
        bos_id: begins the answer.
        gmask_id: the mask of a whole answer.
        mask_id: the mask of a span; used where there is no gmask.
    """

    bos_id: int
    gmask_id: int
    mask_id: int

    def number(self, input_ids_BT: Tensor, attention_mask_BT: Tensor | None) -> Numbering:
        """Return positions [B, 2, T] and the slot of each bos; padding in front is at 0."""
        position_BT = counted(input_ids_BT, attention_mask_BT)
        real_BT = torch.ones_like(input_ids_BT, dtype=torch.bool)
        if attention_mask_BT is not None:
            real_BT = attention_mask_BT.bool()
        is_bos_BT = (input_ids_BT == self.bos_id) & real_BT
        begin_B = first_slot(is_bos_BT)
        mask_slot_B1 = self._mask_slot(input_ids_BT, real_BT)[:, None]
        mask_position_B = position_BT.gather(1, mask_slot_B1)[:, 0]
        positions = block_positions(position_BT, begin_B, is_bos_BT.any(-1), mask_position_B)
        return Numbering(positions, begin_B)

    def _mask_slot(self, input_ids_BT: Tensor, real_BT: Tensor) -> Tensor:
        is_gmask_BT = (input_ids_BT == self.gmask_id) & real_BT
        is_mask_BT = (input_ids_BT == self.mask_id) & real_BT
        return torch.where(is_gmask_BT.any(-1), first_slot(is_gmask_BT), first_slot(is_mask_BT))

    def explicit(self, attention_mask: Tensor, num_tokens: int) -> Tensor:
        """Return visibility from the original's boolean mask [B, 1, T, S], true where hidden."""
        if attention_mask.ndim != 4 or attention_mask.dtype != torch.bool:
            raise ShapeError(
                f"attention_mask is {attention_mask.dtype} {list(attention_mask.shape)}; expected "
                "one number per token [B, T], or the boolean [B, 1, T, T] of ChatGLM-6B, true "
                "where a token is hidden."
            )
        return with_self(~attention_mask[:, 0])


@dataclass(frozen=True)
class TwoRotations(Rotation):
    """The first half of each head turns by the position, the second by the block position."""

    first: HalfSplitRotation
    second: HalfSplitRotation

    def __call__(self, heads_BTHd: Tensor) -> Tensor:
        """Return the heads with both halves rotated."""
        first, second = heads_BTHd.chunk(2, dim=-1)
        return torch.cat((self.first(first), self.second(second)), dim=-1)


@dataclass(frozen=True)
class Rope2D(Unbiased):
    """Rotary embedding in two coordinates; frequencies are rounded to float16, as in the original.

    Attributes:
        rotary_dim: dims of half a head.
    """

    rotary_dim: int

    def rotation(self, positions_B2T: Tensor, dtype: torch.dtype) -> TwoRotations:
        """Return the rotation by positions and block positions [B, 2, T]."""
        frequencies = plain_frequencies(self.rotary_dim, 10000.0, positions_B2T.device)
        angles_B2Tp = positions_B2T.float()[..., None] * frequencies.half().float()
        first, second = angles_B2Tp.unbind(1)
        return TwoRotations(half_split_rotation(first, dtype), half_split_rotation(second, dtype))


class ScaledResidualBlock(DecoderBlock):
    """h = norm(x), then h * alpha + sublayer(h): the residual is the normalised input."""

    norms_for_sublayers = ()

    def __init__(
        self,
        attention: SelfAttention,
        mlp: nn.Module,
        norm: NormFactory,
        hidden_size: int,
        *,
        alpha: float,
    ) -> None:
        super().__init__(attention, mlp, norm, hidden_size)
        self.alpha = alpha

    def forward(self, x_BTD: Tensor, rotation: Rotation, attn: AttentionContext) -> Tensor:
        """Return the residual stream after this block."""
        h_BTD = self.input_layernorm(x_BTD)
        x_BTD = h_BTD * self.alpha + self.self_attn(h_BTD, rotation, attn)
        h_BTD = self.post_attention_layernorm(x_BTD)
        out_BTD: Tensor = h_BTD * self.alpha + self.mlp(h_BTD)
        return out_BTD


def matches(values: Mapping[str, Any]) -> bool:
    """Return whether config.json is of the first generation (the second has other keys)."""
    first_keys = "inner_hidden_size" in values or "position_encoding_2d" in values
    return values.get("model_type") == "chatglm" and first_keys


def read_config(raw: RawConfig) -> DecoderConfig:
    """Return the decoder config."""
    hidden_size, num_heads = raw.size("hidden_size"), raw.size("num_attention_heads")
    head_dim = hidden_size // num_heads
    raw.expect("position_encoding_2d", True)
    raw.expect("quantization_bit", 0)
    refuse_prefix_encoder(raw)
    return DecoderConfig(
        vocab_size=raw.size("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=raw.size("inner_hidden_size", default=4 * hidden_size),
        num_layers=raw.size("num_layers"),
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=head_dim,
        max_seq_len=raw.size("max_sequence_length", default=2048),
        norm=partial(LayerNorm, eps=raw.take("layernorm_epsilon", default=1e-5, kind=float)),
        mlp=partial(PlainMLP, activation="gelu_tanh"),
        block=partial(ScaledResidualBlock, alpha=RESIDUAL_SCALE),
        position_scheme=Rope2D(head_dim // 2),
        sequence_rule=ContextFromIds(
            bos_id=raw.take("bos_token_id", kind=int),
            gmask_id=raw.take("gmask_token_id", default=130001, kind=int),
            mask_id=raw.take("mask_token_id", default=130000, kind=int),
        ),
        counts_prefix=False,
        qkv_bias=True,
        output_bias=True,
        tie_word_embeddings=raw.take("tie_word_embeddings", default=False, kind=bool),
    )


def rules(config: DecoderConfig) -> tuple[Rule, ...]:
    """Return the published names."""
    ours, theirs = "model.layers.{i}.", "transformer.layers.{i}."
    qkv = tuple(f"{ours}self_attn.{name}_proj" for name in "qkv")
    per_head = PerHead(config.num_heads)
    return (
        Rename("transformer.word_embeddings", "model.embed_tokens"),
        Rename(f"{theirs}input_layernorm", f"{ours}input_layernorm"),
        Split(f"{theirs}attention.query_key_value", into=qkv, arrangement=per_head),
        Rename(f"{theirs}attention.dense", f"{ours}self_attn.o_proj"),
        Rename(f"{theirs}post_attention_layernorm", f"{ours}post_attention_layernorm"),
        Rename(f"{theirs}mlp.dense_h_to_4h", f"{ours}mlp.up_proj"),
        Rename(f"{theirs}mlp.dense_4h_to_h", f"{ours}mlp.down_proj"),
        Rename("transformer.final_layernorm", "model.norm"),
    )


def tiny() -> dict[str, Any]:
    """Return a config.json of a two-layer model."""
    return {
        "architectures": ["ChatGLMModel"],
        "model_type": "chatglm",
        "hidden_size": 64,
        "inner_hidden_size": 112,
        "num_layers": 2,
        "num_attention_heads": 4,
        "max_sequence_length": 128,
        "position_encoding_2d": True,
        "bos_token_id": 250,
        "eos_token_id": 251,
        "gmask_token_id": 252,
        "mask_token_id": 253,
        "vocab_size": 256,
    }


FAMILY = Family(
    summary="ChatGLM-6B (the first generation)",
    matches=matches,
    read_config=read_config,
    rules=rules,
    tiny=tiny,
    ignored_keys=IGNORED,
    ignored_tensors=(Ignore("rotary_emb.inv_freq", "computed, in float16 as in the original"),),
    aliases=("chatglm_6b", "chatglm1"),
    chat_format=always("chatglm-6b"),
    not_exported=(
        "its prompt sees itself and its positions have two coordinates, which no living "
        "architecture computes"
    ),
)
