"""Quantized weights as plain values and named tensors, exactly, and back.

What a weight consists of are frozen dataclasses of `danlu.quantize`: their tensors get names, the
rest is JSON. Nothing but those classes is ever made of a record.
"""

import importlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from danlu.errors import CheckpointError

PACKAGE = "danlu.quantize."
KIND, TENSOR, DTYPE = "kind", "tensor", "dtype"


def to_record(part: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Return a dataclass as JSON values.

    Args:
        part: a quantized weight, or a part of one.
        name: that its tensors begin with.
        tensors: takes them.
    """
    if isinstance(part, Tensor):
        tensors[name] = part.detach().cpu()
        return {TENSOR: name}
    if isinstance(part, torch.dtype):
        return {DTYPE: str(part).removeprefix("torch.")}
    if not is_dataclass(part):
        assert part is None or isinstance(part, str | int | float), type(part)
        return part
    kind = type(part)
    assert kind.__module__.startswith(PACKAGE), kind
    values = {
        field.name: to_record(getattr(part, field.name), f"{name}.{field.name}", tensors)
        for field in fields(part)
        if field.init
    }
    return {KIND: f"{kind.__module__.removeprefix(PACKAGE)}.{kind.__qualname__}", **values}


def from_record(record: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return what `to_record` was given.

    Raises:
        CheckpointError: if the record names no such class, or no such tensor.
    """
    if not isinstance(record, dict):
        return record
    try:
        if TENSOR in record:
            return tensors[record[TENSOR]]
        if DTYPE in record:
            return getattr(torch, record[DTYPE])
        values = {name: from_record(each, tensors) for name, each in record.items() if name != KIND}
        return _class(record[KIND])(**values)
    except (KeyError, TypeError, AttributeError, ModuleNotFoundError) as error:
        raise CheckpointError(
            f"A quantized layer cannot be read back ({type(error).__name__}: {error}). Expected "
            "what this version wrote; remove the work folder and begin again."
        ) from error


def _class(kind: str) -> type[Any]:
    module, _, name = kind.rpartition(".")
    found = getattr(importlib.import_module(PACKAGE + module), name)
    if not (
        isinstance(found, type) and is_dataclass(found) and found.__module__ == PACKAGE + module
    ):
        raise KeyError(kind)
    return found
