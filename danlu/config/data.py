"""What a run reads: sources of rows, the text of a pre-training, the data of a fine-tuning."""

import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

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


def sources(*paths: str | Path) -> list[DataSource]:
    """Return paths as sources of weight 1."""
    return [DataSource(path=str(path)) for path in paths]


def _as_list(given: Any) -> Any:
    """Return a path, a source or a list of either as a list of what sources are made of."""
    listed = given if isinstance(given, list) else [given]
    return [{"path": each} if isinstance(each, str) else each for each in listed]


def _as_given(sources: list[DataSource]) -> Any:
    """Return sources as a person writes them: a path where there is nothing else to say."""
    changed = [source.model_dump(mode="json", exclude_defaults=True) for source in sources]
    short = [each["path"] if len(each) == 1 else each for each in changed]
    return short[0] if len(short) == 1 else short


def _read_temperature(given: Any) -> Any:
    return math.inf if given == INFINITE else given


def _write_temperature(value: float) -> float | str:
    return INFINITE if math.isinf(value) else value


INFINITE = "infinite"
_SHUFFLE_BUFFER = 4096
Sources = Annotated[list[DataSource], BeforeValidator(_as_list), PlainSerializer(_as_given)]
Temperature = Annotated[
    float,
    Field(ge=1, allow_inf_nan=True),
    BeforeValidator(_read_temperature),
    PlainSerializer(_write_temperature),
]
BatchingName = Literal["packed", "padded", "grouped", "padding-free"]


class ReadingOptions(Config):
    """How data is read and prepared, whatever is learned of it."""

    held_out: Sources | None = Field(
        None, description="data that is only evaluated on; null: take held_out_fraction"
    )
    held_out_fraction: float = Field(
        0.0, ge=0, lt=1, description="part of the data that is only evaluated on; 0: none"
    )
    max_seq_len: int = Field(256, ge=2, description="tokens per row")
    temperature: Temperature = Field(
        1.0,
        description="how a mixture heeds sizes. 1: a source of weight 2 is seen twice in a pass. "
        "More: sizes matter less. infinite: weights are the shares of all tokens",
    )
    streaming: bool = Field(
        False,
        description="read and encode while training instead of beforehand; needs train.steps. "
        "Weights are the shares of rows then",
    )
    shuffle_buffer: int = Field(
        _SHUFFLE_BUFFER,
        ge=1,
        description="streaming: examples that are shuffled and packed together",
    )
    workers: int | None = Field(
        None,
        ge=1,
        le=256,
        description="processes that encode; null: one for each core, if it pays",
    )
    cache: str | None = Field(
        None,
        description="folder that keeps encoded data for later runs; null: ~/.cache/danlu/encoded, "
        "or encoded/ in DANLU_HOME",
    )

    @model_validator(mode="after")
    def _check_reading(self) -> Self:
        problems = []
        if self.held_out is not None and self.held_out_fraction:
            problems.append("give either held_out or held_out_fraction; found both")
        if self.streaming and self.held_out_fraction:
            problems.append(
                "streaming does not know how much data there is, so it cannot hold out a "
                "fraction; give held_out"
            )
        if self.streaming and self.temperature != 1:
            problems.append("streaming does not know sizes, so temperature must be 1")
        if not self.streaming and self.shuffle_buffer != _SHUFFLE_BUFFER:
            problems.append(
                "shuffle_buffer is only for streaming; without it all rows are shuffled"
            )
        weighted = [source.path for source in self.held_out or [] if source.weight != 1]
        if weighted:
            problems.append(f"held_out is read once, so {', '.join(weighted)} can have no weight")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def held_out_sources(self) -> list[DataSource]:
        """The held-out data as a list of sources."""
        return self.held_out or []


class Corpus(Config):
    """What a pre-training run learns."""

    corpus: Sources = Field(
        description="text, JSONL, folder or what danlu data build wrote, or a list of them; each "
        "may be {path: ..., weight: ...}",
        examples=["corpus.txt"],
    )

    @model_validator(mode="after")
    def _check_corpus(self) -> Self:
        if not self.corpus:
            raise ValueError("corpus is empty; give at least one path")
        chats = [source.path for source in self.corpus if source.columns or source.mend]
        if chats:
            raise ValueError(
                f"columns and mend are for conversations, and {', '.join(chats)} is text; "
                "text_key names the key or column of a text"
            )
        return self

    @property
    def corpus_paths(self) -> list[str]:
        """The paths of the corpus."""
        return [source.path for source in self.corpus]


class PretrainData(ReadingOptions, Corpus):  # the corpus comes first in run files
    """The raw text of a pre-training run."""


class Instructions(Config):
    """What a fine-tuning run learns."""

    instructions: Sources = Field(
        description="JSONL, JSON or another source of conversations, or a list of them; each may "
        "be {path: ..., weight: ...}",
        examples=["instructions.jsonl"],
    )
    chat_format: str | None = Field(
        None, description="a built-in format or template file; null: the model's own"
    )
    template_options: dict[str, Any] = Field(
        default_factory=dict,
        description="what the chat format leaves open, such as {enable_thinking: false}",
    )
    learn: Literal["answers", "last", "all"] = Field(
        "answers", description="what is learned: all answers, the last one, or every token"
    )
    long: Literal["truncate", "drop"] = Field(
        "drop",
        description="what happens to conversations above max_seq_len: lose their oldest rounds, "
        "or are dropped (see max_dropped)",
    )
    max_prompt_tokens: int | None = Field(
        None,
        ge=1,
        description="long: truncate; the most tokens in front of the answer of a round that is "
        "shortened; null: half of what there is room for",
    )
    max_dropped: int = Field(
        0, ge=0, description="stop if more conversations than this do not fit or teach nothing"
    )
    batching: BatchingName = Field(
        "packed",
        description="packed: conversations share rows of max_seq_len tokens. padded: a row each. "
        "grouped: a row each, similar lengths together. padding-free: laid end to end",
    )

    @model_validator(mode="after")
    def _check_instructions(self) -> Self:
        if not self.instructions:
            raise ValueError("instructions is empty; give at least one path")
        if self.max_prompt_tokens is not None and self.long != "truncate":
            raise ValueError("max_prompt_tokens is only for long: truncate; nothing is shortened")
        return self

    @property
    def instruction_paths(self) -> list[str]:
        """The paths of the instructions."""
        return [source.path for source in self.instructions]


class FinetuneData(ReadingOptions, Instructions):  # the instructions come first in run files
    """The conversations of a fine-tuning run."""
