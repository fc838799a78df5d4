"""What the configs of a quantized folder state, held against each other and against the weights."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from danlu.errors import QuantizationError, bullet_list
from danlu.loading.building import read_json
from danlu.loading.quantized import FILES_BESIDE, Quantization
from danlu.weights.files import WeightFile

SAME = {"w_bit": "bits", "q_group_size": "group_size", "version": "format"}  # older name: newer
COMPARED = ("quant_method", "bits", "group_size", "desc_act", "sym", "zero_point", "format")
COMPARED_TOO = ("checkpoint_format", "pack_dtype")


def check_configs(folder: Path, own: Mapping[str, Any]) -> None:
    """Check that a file beside config.json says nothing else than config.json.

    Args:
        folder: of the checkpoint.
        own: the `quantization_config` in its config.json.

    Raises:
        QuantizationError: with all that differs, if anything does.
    """
    for name, method in FILES_BESIDE.items():
        if not (folder / name).exists():
            continue
        other = {"quant_method": method, **read_json(folder / name)}
        differing = _differing(_newer(own), _newer(other), name)
        if differing:
            raise QuantizationError(
                f"The configs in '{folder}' disagree about its quantization:"
                f"{bullet_list(differing)}\nExpected the same in both. Delete {name} if "
                "config.json is right, else remove quantization_config from config.json."
            )


def _newer(config: Mapping[str, Any]) -> dict[str, Any]:
    return {SAME.get(key, key): value for key, value in config.items()}


def _differing(own: Mapping[str, Any], other: Mapping[str, Any], name: str) -> list[str]:
    """Return where two configs say different things; what only one says is no difference."""
    return [
        f"{key} is {own[key]!r} in config.json and {other[key]!r} in {name}"
        for key in (*COMPARED, *COMPARED_TOO)
        if own.get(key) is not None and other.get(key) is not None
        if str(own[key]).lower() != str(other[key]).lower()
    ]


def check_weights(folder: Path, quantization: Quantization, files: Sequence[WeightFile]) -> None:
    """Check that the config of a checkpoint is one of its weights; only headers and zeros are read.

    Raises:
        QuantizationError: with all that the weights contradict.
    """
    places = {name: file for file in files for name in file.names()}
    layers: dict[str, dict[str, Tensor]] = {}
    for name, part in quantization.format.parts(set(places)).items():
        layers.setdefault(part.module, {})[part.name] = places[name].read(name)
    problems = quantization.format.disagreements(layers, quantization.config)
    if problems:
        raise QuantizationError(
            f"The quantization_config of '{folder}' contradicts its weights:{bullet_list(problems)}"
            "\nCorrect it in config.json, or take the one that was published with these weights."
        )
