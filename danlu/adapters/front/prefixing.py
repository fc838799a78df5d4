"""Adapters that stand in front of every text: put on, taken off, and how they fit a model."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from danlu.adapters.attached import Attached
from danlu.adapters.method import AdapterContent, AdapterSource
from danlu.config.base import Config
from danlu.errors import AdapterError, bullet_list, did_you_mean
from danlu.nn.prefix import Prefix, Prefixable

TENSOR = "prompt_embeddings"
# Keys of every prompt-learning adapter_config.json that change nothing here, with the reason.
_IGNORED = {
    "auto_mapping": "names classes of the tool that wrote it",
    "base_model_name_or_path": "for the reader's information",
    "inference_mode": "whether it is trained is told when it is loaded",
    "peft_type": "chose this reader",
    "peft_version": "for the reader's information",
    "revision": "of the base",
    "task_type": "for the reader's information",
}


class Prefixing(Attached):
    """An adapter that is the prefix of a model."""

    not_mergeable: ClassVar[str] = (
        "what stands in front of a text has no place in the weights. Serve it beside the base, "
        "with --adapter."
    )

    def __init__(self, method: str, config: Config, prefix: Prefix) -> None:
        self.method = method
        self.config = config
        self.names = [f"the text behind {prefix.num_tokens} virtual tokens"]
        self.prefix = prefix

    def put_on(self, model: Prefixable) -> None:
        """Put the prefix in front of every text of `model`."""
        model.prefix = self.prefix.to(model.device)

    def take_off(self, model: Prefixable) -> None:
        """Leave texts with nothing in front."""
        model.prefix = None

    def parameters(self) -> list[nn.Parameter]:
        """Return what is trained."""
        return list(self.prefix.parameters())


def check_room(model: Prefixable, num_tokens: int, first_position: int) -> None:
    """Check that a model can take a prefix.

    Raises:
        AdapterError: if it has one, or no room is left for a text.
    """
    if model.prefix is not None:
        raise AdapterError(
            "There is a prefix in front of this model's texts already; expected one at most. "
            "Take the base without it, or put the two into separate models."
        )
    if first_position >= model.max_text_tokens:
        raise AdapterError(
            f"{num_tokens} virtual tokens leave no room for a text: the model's context has "
            f"{model.max_text_tokens}. Use fewer."
        )


def check_keys(source: AdapterSource, read: Sequence[str], ignored: Sequence[str]) -> list[str]:
    """Return what is wrong with the keys of an `adapter_config.json` of prompt learning.

    Args:
        source: the folder.
        read: keys that are used.
        ignored: keys that tell how it was trained, which the tensors no longer show.
    """
    known = [*read, *ignored, *_IGNORED, "modules_to_save", "num_transformer_submodules"]
    problems = [
        f"{key}: {value!r} is no key of this method.{did_you_mean(key, known)}"
        for key, value in source.config.items()
        if key not in known and value
    ]
    if source.config.get("modules_to_save"):
        problems.append(
            f"modules_to_save: {source.config['modules_to_save']!r}; expected null, as whole "
            "modules beside it are not read"
        )
    if source.config.get("num_transformer_submodules", 1) not in (1, None):
        problems.append(
            f"num_transformer_submodules: {source.config['num_transformer_submodules']!r}; "
            "expected 1, a decoder without an encoder"
        )
    return problems


def read_table(source: AdapterSource) -> tuple[Tensor | None, list[str]]:
    """Return the one tensor of an adapter of prompt learning in float32, and what is wrong."""
    names = source.weights.names()
    problems = [f"{name} is no tensor of this method" for name in names if name != TENSOR]
    if TENSOR not in names:
        return None, [*problems, f"{TENSOR} is missing"]
    table = source.weights.read(TENSOR).float().clone()
    if table.ndim != 2:
        return None, [*problems, f"{TENSOR} is {list(table.shape)}; expected [tokens, numbers]"]
    return table, problems


def miscounted(source: AdapterSource, table_PN: Tensor) -> list[str]:
    """Return whether the config tells another number of tokens than the tensor holds."""
    told = source.config.get("num_virtual_tokens", len(table_PN))
    if told == len(table_PN):
        return []
    return [f"num_virtual_tokens: {told!r}, but {TENSOR} holds {len(table_PN)}"]


def differences(found: Mapping[str, Any], wanted: Mapping[str, int]) -> list[str]:
    """Return where an adapter tells another number than the base has; what it leaves out fits."""
    return [
        f"{key}: {found[key]!r}; the base has {number}"
        for key, number in wanted.items()
        if found.get(key) is not None and found[key] != number
    ]


def refuse(source: AdapterSource, problems: Sequence[str]) -> None:
    """Raise an `AdapterError` if there are problems."""
    if problems:
        base = source.config.get("base_model_name_or_path")
        made_for = f"It was made for {base!r}; load" if base else "Load"
        raise AdapterError(
            f"The adapter in '{source.folder}' does not fit this base:{bullet_list(problems)}\n"
            f"{made_for} it on the base it was trained on."
        )


def content(peft_type: str, table_PN: Tensor, keys: Mapping[str, Any]) -> AdapterContent:
    """Return what a folder of prompt learning holds, as peft 0.21.2 writes it."""
    config = {
        "auto_mapping": None,
        "inference_mode": True,
        "modules_to_save": None,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": len(table_PN),
        "peft_type": peft_type,
        "revision": None,
        "task_type": "CAUSAL_LM",
    }
    return AdapterContent({**config, **keys}, {TENSOR: table_PN.detach().float()})
