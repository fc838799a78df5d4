"""How a checkpoint was published: what saving needs to give back the same tensors."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Published:
    """The form of a checkpoint.

    Attributes:
        family: name of the family that opened it.
        config: its config.json, untouched.
        generation_config: its generation_config.json, untouched, or None.
        has_prefix: whether names carry the family's optional prefix.
        dtypes: dtype of each published tensor; tensors not named here keep the model's dtype.
        stores_tied_head: the head's weight is in the file although it equals the embedding.
        quantization: its `quantization_config`, wherever it was found, or None.
        quantized: names in the file of the linear layers that were quantized, with the dtype of
            their scales (in a code book: of the weights that it stands for).
        folder: where it was opened, or None.
    """

    family: str
    config: Mapping[str, Any]
    generation_config: Mapping[str, Any] | None = None
    has_prefix: bool = True
    dtypes: Mapping[str, torch.dtype] = field(default_factory=dict)
    stores_tied_head: bool = False
    quantization: Mapping[str, Any] | None = None
    quantized: Mapping[str, torch.dtype] = field(default_factory=dict)
    folder: Path | None = None
