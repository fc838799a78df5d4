"""What became of each row: kept, truncated or dropped, with the reason and the `file:line`.

A run writes the summary beside its results, so that no row is ever lost without a word.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from danlu.errors import DataError, bullet_list


@dataclass(frozen=True)
class LedgerEntry:
    """One row that did not go through whole."""

    origin: str
    reason: str


@dataclass
class Ledger:
    """Counts of the rows kept whole, and the list of the others; filled while data is prepared."""

    kept: int = 0
    truncated: list[LedgerEntry] = field(default_factory=list)
    dropped: list[LedgerEntry] = field(default_factory=list)

    def keep(self, rows: int = 1) -> None:
        """Count `rows` that went through whole."""
        self.kept += rows

    def truncate(self, origin: str, reason: str) -> None:
        """Note a row of which only the beginning is used."""
        self.truncated.append(LedgerEntry(origin, reason))

    def drop(self, origin: str, reason: str) -> None:
        """Note a row that is not used at all."""
        self.dropped.append(LedgerEntry(origin, reason))

    def note(self, origin: str, reason: str, *, is_dropped: bool) -> None:
        """Count a row: kept whole if there is no reason, else dropped or truncated."""
        if is_dropped:
            self.drop(origin, reason)
        elif reason:
            self.truncate(origin, reason)
        else:
            self.keep()

    def summary(self) -> dict[str, object]:
        """Return the ledger as plain JSON values: the three counts, then every row not whole."""
        return {
            "kept": self.kept,
            "truncated": len(self.truncated),
            "dropped": len(self.dropped),
            "truncated_rows": [vars(entry) for entry in self.truncated],
            "dropped_rows": [vars(entry) for entry in self.dropped],
        }

    def restore(self, summary: Mapping[str, Any]) -> None:
        """Become the ledger that `summary` was made of."""
        self.kept = summary["kept"]
        self.truncated = [LedgerEntry(**entry) for entry in summary["truncated_rows"]]
        self.dropped = [LedgerEntry(**entry) for entry in summary["dropped_rows"]]

    def check(self, max_dropped: int | None = 0) -> None:
        """Stop before training if more rows were dropped than the user allows.

        Args:
            max_dropped: how many may be; None: any number.

        Raises:
            DataError: if more were dropped, or no row is left; lists them.
        """
        self.check_dropped(max_dropped)
        if self.kept + len(self.truncated) == 0:
            rows = [f"{entry.origin}: {entry.reason}" for entry in self.dropped]
            why = f"{bullet_list(rows)}\n" if rows else " "
            raise DataError(
                f"No row is left to train on; expected at least one.{why}Check the data."
            )

    def check_dropped(self, max_dropped: int | None) -> None:
        """Stop if more rows were dropped so far than the user allows.

        Raises:
            DataError: listing the dropped rows.
        """
        if max_dropped is not None and len(self.dropped) > max_dropped:
            rows = [f"{entry.origin}: {entry.reason}" for entry in self.dropped]
            raise DataError(
                f"{len(self.dropped)} of {self._total()} rows would be dropped; at most "
                f"{max_dropped} may be (max_dropped).{bullet_list(rows)}\n"
                "Fix or remove these rows, or raise max_dropped to train without them."
            )

    def _total(self) -> int:
        return self.kept + len(self.truncated) + len(self.dropped)
