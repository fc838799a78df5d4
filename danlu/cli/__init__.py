"""The command line, the only place that prints: one file per command, none imports torch."""

from danlu.cli.app import main

__all__ = ["main"]
