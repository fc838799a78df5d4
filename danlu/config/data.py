"""What a run reads: the text of a pre-training, the conversations of a fine-tuning."""

from typing import Self

from pydantic import Field, model_validator

from danlu.config.base import Config


class PretrainData(Config):
    """The raw text of a pre-training run."""

    corpus: str | list[str] = Field(
        description="text, JSONL or folder, or a list of them", examples=["corpus.txt"]
    )
    held_out: str | None = Field(
        None, description="text that is only evaluated on; null: take held_out_fraction"
    )
    held_out_fraction: float = Field(
        0.0, ge=0, lt=1, description="part of the corpus' documents that is only evaluated on"
    )
    max_seq_len: int = Field(256, ge=2, description="tokens per packed row")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.held_out is not None and self.held_out_fraction:
            raise ValueError("give either held_out or held_out_fraction; found both")
        if not self.corpus:
            raise ValueError("corpus is empty; give at least one path")
        return self

    @property
    def corpus_paths(self) -> list[str]:
        """The corpus as a list of paths."""
        return [self.corpus] if isinstance(self.corpus, str) else list(self.corpus)


class FinetuneData(Config):
    """The conversations of a fine-tuning run."""

    instructions: str | list[str] = Field(
        description="JSONL or JSON of conversations, or a list of them",
        examples=["instructions.jsonl"],
    )
    held_out: str | None = Field(
        None, description="conversations that are only evaluated on; null: none"
    )
    max_seq_len: int = Field(256, ge=2, description="tokens per packed row")
    chat_format: str | None = Field(
        None, description="a built-in format or template file; null: the model's own"
    )
    max_dropped: int = Field(
        0, ge=0, description="stop if more conversations than this do not fit or teach nothing"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.instructions:
            raise ValueError("instructions is empty; give at least one path")
        return self

    @property
    def instruction_paths(self) -> list[str]:
        """The instructions as a list of paths."""
        return [self.instructions] if isinstance(self.instructions, str) else [*self.instructions]
