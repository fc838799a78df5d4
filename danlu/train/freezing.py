"""Which parameters are trained when a model is trained without an adapter.

Patterns look at our names and at those of the checkpoint's own tensors, so that what a paper or a
script calls `transformer.h.0` or `query_key_value` can be said so.
"""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from danlu.config.train import FreezeConfig
from danlu.errors import ConfigError, bullet_list, did_you_mean
from danlu.loading.layout import published_layout
from danlu.models.decoder import Decoder


def freeze(decoder: Decoder, config: FreezeConfig) -> list[str]:
    """Let only the chosen parameters be trained; return their names, in order.

    Raises:
        ConfigError: if patterns match nothing, there are fewer layers, or nothing would be trained.
    """
    published = _published_names(decoder)
    _check(config, decoder, published)
    parameters = dict(decoder.named_parameters())
    chosen = _of_layers(decoder, config.top_layers) | _matching(config.names, published)
    if config.top_layers is None and not config.names:
        chosen = set(parameters)
    chosen -= _matching(config.frozen, published)
    trained = [name for name in parameters if name in chosen]
    if not trained:
        raise ConfigError(
            f"freeze leaves nothing to train of {len(parameters)} parameters; expected at least "
            "one. Choose fewer names in freeze.frozen."
        )
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in chosen)
    return trained


def _published_names(decoder: Decoder) -> dict[str, list[str]]:
    """Return our name of each parameter, and whatever else it is called.

    Others are the names of the published tensors it is in, and of a head tied to an embedding.
    """
    first = {id(p): name for name, p in decoder.named_parameters()}
    every = dict(decoder.named_parameters(remove_duplicate=False))
    names: dict[str, list[str]] = {name: [] for name in first.values()}
    for name, parameter in every.items():
        names[first[id(parameter)]].append(name)
    if decoder.published is not None:
        for entry in published_layout(decoder).entries.values():
            for parameter in (every[name] for name in entry.ours if name in every):
                names[first[id(parameter)]].append(entry.published)
    return names


def _of_layers(decoder: Decoder, count: int | None) -> set[str]:
    """Return the names of the parameters of the last `count` layers."""
    if count is None:
        return set()
    wanted = {id(p) for block in decoder.blocks()[-count:] for p in block.parameters()}
    return {name for name, p in decoder.named_parameters() if id(p) in wanted}


def _matching(patterns: Iterable[str], published: Mapping[str, Sequence[str]]) -> set[str]:
    """Return our names of all parameters that a pattern matches under any of their names."""
    return {
        ours
        for pattern in patterns
        for ours, every in published.items()
        if any(_matches(name, pattern) for name in every)
    }


def _matches(name: str, pattern: str) -> bool:
    """Return whether a pattern is a name, or parts of it between dots."""
    return fnmatchcase(f".{name}.", f"*.{pattern}.*")


def _check(config: FreezeConfig, decoder: Decoder, published: Mapping[str, Sequence[str]]) -> None:
    """Refuse more layers than there are, and patterns that match nothing; all at once."""
    layers = len(decoder.blocks())
    problems = []
    if config.top_layers is not None and config.top_layers > layers:
        problems.append(f"top_layers is {config.top_layers}, but the model has {layers} layers")
    for key, patterns in (("names", config.names), ("frozen", config.frozen)):
        problems += [
            f"{key}: no parameter matches {pattern!r}.{_closest(pattern, published)}"
            for pattern in patterns
            if not _matching([pattern], published)
        ]
    if problems:
        raise ConfigError(
            f"freeze does not fit this model:{bullet_list(problems)}\n"
            "Expected names, or parts of names between dots, of its parameters or of its "
            "checkpoint's tensors; * stands for anything."
        )


def _closest(pattern: str, published: Mapping[str, Sequence[str]]) -> str:
    """Return the closest name or part of a name, as a question."""
    names = {name for every in published.values() for name in every}
    parts = {part for name in names for part in name.split(".") if not part.isdigit()}
    return did_you_mean(pattern, sorted(parts | names))
