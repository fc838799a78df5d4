"""LoRA (arXiv:2106.09685) and its relatives: low-rank updates of linear layers and embedding.

Rank-stabilised (arXiv:2312.03732), DoRA (arXiv:2402.09353), PiSSA (arXiv:2404.02948), LoRA+
(arXiv:2402.12354); beside them trained biases, whole modules and token rows.
"""

from collections.abc import Mapping

import torch

from danlu.adapters.attached import Adaptable
from danlu.adapters.lora.fresh import fresh_copies, fresh_updates
from danlu.adapters.lora.low_rank import LoRALinear
from danlu.adapters.lora.low_rank_embedding import LoRAEmbedding
from danlu.adapters.method import AdapterContent, AdapterSource
from danlu.adapters.peft.config import lora_problems
from danlu.adapters.peft.experts import spread_experts
from danlu.adapters.peft.low_rank import read_low_rank
from danlu.adapters.peft.reading import Reading, missing_targets, read_replacements
from danlu.adapters.peft.rows import fresh_rows, read_rows
from danlu.adapters.peft.tensors import read_parts
from danlu.adapters.peft.writing import write_lora
from danlu.adapters.token_ids import known_ids
from danlu.adapters.wrapping import Wrapping
from danlu.config.adapter import LoraConfig
from danlu.weights.rules import Entry


class Lora:
    """Makes, reads and writes low-rank updates."""

    name = "lora"
    config = LoraConfig
    peft_types = ("LORA",)

    def attach(
        self,
        model: Adaptable,
        config: LoraConfig,
        generator: torch.Generator,
        entries: Mapping[str, Entry],
    ) -> Wrapping:
        """Return fresh updates: A drawn uniformly as for a linear layer, B zero."""
        wrappers = fresh_updates(model, config, generator, entries)
        targets = [name for name, _ in wrappers]
        replacements, whole = fresh_copies(model, config, targets, entries)
        scales = {
            wrapper.lora_B: config.learning_rate_ratio
            for _, wrapper in wrappers
            if isinstance(wrapper, LoRALinear | LoRAEmbedding) and config.learning_rate_ratio != 1.0
        }
        rows = fresh_rows(model, known_ids(model, config.token_rows)) if config.token_rows else []
        return Wrapping(self.name, config, [*wrappers, *whole, *rows], replacements, scales)

    def read(
        self, model: Adaptable, source: AdapterSource, entries: Mapping[str, Entry]
    ) -> Wrapping:
        """Return the updates in a folder, with all that was trained beside them."""
        reading = Reading(model, entries, source, problems=lora_problems(source.config))
        if not reading.problems:
            parts = read_parts(source.weights)
            reading.unknown(parts, "factors")
            spread_experts(reading, parts)
            read_low_rank(reading, parts)
            read_replacements(reading, parts)
            read_rows(reading, parts)
            reading.problems += missing_targets(reading, parts)
        reading.finish()
        return Wrapping(self.name, _config(source), reading.wrappers, reading.replacements)

    def write(
        self, model: Adaptable, attached: Wrapping, entries: Mapping[str, Entry]
    ) -> AdapterContent:
        """Return what a folder with the updates holds."""
        return write_lora(model, attached, entries)


METHOD = Lora()


def _config(source: AdapterSource) -> LoraConfig:
    """Return the config of an adapter that was read, as far as it can be told."""
    keys = source.config
    return LoraConfig(
        lora_rank=int(keys["r"]),
        lora_alpha=float(keys["lora_alpha"]) or 1.0,
        lora_dropout=float(keys.get("lora_dropout") or 0.0),
        rank_stabilized=bool(keys.get("use_rslora")),
        dora=bool(keys.get("use_dora")),
    )
