"""Run files to begin with: every key, its default and its help text."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.config.adapter import LoraConfig, PrefixConfig
from danlu.config.align import starter as align_starter
from danlu.config.base import Config
from danlu.config.data import FinetuneData, PretrainData, sources
from danlu.config.quantize.gptq import GptqScheme
from danlu.config.quantize.run import Bounds, CalibrationData, QuantizeRun
from danlu.config.run import FinetuneRun, PretrainRun
from danlu.config.template import dump_yaml
from danlu.config.train import TrainOptions
from danlu.errors import ConfigError, OutputError, did_you_mean
from danlu.files import write_text


@dataclass(frozen=True)
class Starter:
    """A run file to begin with.

    Attributes:
        command: that takes it.
        about: what it is good for, a line.
        make: gives the config.
    """

    command: str
    about: str
    make: Callable[[], Config]


def starter(kind: str) -> Starter:
    """Return the run file of a kind, or raise a `ConfigError` with the known ones."""
    if kind not in STARTERS:
        raise ConfigError(
            f"There is no kind {kind!r}; expected one of {', '.join(STARTERS)}."
            f"{did_you_mean(kind, STARTERS)}"
        )
    return STARTERS[kind]


def run_file_text(kind: str) -> str:
    """Return a commented run file.

    Raises:
        ConfigError: if there is no such kind.
    """
    chosen = starter(kind)
    head = (
        f"# {chosen.about}\n# A run file for: danlu {chosen.command} FILE.yaml [key=value ...]\n\n"
    )
    return head + dump_yaml(chosen.make())


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


def _tuned(name: str, train: TrainOptions, **options: Any) -> FinetuneRun:
    return FinetuneRun(
        out=f"runs/{name}",
        model="runs/pretrain/model",
        data=FinetuneData(instructions=sources("instructions.jsonl"), max_seq_len=512),
        train=train,
        **options,
    )


def _sft() -> FinetuneRun:
    train = TrainOptions(epochs=3.0, learning_rate=2e-5, warmup_ratio=0.03, precision="bf16")
    return _tuned("sft", train, adapter=None)


def _lora() -> FinetuneRun:
    train = TrainOptions(epochs=3.0, learning_rate=2e-4, warmup_ratio=0.03, precision="bf16")
    return _tuned("lora", train, adapter=LoraConfig(lora_rank=16, lora_alpha=32.0))


def _qlora() -> FinetuneRun:
    train = TrainOptions(
        epochs=3.0,
        learning_rate=2e-4,
        warmup_ratio=0.03,
        precision="bf16",
        optimizer="adamw8bit",
        activation_checkpointing="full",
    )
    adapter = LoraConfig(lora_rank=16, lora_alpha=32.0, lora_dropout=0.05)
    return _tuned("qlora", train, adapter=adapter, quantize="nf4")


def _prefix() -> FinetuneRun:
    train = TrainOptions(epochs=3.0, learning_rate=1e-2, warmup_ratio=0.03, weight_decay=0.0)
    return _tuned("prefix", train, adapter=PrefixConfig())


def _quantize() -> QuantizeRun:
    return QuantizeRun(
        model="runs/merged",
        out="runs/merged-int4",
        scheme=GptqScheme(),
        calibration=CalibrationData(sources=sources("instructions.jsonl")),
        bounds=Bounds(max_ppl_increase=0.05),
    )


STARTERS: dict[str, Starter] = {
    "sft": Starter("finetune", "Every weight is trained on conversations.", _sft),
    "lora": Starter("finetune", "A LoRA adapter is trained on conversations.", _lora),
    "qlora": Starter("finetune", "LoRA on a base in 4 bits: the least memory.", _qlora),
    "prefix": Starter("finetune", "Keys and values in front of every text are trained.", _prefix),
    "dpo": Starter("align", "A model learns which of two answers is preferred.", align_starter),
    "quantize": Starter("quantize", "A model in fewer bits, with what that costs.", _quantize),
    "pretrain": Starter("pretrain", "A new model learns raw text.", _pretrain),
}
