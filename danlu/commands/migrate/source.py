"""What a project whose commands are understood has to say."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from danlu.commands.migrate.draft import Draft, Rule, Rules, shown
from danlu.commands.migrate.old_command import OldCommand
from danlu.errors import did_you_mean


@dataclass(frozen=True)
class Migration:
    """What does the same here.

    Attributes:
        project: whose command it was.
        command: what to type now; ``RUN.yaml`` stands for the run file.
        draft: the run file, with what became of each flag; None where no run file is needed.
        notes: what is good to know, a sentence each.
    """

    project: str
    command: str
    draft: Draft | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """A project with old commands.

    Attributes:
        project: its name.
        claims: whether a command is one of its own.
        translate: says what does the same; may raise ConfigError.
    """

    project: str
    claims: Callable[[OldCommand], bool]
    translate: Callable[[OldCommand], Migration]


def apply_rules(draft: Draft, rules: Rules, arguments: Mapping[str, Any]) -> None:
    """Apply the rule of every argument; one without a rule is noted as missing."""
    for flag, value in arguments.items():
        rule: Rule | None = rules.get(flag)
        if rule is None:
            hint = did_you_mean(flag, rules)
            draft.missing[shown(flag, value)] = f"not known.{hint} Look whether it matters"
        else:
            rule(draft, flag, value)
