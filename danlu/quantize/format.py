"""What a format of quantized checkpoints answers, and how the right one is found."""

import importlib
import pkgutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from danlu.config.quantize.run import Scheme
from danlu.errors import QuantizationError, did_you_mean
from danlu.quantize.activations import InputRounding
from danlu.quantize.weight import QuantizedWeight
from danlu.weights.rules import Ignore

ONE_GROUP_SIZE = "awq"  # the format whose config has one for all layers


class Part(NamedTuple):
    """What a published tensor is to a quantized layer.

    Attributes:
        module: published name of the layer.
        name: of the part; `{module}.{name}` is the name of the tensor.
    """

    module: str
    name: str


class QuantFormat(Protocol):
    """Reads and writes the tensors of one published format.

    Attributes:
        ignored: tensors of such checkpoints that stand for no weight.
    """

    ignored: Sequence[Ignore]

    def claims(self, config: Mapping[str, Any]) -> bool:
        """Return whether a `quantization_config` is of this format."""

    def check(self, config: Mapping[str, Any]) -> None:
        """Check that everything the config asks for is supported.

        Raises:
            QuantizationError: naming all that is not.
        """

    def summary(self, config: Mapping[str, Any]) -> str:
        """Return in words how the config says that weights are quantized."""

    def notes(self, config: Mapping[str, Any]) -> list[str]:
        """Return what the config says and Danlu does not do, though it reads the weights."""

    def disagreements(
        self, layers: Mapping[str, Mapping[str, Tensor]], config: Mapping[str, Any]
    ) -> list[str]:
        """Return where the config contradicts what all quantized layers hold, and how to fix it.

        Args:
            layers: the parts of each layer by its published name, mapped from the files.
            config: of the checkpoint.
        """

    def parts(self, names: Collection[str]) -> dict[str, Part]:
        """Return which of a checkpoint's tensors are parts of quantized layers."""

    def decode(self, parts: Mapping[str, Tensor], config: Mapping[str, Any]) -> QuantizedWeight:
        """Return the weight held by the parts of one layer.

        Raises:
            QuantizationError: if a part is missing or does not fit the others.
        """

    def fits(self, weight: QuantizedWeight, config: Mapping[str, Any]) -> bool:
        """Return whether `encode` can hold a weight without changing a number of it."""

    def encode(self, weight: QuantizedWeight, config: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the parts of one layer; the inverse of `decode`."""

    def kept(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the config of a checkpoint that is written as it was read."""


@runtime_checkable
class WrittenFormat(QuantFormat, Protocol):
    """A format that models quantized here are written in.

    Attributes:
        names: it is asked for by, in a run file or after --format; of its variants the usual first.
    """

    names: Sequence[str]

    def holds(self, scheme: Scheme) -> bool:
        """Return whether layers that a scheme rounds can be written, whatever their shapes."""

    def config(
        self,
        weights: Mapping[str, QuantizedWeight],
        unquantized: Sequence[str],
        name: str | None = None,
    ) -> dict[str, Any]:
        """Return the `quantization_config` of a model.

        Args:
            weights: quantized weights by module name.
            unquantized: linear layers left as they are.
            name: which of `names`; None: the first.

        Raises:
            QuantizationError: if one config cannot describe all of them.
        """

    def files(self, config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return JSON files that tools look for beside config.json, by name."""


@runtime_checkable
class InputFormat(WrittenFormat, Protocol):
    """A format that tells how layers round their inputs; of the others none does."""

    def inputs(
        self, module: str, parts: Mapping[str, Tensor], config: Mapping[str, Any]
    ) -> InputRounding | None:
        """Return how the inputs of one layer are rounded; None: not at all.

        Args:
            module: published name of the layer.
            parts: its tensors.
            config: of the checkpoint.

        Raises:
            QuantizationError: if a part is missing or is not what it should be.
        """

    def fits_inputs(
        self, module: str, inputs: InputRounding | None, config: Mapping[str, Any]
    ) -> bool:
        """Return whether the config tells of this rounding for a layer."""

    def encode_inputs(self, inputs: InputRounding | None) -> dict[str, Tensor]:
        """Return the parts of one layer that hold its rounding."""

    def config_with_inputs(
        self,
        weights: Mapping[str, QuantizedWeight],
        inputs: Mapping[str, InputRounding],
        unquantized: Sequence[str],
    ) -> dict[str, Any]:
        """Return the `quantization_config` of a model, some layers of which round their inputs.

        Raises:
            QuantizationError: if one config cannot describe all of them.
        """


@cache
def formats() -> dict[str, QuantFormat]:
    """Return every format by its file name in `danlu/quantize/formats`."""
    package = importlib.import_module("danlu.quantize.formats")
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    return {name: importlib.import_module(f"{package.__name__}.{name}").FORMAT for name in names}


@cache
def written_formats() -> dict[str, WrittenFormat]:
    """Return every format that is written, by each of its names."""
    found = [one for one in formats().values() if isinstance(one, WrittenFormat)]
    return {name: one for one in found for name in one.names}


def find_format(config: Mapping[str, Any]) -> QuantFormat:
    """Return the format of a `quantization_config`.

    Raises:
        QuantizationError: if no format claims it, or it asks for what is not supported.
    """
    for candidate in formats().values():
        if candidate.claims(config):
            candidate.check(config)
            return candidate
    method = config.get("quant_method")
    raise QuantizationError(
        f"The checkpoint is quantized as {method!r}, which is not read yet."
        f"{did_you_mean(str(method), formats())} Known formats: {', '.join(formats())}. "
        "Use the unquantized checkpoint instead, and quantize=... to round it here."
    )


def format_named(name: str) -> WrittenFormat:
    """Return the format that is asked for by `name`.

    Raises:
        QuantizationError: if none is, with the known names.
    """
    known = written_formats()
    if name not in known:
        raise QuantizationError(
            f"There is no format {name!r} for quantized files.{did_you_mean(name, known)} "
            f"Expected one of {', '.join(sorted(known))}."
        )
    return known[name]


def check_schemes(schemes: Collection[Scheme], name: str | None) -> None:
    """Check that what a run is to round can be written, before hours are spent on it.

    Args:
        schemes: every scheme that some layer has.
        name: of the format; None: any.

    Raises:
        QuantizationError: if the format, or every one, lacks a scheme.
    """
    known = written_formats() if name is None else {name: format_named(name)}
    lacking = {
        each: [scheme for scheme in schemes if not one.holds(scheme)] for each, one in known.items()
    }
    sizes = {size for scheme in schemes if (size := getattr(scheme, "group_size", None))}
    if name == ONE_GROUP_SIZE and len(sizes) > 1 and not lacking[name]:
        raise QuantizationError(
            f"{name} holds groups of one size; found {', '.join(map(str, sorted(sizes)))}, as the "
            "inputs of each layer ask for. Expected a --group-size that divides all of them, or "
            "the format compressed-tensors."
        )
    if all(lacking.values()):
        told = [f"{each} lacks {_methods(missing)}" for each, missing in lacking.items()]
        raise QuantizationError(
            f"A run with {_methods(schemes)} cannot be written: {'; '.join(told)}. Expected "
            "methods that one format holds: integers alone, or code books alone."
        )


def _methods(schemes: Iterable[Scheme]) -> str:
    return ", ".join(dict.fromkeys(f"{one.method} ({one.bits} bits)" for one in schemes))


def is_integers(scheme: Scheme) -> bool:
    """Return whether a scheme gives integers in groups, and leaves inputs as they are."""
    rounds_inputs = getattr(scheme, "activations", None) is not None
    return scheme.method in ("rtn", "gptq", "awq") and not rounds_inputs


def parts_with(names: Iterable[str], endings: Collection[str]) -> dict[str, Part]:
    """Return the tensors whose last name is one of `endings`, with the layer they belong to."""
    split = {name: Part(*name.rpartition(".")[::2]) for name in names}
    return {name: part for name, part in split.items() if part.name in endings}


def require(parts: Mapping[str, Tensor], *names: str) -> list[Tensor]:
    """Return parts of a layer by name, or raise a `QuantizationError` with the missing ones."""
    missing = sorted(set(names) - parts.keys())
    if missing:
        raise QuantizationError(f"lacks {', '.join(missing)}")
    return [parts[name] for name in names]


def refuse(what: str, problems: Sequence[str], expected: str) -> None:
    """Raise a `QuantizationError` with all problems of a config, if there are any."""
    if problems:
        raise QuantizationError(
            f"This {what} checkpoint uses what is not read: {', '.join(sorted(set(problems)))}. "
            f"Expected {expected}. Use the unquantized checkpoint and quantize=... to round it "
            "here, or write it again with the tool that made it."
        )
