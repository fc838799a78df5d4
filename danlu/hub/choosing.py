"""Which files of a published model are fetched: data and weights, never code.

A model needs its configs, its tokenizer and one copy of its weights. Programs are never fetched,
nor pickles that are no weights. Everything that is left out is listed with its reason.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import PurePosixPath

from danlu.hub.listing import RemoteFile

# Never fetched, also with `everything`: what can be run, or runs when it is opened.
CODE = {
    "program code, which Danlu never runs": (
        "*.py *.pyc *.pyi *.pyx *.ipynb *.sh *.bash *.bat *.cmd *.ps1 *.js *.ts *.c *.cc *.cpp "
        "*.cu *.h *.rs *.go *.java *.rb *.pl *.lua"
    ),
    "an executable or library": "*.so *.so.* *.dll *.dylib *.exe *.pyd *.o *.a *.whl *.egg *.jar",
    "a pickle that is no weights, and could run code": (
        "*.pkl *.pickle *.joblib *.dill training_args.bin optimizer.* scheduler.* rng_state*"
    ),
}
# Left out unless everything is asked for.
OTHER = {
    "weights for another tool": (
        "*.h5 *.msgpack *.onnx *.onnx_data *.ot *.gguf *.ggml *.tflite *.mlmodel *.pb *.npz "
        "*.pt *.pth *.ckpt *.mlpackage/* coreml/* onnx/* openvino/*"
    ),
    "an archive": "*.zip *.tar *.gz *.tgz *.bz2 *.xz *.7z *.rar",
    "a picture, sound or film": "*.png *.jpg *.jpeg *.gif *.webp *.svg *.mp4 *.wav *.mp3 *.pdf",
    "belongs to git": ".gitattributes .gitignore .gitmodules */.gitattributes */.gitignore",
}
SAFETENSORS = re.compile(r"model(?:-(\d+)-of-(\d+))?\.safetensors(\.index\.json)?")
PICKLED = re.compile(r"pytorch_model(?:-(\d+)-of-(\d+))?\.bin(\.index\.json)?")


@dataclass(frozen=True)
class Choice:
    """What is fetched, and what not for which reason (by path)."""

    taken: tuple[RemoteFile, ...]
    left_out: Mapping[str, str]


def choose(files: Sequence[RemoteFile], everything: bool = False) -> Choice:
    """Choose the files of a model to fetch.

    Args:
        files: all files of the model.
        everything: also take what Danlu does not read; code is left out all the same.
    """
    reasons = dict(CODE) if everything else {**CODE, **OTHER}
    left_out = {file.path: why for file in files if (why := _reason(file.path, reasons))}
    rest = [file for file in files if file.path not in left_out]
    if not everything:
        left_out |= _second_copies([file.path for file in rest])
    taken = tuple(file for file in files if file.path not in left_out)
    return Choice(taken, dict(sorted(left_out.items())))


def _reason(path: str, reasons: Mapping[str, str]) -> str:
    """Return why a file is left out; nothing if it is not."""
    lowered = path.lower()
    name = PurePosixPath(lowered).name
    for reason, patterns in reasons.items():
        if any(fnmatch(name, one) or fnmatch(lowered, one) for one in patterns.split()):
            return reason
    return ""


def _second_copies(paths: Iterable[str]) -> dict[str, str]:
    """Return the copy of the weights that is not needed, where a folder holds two."""
    folders: dict[str, list[str]] = {}
    for path in paths:
        folders.setdefault(str(PurePosixPath(path).parent), []).append(path)
    left_out: dict[str, str] = {}
    for members in folders.values():
        safe = [path for path in members if SAFETENSORS.fullmatch(PurePosixPath(path).name)]
        pickled = [path for path in members if PICKLED.fullmatch(PurePosixPath(path).name)]
        if _is_complete(safe, SAFETENSORS):
            left_out |= dict.fromkeys(pickled, "the same weights are there as safetensors")
        elif _is_complete(pickled, PICKLED):
            left_out |= dict.fromkeys(safe, "the safetensors are incomplete; .bin is taken")
    return left_out


def _is_complete(paths: Sequence[str], pattern: re.Pattern[str]) -> bool:
    """Return whether one file holds everything, or all shards of a numbering are there."""
    matches = [pattern.fullmatch(PurePosixPath(path).name) for path in paths]
    weights = [match for match in matches if match and not match[3]]
    if any(match[1] is None for match in weights):
        return True
    totals = {match[2] for match in weights}
    return len(totals) == 1 and len(weights) == int(totals.pop())
