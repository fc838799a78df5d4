"""Family and sizes, from config.json alone."""

from dataclasses import dataclass

from danlu.models import discover
from danlu.models.decoder import Decoder


@dataclass(frozen=True)
class ShapeFacts:
    """What a config.json describes.

    Attributes:
        family, summary: what it is.
        num_parameters: a tied head counts once.
        tied: whether the head is the embedding.
        quantized: how a quantized checkpoint is quantized, in words, or None.
    """

    family: str
    summary: str
    num_parameters: int
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_seq_len: int
    tied: bool
    quantized: str | None

    def rows(self) -> list[tuple[str, str]]:
        """Return labels and values to print."""
        shared = f", {self.num_kv_heads} key/value heads"
        rows = [
            ("family", f"{self.family}: {self.summary}"),
            ("parameters", f"{self.num_parameters:,}{', tied head' if self.tied else ''}"),
            ("layers", f"{self.num_layers} x hidden {self.hidden_size}"),
            (
                "attention",
                f"{self.num_heads} heads of {self.head_dim}"
                + shared * (self.num_kv_heads != self.num_heads),
            ),
            ("mlp", f"intermediate {self.intermediate_size}"),
            ("vocabulary", f"{self.vocab_size:,}"),
            ("context", f"{self.max_seq_len:,} tokens"),
        ]
        return [*rows, ("quantized", self.quantized)] if self.quantized else rows


def shape_of(decoder: Decoder, quantized: str | None = None) -> ShapeFacts:
    """Return the sizes of a decoder that a config.json described.

    Args:
        decoder: on any device.
        quantized: how its checkpoint is quantized, in words.
    """
    config, published = decoder.config, decoder.published
    assert published is not None
    return ShapeFacts(
        family=published.family,
        summary=discover()[published.family].summary,
        num_parameters=sum(parameter.numel() for parameter in decoder.parameters()),
        num_layers=config.num_layers,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        vocab_size=config.vocab_size,
        max_seq_len=config.max_seq_len,
        tied=config.tie_word_embeddings,
        quantized=quantized,
    )
