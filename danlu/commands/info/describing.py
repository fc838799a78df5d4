"""A folder to its description: whatever is missing or wrong is listed, and nothing stops it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from danlu.commands.info.adapter import ADAPTER_CONFIG, AdapterFacts, read_adapter_facts
from danlu.commands.info.memory import MemoryFacts, estimate
from danlu.commands.info.quantization import quantization_words
from danlu.commands.info.shape import ShapeFacts, shape_of
from danlu.commands.info.tokens import TokenizerFacts, read_tokenizer
from danlu.commands.info.weights import WeightFacts, read_weights
from danlu.errors import CheckpointError, DanluError
from danlu.files import size_text
from danlu.hub import resolve
from danlu.hub.manifest import Manifest, read_manifest
from danlu.loading.building import decoder_from_config, family_named, read_json
from danlu.loading.kv_cache import noted_rounding
from danlu.models.decoder import Decoder
from danlu.tokenizer.stamp import broken_bounds

CONFIG, GENERATION = "config.json", "generation_config.json"
ENDINGS = (".safetensors", ".bin")


@dataclass(frozen=True)
class ModelInfo:
    """What the folder of a model holds.

    Attributes:
        path: the folder.
        shape, memory: None where config.json describes no model.
        weights, tokenizer: what is there of them.
        origin: the hub it was downloaded from, or None.
        problems: what is missing or wrong.
        notes: what is good to know.
        files: names and sizes.
    """

    path: str
    shape: ShapeFacts | None
    weights: WeightFacts
    memory: MemoryFacts | None
    tokenizer: TokenizerFacts
    origin: str | None
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    files: Mapping[str, int]

    def rows(self) -> list[tuple[str, str]]:
        """Return labels and values to print, without the files."""
        shares = self.weights.bytes_by_dtype.items()
        stored = ", ".join(f"{dtype} {size_text(size)}" for dtype, size in shares)
        names = self.weights.files
        where = names[0] if len(names) == 1 else f"{len(names)} files"
        count = f"{where}, {self.weights.num_tensors:,} tensors"
        return [
            ("kind", "model"),
            *(self.shape.rows() if self.shape else [("family", "unknown: see below")]),
            ("weights", f"{stored} ({count})" if stored else "none"),
            *(self.memory.rows() if self.memory else []),
            *self.tokenizer.rows(),
            *([("origin", self.origin)] if self.origin else []),
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class AdapterInfo:
    """What the folder of an adapter holds; see `ModelInfo`."""

    path: str
    adapter: AdapterFacts
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    files: Mapping[str, int]

    def rows(self) -> list[tuple[str, str]]:
        """Return labels and values to print, without the files."""
        return self.adapter.rows()

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        return asdict(self)


def describe(path: str | Path, family: str | None = None) -> ModelInfo | AdapterInfo:
    """Return what the folder of a model or adapter holds. No weight is read, only headers.

    Args:
        path: the folder, or the id of a downloaded model.
        family: name of the family, where config.json does not tell it.

    Raises:
        CheckpointError: if it is no folder, or nothing in it is of a model.
        ConfigError: if there is no such family.
    """
    folder = _folder(path)
    if family is not None:
        family_named(family)
    if (folder / CONFIG).is_file() or _has_weights(folder):
        return _model(folder, family)
    if (folder / ADAPTER_CONFIG).is_file():
        adapter = read_adapter_facts(folder)
        return AdapterInfo(str(folder), adapter, adapter.problems, adapter.notes, _files(folder))
    found = sorted(entry.name for entry in folder.iterdir())
    raise CheckpointError(
        f"'{folder}' holds no model and no adapter. Expected a folder with {CONFIG} or "
        f"{ADAPTER_CONFIG}; found {', '.join(found[:10]) or 'nothing'}."
    )


def _folder(path: str | Path) -> Path:
    """Return the folder; one that is not a whole download is described all the same."""
    if Path(path).is_dir():
        return Path(path)
    folder = resolve(path)
    if not folder.is_dir():
        raise CheckpointError(
            f"'{folder}' is a file. Expected the folder of a model or adapter; its own is "
            f"'{folder.parent}'."
        )
    return folder


def _has_weights(folder: Path) -> bool:
    return any(
        path.suffix in ENDINGS and path.name.startswith(("model", "pytorch_model"))
        for path in folder.iterdir()
    )


def _model(folder: Path, family: str | None) -> ModelInfo:
    problems: list[str] = []
    values = _config(folder, problems)
    decoder = None if values is None else _decoder(values, family, problems)
    shape = shape_of(decoder, quantization_words(folder, values or {})) if decoder else None
    weights = read_weights(folder, decoder)
    name = shape.family if shape else None
    tokenizer = read_tokenizer(folder, name, values or {}, shape.vocab_size if shape else None)
    manifest = _manifest(folder, problems)
    cache = _cache_notes(folder, decoder, problems)
    return ModelInfo(
        path=str(folder),
        shape=shape,
        weights=weights,
        memory=estimate(decoder, weights.num_bytes) if decoder else None,
        tokenizer=tokenizer,
        origin=_origin(manifest),
        problems=(*problems, *weights.problems, *tokenizer.problems),
        notes=(
            *tokenizer.notes,
            *_notes(folder, values or {}, tokenizer),
            *cache,
        ),
        files=_files(folder),
    )


def _config(folder: Path, problems: list[str]) -> dict[str, Any] | None:
    try:
        return read_json(folder / CONFIG)
    except CheckpointError as error:
        problems.append(str(error))
        return None


def _decoder(values: dict[str, Any], family: str | None, problems: list[str]) -> Decoder | None:
    try:
        return decoder_from_config(values, family)
    except DanluError as error:
        problems.append(str(error))
    except (RuntimeError, OverflowError) as error:  # torch's, for sizes beyond any memory
        problems.append(f"config.json describes a model that no machine holds: {error}")
    return None


def _manifest(folder: Path, problems: list[str]) -> Manifest | None:
    try:
        manifest = read_manifest(folder)
    except CheckpointError as error:
        problems.append(str(error))
        return None
    if manifest is not None and not manifest.complete:
        problems.append("the download is unfinished; give the same `danlu download` again")
    return manifest


def _origin(manifest: Manifest | None) -> str | None:
    if manifest is None:
        return None
    return f"{manifest.source}:{manifest.model_id}@{manifest.revision} ({manifest.commit[:12]})"


def _notes(folder: Path, values: Mapping[str, Any], tokenizer: TokenizerFacts) -> list[str]:
    """Return what is absent without harm, what has no effect, and bounds that are broken."""
    notes = [f"quantized under a bound that it does not keep: {b}" for b in broken_bounds(folder)]
    if not (folder / GENERATION).is_file():
        notes.append(f"no {GENERATION}: sampling uses Danlu's defaults unless asked otherwise")
    if tokenizer.kind and tokenizer.chat_format is None:
        notes.append(
            "no chat format: it continues texts (`danlu generate`), but cannot chat as it is"
        )
    if "auto_map" in values:
        notes.append("config.json names code of its publisher (auto_map); it is never run")
    code = sorted(path.name for path in folder.glob("*.py"))
    if code:
        notes.append(f"Python files beside the model, which are never run: {', '.join(code)}")
    return notes


def _cache_notes(folder: Path, decoder: Decoder | None, problems: list[str]) -> list[str]:
    """Return how danlu.json says that keys and values are kept, if it does."""
    try:
        rounding = None if decoder is None else noted_rounding(folder, decoder)
    except CheckpointError as error:
        problems.append(str(error))
        return []
    return [] if rounding is None else [f"keys and values are kept in {rounding.summary}"]


def _files(folder: Path) -> dict[str, int]:
    """Return the sizes of the folder's files, hidden ones left out."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    names = {path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(files)}
    return {name: size for name, size in names.items() if not name.startswith(".")}
