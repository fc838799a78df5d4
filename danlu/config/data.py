"""What a run reads: sources of rows, the text of a pre-training, the data of a fine-tuning."""

from typing import Self

from pydantic import Field, model_validator

from danlu.config.base import Config


class DataSource(Config):
    """One source of rows, and how it is to be read where its content does not say so."""

    path: str = Field(
        description="file, folder, FILE:SPLIT, or hub:OWNER/NAME for a data set of the hub",
        examples=["instructions.jsonl"],
    )
    format: str | None = Field(
        None, description="row shape, such as alpaca or messages; null: told by each row's content"
    )
    weight: float = Field(1.0, gt=0, description="share in a mixture, beside the other sources")
    split: str | None = Field(
        None, description="part of a folder or data set, such as train or dev; null: train"
    )
    text_key: str = Field("text", description="key or column that holds the text of a plain text")
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="keys of the rows under other names, as {question: prompt, solution: response}",
    )
    mend: bool = Field(
        False,
        description="join turns of one speaker, drop answers before any question and questions "
        "without an answer, instead of refusing such rows",
    )
    tool_marks: bool = Field(
        False,
        description="read answers with #text2image# or #InstructFace# as tool calls; as text else",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.path:
            raise ValueError("path is empty; give a file, a folder or hub:OWNER/NAME")
        return self


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
