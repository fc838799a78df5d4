"""Which layers of a model a config means."""

from danlu.config.adapter import LoraConfig
from danlu.errors import AdapterError
from danlu.nn.linear import HasLinears


def choose_targets(model: HasLinears, config: LoraConfig) -> list[str]:
    """Return the names of the layers that the config targets.

    Raises:
        AdapterError: listing every target that matches nothing.
    """
    names = [name for name, _ in model.linears()]
    if config.targets == "all-linear":
        return [name for name in names if name != "lm_head"]
    wanted = config.targets
    unmatched = [t for t in wanted if not any(_ends_with(name, t) for name in names)]
    if unmatched:
        endings = sorted({name.rpartition(".")[2] for name in names})
        raise AdapterError(
            f"No linear layer is called {', '.join(map(repr, unmatched))}. "
            f"Expected endings among {', '.join(endings)}, or 'all-linear'."
        )
    return [name for name in names if any(_ends_with(name, target) for target in wanted)]


def _ends_with(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")
