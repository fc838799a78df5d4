"""`--fit`: bits and method of each group of layers, so that a model fits a budget with least harm.

Harm is the squared relative error of a block's output when one group alone is rounded; errors of
different groups are taken as independent, so that harms add up. Layers which engines fuse get one
scheme, and all schemes are integers, which one file of compressed-tensors holds mixed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.calibration.fitting.budget import Budget, budget_of
from danlu.calibration.fitting.candidates import HEAD_SMALLER, SMALLER, USUAL, Candidate, dividing
from danlu.calibration.fitting.knapsack import Option, least_cost, least_harm
from danlu.calibration.fitting.layers import FittingLayers, layers_of
from danlu.calibration.fitting.measuring import Errors, Group, Survey, head_errors
from danlu.calibration.outside import load_outside
from danlu.calibration.plan import HEAD, Plan
from danlu.calibration.text import check_token_rows
from danlu.calibration.walk import WORKING
from danlu.calibration.work_folder import WorkFolder, rows_fingerprint
from danlu.config.quantize.run import Override, QuantizeRun, Scheme, plain
from danlu.errors import QuantizationError
from danlu.files import only_run
from danlu.loading.adapting import base_fingerprint
from danlu.loading.blocks import StoredModel
from danlu.loading.devices import choose_device
from danlu.progress import Progress, working

FORMAT = "compressed-tensors"
METHODS = ("rtn", "gptq", "awq")
NEAR = 0.02  # of the budget that may be left


@dataclass(frozen=True)
class Choice:
    """What was chosen for a group of layers.

    Attributes:
        layers: their names.
        scheme: how they are rounded; None: left alone.
        num_bytes: they take.
        error: relative, of the block's output, if they alone are rounded; of the head, that of its
            weights.
    """

    layers: tuple[str, ...]
    scheme: Candidate
    num_bytes: int
    error: float


@dataclass(frozen=True)
class Fitted:
    """How a model is made to fit.

    Attributes:
        run: with the choices as overrides.
        budget: what was to fit.
        choices: for each group of layers, in order.
    """

    run: QuantizeRun
    budget: Budget
    choices: Sequence[Choice]

    @property
    def weight_bytes(self) -> int:
        """All weights together, as they are stored."""
        return self.budget.fixed + sum(choice.num_bytes for choice in self.choices)

    @property
    def used(self) -> float:
        """The share of the budget that weights and cache take."""
        return (self.weight_bytes + self.budget.cache) / self.budget.total


def fit_run(
    folder: str | Path,
    run: QuantizeRun,
    rows: Sequence[Sequence[int]],
    work: Path,
    progress: Progress,
) -> Fitted:
    """Return a run that makes a model fit `run.fit`, by what rounding does to its blocks.

    Args:
        folder: of the model.
        run: with `fit`; its scheme is one of those to choose among, its overrides and skipped
            layers stay as they are.
        rows: token ids of calibration texts.
        work: keeps what was measured; a second call with the same goes on from there.
        progress: of the blocks.

    Raises:
        QuantizationError: if the model cannot fit, with the smallest size there is; if it fits as
            it is; if there is no text, or the run asks for what one file cannot hold mixed.
        CheckpointError: with everything that is wrong with the checkpoint.
        DataError: if rows have no tokens, or tokens that the model does not know.
        OutputError: if `work` is of another run or cannot be written.
    """
    model = StoredModel(folder, run.family)
    layers, budget, groups = _weighed(model, run)
    _check_text(rows, model.decoder.vocab_size)
    with only_run(work):
        WorkFolder(work, _identity(model, groups, rows))
        errors = _measured(model, groups, rows, work, run.device, progress)
    return _fitted(run, layers, budget, groups, errors)


def check_fit(folder: str | Path, run: QuantizeRun) -> None:
    """Check that a model can be made to fit `run.fit`; nothing is read but names and sizes.

    Raises:
        QuantizationError: as `fit_run`, but for the text.
        CheckpointError: if the folder is no checkpoint.
    """
    _weighed(StoredModel(folder, run.family), run)


def _weighed(model: StoredModel, run: QuantizeRun) -> tuple[FittingLayers, Budget, list[Group]]:
    """Return the layers, what they may take, and what they may become."""
    _check(run)
    layers = layers_of(model, run)
    budget = budget_of(model, run, [*layers.decided, *layers.open()], layers.decided_bytes())
    return layers, budget, _offered(layers, budget, run.scheme)


def _check_text(rows: Sequence[Sequence[int]], vocab_size: int) -> None:
    if not rows:
        raise QuantizationError(
            "Layers cannot be fitted to a budget: there is no calibration text to measure errors "
            "on. Expected at least one row."
        )
    check_token_rows(rows, vocab_size)


def _check(run: QuantizeRun) -> None:
    schemes = [run.scheme, *(override.scheme for override in run.overrides)]
    problems = {
        f"{scheme.method} gives numbers that do not lie in one file with integers of other layers"
        for scheme in schemes
        if scheme is not None and scheme.method not in METHODS
    }
    if run.format not in (None, FORMAT):
        problems.add(f"the format {run.format} holds layers of one kind alone")
    if problems:
        raise QuantizationError(
            f"Layers cannot be fitted to a budget: {'; '.join(sorted(problems))}. Expected "
            f"{', '.join(METHODS)} alone, and the format {FORMAT} (or none said)."
        )


def _offered(layers: FittingLayers, budget: Budget, scheme: Scheme) -> list[Group]:
    """Return the groups with what they may become: the usual, or where that is too much, less.

    Raises:
        QuantizationError: if the model fits as it is, or cannot be made to fit.
    """
    dense = sum(layers.bytes_of(group, None) for group in layers.groups)
    dense += layers.bytes_of([HEAD], None) if layers.head else 0
    budget.refuse_needless(dense)
    usual = _groups(layers, [scheme, *USUAL], [])
    if least_cost(_options(layers, usual)) <= budget.room:
        return usual
    smaller = _groups(layers, [scheme, *USUAL, *SMALLER], HEAD_SMALLER)
    budget.refuse_larger(least_cost(_options(layers, smaller)))
    return smaller


def _groups(layers: FittingLayers, inside: Sequence[Scheme], head: Sequence[Scheme]) -> list[Group]:
    found = []
    for names in [*layers.groups, *([(HEAD,)] if layers.head else [])]:
        offered = head if names == (HEAD,) else inside
        fitting = dividing(offered, [layers.shapes[name][1] for name in names])
        found.append(Group(names, (None, *dict.fromkeys(fitting))))
    return found


def _options(
    layers: FittingLayers, groups: Sequence[Group], errors: Sequence[Errors] | None = None
) -> list[list[Option]]:
    """Return costs in bytes and, where errors are known, harms."""
    return [
        [
            Option(layers.bytes_of(group.layers, scheme), errors[i][j] ** 2 if errors else 0.0)
            for j, scheme in enumerate(group.candidates)
        ]
        for i, group in enumerate(groups)
    ]


def _identity(
    model: StoredModel, groups: Sequence[Group], rows: Sequence[Sequence[int]]
) -> dict[str, Any]:
    """Return what decides the errors."""
    return {
        "model": base_fingerprint(model.decoder),
        "groups": [
            [list(group.layers), [None if s is None else plain(s) for s in group.candidates]]
            for group in groups
        ],
        "rows": rows_fingerprint(rows),
    }


def _measured(
    model: StoredModel,
    groups: Sequence[Group],
    rows: Sequence[Sequence[int]],
    work: Path,
    device: str,
    progress: Progress,
) -> list[Errors]:
    load_outside(model, Plan({}), WORKING)
    with working(progress, "fit", model.decoder.config.num_layers):
        survey = Survey(model, rows, work, choose_device(device), progress)
        inside = survey.errors([group for group in groups if group.layers != (HEAD,)])
    return inside + [head_errors(model, g) for g in groups if g.layers == (HEAD,)]


def _fitted(
    run: QuantizeRun,
    layers: FittingLayers,
    budget: Budget,
    groups: Sequence[Group],
    errors: Sequence[Errors],
) -> Fitted:
    options = _options(layers, groups, errors)
    places = least_harm(options, budget.room)
    assert places is not None, "the cheapest options were seen to fit"
    choices = [
        Choice(group.layers, group.candidates[place], options[i][place].cost, errors[i][place])
        for i, (group, place) in enumerate(zip(groups, places, strict=True))
    ]
    chosen = {name: choice.scheme for choice in choices for name in choice.layers}
    overrides = [Override(match=name, scheme=chosen.get(name)) for name in layers.undecided()]
    changed = {"overrides": [*run.overrides, *overrides], "format": FORMAT}
    return Fitted(run.model_copy(update=changed), budget, choices)
