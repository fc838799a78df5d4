"""How an adapter is attached: one config for each method, chosen by its key `method`."""

from typing import Annotated, Literal

from pydantic import Field, Tag

from danlu.config.base import Config, by_method


class LoraConfig(Config):
    """Low-rank adaptation (arXiv:2106.09685): W + B A * alpha / rank."""

    method: Literal["lora"] = Field("lora", description="lora: low-rank updates of linear layers")
    lora_rank: int = Field(8, description="rank of the update", ge=1)
    lora_alpha: float = Field(16.0, description="the update is scaled by alpha / rank", gt=0)
    lora_dropout: float = Field(0.0, description="dropout on the adapter's input", ge=0, lt=1)
    targets: Literal["all-linear"] | list[str] = Field(
        "all-linear",
        description="linear layers to adapt: all but the head, or name endings such as q_proj",
    )


class PrefixConfig(Config):
    """Prefix tuning (arXiv:2101.00190): trained keys and values in front of every layer."""

    method: Literal["prefix"] = Field(
        "prefix", description="prefix: trained keys and values in front of every layer"
    )
    num_tokens: int = Field(32, description="virtual tokens in front of every text", ge=1)
    projection: bool = Field(
        False, description="train them through a small MLP, which is folded in when they are saved"
    )
    projection_size: int | None = Field(
        None, description="width inside that MLP; null: the hidden size of the model", ge=1
    )


class PromptConfig(Config):
    """Prompt tuning (arXiv:2104.08691): trained embeddings in front of every text."""

    method: Literal["prompt"] = Field(
        "prompt", description="prompt: trained embeddings in front of every text"
    )
    num_tokens: int = Field(20, description="virtual tokens in front of every text", ge=1)
    init_text: str | None = Field(
        None, description="they begin as the embeddings of this text; null: drawn tokens"
    )
    init_ids: list[int] | None = Field(
        None, description="the tokens they begin as, cut or repeated; null: those of init_text"
    )


AdapterConfig = Annotated[
    Annotated[LoraConfig, Tag("LoraConfig")]
    | Annotated[PrefixConfig, Tag("PrefixConfig")]
    | Annotated[PromptConfig, Tag("PromptConfig")],
    by_method(LoraConfig, PrefixConfig, PromptConfig),
]
