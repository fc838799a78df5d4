"""The tensors of a PEFT adapter, by the published module they belong to.

Source: files written by peft 0.3 to 0.21. Keys are `base_model.model.` + the module path in the
published model + what of the adapter it is; older files have the adapter's name within.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from danlu.weights.files import WeightFile

KEY_PREFIX = "base_model.model."

# What a key ends with -> what it is, as in `Parts`. A name of an adapter may stand within.
_NAME = r"(?:\.[^.]+)?"
_KINDS = {
    rf"\.lora_A{_NAME}\.weight": "lora_A",
    rf"\.lora_B{_NAME}\.weight": "lora_B",
    rf"\.lora_embedding_A{_NAME}": "embedding_A",
    rf"\.lora_embedding_B{_NAME}": "embedding_B",
    rf"\.lora_magnitude_vector{_NAME}?(?:\.weight)?": "magnitude",
    rf"\.ia3_l{_NAME}": "factors",
    rf"(?:\.token_adapter)?\.trainable_tokens_delta{_NAME}": "rows",
}
_COPIES = r"\.(original_module|token_adapter\.trainable_tokens_original|trainable_tokens_original)"
_WHOLE = r"(?:\.modules_to_save(?:\.default)?)"
_BASE = r"(?:(?:\.token_adapter)?\.base_layer)"


@dataclass
class Parts:
    """What a file holds.

    Attributes:
        modules: published module -> what it is (see `_KINDS`) -> tensor.
        replaced: published tensor -> what takes its place.
        base: published tensor -> the base's own, kept in the file by PEFT.
        copies: keys of what is the base's and of no use.
    """

    modules: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    replaced: dict[str, Tensor] = field(default_factory=dict)
    base: dict[str, Tensor] = field(default_factory=dict)
    copies: list[str] = field(default_factory=list)

    def with_kinds(self, *kinds: str) -> Mapping[str, dict[str, Tensor]]:
        """Return the modules that have tensors of these kinds, and those tensors."""
        found = {
            name: {kind: tensor for kind, tensor in parts.items() if kind in kinds}
            for name, parts in self.modules.items()
        }
        return {name: parts for name, parts in found.items() if parts}


def read_parts(file: WeightFile) -> Parts:
    """Return the tensors of a file by what they are; what is unknown is left for `replaced`."""
    parts = Parts()
    for key in file.names():
        _sort(parts, key.removeprefix(KEY_PREFIX), file.read(key).clone())
    return parts


def _sort(parts: Parts, name: str, tensor: Tensor) -> None:
    for ending, kind in _KINDS.items():
        if found := re.fullmatch(rf"(.+?){ending}", name):
            parts.modules.setdefault(found[1], {})[kind] = tensor
            return
    if re.search(rf"{_COPIES}(\.|$)", name):
        parts.copies.append(name)
    elif found := re.fullmatch(rf"(.+?){_BASE}\.(weight|bias)", name):
        parts.base[f"{found[1]}.{found[2]}"] = tensor
    else:
        parts.replaced[re.sub(_WHOLE, "", name)] = tensor
