"""The commands that a document shows, and running them as they stand."""

import re
import shlex
from pathlib import Path

from danlu.cli.app import run

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HERE_DOCUMENT = re.compile(r"^cat > (\S+) <<'END'\n(.*?)^END\n", re.MULTILINE | re.DOTALL)
TRAINING = ("align", "finetune", "pretrain")
FEW_STEPS = (
    "train.epochs=null",
    "train.steps=2",
    "train.warmup_steps=0",
    "train.warmup_ratio=null",
    "train.micro_batch_size=2",
    "train.global_batch_size=2",
)
LITTLE_TEXT = ("--samples", "8", "--max-tokens", "64", "--answers", "2", "--no-speed")


def blocks(document: Path) -> list[tuple[str, str]]:
    """The code blocks of a document: language and text."""
    return BLOCK.findall(document.read_text(encoding="utf-8"))


def shown_files(text: str) -> dict[str, str]:
    """The files that a block of shell commands writes with `cat > NAME <<'END'`."""
    return dict(HERE_DOCUMENT.findall(text))


def shown_commands(text: str) -> list[list[str]]:
    """The arguments of each `danlu` command in a block of shell commands."""
    return [words for words, _ in _with_exit_codes(text)]


def _with_exit_codes(text: str) -> list[tuple[list[str], int]]:
    """The commands, and how each ends: with 1 where `|| ...` says what is done then."""
    lines = [part for line in HERE_DOCUMENT.sub("", text).splitlines() for part in line.split("&&")]
    parts = [line.partition("||") for line in lines]
    split = [(shlex.split(command), int(bool(otherwise))) for command, otherwise, _ in parts]
    return [(words[1:], code) for words, code in split if words and words[0] == "danlu"]


def run_shown(text: str, folder: Path) -> list[list[str]]:
    """Run a block in `folder`, which is the working directory.

    Trainings take two steps of two rows, quantizations little text.

    Returns the commands; raises if one of them ends otherwise than shown.
    """
    for name, content in shown_files(text).items():
        (folder / name).write_text(content, encoding="utf-8")
    commands = _with_exit_codes(text)
    for words, code in commands:
        assert run(_shortened(words)) == code, words
    return [words for words, _ in commands]


def _shortened(words: list[str]) -> list[str]:
    if words[0] in TRAINING:
        kept = [word for word in words if not word.startswith(("train.steps=", "train.warmup"))]
        return [*kept, *FEW_STEPS]
    return [*words, *LITTLE_TEXT] if words[0] == "quantize" else words
