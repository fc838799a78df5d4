"""What merging changes of a model beside its layers, and how it is taken back."""

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from danlu.adapters.attached import Adaptable
from danlu.adapters.targets import HEAD
from danlu.adapters.wrapping import embedding_of, put_in_place
from danlu.nn.linear import Linear


@dataclass(frozen=True)
class Unmerged:
    """A model before its adapters were merged.

    Attributes:
        adapters: that were on, by name.
        modules: that merging replaces, by name.
        config, published: of the model.
    """

    adapters: dict[str, Any]
    modules: dict[str, nn.Module]
    config: Any
    published: Any

    @classmethod
    def of(cls, model: Adaptable) -> "Unmerged":
        """Return what a model is now."""
        slots = [slot for attached in model.adapters.values() for slot in attached.slots()]
        modules = {slot: model.get_submodule(slot) for slot in slots}
        return cls(dict(model.adapters), modules, model.config, model.published)

    def restore(self, model: Adaptable) -> None:
        """Make the model that again."""
        for name, module in self.modules.items():
            put_in_place(model, name, module)
        model.adapters.update(self.adapters)
        model.config, model.published = self.config, self.published


def tie_or_untie(model: Adaptable) -> None:
    """Let a tied model say what is true of its head after merging.

    Rows that act on both leave one matrix; an embedding that was changed alone leaves two.
    """
    head, embedding = model.get_submodule(HEAD), embedding_of(model)
    if not model.config.tie_word_embeddings or not isinstance(head, Linear):
        return
    if head.weight is embedding.weight:
        return
    if head.weight.equal(embedding.weight):
        head.weight = embedding.weight
        return
    model.config = replace(model.config, tie_word_embeddings=False)
    if model.published is not None:
        config = {**model.published.config, "tie_word_embeddings": False}
        model.published = replace(model.published, config=config)
