"""GLM of 2021 (515M to 10B, English and Chinese): learned positions and block positions, a prefix.

Source: arXiv:2103.10360 and the files published with GLM-10B. Not the GLM-4 of 2024, which shares
its model_type. The fused query_key_value holds all queries, then keys, then values.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from danlu.errors import ShapeError
from danlu.models.config import DecoderConfig
from danlu.models.family import Family, RawConfig
from danlu.models.prefix_sequence import PrefixSequence, block_positions, first_slot, with_self
from danlu.nn.contexts import visible_slots
from danlu.nn.embedding import LearnedPositions
from danlu.nn.mlp import PlainMLP
from danlu.nn.norms import LayerNorm
from danlu.nn.positions import Unrotated
from danlu.nn.sequence import Numbering, slots_like
from danlu.weights.rules import Rename, Rule, Split

IGNORED = {
    "attention_dropout_prob": "dropout is a training option here",
    "embedding_dropout_prob": "dropout is a training option here",
    "output_dropout_prob": "dropout is a training option here",
    "checkpoint_activations": "a training option",
    "checkpoint_num_layers": "a training option",
    "parallel_output": "a choice of the original's tensor parallelism",
    "pool_token": "of a classifier head",
    "num_class": "of a classifier head",
    "spell_func": "of a prompt encoder that the checkpoints do not have",
    "spell_length": "null: no prompt encoder",
    "output_predict": "logits are always computed",
}


@dataclass(frozen=True)
class CommandTokens:
    """Ids that config.json does not tell.

    Attributes:
        sop: begins a block.
        masks: what a block may fill: a span, a sentence, the rest.
    """

    sop: int
    masks: tuple[int, ...]


# By vocabulary size, as published: English (GPT-2's vocabulary) and Chinese.
COMMANDS = {
    50304: CommandTokens(sop=50257, masks=(50260, 50263, 50264)),
    50048: CommandTokens(sop=50006, masks=(50003, 50008, 50009)),
}


def command_tokens(vocab_size: int) -> CommandTokens:
    """Return the command tokens of a vocabulary.

    Vocabularies of other sizes are taken to end with ..., [MASK], [gMASK], end, start, 4 free ids.
    """
    at_end = CommandTokens(sop=vocab_size - 5, masks=(vocab_size - 8, vocab_size - 7))
    return COMMANDS.get(vocab_size, at_end)


@dataclass(frozen=True)
class ContextBeforeSop(PrefixSequence):
    """Positions count slots, padding included; from the first start-of-piece on a block begins.

    Without a start-of-piece the text is plain and causal: the original's own default.
    """

    commands: CommandTokens

    def number(self, input_ids_BT: Tensor, attention_mask_BT: Tensor | None) -> Numbering:
        """Return positions [B, 2, T] and the slot of each start-of-piece."""
        real_BT = torch.ones_like(input_ids_BT, dtype=torch.bool)
        if attention_mask_BT is not None:
            real_BT = attention_mask_BT.bool()
        is_sop_BT = (input_ids_BT == self.commands.sop) & real_BT
        masks = torch.tensor(self.commands.masks, device=input_ids_BT.device)
        mask_slot_B = first_slot(torch.isin(input_ids_BT, masks) & real_BT)
        begin_B = first_slot(is_sop_BT)
        positions = block_positions(
            slots_like(input_ids_BT), begin_B, is_sop_BT.any(-1), mask_slot_B
        )
        return Numbering(positions, begin_B)

    def explicit(self, attention_mask: Tensor, num_tokens: int) -> Tensor:
        """Return visibility from [B, 1, T, T] (nonzero: visible) or from prompt lengths [B]."""
        if attention_mask.ndim == 1:
            visible = visible_slots(None, attention_mask, 0, num_tokens)
            assert visible is not None
            return visible
        if attention_mask.ndim != 4:
            raise ShapeError(
                f"attention_mask is {list(attention_mask.shape)}; expected one number per token "
                "[B, T], [B, 1, T, T] with nonzero where a token is visible, or the length of "
                "each prompt [B]."
            )
        return with_self(attention_mask[:, 0].bool())


class BlockPositions(nn.Module):
    """Adds a learned vector for the position and one for the place in the block.

    Args:
        max_seq_len: rows of both tables.
        hidden_size: of each vector.
    """

    def __init__(self, max_seq_len: int, hidden_size: int) -> None:
        super().__init__()
        self.position = LearnedPositions(max_seq_len, hidden_size)
        self.block = LearnedPositions(max_seq_len, hidden_size)

    def forward(self, x_BTD: Tensor, positions_B2T: Tensor) -> Tensor:
        """Return the embeddings with both added."""
        x_BTD = self.position(x_BTD, positions_B2T[:, 0])
        added_BTD: Tensor = self.block(x_BTD, positions_B2T[:, 1])
        return added_BTD


def matches(values: Mapping[str, Any]) -> bool:
    """Return whether config.json is of 2021: GLMModel or GLMFor..., or block positions."""
    old_name = str(values.get("architectures")).startswith(("['GLMModel", "['GLMFor"))
    return values.get("model_type") == "glm" and (old_name or "block_position_encoding" in values)


def read_config(raw: RawConfig) -> DecoderConfig:
    """Return the decoder config."""
    hidden_size, num_heads = raw.size("hidden_size"), raw.size("num_attention_heads")
    rows, vocab_size = raw.size("max_sequence_length") + 1, raw.size("vocab_size")
    raw.expect("block_position_encoding", True)
    raw.expect("relative_encoding", False)
    raw.expect("attention_scale", 1.0)
    return DecoderConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=4 * hidden_size,
        num_layers=raw.size("num_layers"),
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=hidden_size // num_heads,
        max_seq_len=rows,
        norm=partial(LayerNorm, eps=1e-5),
        mlp=partial(PlainMLP, activation="gelu"),
        position_scheme=Unrotated(),
        sequence_rule=ContextBeforeSop(command_tokens(vocab_size)),
        embed_positions=partial(BlockPositions, rows, hidden_size),
        counts_prefix=False,
        qkv_bias=True,
        output_bias=True,
        tie_word_embeddings=raw.take("tie_word_embeddings", default=True, kind=bool),
    )


def rules(config: DecoderConfig) -> tuple[Rule, ...]:
    """Return the published names."""
    ours, theirs = "model.layers.{i}.", "glm.transformer.layers.{i}."
    qkv = tuple(f"{ours}self_attn.{name}_proj" for name in "qkv")
    positions = "model.embed_positions."
    return (
        Rename("glm.word_embeddings", "model.embed_tokens"),
        Rename("glm.transformer.position_embeddings", f"{positions}position"),
        Rename("glm.transformer.block_position_embeddings", f"{positions}block"),
        Rename(f"{theirs}input_layernorm", f"{ours}input_layernorm"),
        Split(f"{theirs}attention.query_key_value", into=qkv),
        Rename(f"{theirs}attention.dense", f"{ours}self_attn.o_proj"),
        Rename(f"{theirs}post_attention_layernorm", f"{ours}post_attention_layernorm"),
        Rename(f"{theirs}mlp.dense_h_to_4h", f"{ours}mlp.up_proj"),
        Rename(f"{theirs}mlp.dense_4h_to_h", f"{ours}mlp.down_proj"),
        Rename("glm.transformer.final_layernorm", "model.norm"),
    )


def tiny() -> dict[str, Any]:
    """Return a config.json of a two-layer model."""
    return {
        "architectures": ["GLMModel"],
        "model_type": "glm",
        "hidden_size": 64,
        "num_layers": 2,
        "num_attention_heads": 4,
        "max_sequence_length": 128,
        "block_position_encoding": True,
        "vocab_size": 256,
    }


FAMILY = Family(
    summary="GLM of 2021: GLM-10B, GLM-10B-chinese and smaller ones",
    matches=matches,
    read_config=read_config,
    rules=rules,
    tiny=tiny,
    ignored_keys=IGNORED,
    optional_prefix="glm.",
    aliases=("glm_10b_chinese", "glm_large_chinese", "glm_2b", "glm_515m"),
    not_exported=(
        "its prompt sees itself and its positions have two coordinates, which no living "
        "architecture computes"
    ),
)
