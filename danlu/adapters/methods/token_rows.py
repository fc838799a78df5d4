"""Token rows: single rows of embedding and head are trained, and nothing else.

As `trainable tokens` of peft: for new control tokens, whose vectors nobody trained yet.
"""

from collections.abc import Mapping

import torch

from danlu.adapters.attached import Adaptable
from danlu.adapters.method import AdapterContent, AdapterSource
from danlu.adapters.peft.config import key_problems
from danlu.adapters.peft.reading import Reading
from danlu.adapters.peft.rows import fresh_rows, published_rows, read_rows
from danlu.adapters.peft.tensors import KEY_PREFIX, read_parts
from danlu.adapters.token_ids import known_ids
from danlu.adapters.wrapping import Wrapping
from danlu.config.adapter import TokenRowsConfig
from danlu.errors import AdapterError
from danlu.weights.rules import Entry


class TokenRows:
    """Makes, reads and writes rows of embedding and head."""

    name = "token_rows"
    config = TokenRowsConfig
    peft_types = ("TRAINABLE_TOKENS",)

    def attach(
        self,
        model: Adaptable,
        config: TokenRowsConfig,
        generator: torch.Generator,
        entries: Mapping[str, Entry],
    ) -> Wrapping:
        """Return rows that begin as the base's."""
        return Wrapping(self.name, config, fresh_rows(model, known_ids(model, config.token_rows)))

    def read(
        self, model: Adaptable, source: AdapterSource, entries: Mapping[str, Entry]
    ) -> Wrapping:
        """Return the rows in a folder."""
        reading = Reading(model, entries, source)
        reading.problems += key_problems(source.config, ("token_indices",))
        parts = read_parts(source.weights)
        reading.unknown(parts, "lora_A", "lora_B", "embedding_A", "embedding_B", "factors")
        reading.problems += [f"{name} is no trained row" for name in parts.replaced]
        read_rows(reading, parts)
        reading.finish()
        config = TokenRowsConfig(token_rows=list(source.config["token_indices"]))
        return Wrapping(self.name, config, reading.wrappers)

    def write(
        self, model: Adaptable, attached: Wrapping, entries: Mapping[str, Entry]
    ) -> AdapterContent:
        """Return what a folder with the rows holds."""
        tensors, indices = published_rows(attached, entries)
        if len({tuple(ids) for ids in indices.values()}) > 1:
            raise AdapterError(
                "Embedding and head train rows of different tokens, which one adapter of this "
                "type cannot say. Expected the same tokens for both."
            )
        config = {
            "peft_type": "TRAINABLE_TOKENS",
            "task_type": "CAUSAL_LM",
            "target_modules": list(indices),
            "token_indices": next(iter(indices.values())),
            "init_weights": True,
            "inference_mode": True,
            "revision": None,
        }
        return AdapterContent(config, {f"{KEY_PREFIX}{key}": t for key, t in tensors.items()})


METHOD = TokenRows()
