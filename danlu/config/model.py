"""The sizes of a model that is trained from scratch."""

from typing import Self

from pydantic import Field, model_validator

from danlu.config.base import Config


class ModelShape(Config):
    """A Llama-style decoder."""

    hidden_size: int = Field(256, description="width of the residual stream", ge=2)
    intermediate_size: int = Field(704, description="width inside the feed-forward block", ge=1)
    num_layers: int = Field(6, description="decoder blocks", ge=1)
    num_heads: int = Field(4, description="query heads", ge=1)
    num_kv_heads: int = Field(2, description="key/value heads, shared by groups of queries", ge=1)
    max_seq_len: int = Field(512, description="longest sequence in tokens", ge=2)
    rope_theta: float = Field(10000.0, description="base of the rotary wavelengths", gt=0)
    rms_norm_eps: float = Field(1e-5, description="added to the mean square in norms", gt=0)
    tie_word_embeddings: bool = Field(True, description="the head shares the embedding's weight")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} does not give {self.num_heads} heads of an even "
                "size; expected a multiple of 2 * num_heads"
            )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}"
            )
        return self
