"""A model quantized block by block: one dense block in memory at a time, and none done twice.

Block by block, the text runs through what is rounded already, so that each block is rounded for the
inputs that it will really get (arXiv:2210.17323, sec. 4).
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from danlu.calibration.block import LayerResult, WorkingBlock
from danlu.calibration.entering import entering_states
from danlu.calibration.method import methods
from danlu.calibration.outside import load_outside
from danlu.calibration.plan import Plan, distinct, make_plan
from danlu.calibration.stages import waves
from danlu.calibration.text import Batch, batches, check_token_rows
from danlu.calibration.work_folder import WorkFolder, rows_fingerprint
from danlu.config.quantize.run import QuantizeRun, Scheme, plain
from danlu.errors import QuantizationError
from danlu.files import only_run
from danlu.loading.adapting import base_fingerprint
from danlu.loading.blocks import StoredModel
from danlu.loading.devices import choose_device
from danlu.models.decoder import Decoder
from danlu.nn.packed import can_pack
from danlu.progress import Progress, working
from danlu.quantize.linear import QuantizedLinear
from danlu.weights.memory import freed_blocks_returned

_log = logging.getLogger(__name__)

CPU = torch.device("cpu")
WORKING = torch.float32  # that blocks compute in while they are rounded, where nothing is faster


@dataclass(frozen=True)
class Quantized:
    """A quantized model.

    Attributes:
        decoder: on the CPU, in the dtype of the checkpoint.
        layers: what became of each layer that was rounded, in order.
    """

    decoder: Decoder
    layers: list[LayerResult]


def quantize_decoder(
    folder: str | Path,
    run: QuantizeRun,
    rows: Sequence[Sequence[int]],
    work: Path,
    progress: Progress,
) -> Quantized:
    """Return a model with its linear layers rounded as a run says.

    Args:
        folder: of the model.
        run: which layers are rounded how, and where.
        rows: token ids of calibration texts; without any, errors are those of weights alone.
        work: keeps finished blocks. A second call with the same model, run and rows goes on from
            there and gives the same bytes, however the first one ended.
        progress: of the layers.

    Raises:
        QuantizationError: if the model is quantized already, the run does not fit it, a method
            lacks text, or an activation is not finite.
        CheckpointError: with everything that is wrong with the checkpoint.
        DataError: if rows have no tokens, or tokens that the model does not know.
        OutputError: if `work` is of another run or cannot be written; finished blocks stay.
    """
    model = StoredModel(folder, run.family)
    plan = make_plan(model.decoder, model.layout.entries, run)
    _check_text(plan, rows)
    check_token_rows(rows, model.decoder.vocab_size)
    device = choose_device(run.device)
    with only_run(work), freed_blocks_returned():
        kept = WorkFolder(work, _identity(model, run, rows))
        return _Walk(model, plan, rows, kept, device, progress).run()


def planned(folder: str | Path, run: QuantizeRun) -> Plan:
    """Return what `quantize_decoder` would do with each layer; nothing is read but names and sizes.

    Raises:
        QuantizationError: if the run does not fit the model.
        CheckpointError: if the folder is no checkpoint.
    """
    model = StoredModel(folder, run.family)
    return make_plan(model.decoder, model.layout.entries, run)


def _check_text(plan: Plan, rows: Sequence[Sequence[int]]) -> None:
    needy = [s.method for s in plan.distinct() if methods()[s.method].needs_text]
    if needy and not rows:
        raise QuantizationError(
            f"{' and '.join(sorted(set(needy)))} watches the model at work, and there is no row of "
            "calibration text. Expected at least one, or a method that needs none, such as rtn."
        )


def _identity(
    model: StoredModel, run: QuantizeRun, rows: Sequence[Sequence[int]]
) -> dict[str, Any]:
    """Return what decides the outcome, so that nothing goes on from another run."""
    return {
        "model": base_fingerprint(model.decoder),
        "scheme": plain(run.scheme),
        "skip": list(run.skip),
        "overrides": [override.model_dump(mode="json") for override in run.overrides],
        "rows": rows_fingerprint(rows),
    }


@dataclass
class _Walk:
    """One walk through the blocks of a model."""

    model: StoredModel
    plan: Plan
    rows: Sequence[Sequence[int]]
    kept: WorkFolder
    device: torch.device
    progress: Progress
    text: list[Batch] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)

    @cached_property
    def working(self) -> torch.dtype:
        return working_dtype(self.plan.distinct(), self.model.dtype, self.device)

    @cached_property
    def summaries(self) -> dict[str, str]:
        return self.plan.summaries()

    @property
    def decoder(self) -> Decoder:
        return self.model.decoder

    def run(self) -> Quantized:
        """Round everything that is not finished; progress counts what is left to do."""
        blocks = range(self.decoder.config.num_layers)
        finished = [index for index in blocks if self.kept.has(index)]
        if finished:
            _log.info("Going on behind %d of %d blocks.", len(finished), len(blocks))
        left = len(self.summaries) - sum(len(self.plan.of_block(index)) for index in finished)
        with working(self.progress, "quantize", left):
            results = load_outside(self.model, self.plan, self.working)
            for result in results:
                self._tell(result)
            self.text = batches(self.rows)
            self.states = entering_states(self.decoder, self.text, self.working, self.device)
            place(self.decoder, self.model.dtype, CPU)
            for index in blocks:
                results += self._block(index)
        self.decoder.tie_head()
        return Quantized(self.decoder, results)

    def _block(self, index: int) -> list[LayerResult]:
        """Finish a block, or take it as it was finished, and let the text through it."""
        module, stored = self.decoder.blocks()[index], self.model.dtype
        block = self._at_work(index)
        if self.kept.has(index):
            results = self.kept.restore(index, module, self.device)
        else:
            self.model.fill(f"model.layers.{index}", self.working, self.device)
            round_block(block, self.plan.of_block(index))
            results = list(block.results.values())
            place(module, stored, self.device)  # what the text runs through is what is kept
            self.kept.write(index, module, results)
        if index + 1 < self.decoder.config.num_layers:
            place(module, self.working, self.device)
            block.advance()
        place(module, stored, CPU)
        return results

    def _at_work(self, index: int) -> WorkingBlock:
        return WorkingBlock(
            self.decoder,
            index,
            self.text,
            self.states,
            self.model.layout.entries,
            self.model.dtype,
            self.summaries,
            self._tell,
        )

    def _tell(self, result: LayerResult) -> None:
        self.progress.advance(1, f"{result.name}: error {result.relative_error:.2%}")


def round_block(block: WorkingBlock, schemes: Mapping[str, Scheme]) -> None:
    """Round the layers of a block, each by the method of its scheme.

    Raises:
        QuantizationError: if a layer does not fit its scheme, or an activation is not finite.
    """
    for scheme in distinct(schemes.values()):
        names = [name for name, its in schemes.items() if its == scheme]
        methods()[scheme.method].prepare(block, names, scheme)
    for wave in waves(block.linears()):
        block.begin(wave)
        for stage in wave:
            rounded = [name for name in stage if name in schemes]
            for scheme in distinct(schemes[name] for name in rounded):
                names = [name for name in rounded if schemes[name] == scheme]
                methods()[scheme.method].quantize(block, names, scheme)


def working_dtype(
    schemes: Collection[Scheme], stored: torch.dtype, device: torch.device
) -> torch.dtype:
    """Return what blocks compute in: bfloat16 where weights are in it, stay so, and it is fast.

    Args:
        schemes: of all layers.
        stored: dtype of the checkpoint.
        device: where blocks are worked on.
    """
    exact = any(methods()[scheme.method].folds for scheme in schemes)
    fast = device.type != "cpu" or can_pack(stored)
    return stored if stored == torch.bfloat16 and fast and not exact else WORKING


def place(module: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
    """Cast and move everything that has weights; quantized layers keep their numbers.

    Args:
        module: a decoder or a part of one; what is on the meta device stays there.
        dtype: of parameters, but those that are wanted in float32.
        device: where they go.
    """
    for name, layer in list(module.named_modules()):
        if isinstance(layer, QuantizedLinear):
            parent, _, last = name.rpartition(".")
            setattr(module.get_submodule(parent), last, _placed(layer, dtype, device))
    for part in module.modules():
        exact = getattr(part, "kept_in_float32", ())
        for leaf, parameter in part.named_parameters(recurse=False):
            if not parameter.is_meta:
                wanted = torch.float32 if leaf in exact else dtype
                parameter.data = parameter.data.to(device, wanted)


def _placed(layer: QuantizedLinear, dtype: torch.dtype, device: torch.device) -> QuantizedLinear:
    """Return a quantized layer elsewhere, with the operator that is best there."""
    if layer.like.device == device:
        return layer.to(dtype=dtype)
    weight, inputs = layer.quantized(), layer.inputs
    weight = weight.with_tensors({n: t.to(device) for n, t in weight.tensors().items()})
    if inputs is not None:
        inputs = inputs.with_tensors({n: t.to(device) for n, t in inputs.tensors().items()})
    return QuantizedLinear(weight, layer.bias, dtype, inputs)
