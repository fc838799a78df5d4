"""What a decoder is built from: sizes, and the parts a family chose."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn

from danlu.models.block import DecoderBlock
from danlu.nn.attention import Attention, AttentionLayer, QKNormAttention, SelfAttention
from danlu.nn.embedding import NoPositions
from danlu.nn.linear import Linear
from danlu.nn.positions import PositionScheme
from danlu.nn.sequence import CountedPositions, SequenceRule
from danlu.nn.stores import KVShape

NormFactory = Callable[[int], nn.Module]  # hidden_size -> norm
MlpFactory = Callable[[int, int], nn.Module]  # hidden_size, intermediate_size -> mlp
HeadFactory = Callable[[int, int], Linear]  # hidden_size, vocab_size -> head
AttentionFactory = Callable[["DecoderConfig", AttentionLayer], SelfAttention]
BlockFactory = Callable[[SelfAttention, nn.Module, NormFactory, int], DecoderBlock]


def no_norm(hidden_size: int) -> nn.Module:
    """Return the module that changes nothing, where a family has no norm."""
    return nn.Identity()


def grouped_attention(config: "DecoderConfig", layer: AttentionLayer) -> Attention:
    """Return multi-head attention with the biases of the config."""
    return Attention(layer, config.head_dim, *_projections(config))


def qk_norm_attention(config: "DecoderConfig", layer: AttentionLayer) -> Attention:
    """Return attention that normalises query and key heads."""
    q_norm, k_norm = config.norm(config.head_dim), config.norm(config.head_dim)
    projections = _projections(config)
    return QKNormAttention(layer, config.head_dim, *projections, q_norm=q_norm, k_norm=k_norm)


def _projections(config: "DecoderConfig") -> tuple[Linear, Linear, Linear, Linear]:
    """Return q_proj, k_proj, v_proj and o_proj."""
    query_size = config.num_heads * config.head_dim
    kv_size = config.num_kv_heads * config.head_dim
    return (
        Linear(config.hidden_size, query_size, bias=config.qkv_bias),
        Linear(config.hidden_size, kv_size, bias=config.qkv_bias),
        Linear(config.hidden_size, kv_size, bias=config.qkv_bias),
        Linear(query_size, config.hidden_size, bias=config.output_bias),
    )


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes in the published spelling, and parts as factories (composition instead of flags).

    Attributes that are not plain sizes:
        attention_scale: factor on attention scores; None: 1 / sqrt(head_dim).
        value_dim: size of a value head; None: head_dim.
        embedding_size: width of embedding and head, if not hidden_size: projections lie between.
        counts_prefix: whether a text behind a trained prefix begins at the prefix's length, as in
            transformers; by the published code of ChatGLM it begins at 0, as without one.
        windows: slots that each layer's queries see (None: all); empty: all layers see all.
        mlp_of_layer: layers whose MLP is not `mlp`.
        embed_positions: what the embedding adds.
        embedding_norm, final_norm: norms after the embedding and before the head; None means no
            norm for the first, and `norm` for the second.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_seq_len: int
    norm: NormFactory
    mlp: MlpFactory
    position_scheme: PositionScheme
    sequence_rule: SequenceRule = CountedPositions()
    attention: AttentionFactory = grouped_attention
    block: BlockFactory = DecoderBlock
    head: HeadFactory = Linear
    embed_positions: Callable[[], nn.Module] = NoPositions
    embedding_norm: NormFactory | None = None
    final_norm: NormFactory | None = None
    mlp_of_layer: Mapping[int, MlpFactory] = field(default_factory=dict)
    counts_prefix: bool = True
    windows: tuple[int | None, ...] = ()
    attention_scale: float | None = None
    value_dim: int | None = None
    embedding_size: int | None = None
    qkv_bias: bool = False
    output_bias: bool = False
    tie_word_embeddings: bool = False

    @property
    def embedding_width(self) -> int:
        """Size of a token's embedding, and of what enters the head."""
        return self.embedding_size or self.hidden_size

    @property
    def kv_shape(self) -> KVShape:
        """What each layer keeps per token."""
        return KVShape(self.num_kv_heads, self.head_dim, self.value_dim or self.head_dim)
