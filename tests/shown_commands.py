"""The commands that a document shows, and running them as they stand."""

import re
import shlex
from pathlib import Path

from danlu.cli.app import run

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HERE_DOCUMENT = re.compile(r"^cat > (\S+) <<'END'\n(.*?)^END\n", re.MULTILINE | re.DOTALL)
TRAINING = ("align", "finetune", "pretrain")


def blocks(document: Path) -> list[tuple[str, str]]:
    """The code blocks of a document: language and text."""
    return BLOCK.findall(document.read_text(encoding="utf-8"))


def shown_files(text: str) -> dict[str, str]:
    """The files that a block of shell commands writes with `cat > NAME <<'END'`."""
    return dict(HERE_DOCUMENT.findall(text))


def shown_commands(text: str) -> list[list[str]]:
    """The arguments of each `danlu` command in a block of shell commands."""
    lines = [part for line in HERE_DOCUMENT.sub("", text).splitlines() for part in line.split("&&")]
    return [words[1:] for line in lines if (words := shlex.split(line)) and words[0] == "danlu"]


def run_shown(text: str, folder: Path) -> list[list[str]]:
    """Run a block in `folder`, which is the working directory; trainings take two steps.

    Returns the commands; raises if one of them fails.
    """
    for name, content in shown_files(text).items():
        (folder / name).write_text(content, encoding="utf-8")
    commands = shown_commands(text)
    for words in commands:
        short = [
            f"train.{key}"
            for key in ("epochs=null", "steps=2", "warmup_steps=0", "warmup_ratio=null")
        ]
        kept = [word for word in words if not word.startswith(("train.steps=", "train.warmup"))]
        assert run([*kept, *short] if words[0] in TRAINING else words) == 0, words
    return commands
