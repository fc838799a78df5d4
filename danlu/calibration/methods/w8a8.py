"""W8A8: weights in 8 bits by rows, inputs in 8 bits; shifted and smoothed before that is done."""

from collections.abc import Sequence

from danlu.calibration.method import BlockAtWork
from danlu.calibration.smoothing.groups import notes
from danlu.calibration.smoothing.listening import Ranges, listen
from danlu.calibration.smoothing.shift import shift
from danlu.calibration.smoothing.smooth import smooth
from danlu.config.quantize.run import Scheme
from danlu.config.quantize.scheme import QuantScheme
from danlu.config.quantize.w8a8 import W8A8Scheme
from danlu.quantize.activations import DynamicPerToken, InputRounding, StaticPerTensor
from danlu.quantize.rounding.rtn import quantize_rtn

EIGHT_BITS = QuantScheme(bits=8)
ALL_BATCHES = 1 << 62


class EightBitProducts:
    """Integer weights and integer inputs, so that products are of integers."""

    names = ("w8a8",)
    needs_text = True
    folds = True

    def prepare(self, block: BlockAtWork, names: Sequence[str], scheme: Scheme) -> None:
        """Centre the channels, then give a part of their range to the weights.

        Raises:
            QuantizationError: if the model has nothing that could be shifted, and is to be.
        """
        assert isinstance(scheme, W8A8Scheme)
        if scheme.shift is not None:
            shift(block, names, scheme.shift)
        if scheme.smooth is not None:
            smooth(block, names, scheme, scheme.smooth)

    def quantize(self, block: BlockAtWork, names: Sequence[str], scheme: Scheme) -> None:
        """Round the weights of each layer by rows, and say how its inputs are rounded."""
        assert isinstance(scheme, W8A8Scheme)
        linears = block.linears()
        rounding = self._inputs(block, names, scheme)
        for name in names:
            weight = quantize_rtn(linears[name].dense_weight(), EIGHT_BITS, name)
            block.put(name, weight, rounding[name], notes=notes(block, name, scheme))

    def _inputs(
        self, block: BlockAtWork, names: Sequence[str], scheme: W8A8Scheme
    ) -> dict[str, InputRounding]:
        """Return how the inputs of each layer are rounded; static scales hold all that was seen."""
        if scheme.activations == "dynamic":
            return dict.fromkeys(names, DynamicPerToken())
        ranges = {name: Ranges() for name in names}
        listen(block, ranges, ALL_BATCHES)
        return {name: _static(each) for name, each in ranges.items()}


def _static(ranges: Ranges) -> StaticPerTensor:
    """Return the rounding that holds the ranges; of a layer that no token reached, [-1, 1]."""
    if ranges.heard_nothing:
        return StaticPerTensor.of_range(-1.0, 1.0)
    low_I, high_I = ranges.bounds()
    return StaticPerTensor.of_range(float(low_I.min()), float(high_I.max()))


METHOD = EightBitProducts()
