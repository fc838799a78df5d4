"""Round to nearest, layer by layer; see `danlu.quantize.rounding.rtn`."""

from collections.abc import Sequence

from danlu.calibration.method import BlockAtWork
from danlu.config.quantize.run import Scheme
from danlu.config.quantize.scheme import QuantScheme
from danlu.quantize.rounding.weights import input_rounding, quantize_weight


class RoundToNearest:
    """Every layer alone, by its weights."""

    names = ("rtn", "llm_int8")
    needs_text = False
    folds = False

    def prepare(self, block: BlockAtWork, names: Sequence[str], scheme: Scheme) -> None:
        """Change nothing."""

    def quantize(self, block: BlockAtWork, names: Sequence[str], scheme: Scheme) -> None:
        """Round the weights of each layer, and its inputs where the scheme says so."""
        assert isinstance(scheme, QuantScheme)
        linears = block.linears()
        for name in names:
            rounded = quantize_weight(linears[name].dense_weight().float(), scheme, name)
            block.put(name, rounded, input_rounding(scheme))


METHOD = RoundToNearest()
