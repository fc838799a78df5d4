"""The second moment of a layer's inputs, and what it says about rounding one input of many.

A rounded weight changes the output by x (w - q), in the mean over all inputs x by the square
(w - q)^T H (w - q) with H the mean of x x^T. Rounding one input after the other is exact for
H = F D F^T, F unit upper triangular: whatever was rounded before, input i should be rounded to
w[i] + sum over j < i of (w[j] - q[j]) F[j, i]. This is GPTQ (arXiv:2210.17323, sec. 3) in the form
of arXiv:2507.18553, which needs one Cholesky factor and no inverse.
"""

import torch
from torch import Tensor

from danlu.errors import QuantizationError

PANEL = 128  # inputs whose products with all that follow are added at once
STEP = 10.0  # from one rung of damping to the next
MOST_DAMPING = 10.0  # as a share of the mean of the diagonal


class SecondMoment:
    """The mean of x x^T over many inputs.

    Half of it is added up, since it is symmetric: half the work of a whole matrix product.

    Args:
        in_features: of the layer.
        device: where it is kept.
    """

    def __init__(self, in_features: int, device: torch.device | str = "cpu") -> None:
        self._sum_II = torch.zeros(in_features, in_features, device=device)
        self._panel = PANEL if self._sum_II.device.type == "cpu" else max(1, in_features)
        self._count = 0

    def add(self, x_NI: Tensor) -> None:
        """Take inputs [N, in] into account, in float32."""
        x_NI = x_NI.float()
        self._count += len(x_NI)
        for start in range(0, len(self._sum_II), self._panel):
            rows = slice(start, start + self._panel)
            self._sum_II[rows, start:].addmm_(x_NI[:, rows].t(), x_NI[:, start:])

    def mean(self) -> Tensor:
        """Return the mean [in, in], in place: nothing can be added afterwards."""
        for start in range(0, len(self._sum_II), self._panel):
            rows = slice(start, start + self._panel)
            self._sum_II[start:, rows] = self._sum_II[rows, start:].t().clone()
        return self._sum_II.div_(max(1, self._count))


def most_active_first(moment_II: Tensor) -> Tensor:
    """Return inputs by their mean square, the largest first; equal ones in their order."""
    return moment_II.diagonal().argsort(descending=True, stable=True)


def standing_in(
    moment_II: Tensor, order: Tensor, damping: float, name: str
) -> tuple[Tensor, float]:
    """Return F [in, in], unit upper triangular: how much each input stands in for those before it.

    Inputs that never occurred stand in for nothing. Where the damped moment has no Cholesky factor,
    damping is raised tenfold until it has one.

    Args:
        moment_II: mean of x x^T.
        order: int64 [in], in which inputs are rounded; rows and columns of F are in it.
        damping: share of the mean of the diagonal that is added to the diagonal.
        name: of the layer, for errors.

    Returns:
        F, and the damping that was enough.

    Raises:
        QuantizationError: if the moment is not finite, or is none at all.
    """
    if not bool(torch.isfinite(moment_II.sum(0)).all()):
        raise QuantizationError(
            f"The inputs of {name} are not finite on the calibration text; expected numbers. "
            "Check the checkpoint: it computes NaN or infinity before this layer."
        )
    backwards_II = _reordered(moment_II, order.flip(0))  # so that a lower factor is an upper one
    diagonal = backwards_II.diagonal()
    lives = diagonal > 0
    mean = diagonal[lives].mean() if bool(lives.any()) else diagonal.new_ones(())
    backwards_II.div_(mean)
    diagonal.add_((~lives).float())
    factor_II, enough = _cholesky(backwards_II, damping, name)
    upper_II = factor_II.flip(0, 1)
    return upper_II.div_(upper_II.diagonal().clone()), enough


def _reordered(moment_II: Tensor, order: Tensor) -> Tensor:
    """Return rows and columns in another order; row by row, which is far faster on a CPU."""
    if moment_II.device.type != "cpu":
        return moment_II[order][:, order]
    reordered_II = torch.empty_like(moment_II)
    for place, row in enumerate(order.tolist()):
        torch.index_select(moment_II[row], 0, order, out=reordered_II[place])
    return reordered_II


def _cholesky(matrix_II: Tensor, damping: float, name: str) -> tuple[Tensor, float]:
    """Return the lower factor, and the damping; `matrix_II` is changed."""
    added, wanted = 0.0, damping
    while wanted <= max(damping, MOST_DAMPING):
        matrix_II.diagonal().add_(wanted - added)
        factor_II, failed = torch.linalg.cholesky_ex(matrix_II)
        if not int(failed):
            return factor_II, wanted
        added, wanted = wanted, wanted * STEP
    raise QuantizationError(
        f"The second moment of the inputs of {name} has no Cholesky factor with a damping of "
        f"{added:g}; expected a positive semidefinite matrix. Check the calibration text."
    )
