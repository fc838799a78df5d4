"""`danlu data scan`: the rows of a training set that hold items of an evaluation set."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from danlu.data.reading.problems import Problems, raise_problems
from danlu.data.scanning.contamination import NGRAM, EvaluationIndex, Overlap
from danlu.data.scanning.row_texts import read_evaluation_texts, read_row_texts
from danlu.errors import DataError
from danlu.files import refuse_existing, write_json
from danlu.progress import Progress, Silent, working

MAX_LISTED = 100_000  # overlaps kept for the report; all are counted
ITEMS_PER_ROW = 5  # overlaps kept of one training row
_EXPECTED = "Expected UTF-8 rows or text. Fix or remove what is listed."


@dataclass
class ScanReport:
    """What a scan found.

    Attributes:
        ngram: units in a run.
        num_rows: training rows that were read.
        num_items: evaluation rows that were read.
        rows_found: training rows with an overlap.
        items_found: per evaluation file, the rows that are in the training set.
        items_read: per evaluation file, its rows.
        overlaps: the first `MAX_LISTED`, at most `ITEMS_PER_ROW` of a training row.
    """

    ngram: int
    num_items: int
    items_read: dict[str, int]
    num_rows: int = 0
    rows_found: int = 0
    items_found: set[str] = field(default_factory=set)
    overlaps: list[Overlap] = field(default_factory=list)

    def add(self, found: Sequence[Overlap]) -> None:
        """Count a training row and what was found in it."""
        self.num_rows += 1
        self.rows_found += bool(found)
        self.items_found.update(overlap.item for overlap in found)
        self.overlaps.extend(found[: min(ITEMS_PER_ROW, MAX_LISTED - len(self.overlaps))])

    def rows(self) -> list[tuple[str, str]]:
        """Return labels and values for a table; of the evaluation files those with a row found."""
        found = _by_file(self.items_found)
        return [
            ("training rows", f"{self.num_rows:,}, {self.rows_found:,} of them contaminated"),
            ("evaluation rows", f"{self.num_items:,}, {len(self.items_found):,} of them found"),
            *((file, f"{n:,} of {self.items_read[file]:,}") for file, n in sorted(found.items())),
            ("files without any", f"{len(self.items_read) - len(found):,}"),
            ("compared by", f"runs of {self.ngram} words or characters, short items as a whole"),
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        found = _by_file(self.items_found)
        return {
            "ngram": self.ngram,
            "training_rows": self.num_rows,
            "training_rows_found": self.rows_found,
            "evaluation_rows": self.num_items,
            "evaluation_rows_found": len(self.items_found),
            "evaluation_files": {
                file: {"rows": rows, "found": found[file]} for file, rows in self.items_read.items()
            },
            "overlaps": [asdict(overlap) for overlap in self.overlaps],
        }


def scan(
    training: Sequence[str],
    against: Sequence[Path],
    ngram: int = NGRAM,
    min_share: float = 0.0,
    out: Path | None = None,
    progress: Progress | None = None,
) -> ScanReport:
    """Find the items of evaluation sets in a training set.

    Args:
        training: sources: files, folders, ``hub:OWNER/NAME``.
        against: files of evaluation sets, or folders of them.
        ngram: words, or Chinese characters, of a run that counts as an overlap.
        min_share: overlaps with a smaller part of the evaluation row do not count.
        out: a new JSON file for the whole report.
        progress: counts rows.

    Raises:
        DataError: if anything cannot be read; all problems together.
        OutputError: if `out` exists or cannot be written.
    """
    if out is not None:
        refuse_existing(out)
    report_on, problems = progress or Silent(), Problems()
    with working(report_on, "read evaluation sets", None):
        items = chain.from_iterable(read_evaluation_texts(path, problems) for path in against)
        index = EvaluationIndex(items, ngram)
    raise_problems(problems, ", ".join(map(str, against)), _EXPECTED)
    if not index.items:
        raise DataError(f"There is no row in {', '.join(map(str, against))}. {_EXPECTED}")
    read = _by_file(item.origin for item in index.items)
    report = ScanReport(ngram, len(index.items), dict(read))
    with working(report_on, "scan", None):
        for row in chain.from_iterable(read_row_texts(source, problems) for source in training):
            report.add([one for one in index.overlaps(row) if one.share >= min_share])
            report_on.advance(1, f"{report.rows_found:,} found")
    raise_problems(problems, ", ".join(training), _EXPECTED)
    if out is not None:
        write_json(out, report.as_dict())
    return report


def refuse_more_than(report: ScanReport, limit: int) -> None:
    """Raise DataError if more training rows than `limit` are contaminated."""
    if report.rows_found > limit:
        raise DataError(
            f"{report.rows_found:,} training rows hold items of the evaluation sets; at most "
            f"{limit:,} were allowed. Remove the rows listed, or allow more with --fail-over."
        )


def _by_file(origins: Iterable[str]) -> Counter[str]:
    return Counter(origin.rpartition(":")[0] for origin in origins)
