"""What a method of quantization does with one block, and what it may ask of the block."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
from torch import Tensor, nn

from danlu.config.quantize.run import Scheme
from danlu.models.decoder import Decoder
from danlu.nn.linear import Linear
from danlu.quantize.activations import InputRounding
from danlu.quantize.weight import QuantizedWeight
from danlu.weights.rules import Entry

Watch = Callable[[str, Tensor], None]


@dataclass(frozen=True)
class LayerInputs:
    """What entered one linear layer on the calibration text.

    Attributes:
        rows_NI: a sample of the inputs, float32.
        moment_II: mean over all tokens of x x^T, float32; None if it was not asked for.
        count: tokens seen.
    """

    rows_NI: Tensor
    moment_II: Tensor | None
    count: int


class BlockAtWork(Protocol):
    """One block of a decoder: dense where it is not quantized yet, with the text that enters it.

    Layers have the names they have in the decoder: ``model.layers.3.mlp.down_proj``.

    Attributes:
        decoder: the model; only this block, and those before it, have weights.
        index: of the block.
        module: the block.
        entries: the published tensors by name; some hold several layers.
        stored_dtype: of the checkpoint's weights; the block itself is in float32.
    """

    decoder: Decoder
    index: int
    module: nn.Module
    entries: Mapping[str, Entry]
    stored_dtype: torch.dtype

    def linears(self) -> Mapping[str, Linear]:
        """Return the layers that are still dense, in the order they are used."""

    def inputs(self, names: Sequence[str], *, moments: bool = False) -> dict[str, LayerInputs]:
        """Run the block as it is now and return what enters some layers.

        Layers with one input have one `LayerInputs`, the very same object. An expert that no token
        chose has a count of 0, no rows, and a moment of zeros.

        Raises:
            QuantizationError: if an input is not finite, naming layer and row of text.
        """

    def watch(self, names: Sequence[str], watch: Watch) -> None:
        """Run the block as it is now; `watch(name, x_NI)` hears what enters, batch by batch."""

    def outputs(self) -> list[Tensor]:
        """Run the block as it is now; return what leaves it [B, T, D], batch by batch."""

    def put(
        self,
        name: str,
        weight: QuantizedWeight,
        inputs: InputRounding | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        """Put a quantized weight in the place of a dense layer; its error is measured and kept.

        Weight and rounding are dataclasses of `danlu.quantize`, so that they can be written down.

        Args:
            name: of a layer that is dense.
            weight: what it multiplies by from now on.
            inputs: how what enters is rounded, if it is.
            notes: what the report should say about this layer.
        """


class Method(Protocol):
    """Rounds the layers of a block.

    Attributes:
        names: of the methods in a scheme that this is.
        needs_text: whether it asks for inputs.
        folds: whether `prepare` changes weights; then blocks compute in float32, so that nothing
            is lost between one change and the next.
    """

    names: Sequence[str]
    needs_text: bool
    folds: bool

    def prepare(self, block: BlockAtWork, names: Sequence[str], scheme: Scheme) -> None:
        """Change dense weights and norms of a block without changing what the block computes.

        Called once for each block and scheme, before any layer of the block is rounded.

        Args:
            block: dense as a whole.
            names: layers of it that have this scheme.
            scheme: of this method.
        """

    def quantize(self, block: BlockAtWork, names: Sequence[str], scheme: Scheme) -> None:
        """Put a quantized weight in the place of each of these layers, which get one input.

        Called stage by stage in the order of the forward pass: what came before is rounded already.

        Raises:
            QuantizationError: if a layer does not fit the scheme.
        """


@cache
def methods() -> dict[str, Method]:
    """Return every method by its name in a scheme, from the files in `methods`."""
    package = importlib.import_module("danlu.calibration.methods")
    modules = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    found = [importlib.import_module(f"{package.__name__}.{name}").METHOD for name in modules]
    return {name: method for method in found for name in method.names}
