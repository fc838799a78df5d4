"""Fresh updates of a LoRA config: they change nothing until they are trained."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from danlu.adapters.attached import Adaptable
from danlu.adapters.lora.low_rank_embedding import DoRAEmbedding, LoRAEmbedding
from danlu.adapters.lora.starts import pissa
from danlu.adapters.peft.low_rank import around
from danlu.adapters.targets import (
    EMBEDDING,
    Named,
    check_pattern,
    choose_targets,
    from_pattern,
    known_words,
    named_layers,
)
from danlu.adapters.whole import in_place_of
from danlu.adapters.wrappers import original, stored_weight
from danlu.adapters.wrapping import (
    Replacement,
    Wrapped,
    base_parameters,
    embedding_of,
    plain_parameter,
)
from danlu.config.adapter import LoraConfig
from danlu.errors import AdapterError, bullet_list, did_you_mean
from danlu.nn.linear import LinearLike
from danlu.weights.rules import Entry


def fresh_updates(
    model: Adaptable,
    config: LoraConfig,
    generator: torch.Generator,
    entries: Mapping[str, Entry],
) -> list[tuple[str, Wrapped]]:
    """Return the updates that a config asks for, by the layers they belong to.

    Raises:
        AdapterError: if a target, a pattern or a rank does not fit the model.
    """
    layers = {layer.ours: layer for layer in named_layers(model, entries)}
    _check_patterns(config, list(layers.values()))
    linears = dict(model.linears())
    wrappers: list[tuple[str, Wrapped]] = []
    for group in choose_targets(model, config, entries):
        names = [name for layer in group for name in (layer, layers[layer].published)]
        rank = int(from_pattern(names, config.rank_pattern, config.lora_rank))
        alpha = from_pattern(names, config.alpha_pattern, config.lora_alpha)
        scale = alpha / (rank**0.5 if config.rank_stabilized else rank)
        if group == (EMBEDDING,):
            wrappers.append((EMBEDDING, _embedding(model, config, rank, scale, generator)))
            continue
        bases = [linears[layer] for layer in group]
        updates = _group(bases, config, rank, scale, generator)
        wrappers += zip(group, updates, strict=True)
    return wrappers


def _check_rank(rank: int, bases: Sequence[LinearLike]) -> None:
    """Refuse ranks above both sides of a layer; no update has a rank above the shorter one."""
    most = max(max(base.in_features, base.out_features) for base in bases)
    if rank > most:
        raise AdapterError(
            f"lora_rank {rank} is more than a layer has inputs or outputs ({most}), so that its "
            "update would be larger than the weight. Expected a small number such as 8 or 64."
        )


def _group(
    bases: Sequence[LinearLike],
    config: LoraConfig,
    rank: int,
    scale: float,
    generator: torch.Generator,
) -> list[Any]:
    """Return the updates of layers that are one published layer: they share A."""
    if config.init == "pissa":
        return _from_base(bases, config, rank, scale)
    _check_rank(rank, bases)
    first = bases[0]
    bound = 1 / math.sqrt(first.in_features)
    drawn = torch.empty(rank, first.in_features).uniform_(-bound, bound, generator=generator)
    shared_A = nn.Parameter(drawn.to(_device(first)))
    extra = {"magnitude": None} if config.dora else {}
    return [
        around(base, shared_A, _zeros(base, rank), scale, config.lora_dropout, **extra)
        for base in bases
    ]


@torch.no_grad()
def _from_base(
    bases: Sequence[LinearLike], config: LoraConfig, rank: int, scale: float
) -> list[Any]:
    weights = [stored_weight(original(base)).float() for base in bases]
    whole_OI = torch.cat(weights)
    if rank > min(whole_OI.shape):
        raise AdapterError(
            f"init: pissa takes {rank} singular values of a {list(whole_OI.shape)} weight, which "
            f"has {min(whole_OI.shape)}. Lower lora_rank."
        )
    start_A, start_B = pissa(whole_OI, rank, scale)
    shared_A = nn.Parameter(start_A.clone())
    parts = start_B.split([len(weight) for weight in weights])
    return [
        around(base, shared_A, part.clone(), scale, config.lora_dropout, start=(start_A, part))
        for base, part in zip(bases, parts, strict=True)
    ]


def _embedding(
    model: Adaptable, config: LoraConfig, rank: int, scale: float, generator: torch.Generator
) -> LoRAEmbedding:
    """Return an update of the embedding: A zero, B drawn from a normal distribution, as peft."""
    if config.init == "pissa":
        raise AdapterError(
            "init: pissa takes singular values of linear layers; embed_tokens has none. Leave it "
            "out of targets, or begin at zero."
        )
    base = embedding_of(model)
    vocab, width = base.weight.shape
    drawn_B = torch.empty(width, rank).normal_(generator=generator).to(base.weight.device)
    zero_A = torch.zeros(rank, vocab, device=base.weight.device)
    kind = DoRAEmbedding if config.dora else LoRAEmbedding
    return kind(base, zero_A, drawn_B, scale)


def _zeros(base: LinearLike, rank: int) -> Tensor:
    return torch.zeros(base.out_features, rank, device=_device(base))


def _device(base: LinearLike) -> torch.device:
    tensors = [*original(base).parameters(), *original(base).buffers()]
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def _check_patterns(config: LoraConfig, layers: Sequence[Named]) -> None:
    """Refuse patterns of ranks and alphas that are no patterns or fit no layer."""
    problems = []
    for key in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(config, key):
            check_pattern(key, pattern)
            names = [name for layer in layers for name in (layer.ours, layer.published)]
            if not from_pattern(names, {pattern: 1}, 0):
                problems.append(f"{key} {pattern!r}{did_you_mean(pattern, known_words(layers))}")
    if problems:
        raise AdapterError(
            f"Patterns that fit no layer:{bullet_list(problems)}\nExpected endings of names, or "
            f"regular expressions for them, such as {', '.join(known_words(layers)[:4])}."
        )


def fresh_copies(
    model: Adaptable, config: LoraConfig, targets: Sequence[str], entries: Mapping[str, Entry]
) -> tuple[list[Replacement], list[tuple[str, Wrapped]]]:
    """Return copies of what is trained beside the updates: biases, whole modules.

    Raises:
        AdapterError: if a module is not there, or is a target too.
    """
    names = dict.fromkeys([*_biases(model, config, targets), *_whole(model, config, entries)])
    both = sorted({name.rpartition(".")[0] for name in _whole(model, config, entries)} & {*targets})
    if both:
        raise AdapterError(
            f"{', '.join(both)} cannot be trained whole and by an update. Take them out of "
            "targets or of whole."
        )
    copies = [in_place_of(model, name) for name in names]
    replacements = [copy for copy in copies if isinstance(copy, Replacement)]
    return replacements, [copy for copy in copies if isinstance(copy, tuple)]


def _biases(model: Adaptable, config: LoraConfig, targets: Sequence[str]) -> list[str]:
    if config.bias == "none":
        return []
    if config.bias == "lora_only":
        wanted = [f"{target}.bias" for target in targets]
        return [name for name in wanted if plain_parameter(model, name) is not None]
    return [name for name in base_parameters(model) if name.endswith(".bias")]


def _whole(model: Adaptable, config: LoraConfig, entries: Mapping[str, Entry]) -> list[str]:
    """Return the parameters of the modules in `whole`, named as here or as published."""
    published = {ours: name for name, entry in entries.items() for ours in entry.ours}
    linears = [f"{name}.weight" for name, _ in model.linears()]  # quantized ones have no parameter
    parameters = list(dict.fromkeys([*base_parameters(model), *linears]))
    chosen: list[str] = []
    problems = []
    for word in config.whole:
        found = [
            name
            for name in parameters
            if _is_in(name, word) or _is_in(published.get(name, name), word)
        ]
        if not found:
            modules = {name.split(".")[-2] for name in [*parameters, *published.values()]}
            problems.append(f"{word!r}{did_you_mean(word, modules)}")
        chosen += found
    if problems:
        raise AdapterError(
            f"whole names modules that are not there:{bullet_list(problems)}\n"
            "Expected names such as embed_tokens, lm_head or norm, or as published."
        )
    return chosen


def _is_in(parameter: str, module: str) -> bool:
    """Return whether a parameter belongs to a module, which is told by the end of its name."""
    owner = f".{parameter.rpartition('.')[0]}."
    return f".{module}." in owner
