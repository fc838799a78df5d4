"""What is to be looked at: the data of a run file, or files beside a model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from danlu.config.align import AlignRun
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
    """Return what a run file would train on: a pre-training, a fine-tuning or an alignment.

    Raises:
        ConfigError: if it is none of them, or is wrong.
    """
    plan, kind = _kind_of_run(path)
    return plan(load_config(kind, path, overrides))


def _of_pretraining(run: PretrainRun) -> Plan:
    return Plan(run.tokenizer, run.data.corpus, max_tokens=run.data.max_seq_len)


def _of_finetuning(run: FinetuneRun) -> Plan:
    data = run.data
    return Plan(
        run.model,
        data.instructions,
        run.family,
        data.chat_format,
        data.learn,
        data.max_seq_len,
        data.long,
        data.template_options,
    )


def _of_alignment(run: AlignRun) -> Plan:
    data = run.data
    return Plan(
        run.model,
        data.sources,
        run.family,
        data.chat_format,
        "last",
        data.max_seq_len,
        data.long,
    )


KINDS: dict[str, tuple[Callable[[Any], Plan], type[Config]]] = {  # by a key of the section `data`
    "corpus": (_of_pretraining, PretrainRun),
    "instructions": (_of_finetuning, FinetuneRun),
    "preferences": (_of_alignment, AlignRun),
}


def _kind_of_run(path: Path) -> tuple[Callable[[Any], Plan], type[Config]]:
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"), f"'{path}'")
    except (OSError, UnicodeDecodeError):
        return KINDS["instructions"]  # whose loading tells what is wrong with the file
    values = values.get("config", values) if isinstance(values, dict) else {}
    data = values.get("data")
    found = [key for key in KINDS if isinstance(data, dict) and key in data]
    if not found:
        raise ConfigError(
            f"'{path}' does not say what to train on; expected a section `data` with one of "
            f"{', '.join(KINDS)}. `danlu init` writes a run file; or give --model and --data."
        )
    return KINDS[found[0]]
