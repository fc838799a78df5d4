"""What the four Baichuan models share: the fused W_pack, no biases, and how to tell them apart.

Source: arXiv:2309.10305 and the files published with Baichuan-7B, Baichuan-13B and Baichuan 2.
All four say model_type "baichuan"; the rules below are the only evidence a config.json holds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from danlu.models.config import DecoderConfig
from danlu.models.family import RawConfig, Reexpressed
from danlu.models.llama_like import IGNORED as LLAMA_IGNORED
from danlu.models.llama_like import read_llama_like, tiny_llama_like
from danlu.nn.positions import Alibi
from danlu.weights.rules import Ignore, Rule, Split

IGNORED = {**LLAMA_IGNORED, "z_loss_weight": "weighs a loss of the original's training"}
IGNORED_TENSORS = (
    Ignore("rotary_emb.inv_freq", "computed from the config"),
    Ignore("future_mask", "computed from the config"),
)
VOCAB_SIZES = {64000: 1, 125696: 2}  # generation by vocabulary size


@dataclass(frozen=True)
class Variant:
    """One of the four models.

    Attributes:
        generation: 1 or 2.
        rotary: RoPE (7B) rather than linear biases (13B).
    """

    generation: int
    rotary: bool

    def matches(self, values: Mapping[str, Any]) -> bool:
        """Return whether config.json is of this model."""
        return values.get("model_type") == "baichuan" and variant_of(values) == self


def variant_of(values: Mapping[str, Any]) -> Variant:
    """Return which Baichuan a config.json describes.

    The class name with a capital C is 7B of the first generation. Of the others, those with
    max_position_embeddings are Baichuan2-7B; those with model_max_length alone are 13B, of the
    generation of their vocabulary size; at other sizes, of the second if it carries keys that only
    its files have.
    """
    if values.get("architectures") == ["BaiChuanForCausalLM"]:
        return Variant(1, rotary=True)
    if "max_position_embeddings" in values:
        return Variant(2, rotary=True)
    second = "tokenizer_class" in values or "z_loss_weight" in values
    default = 2 if second else 1
    return Variant(VOCAB_SIZES.get(values.get("vocab_size", 0), default), rotary=False)


def alibi(raw: RawConfig, head_dim: int) -> Alibi:
    """Return linear biases: the position scheme of the 13B models."""
    return Alibi()


def read_rotary(raw: RawConfig) -> DecoderConfig:
    """Return the decoder config of a 7B."""
    return read_llama_like(raw, max_seq_len=4096)


def read_alibi(raw: RawConfig) -> DecoderConfig:
    """Return the decoder config of a 13B."""
    return read_llama_like(raw, alibi, max_seq_len=4096)


def rules(config: DecoderConfig) -> tuple[Rule, ...]:
    """Return the published names: queries, keys and values are stacked in W_pack."""
    ours = "model.layers.{i}.self_attn."
    qkv = tuple(f"{ours}{name}_proj" for name in "qkv")
    return (Split(f"{ours}W_pack", into=qkv),)


def as_first_generation(values: Mapping[str, Any], config: DecoderConfig) -> Reexpressed:
    """Return a Baichuan 2 as Baichuan 1: its head is stored with normalised rows.

    Baichuan 2's README describes the same for code written for Baichuan 1. Rows of length 1 stay
    as they are when they are normalised again, so a folder that is taken for Baichuan 2 by its
    vocabulary size computes the same.
    """
    rotary = variant_of(values).rotary
    dropped = ("tokenizer_class", "z_loss_weight", *(("model_max_length",) if rotary else ()))
    kept = {key: value for key, value in values.items() if key not in dropped}
    if rotary:
        context = {"max_position_embeddings": config.max_seq_len}
        return Reexpressed(
            "baichuan_7b", kept | context | {"architectures": ["BaiChuanForCausalLM"]}
        )
    return Reexpressed("baichuan_13b", kept | {"architectures": ["BaichuanForCausalLM"]})


def tiny(architecture: str, **changes: Any) -> dict[str, Any]:
    """Return a config.json of a two-layer model; a change to None removes the key."""
    values = tiny_llama_like(architecture, "baichuan") | {"num_key_value_heads": None} | changes
    return {key: value for key, value in values.items() if value is not None}
