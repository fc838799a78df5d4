"""One adapter on a model, and what a model must let adapters do."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Protocol

from torch import nn

from danlu.config.base import Config
from danlu.errors import AdapterError
from danlu.nn.linear import HasLinears


class Adaptable(HasLinears, Protocol):
    """A model that can carry adapters.

    Attributes:
        adapters: every `Attached` by its name, in the order in which they were put on.
        unmerged: what it was before adapters were merged reversibly, or None.
        config: frozen, with `tie_word_embeddings`.
        published: frozen, with the `config` of its checkpoint; None if it has none.
    """

    adapters: dict[str, Any]
    unmerged: Any
    config: Any
    published: Any

    def linear_roles(self) -> dict[str, str]:
        """Return the role of every linear layer by its name."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield every parameter with its name."""

    def get_submodule(self, target: str) -> nn.Module:
        """Return the module called `target`."""


class Attached(ABC):
    """An adapter made for one model; a method returns it, `danlu.adapters.handling` puts it on.

    Adapters are taken off in the reverse order of being put on, so each finds the model as it left
    it.

    Attributes:
        method: name of the method that made it.
        config: a config it could be made with.
        names: what it adapts, to be told to people.
        not_mergeable: why it cannot become part of the weights; empty if it can.
    """

    method: str
    config: Config
    names: list[str]
    not_mergeable: ClassVar[str] = ""

    @abstractmethod
    def put_on(self, model: Any) -> None:
        """Let the adapter act in `model`."""

    @abstractmethod
    def take_off(self, model: Any) -> None:
        """Give the model back as it was before `put_on`, bit for bit."""

    @abstractmethod
    def parameters(self) -> list[nn.Parameter]:
        """Return what is trained, each once."""

    def slots(self) -> list[str]:
        """Return the names of the modules that merging replaces."""
        return []

    def merge(self, model: Any) -> None:
        """Make the adapter, which is on, part of the weights; others may be on beside it."""
        raise AdapterError(self.not_mergeable)

    def lr_scales(self) -> Mapping[nn.Parameter, float]:
        """Return factors on the learning rate, of the parameters that have one."""
        return {}
