"""Round to nearest, layer by layer; see `danlu.quantize.rtn`."""

from collections.abc import Sequence

from danlu.calibration.method import BlockAtWork
from danlu.config.quantize.run import Scheme
from danlu.config.quantize.scheme import QuantScheme
from danlu.quantize.rounding import quantize_weight


class RoundToNearest:
    """Every layer alone, by its weights."""

    names = ("rtn",)
    needs_text = False

    def prepare(self, block: BlockAtWork, names: Sequence[str], scheme: Scheme) -> None:
        """Change nothing."""

    def quantize(self, block: BlockAtWork, names: Sequence[str], scheme: Scheme) -> None:
        """Round the weights of each layer."""
        assert isinstance(scheme, QuantScheme)
        linears = block.linears()
        for name in names:
            block.put(name, quantize_weight(linears[name].dense_weight(), scheme, name))


METHOD = RoundToNearest()
