"""What is to be looked at: the data of a run file, or files beside a model."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from danlu.config.base import Config
from danlu.config.data import DataSource
from danlu.config.load import load_config
from danlu.config.run import FinetuneRun, PretrainRun
from danlu.config.yaml_text import parse_yaml
from danlu.errors import ConfigError
from danlu.tokenizer.chat.training import Learn, Long


@dataclass(frozen=True)
class Plan:
    """What is looked at, and how it becomes tokens.

    Attributes:
        model: folder (or id) of the model, or of a tokenizer alone.
        sources: what is read.
        family: of the model, where its config.json does not tell it.
        format: the chat format; None: the model's own.
        learn, long, template_options: as in `render_training`.
        max_tokens: the longest row; None: any length.
    """

    model: str
    sources: Sequence[DataSource]
    family: str | None = None
    format: str | None = None
    learn: Learn = "answers"
    max_tokens: int | None = None
    long: Long = "truncate"
    template_options: dict[str, Any] = field(default_factory=dict)


def plan_of_run(path: Path, overrides: Sequence[str] = ()) -> Plan:
    """Return what a run file would train on.

    Raises:
        ConfigError: if it is not the file of a fine-tuning or a pre-training, or is wrong.
    """
    kind = _kind_of_run(path)
    run = load_config(kind, path, overrides)
    if isinstance(run, PretrainRun):
        sources = [DataSource(path=corpus) for corpus in run.data.corpus_paths]
        return Plan(run.tokenizer, sources, max_tokens=run.data.max_seq_len)
    assert isinstance(run, FinetuneRun)
    data = run.data
    return Plan(
        run.model,
        [DataSource(path=instructions) for instructions in data.instruction_paths],
        run.family,
        data.chat_format,
        max_tokens=data.max_seq_len,
        long="drop",
    )


def _kind_of_run(path: Path) -> type[Config]:
    """Return the class of a run file: a pre-training reads a corpus."""
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"), f"'{path}'")
    except (OSError, UnicodeDecodeError):
        return FinetuneRun  # whose loading tells what is wrong with the file
    if not isinstance(values, dict):
        return FinetuneRun
    values = values.get("config", values)
    data = values.get("data")
    if not isinstance(data, dict):
        raise ConfigError(
            f"'{path}' has no section `data`; expected the run file of a training. "
            "`danlu init` writes one; or give --model and --data."
        )
    return PretrainRun if "corpus" in data else FinetuneRun
