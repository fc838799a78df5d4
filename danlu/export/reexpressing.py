"""Targets that are another architecture: the decoder's family says which one, and how."""

from pathlib import Path

from danlu.errors import ExportError
from danlu.export.folder import OPTIONS, write_folder
from danlu.export.target import ExportOptions, ExportReport, Target
from danlu.models import discover
from danlu.models.decoder import Decoder
from danlu.models.family import Reexpressed
from danlu.progress import Progress
from danlu.tokenizer import Tokenizer


def architecture_target(name: str, summary: str) -> Target:
    """Return the target `name` of the families that list it in their `exports`."""

    def write(
        decoder: Decoder,
        tokenizer: Tokenizer | None,
        out: Path,
        options: ExportOptions,
        progress: Progress,
    ) -> ExportReport:
        reexpressed = reexpress(name, decoder)
        return write_folder(name, reexpressed, decoder, tokenizer, out, options, progress)

    return Target(name, summary, OPTIONS, write)


def reexpress(target: str, decoder: Decoder) -> Reexpressed:
    """Return what `decoder` becomes for a target.

    Raises:
        ExportError: if its family has no such form, with the reason.
    """
    assert decoder.published is not None
    name = decoder.published.family
    family = discover()[name]
    if target in family.exports:
        return family.exports[target](decoder.published.config, decoder.config)
    able = [name for name, other in discover().items() if target in other.exports]
    reason = family.not_exported if target == "transformers" else ""
    raise ExportError(
        f"A model of family {name!r} cannot be exported to {target!r}"
        f"{': ' + reason if reason else ''}. Expected one of these families: {', '.join(able)}. "
        "Danlu itself opens it, trains it and answers with it."
    )
