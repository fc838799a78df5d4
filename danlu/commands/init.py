"""Run files to begin with: every key, its default and its help text."""

from collections.abc import Callable
from pathlib import Path

from danlu.config.base import Config
from danlu.config.data import FinetuneData, PretrainData, sources
from danlu.config.run import FinetuneRun, PretrainRun
from danlu.config.template import dump_yaml
from danlu.config.train import TrainOptions
from danlu.errors import ConfigError, OutputError, did_you_mean
from danlu.files import write_text


def run_file_text(kind: str) -> str:
    """Return a commented run file for `danlu pretrain` or `danlu finetune`.

    Raises:
        ConfigError: if there is no such kind.
    """
    if kind not in _STARTERS:
        raise ConfigError(
            f"There is no kind {kind!r}; expected {' or '.join(_STARTERS)}."
            f"{did_you_mean(kind, _STARTERS)}"
        )
    head = f"# A run file for: danlu {kind} FILE.yaml [key=value ...]\n\n"
    return head + dump_yaml(_STARTERS[kind]())


def write_run_file(kind: str, path: Path) -> None:
    """Write a commented run file to a new file.

    Raises:
        ConfigError: if there is no such kind.
        OutputError: if the file exists.
    """
    text = run_file_text(kind)
    if path.exists():
        raise OutputError(f"'{path}' exists; nothing was overwritten. Choose another name.")
    write_text(path, text)


def _pretrain() -> PretrainRun:
    return PretrainRun(
        out="runs/pretrain",
        tokenizer="runs/tokenizer",
        data=PretrainData(corpus=sources("corpus.txt"), held_out_fraction=0.01),
        train=TrainOptions(steps=1000, learning_rate=1e-3, warmup_steps=50),
    )


def _finetune() -> FinetuneRun:
    return FinetuneRun(
        out="runs/finetune",
        model="runs/pretrain/model",
        data=FinetuneData(instructions=sources("instructions.jsonl")),
        train=TrainOptions(epochs=3.0),
    )


_STARTERS: dict[str, Callable[[], Config]] = {"pretrain": _pretrain, "finetune": _finetune}
