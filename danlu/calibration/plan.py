"""Which layer is rounded how: the scheme of a run, its overrides, and what is left alone."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from danlu.config.quantize.run import Override, QuantizeRun, Scheme, for_inputs
from danlu.config.quantize.scheme import QuantScheme
from danlu.errors import QuantizationError, bullet_list, did_you_mean
from danlu.loading.building import scheme_for
from danlu.models.decoder import Decoder
from danlu.quantize.format import check_schemes
from danlu.weights.rules import Entry

HEAD = "lm_head"
SMALLEST_GROUP = 4  # a scale for less costs more than its bits


@dataclass(frozen=True)
class Plan:
    """What is done with each linear layer.

    Attributes:
        schemes: by name, in the order of the decoder; None: left alone.
        notes: where that is not what the run says word by word.
    """

    schemes: Mapping[str, Scheme | None]
    notes: tuple[str, ...] = ()

    def of_block(self, index: int) -> dict[str, Scheme]:
        """Return the layers of a block that are rounded."""
        prefix = f"model.layers.{index}."
        return {name: scheme for name, scheme in self._rounded() if name.startswith(prefix)}

    def outside(self) -> dict[str, QuantScheme]:
        """Return the layers that are rounded outside of all blocks: the head, projections."""
        return {
            name: scheme
            for name, scheme in self._rounded()
            if not _in_block(name) and isinstance(scheme, QuantScheme)
        }

    def summaries(self) -> dict[str, str]:
        """Return the scheme of each layer that is rounded, in words."""
        return {name: scheme.summary for name, scheme in self._rounded()}

    def distinct(self) -> list[Scheme]:
        """Return every scheme that some layer has, once."""
        return distinct(scheme for _, scheme in self._rounded())

    def _rounded(self) -> Iterator[tuple[str, Scheme]]:
        for name, scheme in self.schemes.items():
            if scheme is not None:
                yield name, scheme


def make_plan(decoder: Decoder, entries: Mapping[str, Entry], run: QuantizeRun) -> Plan:
    """Return what a run does with each layer.

    Raises:
        QuantizationError: if a pattern matches no layer, layers that are published as one tensor
            would differ, or a layer does not fit its scheme; with all problems together.
    """
    known_as = {name: {name} for name, _ in decoder.linears()}
    for published, entry in entries.items():
        for owner in {ours.rpartition(".")[0] for ours in entry.ours} & known_as.keys():
            known_as[owner].add(published.rpartition(".")[0])
    unmatched = [
        pattern
        for pattern in [*run.skip, *(override.match for override in run.overrides)]
        if not any(_matches(pattern, names) for names in known_as.values())
    ]
    _refuse_unmatched(unmatched, known_as)
    asked = {name: _scheme_of(name, names, run) for name, names in known_as.items()}
    inputs = {name: linear.in_features for name, linear in decoder.linears()}
    plan = Plan({name: each and for_inputs(each, inputs[name]) for name, each in asked.items()})
    _check_whole_tensors(plan, entries)
    plan = _with_dividing_groups(plan, decoder)
    check_schemes(plan.distinct(), run.format)
    return plan


def distinct(schemes: Collection[Scheme] | Iterator[Scheme]) -> list[Scheme]:
    """Return schemes without repetitions, in order."""
    found: list[Scheme] = []
    for scheme in schemes:
        if scheme not in found:
            found.append(scheme)
    return found


def _scheme_of(name: str, names: Collection[str], run: QuantizeRun) -> Scheme | None:
    """Return the scheme of the first override that matches; else none if skipped; else the run's.

    Methods that watch blocks at work, and those that change them, leave what is outside alone.
    """
    override = next((each for each in run.overrides if _matches(each.match, names)), None)
    if override is None and any(_matches(pattern, names) for pattern in run.skip):
        return None
    scheme = run.scheme if override is None else override.scheme
    if _in_block(name) or scheme is None:
        return scheme
    if not isinstance(scheme, QuantScheme):
        _refuse_named(name, override)
        return None
    if override is not None and scheme.head_bits is None:
        return scheme
    return scheme_for(name, scheme)


def _refuse_named(name: str, override: Override | None) -> None:
    if override is not None and override.scheme is not None and override.match == name:
        raise QuantizationError(
            f"The override of {name} asks for {override.scheme.method}, which works on layers "
            "inside the blocks. Expected rtn, nf4 or fp4 there, or no override."
        )


def _in_block(name: str) -> bool:
    return name.startswith("model.layers.")


def _matches(pattern: str, names: Collection[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names)


def _refuse_unmatched(patterns: Collection[str], known_as: Mapping[str, Collection[str]]) -> None:
    every = [name for names in known_as.values() for name in names]
    last = {name.rpartition(".")[2] for name in every}
    problems = [
        f"{pattern!r}{did_you_mean(pattern, every) or did_you_mean(pattern, last)}"
        for pattern in patterns
    ]
    if problems:
        raise QuantizationError(
            f"Patterns that match no linear layer:{bullet_list(problems)}\nExpected names as "
            f"{min(known_as)!r}, or patterns of them such as '*.down_proj' or 'model.layers.0.*'."
        )


def _check_whole_tensors(plan: Plan, entries: Mapping[str, Entry]) -> None:
    """Check that layers which are one published tensor have one scheme: they are written as one."""
    problems = []
    for published, entry in entries.items():
        owners = [ours.rpartition(".")[0] for ours in entry.ours]
        if published.endswith(".weight") and all(owner in plan.schemes for owner in owners):
            kinds = {owner: plan.schemes[owner] for owner in owners}
            if any(scheme != kinds[owners[0]] for scheme in kinds.values()):
                told = ", ".join(f"{owner}: {_said(scheme)}" for owner, scheme in kinds.items())
                problems.append(f"{published} ({told})")
    if problems:
        raise QuantizationError(
            f"Layers that are published as one tensor would be rounded differently:"
            f"{bullet_list(problems)}\nExpected one scheme for each tensor, or none: widen the "
            "patterns of skip and overrides, so that they match all its layers or its own name."
        )


def _said(scheme: Scheme | None) -> str:
    return "left alone" if scheme is None else scheme.summary


def _with_dividing_groups(plan: Plan, decoder: Decoder) -> Plan:
    """Return the plan with smaller groups where those asked for do not divide a layer's inputs.

    Only layers beside the residual stream may have them, as an MLP of an odd width: groups that do
    not divide the hidden size are a mistake.
    """
    found: defaultdict[tuple[int, int], list[str]] = defaultdict(list)
    for name, linear in decoder.linears():
        size = getattr(plan.schemes[name], "group_size", None) or -1
        if size != -1 and linear.in_features % size:
            found[linear.in_features, size].append(name)
    smaller = {
        key: size
        for key in found
        if not decoder.config.hidden_size % key[1] and (size := _largest_group(*key))
    }
    _refuse_groups({key: names for key, names in found.items() if key not in smaller})
    schemes = dict(plan.schemes)
    for key, size in smaller.items():
        for name in found[key]:
            schemes[name] = _regrouped(schemes[name], size)
    told = (f"{_told(key, found[key])}: groups of {size} there" for key, size in smaller.items())
    return Plan(schemes, tuple(told))


def _largest_group(inputs: int, most: int) -> int | None:
    """Return the largest group that divides the inputs and is worth a scale."""
    sizes = range(most, SMALLEST_GROUP - 1, -1)
    return next((size for size in sizes if inputs % size == 0), None)


def _regrouped(scheme: Scheme | None, size: int) -> Scheme:
    assert scheme is not None
    return scheme.model_copy(update={"group_size": size})


def _refuse_groups(wrong: Mapping[tuple[int, int], list[str]]) -> None:
    if wrong:
        raise QuantizationError(
            f"The group size does not fit:"
            f"{bullet_list([_told(key, names) for key, names in wrong.items()])}\nChoose a "
            "--group-size that divides the inputs, -1 for one scale per row, or overrides for "
            "these layers."
        )


def _told(key: tuple[int, int], names: list[str]) -> str:
    inputs, size = key
    more = f" (and {len(names) - 1} more like it)" if len(names) > 1 else ""
    return f"{names[0]} has {inputs} inputs, which groups of {size} do not divide{more}"
