"""Dated result files: a Markdown page to read, and the same numbers as JSON."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.facts import ROOT, environment_facts
from benchmarks.measuring import Samples

RESULTS = ROOT / "benchmarks" / "results"


@dataclass
class Table:
    """A titled table of texts."""

    title: str
    header: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)

    def markdown(self) -> str:
        """Return the table as Markdown."""
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        return f"## {self.title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


@dataclass
class Report:
    """One benchmark's result.

    Attributes:
        name: of the file.
        title: first line.
        command: exact command line, without folders of this machine.
        how: what was measured how, a paragraph.
        tables: the numbers.
        samples: every single measurement, by table or subject.
        facts: machine, versions, settings; taken when the report is begun.
    """

    name: str
    title: str
    command: str
    how: str
    tables: list[Table] = field(default_factory=list)
    samples: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=environment_facts)

    def add_samples(self, subject: str, samples: Samples) -> None:
        """Keep every value of the rounds of `subject`."""
        self.samples[subject] = {name: list(spread.values) for name, spread in samples.items()}

    def markdown(self) -> str:
        """Return the page."""
        environment = Table("Environment", ("what", "value"), [*self.facts.items()])
        parts = [f"# {self.title}", f"```\n{self.command}\n```", self.how]
        return "\n\n".join(parts + [t.markdown() for t in [*self.tables, environment]]) + "\n"

    def as_dict(self) -> dict[str, Any]:
        """Return everything, for JSON."""
        tables = {
            t.title: [dict(zip(t.header, row, strict=True)) for row in t.rows] for t in self.tables
        }
        return {
            "name": self.name,
            "command": self.command,
            "environment": self.facts,
            "tables": tables,
            "samples": self.samples,
        }


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Add --out and --tiny."""
    parser.add_argument("--out", type=Path, help="result file (.md; the .json lies beside it)")
    parser.add_argument(
        "--tiny", action="store_true", help="a tiny model, to try the script; no result is kept"
    )


def publish(report: Report, options: argparse.Namespace, *, keep: bool = True) -> None:
    """Print the page and write it; a tiny run, or one not to keep, only where --out says so."""
    print(report.markdown())
    if options.out is None and (options.tiny or not keep):
        return
    path = options.out or RESULTS / f"{report.facts['date']}-{report.name}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(report.markdown(), encoding="utf-8")
    values: Mapping[str, Any] = report.as_dict()
    text = json.dumps(values, indent=1, ensure_ascii=False) + "\n"
    path.with_suffix(".json").write_text(text, encoding="utf-8")
