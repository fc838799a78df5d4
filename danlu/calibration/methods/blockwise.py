"""NF4 and FP4: rounded by published tensors, because blocks of weights run through them."""

from collections.abc import Sequence

from danlu.calibration.method import BlockAtWork
from danlu.config.quantize.run import Scheme
from danlu.config.quantize.scheme import QuantScheme
from danlu.loading.quantized import rows_of
from danlu.quantize.rounding.weights import quantize_weight
from danlu.weights.rules import Entry


class Blockwise:
    """Every published tensor as a whole: layers that are stored as one are rounded as one."""

    names = ("nf4", "fp4")
    needs_text = False
    folds = False

    def prepare(self, block: BlockAtWork, names: Sequence[str], scheme: Scheme) -> None:
        """Change nothing."""

    def quantize(self, block: BlockAtWork, names: Sequence[str], scheme: Scheme) -> None:
        """Round the published tensors that these layers are stored in."""
        assert isinstance(scheme, QuantScheme)
        for entry in _entries(block, names):
            owners = [ours.removesuffix(".weight") for ours in entry.ours]
            dense = [block.linears()[owner].dense_weight() for owner in owners]
            whole = entry.arrangement.rows.join(dense).to(block.stored_dtype)
            weight = quantize_weight(whole, scheme, entry.published)
            for owner, rows in zip(owners, rows_of(entry, weight), strict=True):
                block.put(owner, rows)


def _entries(block: BlockAtWork, names: Sequence[str]) -> list[Entry]:
    weights = {f"{name}.weight" for name in names}
    return [entry for entry in block.entries.values() if weights & set(entry.ours)]


METHOD = Blockwise()
