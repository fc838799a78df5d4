"""What one GGUF architecture is: which families it says, its tensors and its hyperparameters.

A GGUF architecture (`llama`, `qwen2`, `bloom`, ...) is a graph that llama.cpp has compiled in: the
file carries sizes and tensors, and the graph decides what is done with them. So a family leaves
either under its own graph, or under that of the living architecture it can be re-expressed as.

Source: the GGUF specification, version 3, and the graphs of llama.cpp as packed in
llama-cpp-python 0.3.36.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from torch import Tensor

from danlu.errors import ExportError
from danlu.loading.layout import HEAD
from danlu.models.decoder import Decoder

Value = bool | int | float | str | Sequence[int] | Sequence[float] | Sequence[str]
Rows = Callable[[Tensor], Tensor]


def same_rows(tensor: Tensor) -> Tensor:
    """Return the tensor: rows in the order that both sides use."""
    return tensor


@dataclass(frozen=True)
class Module:
    """One module of the architecture, and those of ours that it is made of.

    Attributes:
        theirs: GGUF name without `.weight` or `.bias`; `{i}` stands for the layer number.
        ours: our modules, stacked along the rows.
        has_bias: whether the graph adds a bias where the file has one.
        rows: how rows are reordered, for weight and bias alike.
        is_exact: kept in float32 whatever type is asked for.
    """

    theirs: str
    ours: tuple[str, ...]
    has_bias: bool = False
    rows: Rows = same_rows
    is_exact: bool = False


@dataclass(frozen=True)
class GgufTensor:
    """One tensor of the file, made of ours when it is written."""

    name: str
    ours: tuple[str, ...]
    rows: Rows
    is_exact: bool


def no_problems(decoder: Decoder) -> Sequence[str]:
    """Return nothing: every model of the families fits."""
    return ()


def no_tensors(decoder: Decoder) -> Mapping[str, Tensor]:
    """Return nothing: the file holds parameters only."""
    return {}


@dataclass(frozen=True)
class Architecture:
    """Everything that is particular to one GGUF architecture.

    Attributes:
        families: names of the families that are written with it directly.
        modules: its modules, for a decoder of these families.
        hyperparameters: GGUF keys without the architecture's name in front, and their values.
        problems: why this decoder cannot be said, one sentence each.
        computed: further tensors, in float32, that are no parameters.
        shares_head: the graph uses the embedding where the file has no head.
        notes: what the user must know of this decoder's file.
        depths: numbers of layers that the graph has positions for; empty: any.
    """

    families: tuple[str, ...]
    modules: Callable[[Decoder], Sequence[Module]]
    hyperparameters: Callable[[Decoder], Mapping[str, Value]]
    problems: Callable[[Decoder], Sequence[str]] = no_problems
    computed: Callable[[Decoder], Mapping[str, Tensor]] = no_tensors
    shares_head: bool = True
    notes: Callable[[Decoder], Sequence[str]] = no_problems
    depths: tuple[int, ...] = ()


@cache
def architectures() -> dict[str, Architecture]:
    """Return every architecture by its file name in `danlu/export/gguf/architectures`."""
    package = importlib.import_module("danlu.export.gguf.architectures")
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    return {
        name: importlib.import_module(f"{package.__name__}.{name}").ARCHITECTURE for name in names
    }


def plan_tensors(
    architecture: Architecture, decoder: Decoder, parameters: Sequence[str]
) -> list[GgufTensor]:
    """Return the tensors of the file; together they hold every parameter exactly once.

    Args:
        architecture: chosen for the decoder.
        decoder: the source.
        parameters: names of all its parameters, a tied head left out.

    Raises:
        ExportError: if the architecture has no place for a parameter.
    """
    known = set(parameters)
    tensors = list(_expand(architecture.modules(decoder), decoder.config.num_layers, known))
    if architecture.shares_head is False and HEAD not in known:
        tensors.append(
            GgufTensor("output.weight", ("model.embed_tokens.weight",), same_rows, False)
        )
    placed = {name for tensor in tensors for name in tensor.ours}
    homeless = sorted(known - placed)
    if homeless:
        raise ExportError(
            f"The GGUF architecture has no place for {len(homeless)} tensors of this model, "
            f"such as {', '.join(homeless[:3])}. A file without them would compute something else."
        )
    return tensors


def _expand(modules: Sequence[Module], num_layers: int, known: set[str]) -> Iterator[GgufTensor]:
    for module in modules:
        for i in range(num_layers if "{i}" in module.theirs else 1):
            for leaf in ("weight", "bias") if module.has_bias else ("weight",):
                ours = tuple(f"{name.format(i=i)}.{leaf}" for name in module.ours)
                if known.issuperset(ours):
                    name = f"{module.theirs.format(i=i)}.{leaf}"
                    yield GgufTensor(name, ours, module.rows, module.is_exact)
