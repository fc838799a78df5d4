"""The one decoder: embedding, blocks, norm, head; assembled from the parts in `DecoderConfig`.

Parameter names are those of published Llama-style checkpoints (STYLE section 2).
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from danlu.models.block import DecoderBlock
from danlu.models.config import DecoderConfig, no_norm
from danlu.models.published import Published
from danlu.nn.attention import AttentionContext, AttentionLayer
from danlu.nn.cache_rounding import CacheRounding
from danlu.nn.embedding import LearnedPositions, TokenEmbedding
from danlu.nn.linear import Linear, LinearLike
from danlu.nn.norms import LayerNorm, RMSNorm
from danlu.nn.packing import PackedContext
from danlu.nn.prefix import NOTHING, InFront, Prefix
from danlu.nn.rounded_rule import rounded_rule
from danlu.nn.scaling import ScalingGroup
from danlu.nn.sequence import SequenceRule
from danlu.nn.stores import PLAIN, Keeping, KVShape

ROLES = {
    "q_proj": "column",
    "k_proj": "column",
    "v_proj": "column",
    "gate_proj": "column",
    "up_proj": "column",
    "qkv_proj": "column",
    "gate_up_proj": "column",
    "o_proj": "row",
    "down_proj": "row",
    "lm_head": "vocab",
    "project_in": "replicated",
    "project_out": "replicated",
    "q_a_proj": "replicated",
    "q_b_proj": "column",
    "kv_a_proj_with_mqa": "replicated",
    "kv_b_proj": "column",
}


def decoder_block(config: DecoderConfig, index: int) -> DecoderBlock:
    """Return layer `index`, from the parts that the config names."""
    layer = AttentionLayer(
        index,
        scale=config.attention_scale or config.head_dim**-0.5,
        slopes=config.position_scheme.slopes(config.num_heads),
        window=config.windows[index] if config.windows else None,
    )
    mlp = config.mlp_of_layer.get(index, config.mlp)
    return config.block(
        config.attention(config, layer),
        mlp(config.hidden_size, config.intermediate_size),
        config.norm,
        config.hidden_size,
    )


class Backbone(nn.Module):
    """Everything before the head: the seam `forward(tokens, positions, attn)`."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.position_scheme = config.position_scheme
        hidden, width = config.hidden_size, config.embedding_width
        self.embed_tokens: TokenEmbedding = TokenEmbedding(config.vocab_size, width)
        self.project_in = Linear(width, hidden) if width != hidden else nn.Identity()
        self.embed_positions = config.embed_positions()
        self.embed_norm = (config.embedding_norm or no_norm)(hidden)
        self.layers = nn.ModuleList(decoder_block(config, i) for i in range(config.num_layers))
        self.norm = (config.final_norm or config.norm)(hidden)
        self.project_out = Linear(hidden, width) if width != hidden else nn.Identity()

    def forward(self, tokens_BT: Tensor, positions_BT: Tensor, attn: AttentionContext) -> Tensor:
        """Return the hidden states [B, T, D] that enter the head.

        Args:
            tokens_BT: token ids.
            positions_BT: their positions; [B, 2, T] in families with two coordinates.
            attn: what each token may see; asked once per layer.
        """
        return self.run_embedded(self.embed_tokens(tokens_BT), positions_BT, attn)

    def run_embedded(
        self, embedded_BTD: Tensor, positions_BT: Tensor, attn: AttentionContext
    ) -> Tensor:
        """Return the hidden states [B, T, D] of tokens that are given by their embeddings."""
        x_BTD = self.enter(embedded_BTD, positions_BT)
        rotation = self.position_scheme.rotation(positions_BT, x_BTD.dtype)
        for block in self.layers:
            x_BTD = block(x_BTD, rotation, attn)
        return self.leave(x_BTD)

    def enter(self, embedded_BTD: Tensor, positions_BT: Tensor) -> Tensor:
        """Return the residual stream [B, T, D] that the first block gets."""
        embedded_BTD = self.project_in(embedded_BTD)
        x_BTD: Tensor = self.embed_norm(self.embed_positions(embedded_BTD, positions_BT))
        return x_BTD

    def leave(self, x_BTD: Tensor) -> Tensor:
        """Return what the head gets of the residual stream [B, T, D] after the last block."""
        hidden_BTD: Tensor = self.project_out(self.norm(x_BTD))
        return hidden_BTD


class Decoder(nn.Module):
    """A causal language model.

    Attributes:
        config: the sizes and parts it was built from.
        model: the backbone; training and serving call it with their own attention context.
        lm_head: the output projection.
        prefix: trained keys and values in front of every text, or None.
        published: how its checkpoint was written, so that saving gives back the same.
        kv_cache: how keys and values are rounded, by whatever attends to them; None: not at all.
        prepared_for_inference: layers are fused and packed; it can neither be trained nor saved.
        adapters: what `danlu.adapters` put on it, by name; the base alone has none.
        unmerged: what it was before adapters were merged reversibly, or None.
    """

    published: Published | None = None
    kv_cache: CacheRounding | None = None
    prepared_for_inference: bool = False

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.adapters: dict[str, Any] = {}
        self.unmerged: Any = None
        self.model = Backbone(config)
        self.lm_head: LinearLike = config.head(config.embedding_width, config.vocab_size)
        self.prefix: Prefix | None = None
        self.tie_head()

    def tie_head(self) -> None:
        """Let the head use the embedding's weight, if the model is tied."""
        if self.config.tie_word_embeddings and isinstance(self.lm_head, Linear):
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> Tensor:
        """Return the logits [B, T, V] of a batch, padded anywhere; a prefix has no logits.

        Args:
            input_ids: token ids [B, T].
            attention_mask: nonzero for real tokens [B, T]; None: all are real. Families with
                prefix masks also take the mask their published code takes.
            position_ids: positions [B, T], or [B, 2, T] in families with two coordinates, counted
                as without a prefix, which moves them on; None: the family's own rule for
                generation.

        Raises:
            ShapeError: if mask or positions do not fit the tokens.
        """
        rule = self.sequence_rule()
        positions_BT, attn = rule.context(input_ids, attention_mask, position_ids)
        return self.logits(self.model(input_ids, positions_BT, attn))

    def packed_hidden(self, tokens_BT: Tensor, documents_BT: Tensor) -> Tensor:
        """Return the hidden states [B, T, D] that enter the head, of packed rows.

        Every objective trains through this, so a document is the same alone and in company.

        Args:
            tokens_BT: token ids of rows of documents.
            documents_BT: number of the document that each token belongs to; -1 is padding.
        """
        attn = PackedContext(tokens_BT, documents_BT, self.sequence_rule())
        hidden_BTD: Tensor = self.model(tokens_BT, attn.positions_BT, attn)
        return hidden_BTD

    def in_front(self) -> InFront:
        """Return what every token sees in front of its own text; `NOTHING` without a prefix.

        It is computed anew, as a prefix in training changes: ask once per batch.
        """
        return NOTHING if self.prefix is None else self.prefix.in_front(self)

    def sequence_rule(self) -> SequenceRule:
        """Return how texts are numbered and who sees whom: the family's rule, behind the prefix."""
        in_front, rule = self.in_front(), self.config.sequence_rule
        if self.kv_cache is None:
            return in_front.rule(rule)
        return rounded_rule(rule, in_front, self.kv_cache)

    def run_virtual(self, embedded_PD: Tensor, attn: AttentionContext) -> None:
        """Run a text of virtual tokens, given by their embeddings, for what `attn` gets of it."""
        ids_1P = torch.zeros(1, len(embedded_PD), dtype=torch.long, device=embedded_PD.device)
        positions_1P = self.config.sequence_rule.number(ids_1P, None).positions_BT
        self.model.run_embedded(embedded_PD[None], positions_1P, attn)

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        """Return the scores of every token of the vocabulary [..., V]."""
        logits: Tensor = self.lm_head(hidden_BTD)
        return logits

    @property
    def dtype(self) -> torch.dtype:
        """The dtype the decoder computes in."""
        return self.model.embed_tokens.dtype

    @property
    def device(self) -> torch.device:
        """Where the decoder is."""
        return self.model.embed_tokens.weight.device

    def blocks(self) -> list[DecoderBlock]:
        """Return the blocks in order."""
        return [block for block in self.model.layers if isinstance(block, DecoderBlock)]

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding."""
        return self.config.vocab_size

    def text_position(self, num_tokens: int) -> int:
        """Return where a text begins behind so many trained keys and values."""
        return num_tokens if self.config.counts_prefix else 0

    def token_embeddings(self, tokens_P: Tensor) -> Tensor:
        """Return the embeddings [P, D] of tokens."""
        embedded_PD: Tensor = self.model.embed_tokens(tokens_P)
        return embedded_PD

    @property
    def prefix_tokens(self) -> int:
        """Slots that a prefix takes in front of every text; 0 without one."""
        return 0 if self.prefix is None else self.prefix.num_tokens

    @property
    def max_text_tokens(self) -> int:
        """Tokens that a text may have: the context, less what a prefix takes of it."""
        taken = 0 if self.prefix is None else self.prefix.first_position
        return self.config.max_seq_len - taken

    def kv_shape(self, layer: int) -> KVShape:
        """Return (num_kv_heads, head_dim, value_dim) of what `layer` keeps per token."""
        return self.config.kv_shape

    def kv_shapes(self) -> list[KVShape]:
        """Return `kv_shape` of every layer."""
        return [self.kv_shape(i) for i in range(self.config.num_layers)]

    @property
    def keeping(self) -> Keeping:
        """How a cache keeps keys and values."""
        return PLAIN if self.kv_cache is None else self.kv_cache

    def cache_token_bytes(self) -> int:
        """Return the bytes that a cache keeps per token, of all layers."""
        return sum(self.keeping.token_bytes(shape, self.dtype) for shape in self.kv_shapes())

    def linear_roles(self) -> dict[str, str]:
        """Return the role (column, row, vocab, replicated) of every linear layer by its name."""
        return {name: ROLES[name.rpartition(".")[2]] for name, _ in self.linears()}

    def norm_groups(self) -> dict[str, list[str]]:
        """Return each norm that layers alone read, with all of these: linear layers and routers.

        Norms that a residual stream reads too are not among them, nor is the last one where the
        head is tied to the embedding or multiplies by other numbers than it stores.
        """
        groups = [g for i in range(self.config.num_layers) for g in self.scaling_groups(i)]
        found = {g.source: list(g.consumers) for g in groups if g.kind == "norm"}
        return found | self._last_norm()

    def scaling_groups(self, block_index: int) -> list[ScalingGroup]:
        """Return where scales can be folded in a block, in the order of the forward pass."""
        groups = self.blocks()[block_index].scaling_groups()
        return [group.under(f"model.layers.{block_index}.") for group in groups]

    def _last_norm(self) -> dict[str, list[str]]:
        if not any(True for _ in self.model.norm.parameters()):
            return {}
        if isinstance(self.model.project_out, LinearLike):
            return {"model.norm": ["model.project_out"]}
        own_weight = type(self.lm_head) is Linear and not self.config.tie_word_embeddings
        return {"model.norm": ["lm_head"]} if own_weight else {}

    def linears(self) -> Iterator[tuple[str, LinearLike]]:
        """Yield every outermost linear layer with its name, in order."""
        yield from _outermost_linears(self, "")

    def replace_linear(self, name: str, linear: LinearLike) -> None:
        """Put `linear` in the place of the layer called `name`."""
        parent, _, last = name.rpartition(".")
        setattr(self.get_submodule(parent), last, linear)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Draw fresh weights: normal(0, 0.02), residual outputs scaled down by sqrt(2 * layers).

        Source: GPT-2 (Radford et al. 2019, sec. 2.3). Norms start at one, biases at zero.
        """
        residual = 0.02 / (2 * self.config.num_layers) ** 0.5
        for name, module in self.named_modules():
            if isinstance(module, RMSNorm | LayerNorm):
                module.weight.fill_(1.0)
            elif isinstance(module, Linear | TokenEmbedding | LearnedPositions):
                scale = residual if ROLES.get(name.rpartition(".")[2]) == "row" else 0.02
                module.weight.normal_(0.0, scale, generator=generator)
            bias = getattr(module, "bias", None)
            if isinstance(bias, nn.Parameter):
                bias.zero_()


def _outermost_linears(module: nn.Module, prefix: str) -> Iterator[tuple[str, LinearLike]]:
    for name, child in module.named_children():
        if isinstance(child, LinearLike):
            yield prefix + name, child
        else:
            yield from _outermost_linears(child, f"{prefix}{name}.")
