"""What became of each row: kept, truncated or dropped, with the reason and the `file:line`.

A run writes the summary beside its results, so that no row is ever lost without a word.
"""

from dataclasses import dataclass, field

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

    def summary(self) -> dict[str, object]:
        """Return the ledger as plain JSON values: the three counts, then every row not whole."""
        return {
            "kept": self.kept,
            "truncated": len(self.truncated),
            "dropped": len(self.dropped),
            "truncated_rows": [vars(entry) for entry in self.truncated],
            "dropped_rows": [vars(entry) for entry in self.dropped],
        }

    def check(self, max_dropped: int = 0) -> None:
        """Stop before training if more rows were dropped than the user allows.

        Raises:
            DataError: if more than `max_dropped` rows were dropped, or none is left; lists them.
        """
        if len(self.dropped) > max_dropped:
            rows = [f"{entry.origin}: {entry.reason}" for entry in self.dropped]
            raise DataError(
                f"{len(self.dropped)} of {self._total()} rows would be dropped; at most "
                f"{max_dropped} may be (max_dropped).{bullet_list(rows)}\n"
                "Fix or remove these rows, or raise max_dropped to train without them."
            )
        if self.kept + len(self.truncated) == 0:
            raise DataError("No row is left to train on; expected at least one. Check the data.")

    def _total(self) -> int:
        return self.kept + len(self.truncated) + len(self.dropped)
