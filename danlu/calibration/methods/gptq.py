"""GPTQ: layers of one input are rounded together (`danlu.quantize.rounding.gptq`)."""

from collections.abc import Sequence

import torch

from danlu.calibration.method import BlockAtWork
from danlu.config.quantize.gptq import GptqScheme
from danlu.config.quantize.run import Scheme
from danlu.quantize.rounding.gptq import quantize_gptq


class Gptq:
    """Layers of one input as one weight: one factor serves all of them."""

    names = ("gptq",)
    needs_text = True
    folds = False

    def prepare(self, block: BlockAtWork, names: Sequence[str], scheme: Scheme) -> None:
        """Change nothing."""

    def quantize(self, block: BlockAtWork, names: Sequence[str], scheme: Scheme) -> None:
        """Round all outputs of these layers; scales are in the dtype of the checkpoint."""
        assert isinstance(scheme, GptqScheme)
        moment_II = block.inputs(names, moments=True)[names[0]].moment_II
        assert moment_II is not None
        linears = block.linears()
        dense = [linears[name].dense_weight() for name in names]
        together = torch.cat(dense).to(block.stored_dtype)
        weight, notes = quantize_gptq(together, moment_II, scheme, " and ".join(names))
        start = 0
        for name, layer in zip(names, dense, strict=True):
            rows = weight.rows(slice(start, start + len(layer)))
            own = {part: tensor.clone() for part, tensor in rows.tensors().items()}
            block.put(name, rows.with_tensors(own), notes=notes)
            start += len(layer)


METHOD = Gptq()
