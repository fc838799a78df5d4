"""How an adapter is attached: one config for each method, chosen by its key `method`."""

from typing import Annotated, Literal, Self

from pydantic import Field, Tag, field_validator, model_validator

from danlu.config.base import Config, by_method


class TargetOptions(Config):
    """Which layers are adapted."""

    targets: str | list[str] = Field(
        "all-linear",
        description="layers to adapt: all-linear (all but the head), or a list of endings of "
        "names (q_proj, or as published: c_attn, W_pack, query_key_value), whole names, the groups "
        "attention and mlp, or roles (column, row); embed_tokens and lm_head can be listed too; "
        "any other text is one regular expression for whole names",
    )
    layers: list[int] | None = Field(
        None, description="only in these blocks, counted from 0; null: in all"
    )
    exclude: str | list[str] | None = Field(
        None, description="not these, told as in targets; null: leave none out"
    )


class LoraConfig(TargetOptions):
    """Low-rank adaptation (arXiv:2106.09685): W + B A * alpha / rank."""

    method: Literal["lora"] = Field("lora", description="lora: low-rank updates of linear layers")
    lora_rank: int = Field(8, description="rank of the update", ge=1)
    lora_alpha: float = Field(16.0, description="the update is scaled by alpha / rank", gt=0)
    lora_dropout: float = Field(0.0, description="dropout on the adapter's input", ge=0, lt=1)
    rank_pattern: dict[str, int] = Field(
        default_factory=dict,
        description="other ranks for some layers: endings of names, or regular expressions",
    )
    alpha_pattern: dict[str, float] = Field(
        default_factory=dict,
        description="other alphas for some layers: endings of names, or regular expressions",
    )
    rank_stabilized: bool = Field(
        False, description="scale by alpha / sqrt(rank) instead, for high ranks (arXiv:2312.03732)"
    )
    dora: bool = Field(
        False, description="train the length of each row apart from its direction (DoRA)"
    )
    init: Literal["zero", "pissa"] = Field(
        "zero",
        description="zero: the update begins as nothing; pissa: it begins as the largest singular "
        "values of the weight, which are taken off the base (arXiv:2404.02948)",
    )
    learning_rate_ratio: float = Field(
        1.0, description="B learns this many times faster than A; LoRA+ recommends 16", gt=0
    )
    bias: Literal["none", "lora_only", "all"] = Field(
        "none", description="biases that are trained too: none, those of the targets, or all"
    )
    whole: list[str] = Field(
        default_factory=list,
        description="modules trained whole beside it, such as embed_tokens and lm_head",
    )
    token_rows: list[int | str] | Literal["control"] | None = Field(
        None,
        description="tokens whose rows of embedding and head are trained beside it, by id or text; "
        "control: the control tokens of the chat format; null: none",
    )

    @field_validator("rank_pattern", "alpha_pattern")
    @classmethod
    def _are_positive(cls, patterns: dict[str, float]) -> dict[str, float]:
        wrong = {name: value for name, value in patterns.items() if value <= 0}
        if wrong:
            raise ValueError(f"expected positive numbers, found {wrong}")
        return patterns

    @model_validator(mode="after")
    def _check_kinds(self) -> Self:
        if self.dora and self.init == "pissa":
            raise ValueError("dora and init: pissa exclude each other; choose one")
        both = {"embed_tokens", "lm_head"} & set(self.whole)
        if both and self.token_rows is not None:
            raise ValueError(
                f"{', '.join(sorted(both))} cannot be trained whole and by token_rows; choose one"
            )
        return self


class TokenRowsConfig(Config):
    """Token rows: single rows of embedding and head are trained, and nothing else."""

    method: Literal["token_rows"] = Field(
        "token_rows", description="token_rows: single rows of embedding and head"
    )
    token_rows: list[int | str] | Literal["control"] = Field(
        "control",
        description="the tokens, by id or text; control: the control tokens of the chat format",
    )


class Ia3Config(TargetOptions):
    """(IA)3 (arXiv:2205.05638): a trained factor on every output or input of some layers."""

    method: Literal["ia3"] = Field("ia3", description="ia3: factors on outputs of linear layers")
    targets: str | list[str] = Field(
        default_factory=lambda: ["k_proj", "v_proj", "down_proj"],
        description="linear layers to adapt, told as for lora",
    )
    feedforward: list[str] = Field(
        default_factory=lambda: ["down_proj"],
        description="those among them whose inputs are scaled instead of their outputs",
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
        None,
        min_length=1,
        description="the tokens they begin as, cut or repeated; null: those of init_text",
    )

    @model_validator(mode="after")
    def _check_init(self) -> Self:
        if self.init_text is not None and self.init_ids is not None:
            raise ValueError("give either init_text or init_ids; found both")
        return self


AdapterConfig = Annotated[
    Annotated[LoraConfig, Tag("LoraConfig")]
    | Annotated[TokenRowsConfig, Tag("TokenRowsConfig")]
    | Annotated[Ia3Config, Tag("Ia3Config")]
    | Annotated[PrefixConfig, Tag("PrefixConfig")]
    | Annotated[PromptConfig, Tag("PromptConfig")],
    by_method(LoraConfig, TokenRowsConfig, Ia3Config, PrefixConfig, PromptConfig),
]
