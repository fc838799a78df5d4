"""Every error that a user can cause, as one tree.

    DanluError
    |-- ConfigError            a run file, flag or field is wrong
    |-- DataError              a corpus, data row or conversation is wrong
    |-- TokenizerError         a tokenizer or chat template is wrong
    |   `-- ChatFormatError          a chat format fits no conversation with this tokenizer
    |-- CheckpointError        weights are missing, truncated, left over or misshapen
    |   `-- UnsupportedModelError   no family opens this folder
    |-- ShapeError             a tensor does not fit where it is used
    |-- AdapterError           an adapter does not fit its base
    |-- QuantizationError      a layer cannot be quantized as asked
    |-- ExportError            a model cannot be said in the form that was asked for
    |-- TrainingError          a run cannot go on (a non-finite loss, say)
    |-- OutputError            a file or folder cannot be written
    |-- DownloadError          a model cannot be fetched from a hub
    |-- ParallelError          processes or meshes do not fit together
    |-- RequestError           a request is wrong (HTTP 400)
    |-- CapacityError          no room for a request right now (HTTP 503)
    `-- MissingExtraError      an optional dependency is not installed

Messages name the offending value and have three parts: what happened; what was expected; how to
fix it.
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class DanluError(Exception):
    """Base of all errors caused by input; the command line prints it without a traceback."""


class ConfigError(DanluError):
    """A run file, flag or field is wrong."""


class DataError(DanluError):
    """A corpus, data row or conversation is wrong."""


class TokenizerError(DanluError):
    """A tokenizer file, chat template or conversation cannot be used."""


class ChatFormatError(TokenizerError):
    """A chat format cannot be used with this tokenizer or these options, whatever is said."""


class CheckpointError(DanluError):
    """Weights are missing, truncated, left over or misshapen."""


class UnsupportedModelError(CheckpointError):
    """No family opens this folder."""


class ShapeError(DanluError):
    """A tensor does not fit where it is used."""


class AdapterError(DanluError):
    """An adapter does not fit its base."""


class QuantizationError(DanluError):
    """A layer cannot be quantized as asked."""


class ExportError(DanluError):
    """A model cannot be said in the form that was asked for."""


class TrainingError(DanluError):
    """A run cannot go on."""


class OutputError(DanluError):
    """A file or folder cannot be written."""


class DownloadError(DanluError):
    """A model cannot be fetched from a hub."""


class ParallelError(DanluError):
    """Processes or meshes do not fit together."""


class RequestError(DanluError):
    """A request is wrong; a server answers 400."""


class CapacityError(DanluError):
    """There is no room for a request right now; a server answers 503."""


class MissingExtraError(DanluError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"The package {package!r} is not installed. It belongs to the extra {extra!r}: "
            f"pip install 'danlu[{extra}]'"
        )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the closest known name, or an empty string."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


def bullet_list(problems: Sequence[str], limit: int = 20) -> str:
    """Return the problems as an indented list, the overflow as a count."""
    lines = [f"\n  - {problem}" for problem in problems[:limit]]
    if len(problems) > limit:
        lines.append(f"\n  (+{len(problems) - limit} more)")
    return "".join(lines)
