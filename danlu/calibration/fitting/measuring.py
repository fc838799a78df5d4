"""What each candidate does to the output of its block, with every other layer left dense.

Calibration text walks through the blocks of the original. In each block one group of layers after
the other is rounded in every way that is offered, and the error is measured on rows on which no
rounding was found. What was measured is kept, block by block.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from danlu.calibration.block import WorkingBlock
from danlu.calibration.entering import entering_states
from danlu.calibration.fitting.candidates import Candidate
from danlu.calibration.layer_error import weight_error
from danlu.calibration.method import LayerInputs
from danlu.calibration.plan import HEAD
from danlu.calibration.text import Batch, batches
from danlu.calibration.walk import WORKING, round_block
from danlu.config.quantize.run import Scheme
from danlu.config.quantize.scheme import QuantScheme
from danlu.files import parse_json, write_json
from danlu.loading.blocks import StoredModel
from danlu.nn.linear import Linear
from danlu.progress import Progress
from danlu.quantize.rounding.rtn import quantize_rtn

JUDGING = 4  # every so many rows judge
MAX_ROWS = 48  # enough to tell candidates apart
UNCHANGING = ("rtn", "gptq")  # methods that leave a block dense until they round a layer of it

Errors = list[float]


@dataclass(frozen=True)
class Group:
    """Layers that get one scheme.

    Attributes:
        layers: their names.
        candidates: what they may become.
    """

    layers: tuple[str, ...]
    candidates: tuple[Candidate, ...]

    def in_block(self, index: int) -> bool:
        """Return whether these are layers of a block."""
        return self.layers[0].startswith(f"model.layers.{index}.")


@dataclass
class _Text:
    """Calibration text at the door of a block: batches, and what enters [B, T, D] for each."""

    batches: list[Batch]
    states: list[Tensor]


class _Trial(WorkingBlock):
    """A block at work, which remembers what entered its layers while all before them were dense.

    Attributes:
        heard: what earlier trials on the same block heard; takes what this one hears.
    """

    heard: dict[str, LayerInputs] | None = None

    def inputs(self, names: Sequence[str], *, moments: bool = False) -> dict[str, LayerInputs]:
        """Return what enters some layers, from memory if the block is dense as it was then."""
        if self.heard is None or not set(self.results) <= set(self._wave):
            return super().inputs(names, moments=moments)
        known = [self.heard.get(name) for name in names]
        if any(each is None or (moments and each.moment_II is None) for each in known):
            self.heard |= super().inputs(names, moments=moments)
        return {name: self.heard[name] for name in names}


def divided(rows: Sequence[Sequence[int]]) -> tuple[list[Sequence[int]], list[Sequence[int]]]:
    """Return rows to round on, and rows to judge on; a single row does both."""
    used = list(rows[:MAX_ROWS])
    judging = used[::JUDGING]
    return [row for i, row in enumerate(used) if i % JUDGING] or judging, judging


class Survey:
    """Measures groups of layers in all blocks of a model.

    Args:
        model: the checkpoint, whose decoder has everything that is outside of blocks.
        rows: token ids of calibration texts.
        kept: folder that keeps what was measured, of one model, one text and these groups.
        device: where blocks are worked on.
        progress: of the candidates.
    """

    def __init__(
        self,
        model: StoredModel,
        rows: Sequence[Sequence[int]],
        kept: Path,
        device: torch.device,
        progress: Progress,
    ) -> None:
        self._model = model
        self._decoder = model.decoder
        self._kept = kept
        self._device = device
        self._progress = progress
        self._rounding, self._judging = (self._entering(part) for part in divided(rows))

    def _entering(self, rows: Sequence[Sequence[int]]) -> _Text:
        text = batches(rows)
        return _Text(text, entering_states(self._decoder, text, WORKING, self._device))

    def errors(self, groups: Sequence[Group]) -> list[Errors]:
        """Return the relative error of the block's output for each candidate of each group.

        Raises:
            QuantizationError: if a candidate does not fit its layers, or an activation is not
                finite.
        """
        found: list[Errors] = []
        for index in range(self._decoder.config.num_layers):
            self._model.fill(f"model.layers.{index}", WORKING, self._device)
            path = self._kept / f"block-{index:05}.json"
            mine = [group for group in groups if group.in_block(index)]
            if not path.exists():
                write_json(path, {"errors": self._of_block(index, mine)})
            found += parse_json(path.read_text(encoding="utf-8"))["errors"]
            self._progress.advance(1, f"block {index + 1}")
            for text in (self._rounding, self._judging):
                self._at(index, text).advance()
            self._decoder.blocks()[index].to("meta")
        return found

    def _of_block(self, index: int, groups: Sequence[Group]) -> list[Errors]:
        exact, found = self._at(index, self._judging).outputs(), []
        for group in groups:
            heard: dict[str, LayerInputs] = {}
            found.append(
                [
                    0.0 if scheme is None else self._error(index, group, scheme, exact, heard)
                    for scheme in group.candidates
                ]
            )
        return found

    def _error(
        self,
        index: int,
        group: Group,
        scheme: Scheme,
        exact: list[Tensor],
        heard: dict[str, LayerInputs],
    ) -> float:
        """Round a group in a copy of its block; return the error of the copy's output."""
        layers = self._decoder.model.layers
        dense = layers[index]
        layers[index] = copy.deepcopy(dense)
        try:
            trial = self._at(index, self._rounding)
            trial.heard = heard if scheme.method in UNCHANGING else None
            round_block(trial, dict.fromkeys(group.layers, scheme))
            return relative_error(exact, self._at(index, self._judging).outputs())
        finally:
            layers[index] = dense

    def _at(self, index: int, text: _Text) -> _Trial:
        return _Trial(
            self._decoder,
            index,
            text.batches,
            text.states,
            self._model.layout.entries,
            self._model.dtype,
        )


def relative_error(exact: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """Return |exact - found| / |exact| over all batches, infinite if that is no number."""
    pairs = list(zip(exact, found, strict=True))
    error = sum(float((a - b).double().square().sum()) for a, b in pairs)
    size = sum(float(a.double().square().sum()) for a, _ in pairs)
    ratio = (error / size) ** 0.5 if size else float(error > 0)
    return ratio if ratio < float("inf") else float("inf")


def head_errors(model: StoredModel, group: Group) -> Errors:
    """Return the relative error of the head's weight for each candidate."""
    head = model.decoder.lm_head
    assert isinstance(head, Linear)
    weight = head.dense_weight()
    return [
        0.0 if scheme is None else weight_error(weight, quantize_rtn(weight, scheme, HEAD))
        for scheme in group.candidates
        if scheme is None or isinstance(scheme, QuantScheme)
    ]
