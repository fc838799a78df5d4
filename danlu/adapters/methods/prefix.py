"""Prefix tuning (arXiv:2101.00190): trained keys and values in front of every layer.

Adapters of PEFT and ChatGLM's P-Tuning v2 (arXiv:2110.07602) are read; PEFT's are written, with the
re-parametrisation MLP folded in, as PEFT does. A fresh prefix is not neutral: whatever stands in
front of a text draws attention from it. Without the MLP it begins as what the model keeps of drawn
words, the best of the beginnings that the paper compares (sec. 7.4).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from danlu.adapters.front.key_values import (
    KeyValuePrefix,
    ProjectedTable,
    Table,
    drawn_projection,
    table_of_tokens,
    table_width,
)
from danlu.adapters.front.prefixing import (
    TENSOR,
    Prefixing,
    check_keys,
    check_room,
    content,
    differences,
    miscounted,
    read_table,
    refuse,
)
from danlu.adapters.front.ptuning_v2 import PEFT_TYPE as PTUNING_V2
from danlu.adapters.front.ptuning_v2 import read_encoder
from danlu.adapters.method import AdapterContent, AdapterSource
from danlu.config.adapter import PrefixConfig
from danlu.nn.prefix import Prefixable
from danlu.weights.rules import Entry

_TRAINED_BY = ("prefix_projection", "encoder_hidden_size", "init_weights")


class PrefixTuning:
    """Makes, reads and writes prefixes of keys and values."""

    name = "prefix"
    config = PrefixConfig
    peft_types = ("PREFIX_TUNING", PTUNING_V2)

    def attach(
        self,
        model: Prefixable,
        config: PrefixConfig,
        generator: torch.Generator,
        entries: Mapping[str, Entry],
    ) -> Prefixing:
        """Return a fresh prefix."""
        position = model.text_position(config.num_tokens)
        check_room(model, config.num_tokens, position)
        table = _fresh(model, config, generator)
        prefix = KeyValuePrefix(table, config.num_tokens, model.kv_shapes(), position)
        return Prefixing(self.name, config, prefix)

    def read(
        self, model: Prefixable, source: AdapterSource, entries: Mapping[str, Entry]
    ) -> Prefixing:
        """Return the prefix in a folder."""
        if source.config.get("peft_type") == PTUNING_V2:
            table, num_tokens = read_encoder(model, source)
        else:
            table, num_tokens = _read_peft(model, source)
        position = model.text_position(num_tokens)
        check_room(model, num_tokens, position)
        prefix = KeyValuePrefix(table, num_tokens, model.kv_shapes(), position)
        config = PrefixConfig(num_tokens=num_tokens, projection=isinstance(table, ProjectedTable))
        return Prefixing(self.name, config, prefix)

    def write(
        self, model: Prefixable, attached: Prefixing, entries: Mapping[str, Entry]
    ) -> AdapterContent:
        """Return what a folder with the prefix holds."""
        assert isinstance(attached.prefix, KeyValuePrefix)
        with torch.no_grad():
            table_PN: Tensor = attached.prefix.table()
        keys = {"prefix_projection": False, "encoder_hidden_size": None, **_sizes(model)}
        return content(
            "PREFIX_TUNING", table_PN, {**keys, "encoder_hidden_size": keys["token_dim"]}
        )


METHOD = PrefixTuning()


def _fresh(
    model: Prefixable, config: PrefixConfig, generator: torch.Generator
) -> Table | ProjectedTable:
    tokens_P = torch.randint(model.vocab_size, (config.num_tokens,), generator=generator)
    if not config.projection:
        return Table(table_of_tokens(model, tokens_P))
    hidden = model.token_embeddings(tokens_P[:1].to(model.device)).shape[-1]
    sizes = (hidden, config.projection_size or hidden, table_width(model.kv_shapes()))
    return drawn_projection(config.num_tokens, sizes, generator)


def _sizes(model: Prefixable) -> dict[str, int]:
    """Return the sizes of a model in the keys of PEFT, where all layers are alike.

    Where keys and values differ in size, PEFT has no prefixes: `token_dim` is then their mean.
    """
    shapes = model.kv_shapes()
    return {
        "num_layers": len(shapes),
        "num_attention_heads": shapes[0].num_kv_heads,
        "token_dim": table_width(shapes) // (2 * len(shapes)),
    }


def _read_peft(model: Prefixable, source: AdapterSource) -> tuple[Table, int]:
    wanted = _sizes(model)
    problems = check_keys(source, (*wanted, "num_virtual_tokens"), _TRAINED_BY)
    table_PN, damage = read_table(source)
    problems += damage + differences(source.config, wanted)
    width = table_width(model.kv_shapes())
    if table_PN is not None:
        problems += miscounted(source, table_PN)
        if table_PN.shape[1] != width:
            problems.append(
                f"{TENSOR} has {table_PN.shape[1]} numbers for each token; the base keeps {width}"
            )
    refuse(source, problems)
    assert table_PN is not None
    return Table(table_PN), len(table_PN)
