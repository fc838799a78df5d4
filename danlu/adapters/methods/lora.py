"""LoRA (arXiv:2106.09685): low-rank updates of linear layers."""

import math
from collections.abc import Mapping

import torch

from danlu.adapters.attached import Adaptable
from danlu.adapters.lora import LoRALinear
from danlu.adapters.method import AdapterContent, AdapterSource
from danlu.adapters.peft_format import read_updates, write_updates
from danlu.adapters.targets import choose_targets
from danlu.adapters.wrapping import Wrapping
from danlu.config.adapter import LoraConfig
from danlu.nn.linear import LinearLike
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
        linears = dict(model.linears())
        targets = choose_targets(model, config)
        wrappers = {name: _fresh(linears[name], config, generator) for name in targets}
        return Wrapping(self.name, config, wrappers)

    def read(
        self, model: Adaptable, source: AdapterSource, entries: Mapping[str, Entry]
    ) -> Wrapping:
        """Return the updates in a folder."""
        return Wrapping(self.name, LoraConfig(), read_updates(model, source, entries))

    def write(
        self, model: Adaptable, attached: Wrapping, entries: Mapping[str, Entry]
    ) -> AdapterContent:
        """Return what a folder with the updates holds."""
        return write_updates(attached.wrappers, entries)


METHOD = Lora()


def _fresh(base: LinearLike, config: LoraConfig, generator: torch.Generator) -> LoRALinear:
    bound = 1 / math.sqrt(base.in_features)
    lora_A = torch.empty(config.lora_rank, base.in_features)
    lora_A.uniform_(-bound, bound, generator=generator)
    lora_B = torch.zeros(base.out_features, config.lora_rank)
    return LoRALinear(
        base, lora_A, lora_B, config.lora_alpha / config.lora_rank, config.lora_dropout
    )
