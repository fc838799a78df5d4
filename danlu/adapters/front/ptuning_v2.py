"""P-Tuning v2 as the scripts of ChatGLM-6B and ChatGLM2-6B leave it (arXiv:2110.07602).

A folder whose `config.json` says `pre_seq_len` and `prefix_projection`, and whose weights hold
`transformer.prefix_encoder.*`: a table, or embeddings and an MLP (`trans.0`, tanh, `trans.2`). Some
hold the whole model too, which was frozen; it is the base's business.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from danlu.adapters.front.key_values import ProjectedTable, Table, table_width
from danlu.adapters.front.prefixing import differences, refuse
from danlu.adapters.method import AdapterSource
from danlu.errors import did_you_mean
from danlu.files import parse_json
from danlu.nn.prefix import Prefixable
from danlu.weights.files import WeightFile, find_weight_files

PEFT_TYPE = "P_TUNING_V2"
_ENCODER = "prefix_encoder."
_PLAIN = ("embedding.weight",)
_MLP = ("trans.0.weight", "trans.0.bias", "trans.2.weight", "trans.2.bias")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncoderFiles:
    """The tensors of a prefix encoder, named from there on, wherever its folder keeps them."""

    path: Path
    parts: dict[str, tuple[WeightFile, str]]

    def names(self) -> list[str]:
        """Return the names of the tensors."""
        return list(self.parts)

    def read(self, name: str) -> Tensor:
        """Return one tensor."""
        file, published = self.parts[name]
        return file.read(published)

    def give_back(self, name: str) -> None:
        """Take memory from a tensor that was read."""
        file, published = self.parts[name]
        file.give_back(published)


def find_encoder(folder: Path) -> AdapterSource | None:
    """Return the prefix encoder in a folder, or None if its config.json tells of none."""
    config = _config(folder / "config.json")
    if not config.get("pre_seq_len"):
        return None
    names = [(file, name) for file in find_weight_files(folder) for name in file.names()]
    parts = {name.partition(_ENCODER)[2]: (file, name) for file, name in names if _ENCODER in name}
    if len(parts) < len(names):
        _log.warning(
            "'%s' holds %d tensors beside its prefix encoder; only the encoder is read.",
            folder,
            len(names) - len(parts),
        )
    source = {
        **config,
        "peft_type": PEFT_TYPE,
        "base_model_name_or_path": config.get("_name_or_path"),
    }
    return AdapterSource(folder, source, EncoderFiles(folder, parts))


def _config(path: Path) -> dict[str, Any]:
    try:
        config = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def read_encoder(model: Prefixable, source: AdapterSource) -> tuple[Table | ProjectedTable, int]:
    """Return the table of a prefix encoder, and its number of tokens.

    Raises:
        AdapterError: with everything that does not fit the base.
    """
    projected = bool(source.config.get("prefix_projection"))
    wanted = (*_PLAIN, *_MLP) if projected else _PLAIN
    names = source.weights.names()
    problems = [f"{_ENCODER}{name} is missing" for name in wanted if name not in names]
    problems += [
        f"{_ENCODER}{name} is not part of it with prefix_projection: {projected}."
        f"{did_you_mean(name, wanted)}"
        for name in names
        if name not in wanted
    ]
    problems += _other_base(model, source.config)
    tensors = {name: source.weights.read(name).float().clone() for name in wanted if name in names}
    if len(tensors) == len(wanted):
        width = table_width(model.kv_shapes())
        problems += _misshapen(tensors, source.config["pre_seq_len"], width)
    refuse(source, problems)
    embedding = tensors["embedding.weight"]
    if not projected:
        return Table(embedding), len(embedding)
    down = tensors["trans.0.weight"], tensors["trans.0.bias"]
    up = tensors["trans.2.weight"], tensors["trans.2.bias"]
    return ProjectedTable(embedding, down, up), len(embedding)


def _other_base(model: Prefixable, config: Mapping[str, Any]) -> list[str]:
    """Return where the config.json describes another model."""
    shapes = model.kv_shapes()
    heads = (
        "multi_query_group_num" if config.get("multi_query_attention") else "num_attention_heads"
    )
    problems = differences(config, {"num_layers": len(shapes), heads: shapes[0].num_kv_heads})
    all_heads = config.get("num_attention_heads")
    head_dim = config.get("kv_channels")
    if head_dim is None and all_heads and config.get("hidden_size"):
        head_dim = config["hidden_size"] // all_heads
    problems += differences(
        {"numbers per head": head_dim}, {"numbers per head": shapes[0].head_dim}
    )
    if model.text_position(1):
        problems.append(
            "texts behind it keep their positions, as ChatGLM counts them; the base counts on"
        )
    return problems


def _misshapen(tensors: Mapping[str, Tensor], num_tokens: int, width: int) -> list[str]:
    """Return which tensors do not fit one another and the base."""
    embedding = tensors["embedding.weight"]
    wanted: dict[str, tuple[int, ...]] = {"embedding.weight": (num_tokens, width)}
    if len(tensors) > 1:
        hidden = tensors["trans.0.bias"].numel()
        wanted = {
            "embedding.weight": (num_tokens, embedding.shape[-1]),
            "trans.0.weight": (hidden, embedding.shape[-1]),
            "trans.0.bias": (hidden,),
            "trans.2.weight": (width, hidden),
            "trans.2.bias": (width,),
        }
    return [
        f"{_ENCODER}{name} is {list(tensors[name].shape)}; the base asks for {list(shape)}"
        for name, shape in wanted.items()
        if tuple(tensors[name].shape) != shape
    ]
