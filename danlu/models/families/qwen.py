"""Qwen-1 (1.8B, 7B, 14B, 72B): Llama with qkv biases; beyond its trained length, NTK and LogN.

Source: arXiv:2309.16609 and the files published with Qwen-7B. The fused c_attn holds queries, then
keys, then values; w2 is the gate and w1 the up projection, each half of `intermediate_size`.

Beyond `seq_length` the original bends its rotary base by a factor alpha that the prompt fixes
(dynamic NTK), and scales queries by the logarithm of their place (LogN). Alpha belongs to a row and
never changes while it grows, so it travels with the positions, as their second coordinate.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from danlu.models.config import DecoderConfig
from danlu.models.family import Family, RawConfig, Reexpressed, always
from danlu.models.reexpressing import gated_config
from danlu.nn.contexts import DenseContext, padded_context
from danlu.nn.mlp import GatedMLP
from danlu.nn.norms import RMSNorm
from danlu.nn.positions import HalfSplitRotation, Unbiased, half_split_rotation
from danlu.nn.sequence import Numbering, check_mask, slots_like
from danlu.weights.rules import Ignore, Rename, Rule, Split

IGNORED = {
    "attn_dropout_prob": "dropout is a training option here",
    "emb_dropout_prob": "dropout is a training option here",
    "attn_pdrop": "dropout is a training option here",
    "embd_pdrop": "dropout is a training option here",
    "resid_pdrop": "dropout is a training option here",
    "bf16": "the caller chooses the dtype",
    "fp16": "the caller chooses the dtype",
    "fp32": "the caller chooses the dtype",
    "params_dtype": "the caller chooses the dtype",
    "onnx_safe": "an option of another tool",
    "use_flash_attn": "a kernel choice of the original",
    "use_cache_quantization": "a choice of the original's cache",
    "use_cache_kernel": "a kernel choice of the original",
    "softmax_in_fp32": "softmax is always computed in float32",
    "bias_dropout_fusion": "a kernel choice of the original",
    "tokenizer_class": "the tokenizer's business",
    "tokenizer_type": "the tokenizer's business",
    "activation": "always SwiGLU in this family",
    "n_inner": "null; ffn_hidden_size tells",
}


@dataclass(frozen=True)
class SlotPositions:
    """Positions count slots, padding included; beside each stands the row's NTK factor alpha.

    Attributes:
        seq_length: trained length; rows of more real tokens get an alpha above 1.
        dynamic_ntk: whether they do.
    """

    seq_length: int
    dynamic_ntk: bool

    def number(self, input_ids_BT: Tensor, attention_mask_BT: Tensor | None) -> Numbering:
        """Return slots and alphas [B, 2, T]."""
        slots_BT = slots_like(input_ids_BT)
        return Numbering(self._with_alpha(slots_BT, attention_mask_BT))

    def following(self, positions_B2T: Tensor) -> Tensor:
        """Return the next slots, with the alphas they had."""
        return self.moved(positions_B2T, 1)

    def moved(self, positions_B2T: Tensor, num_tokens: int | Tensor) -> Tensor:
        """Return slots that many further on; the alphas stay those of the text."""
        return torch.stack((positions_B2T[:, 0] + num_tokens, positions_B2T[:, 1]), dim=1)

    def context(
        self, input_ids_BT: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None
    ) -> tuple[Tensor, DenseContext]:
        """Return positions and causal attention; given positions take the place of slots."""
        check_mask(input_ids_BT, attention_mask)
        slots_BT = slots_like(input_ids_BT) if position_ids is None else position_ids
        positions = self._with_alpha(slots_BT, attention_mask)
        return positions, padded_context(attention_mask, slots_BT)

    def _with_alpha(self, slots_BT: Tensor, attention_mask_BT: Tensor | None) -> Tensor:
        if attention_mask_BT is None:
            attention_mask_BT = torch.ones_like(slots_BT)
        alpha_B = self._alpha(attention_mask_BT.bool().sum(-1))
        return torch.stack((slots_BT, alpha_B[:, None].expand_as(slots_BT)), dim=1)

    def _alpha(self, num_tokens_B: Tensor) -> Tensor:
        """Return max(2 ** ceil(log2(n / seq_length) + 1) - 1, 1), or 1 without NTK."""
        if not self.dynamic_ntk:
            return torch.ones_like(num_tokens_B)
        doublings_B = (num_tokens_B.clamp(min=1).double() / self.seq_length).log2() + 1
        return (2 ** doublings_B.ceil() - 1).clamp(min=1).long()


@dataclass(frozen=True)
class LogNRotation(HalfSplitRotation):
    """Rotation that also scales queries."""

    query_scale_BT11: Tensor

    def scale_queries(self, q_BTHd: Tensor) -> Tensor:
        """Return queries times log(place) / log(seq_length), beyond the trained length."""
        return q_BTHd * self.query_scale_BT11


@dataclass(frozen=True)
class DynamicRope(Unbiased):
    """Rotary embedding whose base each row bends by its alpha: base * alpha ** (d / (d - 2)).

    Attributes:
        rotary_dim: leading dims of each head that are rotated.
        theta: base at alpha 1.
        logn_length: length from which on queries are scaled; None: never.
    """

    rotary_dim: int
    theta: float
    logn_length: int | None

    def rotation(self, positions_B2T: Tensor, dtype: torch.dtype) -> HalfSplitRotation:
        """Return the rotation for slots and alphas [B, 2, T]."""
        slots_BT1, alpha_BT1 = positions_B2T[:, 0, :, None].float(), positions_B2T[:, 1, :, None]
        exponents_p = torch.arange(0, self.rotary_dim, 2, device=slots_BT1.device).float()
        base_BT1 = self.theta * alpha_BT1.float() ** (self.rotary_dim / (self.rotary_dim - 2))
        angles_BTp = slots_BT1 * base_BT1 ** (-exponents_p / self.rotary_dim)
        turn = half_split_rotation(angles_BTp, dtype)
        if self.logn_length is None:
            return turn
        scale_BT1 = (slots_BT1 + 1).log() / torch.tensor(float(self.logn_length)).log()
        scale_BT1 = scale_BT1.clamp(min=1.0).to(dtype)
        return LogNRotation(turn.cos_BT1r, turn.sin_BT1r, scale_BT1[..., None])


def matches(values: Mapping[str, Any]) -> bool:
    """Return whether config.json says Qwen-1."""
    return values.get("model_type") == "qwen"


def read_config(raw: RawConfig) -> DecoderConfig:
    """Return the decoder config; both spellings of 2023 are accepted."""
    hidden_size = raw.size("hidden_size", "n_embd")
    num_heads = raw.size("num_attention_heads", "n_head")
    head_dim = raw.size("kv_channels", default=hidden_size // num_heads)
    seq_length = raw.size("seq_length")
    raw.expect("no_bias", True)
    raw.expect("scale_attn_weights", True)
    raw.expect("pos_emb", "rotary")
    raw.expect("apply_residual_connection_post_layernorm", False)
    logn = raw.take("use_logn_attn", default=True, kind=bool)
    ntk = raw.take("use_dynamic_ntk", default=True, kind=bool)
    raw.take(
        "vocab_size", default=None
    )  # the early spelling has both, and the weights have the padded rows
    return DecoderConfig(
        vocab_size=raw.size("padded_vocab_size", "vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=raw.size("intermediate_size", "ffn_hidden_size") // 2,
        num_layers=raw.size("num_hidden_layers", "n_layer"),
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=head_dim,
        max_seq_len=raw.size("max_position_embeddings", "n_positions", default=seq_length),
        norm=partial(RMSNorm, eps=raw.take("layer_norm_epsilon", default=1e-6, kind=float)),
        mlp=partial(GatedMLP, activation="silu"),
        position_scheme=DynamicRope(
            rotary_dim=int(head_dim * raw.take("rotary_pct", default=1.0, kind=float)),
            theta=raw.take("rotary_emb_base", default=10000.0, kind=float),
            logn_length=seq_length if logn else None,
        ),
        sequence_rule=SlotPositions(seq_length, ntk),
        qkv_bias=True,
        tie_word_embeddings=raw.take("tie_word_embeddings", default=False, kind=bool),
    )


def rules(config: DecoderConfig) -> tuple[Rule, ...]:
    """Return the published names."""
    ours, theirs = "model.layers.{i}.", "transformer.h.{i}."
    qkv = tuple(f"{ours}self_attn.{name}_proj" for name in "qkv")
    return (
        Rename("transformer.wte", "model.embed_tokens"),
        Rename(f"{theirs}ln_1", f"{ours}input_layernorm"),
        Split(f"{theirs}attn.c_attn", into=qkv),
        Rename(f"{theirs}attn.c_proj", f"{ours}self_attn.o_proj"),
        Rename(f"{theirs}ln_2", f"{ours}post_attention_layernorm"),
        Rename(f"{theirs}mlp.w2", f"{ours}mlp.gate_proj"),
        Rename(f"{theirs}mlp.w1", f"{ours}mlp.up_proj"),
        Rename(f"{theirs}mlp.c_proj", f"{ours}mlp.down_proj"),
        Rename("transformer.ln_f", "model.norm"),
    )


def as_qwen2(values: Mapping[str, Any], config: DecoderConfig) -> Reexpressed:
    """Return the model as Qwen2, which is the same up to the trained length."""
    length = int(values["seq_length"])
    reexpressed = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        **gated_config(config, values.get("layer_norm_epsilon", 1e-6)),
        "head_dim": config.head_dim,
        "rope_theta": float(values.get("rotary_emb_base", 10000.0)),
        "max_position_embeddings": length,
        "use_sliding_window": False,
    }
    note = (
        f"valid up to {length} tokens, the trained length (max_position_embeddings says so): "
        "beyond it Qwen-1 bends its rotary base (dynamic NTK) and scales its queries (LogN), and "
        "Qwen2 does neither"
    )
    return Reexpressed("qwen2", reexpressed, (note,))


def tiny() -> dict[str, Any]:
    """Return a config.json of a two-layer model."""
    return {
        "architectures": ["QWenLMHeadModel"],
        "model_type": "qwen",
        "hidden_size": 64,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "kv_channels": 16,
        "max_position_embeddings": 128,
        "seq_length": 64,
        "vocab_size": 256,
    }


FAMILY = Family(
    summary="Qwen-1 (Qwen-1.8B, 7B, 14B, 72B and their chat models)",
    matches=matches,
    read_config=read_config,
    rules=rules,
    tiny=tiny,
    ignored_keys=IGNORED,
    ignored_tensors=(Ignore("rotary_emb.inv_freq", "computed from the config"),),
    aliases=("qwen1",),
    chat_format=always("qwen1-chat"),
    exports={"transformers": as_qwen2},
)
