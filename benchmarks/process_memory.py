"""Resident memory of this process, now and at its peak. Imports nothing of Danlu."""

from pathlib import Path

STATUS = Path("/proc/self/status")


def resident_bytes() -> int:
    """Return what is resident now."""
    return _kilobytes("VmRSS") * 1024


def peak_bytes() -> int:
    """Return the most that ever was.

    Unlike the kernel's figure for children (`ru_maxrss`), it does not start from the size of the
    process that this one was forked from.
    """
    return _kilobytes("VmHWM") * 1024


def _kilobytes(key: str) -> int:
    lines = STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))
