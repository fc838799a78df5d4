"""Weight files by their headers: dtypes, sizes, what is missing, and what fits the model.

A safetensors file and a zipped `.bin` are mapped; no weight is read. Only the `.bin` format of
before 2020 has no header, and is read as a whole.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Size

from danlu.errors import CheckpointError, QuantizationError, did_you_mean
from danlu.loading.building import read_json
from danlu.loading.layout import published_layout
from danlu.loading.quantized import Quantization, quantization_of
from danlu.loading.stated import check_configs, check_weights
from danlu.models import discover
from danlu.models.decoder import Decoder
from danlu.weights.files import (
    INDEX_FILES,
    SINGLE_FILES,
    SafetensorsFile,
    TorchFile,
    WeightFile,
    find_weight_files,
    other_names,
)
from danlu.weights.rules import Entry

SHOWN = 6


@dataclass(frozen=True)
class WeightFacts:
    """What the weight files hold.

    Attributes:
        files: names of the weight files.
        bytes_by_dtype: size of all tensors of a dtype.
        num_tensors: in all files.
        problems: what is missing, damaged or does not fit.
    """

    files: tuple[str, ...] = ()
    bytes_by_dtype: Mapping[str, int] = field(default_factory=dict)
    num_tensors: int = 0
    problems: tuple[str, ...] = ()

    @property
    def num_bytes(self) -> int:
        """Size of all tensors."""
        return sum(self.bytes_by_dtype.values())


def read_weights(folder: Path, decoder: Decoder | None) -> WeightFacts:
    """Return what the weight files of a folder hold.

    Args:
        folder: of the checkpoint.
        decoder: what config.json describes, to compare with; None: it describes nothing.
    """
    names, problems = _file_names(folder)
    shapes: dict[str, Size] = {}
    sizes: Counter[str] = Counter()
    for name in names:
        try:
            for tensor, shape, dtype, num_bytes in _headers(_open(folder / name)):
                shapes[tensor] = shape
                sizes[dtype] += num_bytes
        except CheckpointError as error:
            problems.append(str(error))
    if decoder is not None and not problems:
        problems += _misfits(folder, decoder, shapes)
    return WeightFacts(tuple(names), dict(sizes.most_common()), len(shapes), tuple(problems))


def _file_names(folder: Path) -> tuple[list[str], list[str]]:
    """Return the weight files that are there, and what is wrong with those that are not."""
    for index in INDEX_FILES:
        if (folder / index).exists():
            return _indexed(folder, index)
    single = [name for name in SINGLE_FILES if (folder / name).exists()]
    if single:
        return single[:1], []
    for name in other_names(folder):
        return _indexed(folder, name) if name.endswith(".json") else ([name], [])
    loose = sorted(path.name for path in folder.glob("*-of-*") if _is_shard(path.name))
    if loose:
        return loose, [f"{len(loose)} weight files, but no index that says what is where"]
    return [], [f"no weights: none of {', '.join(SINGLE_FILES + INDEX_FILES)}"]


def _is_shard(name: str) -> bool:
    return name.startswith(("model-", "pytorch_model-")) and name.endswith((".safetensors", ".bin"))


def _indexed(folder: Path, index: str) -> tuple[list[str], list[str]]:
    try:
        weight_map = read_json(folder / index)["weight_map"]
        names = sorted({str(name) for name in weight_map.values()})
    except (CheckpointError, KeyError, AttributeError, TypeError) as error:
        return [], [f"{index} is no index of weight files ({type(error).__name__}: {error})"]
    outside = [name for name in names if Path(name).name != name]
    missing = [name for name in names if name not in outside and not (folder / name).is_file()]
    problems = [f"{index} names a file outside the folder: {name}" for name in outside]
    problems += [f"missing weight file: {name} (named by {index})" for name in missing]
    return [name for name in names if name not in {*outside, *missing}], problems


def _open(path: Path) -> WeightFile:
    return SafetensorsFile(path) if path.suffix == ".safetensors" else TorchFile(path)


def _headers(file: WeightFile) -> Iterator[tuple[str, Size, str, int]]:
    """Yield name, shape, dtype and size of the tensors of a file; they stay on the disk."""
    for name in file.names():
        tensor = file.read(name)
        dtype = str(tensor.dtype).removeprefix("torch.")
        yield name, tensor.shape, dtype, tensor.numel() * tensor.element_size()


def _misfits(folder: Path, decoder: Decoder, shapes: Mapping[str, Size]) -> list[str]:
    """Return which tensors are missing, left over or misshapen, a few of each kind by name."""
    assert decoder.published is not None
    family = discover()[decoder.published.family]
    entries = published_layout(decoder).entries
    try:
        quantization = quantization_of(folder, decoder.published.config)
        if quantization is not None:
            check_configs(folder, quantization.config)
            check_weights(folder, quantization, find_weight_files(folder))
    except (QuantizationError, CheckpointError) as error:
        return [f"the quantization cannot be used: {error}"]
    decoded = _without_quantized(quantization, shapes)
    found: dict[str, Size | None] = {}
    unknown: list[str] = []
    ignored = tuple(rule.ending for rule in family.ignored_tensors)
    for name, shape in decoded.items():
        published = next((n for n in (name, family.optional_prefix + name) if n in entries), "")
        if published:
            found[published] = shape
        elif not name.endswith(ignored or "\0") and not _of_format(quantization, name):
            unknown.append(f"{name}{did_you_mean(name, entries)}")
    missing = [n for n, e in entries.items() if n not in found and not _is_tied(decoder, e)]
    wrong = [
        f"{name} is {list(shape)}, config.json asks for {list(entries[name].shape)}"
        for name, shape in found.items()
        if shape is not None and shape != entries[name].shape
    ]
    kinds = (("missing", missing), ("of no parameter", unknown), ("of another shape", wrong))
    return [_some(f"tensors {what}", names) for what, names in kinds if names]


def _without_quantized(
    quantization: Quantization | None, shapes: Mapping[str, Size]
) -> dict[str, Size | None]:
    """Return the tensors with those of a quantized layer as its weight, of unknown shape."""
    parts = quantization.format.parts(set(shapes)) if quantization else {}
    decoded: dict[str, Size | None] = {}
    for name, shape in shapes.items():
        part = parts.get(name)
        decoded[f"{part.module}.weight" if part else name] = None if part else shape
    return decoded


def _of_format(quantization: Quantization | None, name: str) -> bool:
    """Return whether a tensor is one that quantizing tools add: a bias, or numbers not used."""
    return quantization is not None and (quantization.ignores(name) or name.endswith(".bias"))


def _is_tied(decoder: Decoder, entry: Entry) -> bool:
    return decoder.config.tie_word_embeddings and entry.ours == ("lm_head.weight",)


def _some(what: str, names: list[str]) -> str:
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)} {what}: {', '.join(names[:SHOWN])}{more}"
