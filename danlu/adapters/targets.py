"""Which layers a config means: by role, by our names, or by those of the published checkpoint."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from danlu.adapters.attached import Adaptable
from danlu.config.adapter import TargetOptions
from danlu.errors import AdapterError, bullet_list, did_you_mean
from danlu.weights.rules import Entry

ALL_LINEAR = "all-linear"
EMBEDDING = "model.embed_tokens"
HEAD = "lm_head"
ROLES = ("column", "row", "vocab", "replicated")
GROUPS = {"attention": ".self_attn.", "mlp": ".mlp."}


@dataclass(frozen=True)
class Named:
    """A layer by all its names.

    Attributes:
        ours: its name here.
        published: module of the published checkpoint that holds it, alone or with others.
        role: of the linear layer; empty for the embedding.
    """

    ours: str
    published: str
    role: str = ""

    @property
    def layer(self) -> int | None:
        """Number of its block."""
        found = re.search(r"\.layers\.(\d+)\.", self.ours)
        return int(found[1]) if found else None

    def ends_with(self, word: str) -> bool:
        """Return whether one of the names is `word` or ends with it, at a dot."""
        return any(
            name == word or name.endswith(f".{word}") for name in (self.ours, self.published)
        )

    def means(self, word: str) -> bool:
        """Return whether a word of a list of targets means this layer."""
        if word in GROUPS:
            return GROUPS[word] in self.ours
        return word == self.role if word in ROLES else self.ends_with(word)

    def matches(self, pattern: str) -> bool:
        """Return whether a regular expression is all of one of the names (peft's rule)."""
        return any(re.fullmatch(pattern, name) for name in (self.ours, self.published))


def named_layers(model: Adaptable, entries: Mapping[str, Entry]) -> list[Named]:
    """Return the linear layers in order, and the embedding behind them."""
    owners = {
        ours.removesuffix(".weight"): name.removesuffix(".weight")
        for name, entry in entries.items()
        for ours in entry.ours
    }
    linears = [Named(n, owners.get(n, n), role) for n, role in model.linear_roles().items()]
    return [*linears, Named(EMBEDDING, owners.get(EMBEDDING, EMBEDDING))]


def choose_targets(
    model: Adaptable, config: TargetOptions, entries: Mapping[str, Entry] | None = None
) -> list[tuple[str, ...]]:
    """Return the layers that a config means: names here, one tuple for each update.

    A published name that stands for several layers here (`c_attn`, `W_pack`) means one update of
    the published layer, as in the tool it was published with; our names mean one update each.

    Raises:
        AdapterError: listing every target that matches nothing, with the closest name.
    """
    layers = named_layers(model, entries or {})
    chosen = _excluded(_in_blocks(_wanted(layers, config.targets), config.layers), config.exclude)
    if not chosen:
        raise AdapterError(
            f"targets {config.targets!r}, layers {config.layers!r} and exclude {config.exclude!r} "
            "leave nothing to adapt. Expected at least one layer; restrict less."
        )
    return _grouped(chosen, config.targets)


def _wanted(layers: Sequence[Named], targets: str | list[str]) -> list[Named]:
    if targets == ALL_LINEAR:
        return [layer for layer in layers if layer.ours not in (HEAD, EMBEDDING)]
    if isinstance(targets, str):
        check_pattern("targets", targets)
        found = [layer for layer in layers if layer.matches(targets)]
        if not found:
            raise AdapterError(
                f"targets {targets!r} is one regular expression, and the whole name of no layer "
                f"fits it. Expected something like '.*q_proj'; a list takes endings: "
                f"[{targets}].{did_you_mean(targets, known_words(layers))}"
            )
        return found
    _check_words("targets", targets, layers)
    return [layer for layer in layers if any(layer.means(word) for word in targets)]


def _check_words(key: str, words: Iterable[str], layers: Sequence[Named]) -> None:
    known = known_words(layers)
    unmatched = [word for word in words if not any(layer.means(word) for layer in layers)]
    if unmatched:
        raise AdapterError(
            f"{key} that match no layer:"
            f"{bullet_list([f'{w!r}{did_you_mean(w, known)}' for w in unmatched])}\n"
            f"Expected endings among {', '.join(known)}; groups {', '.join(GROUPS)}; roles "
            f"{', '.join(ROLES[:2])}; or '{ALL_LINEAR}'."
        )


def known_words(layers: Sequence[Named]) -> list[str]:
    """Return the last parts of all names."""
    names = [name for layer in layers for name in (layer.ours, layer.published)]
    return sorted({name.rpartition(".")[2] for name in names})


def check_pattern(key: str, pattern: str) -> None:
    """Refuse what is no regular expression."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise AdapterError(
            f"{key}: {pattern!r} is no regular expression ({error}). Expected one, or names."
        ) from None


def _in_blocks(layers: list[Named], blocks: list[int] | None) -> list[Named]:
    if blocks is None:
        return layers
    wrong = sorted(set(blocks) - {layer.layer for layer in layers if layer.layer is not None})
    if wrong:
        raise AdapterError(
            f"layers {wrong} hold no target. Expected numbers of blocks that do, counted from 0."
        )
    return [layer for layer in layers if layer.layer in blocks]


def _excluded(layers: list[Named], exclude: str | list[str] | None) -> list[Named]:
    if not exclude:
        return layers
    if isinstance(exclude, str):
        check_pattern("exclude", exclude)
        left = [layer for layer in layers if not layer.matches(exclude)]
        if len(left) == len(layers):
            raise AdapterError(
                f"exclude {exclude!r} is one regular expression, and the whole name of no target "
                f"fits it, so that it leaves out nothing. A list takes endings: [{exclude}]."
                f"{did_you_mean(exclude, known_words(layers))}"
            )
        return left
    _check_words("exclude", exclude, layers)
    return [layer for layer in layers if not any(layer.means(word) for word in exclude)]


def _grouped(layers: list[Named], targets: str | list[str]) -> list[tuple[str, ...]]:
    """Return one tuple for each update: all of a published layer if it was meant as such."""
    groups: dict[str, list[str]] = {}
    for layer in layers:
        as_published = _means_published(layer, targets)
        groups.setdefault(f"{layer.published}|" if as_published else layer.ours, []).append(
            layer.ours
        )
    return [tuple(names) for names in groups.values()]


def _means_published(layer: Named, targets: str | list[str]) -> bool:
    """Return whether only the published name of a layer was meant."""
    if targets == ALL_LINEAR:
        return False
    here = Named(layer.ours, layer.ours, layer.role)
    if isinstance(targets, str):
        return not here.matches(targets)
    return not any(here.means(word) for word in targets)


def from_pattern(names: Sequence[str], patterns: Mapping[str, float], default: float) -> float:
    """Return the value of the first pattern that ends one of the names (peft's rule)."""
    for pattern, value in patterns.items():
        if any(re.match(rf"(.*\.)?({pattern})$", name) for name in names):
            return value
    return default
