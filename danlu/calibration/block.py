"""One block of a decoder at work on calibration text, while its layers are rounded."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn

from danlu.calibration.layer_error import output_error, weight_error
from danlu.calibration.listening import listening, refuse_not_finite
from danlu.calibration.method import LayerInputs, Watch
from danlu.calibration.stages import Stage, stages
from danlu.calibration.statistics import Gathering, Statistics
from danlu.calibration.text import Batch
from danlu.models.decoder import Decoder
from danlu.nn.linear import Linear, LinearLike
from danlu.quantize.activations import InputRounding
from danlu.quantize.linear import QuantizedLinear
from danlu.quantize.weight import QuantizedWeight
from danlu.weights.rules import Entry

UNSEEN = "no token of the calibration text reached it; the error is that of its weights"


@dataclass(frozen=True)
class LayerResult:
    """What became of one layer.

    Attributes:
        name: of the layer.
        scheme: how it was rounded, in words.
        bits: of a weight.
        relative_error: |y - y'| / |y| of its outputs on a sample of the calibration text; of its
            weights, where there was no text.
        num_bytes: it takes now.
        notes: what is worth knowing.
    """

    name: str
    scheme: str
    bits: int
    relative_error: float
    num_bytes: int
    notes: tuple[str, ...] = ()


class WorkingBlock:
    """A block with the text that enters it; see `BlockAtWork`.

    Args:
        decoder: whose block it is.
        index: of the block, which has dense weights.
        text: the batches of calibration text; none: nothing is watched.
        states: what enters the block [B, T, D], for each batch.
        entries: the published tensors by name.
        stored_dtype: of the checkpoint's weights.
        schemes: how each layer is rounded, in words.
        layer_done: hears of every layer that was rounded.
    """

    def __init__(
        self,
        decoder: Decoder,
        index: int,
        text: Sequence[Batch],
        states: list[Tensor],
        entries: Mapping[str, Entry],
        stored_dtype: torch.dtype = torch.float32,
        schemes: Mapping[str, str] = MappingProxyType({}),
        layer_done: Callable[[LayerResult], None] = lambda result: None,
    ) -> None:
        self.decoder = decoder
        self.index = index
        self.module: nn.Module = decoder.blocks()[index]
        self.entries = entries
        self.stored_dtype = stored_dtype
        self.results: dict[str, LayerResult] = {}
        self._prefix = f"model.layers.{index}."
        self._text = text
        self._states = states
        self._schemes = schemes
        self._layer_done = layer_done
        self._wave: list[str] = []
        self._heard: dict[str, LayerInputs] = {}

    # ------------------------------------------------------------ its layers

    def linears(self) -> dict[str, Linear]:
        """Return the layers that are still dense, in the order they are used."""
        every = dict(self._all())
        names = [name for stage in stages(every) for name in stage]
        return {name: layer for name in names if isinstance(layer := every[name], Linear)}

    def _all(self) -> Iterator[tuple[str, LinearLike]]:
        """Yield every linear layer of the block; without adapters none is in another."""
        for name, module in self.module.named_modules():
            if isinstance(module, LinearLike):
                yield f"{self._prefix}{name}", module

    def begin(self, wave: Sequence[Stage]) -> None:
        """Say which layers are rounded next; one pass over the text serves all of them."""
        self._wave = [name for stage in wave for name in stage]
        self._heard = {}

    def put(
        self,
        name: str,
        weight: QuantizedWeight,
        inputs: InputRounding | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        """Put a quantized weight in the place of a dense layer; its error is measured and kept."""
        dense = self.linears()[name]
        error, remarks = self._error(name, dense, weight, inputs)
        self.decoder.replace_linear(
            name, QuantizedLinear(weight, dense.bias, dense.weight.dtype, inputs)
        )
        if name not in self._wave:
            self._heard = {}
        given = (*notes, *remarks)
        scheme = self._schemes.get(name, f"{weight.bits} bits")
        self.results[name] = LayerResult(name, scheme, weight.bits, error, weight.nbytes, given)
        self._layer_done(self.results[name])

    @torch.no_grad()
    def _error(
        self, name: str, dense: Linear, weight: QuantizedWeight, rounding: InputRounding | None
    ) -> tuple[float, Sequence[str]]:
        """Return the relative error of a layer's outputs, and what to say about it."""
        exact = dense.dense_weight()
        if not self._text:
            return weight_error(exact, weight), ()
        heard = self.inputs([name])[name]
        if not heard.count:
            return weight_error(exact, weight), (UNSEEN,)
        return output_error(exact, weight, heard.rows_NI, rounding), ()

    # ------------------------------------------------------------ the text in it

    def inputs(self, names: Sequence[str], *, moments: bool = False) -> dict[str, LayerInputs]:
        """Run the block as it is now and return what enters some layers.

        Raises:
            QuantizationError: if an input is not finite, naming layer and row of text.
        """
        if not set(names) <= set(self._wave):
            return self._gather(names, moments)
        known = [self._heard.get(name) for name in names]
        if any(each is None or (moments and each.moment_II is None) for each in known):
            self._heard = self._gather(self._wave, moments)
        return {name: self._heard[name] for name in names}

    def _gather(self, names: Sequence[str], moments: bool) -> dict[str, LayerInputs]:
        layers = dict(self._all())
        device = next(self.module.parameters()).device

        def make(name: str) -> Statistics:
            return Statistics(layers[name].in_features, device, moments=moments)

        gathering = Gathering(make)
        self.watch(names, gathering.hear)
        return gathering.summaries(list(names))

    @torch.no_grad()
    def watch(self, names: Sequence[str], watch: Watch) -> None:
        """Run the block as it is now; `watch(name, x_NI)` hears what enters, batch by batch."""
        layers = dict(self._all())
        for batch, state in zip(self._text, self._states, strict=True):
            with listening({name: layers[name] for name in names}, watch, batch):
                self._forward(batch, state)

    @torch.no_grad()
    def outputs(self) -> list[Tensor]:
        """Run the block as it is now; return what leaves it [B, T, D], batch by batch."""
        pairs = zip(self._text, self._states, strict=True)
        return [self._forward(batch, state) for batch, state in pairs]

    @torch.no_grad()
    def advance(self) -> None:
        """Run the block as it is now; what leaves it takes the place of what entered it.

        Raises:
            QuantizationError: if that is not finite.
        """
        for place, batch in enumerate(self._text):
            self._states[place] = self._forward(batch, self._states[place])
            refuse_not_finite(f"what follows {self._prefix[:-1]}", self._states[place], batch)

    def _forward(self, batch: Batch, x_BTD: Tensor) -> Tensor:
        rotation, attn = batch.seen(self.decoder, x_BTD)
        out_BTD: Tensor = self.module(x_BTD, rotation, attn)
        return out_BTD
