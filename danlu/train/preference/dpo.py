"""Direct preference optimization (arXiv:2305.18290) and its relatives.

With c and r the log-probability of the chosen and the rejected answer, policy minus reference:
z = beta * (c - r). The formulas are those of TRL 1.16, whose names they bear; DPOP is PaddleNLP's.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import logsigmoid

from danlu.config.objective import DpoConfig
from danlu.models.decoder import Decoder
from danlu.train.preference.batch import PairBatch
from danlu.train.preference.reference import Reference
from danlu.train.preference.scoring import (
    Tally,
    answer_log_probs,
    pair_log_probs,
    pairs_per_token,
)

_DPOP_LAMBDA = 50.0  # PaddleNLP
_DISCOPOP_TAU = 0.05  # arXiv:2406.08414


@dataclass(frozen=True)
class LogRatios:
    """Of N pairs: log-probabilities of policy minus reference, and lengths in tokens."""

    c: Tensor
    r: Tensor
    chosen_lengths: Tensor
    rejected_lengths: Tensor


Loss = Callable[[LogRatios, DpoConfig], Tensor]


class Dpo:
    """Pairs beside a reference model.

    Args:
        config: which loss.
        reference: what the policy is compared with.
    """

    def __init__(self, config: DpoConfig, reference: Reference) -> None:
        self._config = config
        self._reference = reference
        self._loss = LOSSES[config.loss]
        self._tally = Tally()
        self._pairs_per_token: float | None = None

    def begin_step(self, model: Decoder, batches: Sequence[PairBatch]) -> None:
        """Count the tokens that the cross-entropy is a mean over."""
        if self._config.sft_weight:
            self._pairs_per_token = pairs_per_token(batches)

    def loss(self, model: Decoder, batch: PairBatch) -> tuple[Tensor, int]:
        """Return the loss summed over the pairs, and how many there are."""
        sequences, beta = batch.sequences, self._config.beta
        reference_S = self._reference.log_probs(model, sequences)  # first: it leaves nothing behind
        policy_S = answer_log_probs(model, sequences)
        policy, ratios_S = pair_log_probs(policy_S, sequences), policy_S - reference_S
        c, r = ratios_S.chunk(2)
        ratios = LogRatios(c, r, policy.chosen_lengths_N, policy.rejected_lengths_N)
        loss = self._loss(ratios, self._config).sum()
        if self._config.sft_weight:
            scale = self._pairs_per_token or pairs_per_token([batch])
            loss = loss - self._config.sft_weight * scale * policy.chosen_N.sum()
        self._tally.add_rewards(beta * ratios.c.detach(), beta * ratios.r.detach())
        self._tally.add(log_prob_chosen=policy.chosen_N, log_prob_rejected=policy.rejected_N)
        return loss, batch.num_pairs

    def take_metrics(self) -> dict[str, float]:
        """Return rewards (beta times the log-ratios) and log-probabilities of the answers."""
        return self._tally.take()


def _z(ratios: LogRatios, config: DpoConfig) -> Tensor:
    return config.beta * (ratios.c - ratios.r)


def sigmoid(ratios: LogRatios, config: DpoConfig) -> Tensor:
    """-log s(z)."""
    return -logsigmoid(_z(ratios, config))


def sigmoid_norm(ratios: LogRatios, config: DpoConfig) -> Tensor:
    """-log s(beta (c / length_c - r / length_r))."""
    c, r = _per_token(ratios)
    return -logsigmoid(config.beta * (c - r))


def conservative(ratios: LogRatios, config: DpoConfig) -> Tensor:
    """-(1 - e) log s(z) - e log s(-z): a part e of the labels is wrong (cDPO, Mitchell 2023)."""
    return smoothed(_z(ratios, config), config.label_smoothing or 0.0)


def smoothed(z: Tensor, wrong: float) -> Tensor:
    """-(1 - wrong) log s(z) - wrong log s(-z)."""
    return -(1 - wrong) * logsigmoid(z) - wrong * logsigmoid(-z)


def robust(ratios: LogRatios, config: DpoConfig) -> Tensor:
    """(-(1 - e) log s(z) + e log s(-z)) / (1 - 2 e): unbiased for wrong labels (2403.00409)."""
    z, wrong = _z(ratios, config), config.label_smoothing or 0.0
    return (-(1 - wrong) * logsigmoid(z) + wrong * logsigmoid(-z)) / (1 - 2 * wrong)


def hinge(ratios: LogRatios, config: DpoConfig) -> Tensor:
    """max(0, 1 - z) (SLiC, arXiv:2305.10425)."""
    return (1 - _z(ratios, config)).relu()


def ipo(ratios: LogRatios, config: DpoConfig) -> Tensor:
    """(c / length_c - r / length_r - 1 / (2 beta))^2 (arXiv:2310.12036, on means per token)."""
    c, r = _per_token(ratios)
    return (c - r - 1 / (2 * config.beta)) ** 2


def exo_pair(ratios: LogRatios, config: DpoConfig) -> Tensor:
    """s(z) (log s(z) - log(1 - e)) + s(-z) (log s(-z) - log e) (arXiv:2402.00856)."""
    z, wrong = _z(ratios, config), config.label_smoothing or 0.0
    chosen = z.sigmoid() * (logsigmoid(z) - math.log(1 - wrong))
    return chosen + (-z).sigmoid() * (logsigmoid(-z) - math.log(wrong))


def nca_pair(ratios: LogRatios, config: DpoConfig) -> Tensor:
    """-log s(beta c) - 0.5 log s(-beta c) - 0.5 log s(-beta r) (arXiv:2402.05369)."""
    c, r = config.beta * ratios.c, config.beta * ratios.r
    return -logsigmoid(c) - 0.5 * logsigmoid(-c) - 0.5 * logsigmoid(-r)


def sppo_hard(ratios: LogRatios, config: DpoConfig) -> Tensor:
    """(c - 1 / (2 beta))^2 + (r + 1 / (2 beta))^2 (arXiv:2405.00675)."""
    target = 1 / (2 * config.beta)
    return (ratios.c - target) ** 2 + (ratios.r + target) ** 2


def apo_zero(ratios: LogRatios, config: DpoConfig) -> Tensor:
    """1 - s(beta c) + s(beta r): the chosen answers are better than the model's (2408.06266)."""
    return 1 - (config.beta * ratios.c).sigmoid() + (config.beta * ratios.r).sigmoid()


def apo_down(ratios: LogRatios, config: DpoConfig) -> Tensor:
    """s(beta c) + 1 - s(z): the chosen answers are worse than the model's (2408.06266)."""
    return (config.beta * ratios.c).sigmoid() + 1 - _z(ratios, config).sigmoid()


def discopop(ratios: LogRatios, config: DpoConfig) -> Tensor:
    """(1 - m) (-log s(z)) + m exp(-z), with m = s(z / tau) (arXiv:2406.08414)."""
    z = _z(ratios, config)
    blend = (z / (config.discopop_tau or _DISCOPOP_TAU)).sigmoid()
    return -(1 - blend) * logsigmoid(z) + blend * (-z).exp()


def dpop(ratios: LogRatios, config: DpoConfig) -> Tensor:
    """-log s(z - beta lambda max(0, -c)): no falling chosen answers (arXiv:2402.13228)."""
    penalty = (config.dpop_lambda or _DPOP_LAMBDA) * (-ratios.c).relu()
    return -logsigmoid(config.beta * (ratios.c - ratios.r - penalty))


def _per_token(ratios: LogRatios) -> tuple[Tensor, Tensor]:
    return ratios.c / ratios.chosen_lengths, ratios.r / ratios.rejected_lengths


LOSSES: dict[str, Loss] = {
    "sigmoid": sigmoid,
    "sigmoid_norm": sigmoid_norm,
    "conservative": conservative,
    "robust": robust,
    "hinge": hinge,
    "ipo": ipo,
    "exo_pair": exo_pair,
    "nca_pair": nca_pair,
    "sppo_hard": sppo_hard,
    "apo_zero": apo_zero,
    "apo_down": apo_down,
    "discopop": discopop,
    "dpop": dpop,
}
