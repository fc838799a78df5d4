"""`danlu export`: a model written for other tools, and the proof that it computes the same."""

from pathlib import Path

from danlu.commands.manifest import write_manifest
from danlu.config.sizes import parse_size
from danlu.engine.placement import DTYPES
from danlu.errors import ConfigError, OutputError, did_you_mean
from danlu.export.source import open_source
from danlu.export.target import ExportOptions, ExportReport, Target
from danlu.export.targets import find_target
from danlu.hub import resolve
from danlu.loading import check_rows, load_tokenizer
from danlu.models.decoder import Decoder
from danlu.progress import Progress, Silent
from danlu.tokenizer import Tokenizer
from danlu.tokenizer.kinds import kinds
from danlu.tokenizer.stamp import check_stamp, tokenizer_of_adapter


def export(
    model: str | Path,
    out: str | Path,
    to: str = "transformers",
    *,
    dtype: str | None = None,
    max_shard_size: str | None = None,
    adapter: str | Path | None = None,
    with_tokenizer: bool = True,
    family: str | None = None,
    progress: Progress | None = None,
) -> ExportReport:
    """Write the model to `out` in the form named by `to`.

    Args:
        model: folder of the model, or the id of a downloaded one.
        out: a new folder, or file for targets that are one file.
        to: name of a target, see `danlu.export.targets`.
        dtype: how numbers are stored; None: as the source stores them.
        max_shard_size: of one weight file, such as "2GB".
        adapter: folder of a LoRA adapter, merged first.
        with_tokenizer: also write the tokenizer, if the model has one.
        family: of the model, where its config.json does not tell.
        progress: of the work.

    Raises:
        ConfigError: if the target or one of its options does not exist.
        OutputError: if `out` exists.
        ExportError: if the model cannot be said in that form.
    """
    target = find_target(to)
    options = _options(target, dtype, max_shard_size)
    out = Path(out)
    _refuse_existing(out)
    folder = resolve(model)
    decoder = open_source(folder, adapter, family)
    tokenizer = _tokenizer(folder, decoder, adapter) if with_tokenizer else None
    report = target.write(decoder, tokenizer, out, options, progress or Silent())
    if out.is_dir():
        parents = {"model": str(folder), **({"adapter": str(adapter)} if adapter else {})}
        chosen = {"to": to, "dtype": options.dtype, "max_shard_bytes": options.max_shard_bytes}
        write_manifest(out, "export", parents, chosen, report.as_dict())
    return report


def _options(target: Target, dtype: str | None, max_shard_size: str | None) -> ExportOptions:
    """Return the options, or complain about all at once that the target does not take."""
    given: dict[str, str | int] = {}
    if dtype not in (None, "auto"):
        given["dtype"] = _dtype(target, str(dtype))
    if max_shard_size is not None:
        given["max_shard_bytes"] = size_bytes(max_shard_size)
    unknown = sorted(given.keys() - target.options)
    if unknown:
        flags = ", ".join("--" + _FLAGS[name] for name in unknown)
        raise ConfigError(f"The target {target.name!r} takes no {flags}. Leave it out.")
    return ExportOptions(**given)  # type: ignore[arg-type]


_FLAGS = {"dtype": "dtype", "max_shard_bytes": "max-shard-size"}


def _dtype(target: Target, dtype: str) -> str:
    """Return the target's own spelling of a dtype."""
    allowed = target.options.get("dtype", (dtype,))
    wanted = dtype.lower()
    if wanted not in allowed and wanted in DTYPES:
        wanted = str(DTYPES[wanted]).removeprefix("torch.")
    if wanted not in allowed:
        raise ConfigError(
            f"The target {target.name!r} cannot store {dtype!r}.{did_you_mean(wanted, allowed)} "
            f"Expected one of: {', '.join(allowed)}; or auto, as the source stores them."
        )
    return wanted


def size_bytes(text: str) -> int:
    """Return the number of bytes that "5GB", "500 MB" or "2GiB" means.

    Raises:
        ConfigError: if it is no positive size.
    """
    try:
        return parse_size(text)
    except ValueError as error:
        raise ConfigError(f"{error}.") from None


def _refuse_existing(out: Path) -> None:
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise OutputError(
            f"The output '{out}' exists. Nothing was overwritten. Choose another name, or remove "
            "this one."
        )


def _tokenizer(folder: Path, decoder: Decoder, adapter: str | Path | None) -> Tokenizer | None:
    """Return the tokenizer in a folder; None if no file of one is there (a broken one raises).

    Its chat format is the one that the adapter, if any, was trained with.
    """
    assert decoder.published is not None
    names = {name for kind in kinds() for name in kind.FILES}
    if not any((folder / name).is_file() for name in names):
        return None
    tokenizer = load_tokenizer(folder, decoder.published.family)
    check_stamp(folder, tokenizer)
    check_rows(tokenizer, decoder.config.vocab_size, folder)
    return tokenizer_of_adapter(Path(adapter), tokenizer) if adapter else tokenizer
