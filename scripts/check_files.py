"""Refuse files that do not belong into the repository; used by pre-commit.

Usage: python scripts/check_files.py large|keys FILE...
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

MAX_BYTES = 1_000_000
# Split so that this file does not find itself.
PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE" rb" KEY-----")


def is_large(path: Path) -> bool:
    """Return whether the file is larger than what is reviewed by eye."""
    return path.stat().st_size > MAX_BYTES


def has_key(path: Path) -> bool:
    """Return whether the file holds a private key."""
    return bool(PRIVATE_KEY.search(path.read_bytes()))


CHECKS: dict[str, tuple[Callable[[Path], bool], str]] = {
    "large": (is_large, f"is larger than {MAX_BYTES:,} bytes"),
    "keys": (has_key, "holds a private key"),
}


def main(arguments: list[str]) -> int:
    """Return 1 if any of the files is refused, and print which."""
    check, complaint = CHECKS[arguments[0]]
    refused = [path for path in map(Path, arguments[1:]) if path.is_file() and check(path)]
    for path in refused:
        print(f"{path} {complaint}")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
