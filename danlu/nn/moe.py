"""Mixtures of experts: every token goes through the few MLPs that a router chose for it.

Sources: arXiv:1701.06538; softmax routing as in Qwen3 (arXiv:2505.09388); grouped sigmoid routing
without auxiliary loss as in DeepSeek-V3 (arXiv:2412.19437, sec. 2.1.2).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.nn.mlp import GatedMLP
from danlu.nn.scaling import Scalable, ScalingGroup

SMALLEST_SUM = 1e-20  # keeps the normalisation finite where all chosen scores are zero


class Routing(NamedTuple):
    """The k experts of each token, and the factors on their outputs (float32 or wider)."""

    experts_Nk: Tensor
    weights_Nk: Tensor


@dataclass(frozen=True)
class SoftmaxTopK:
    """The k likeliest experts, weighted by their probabilities among all experts.

    Attributes:
        top_k: experts per token.
        normalized: the k weights are made to sum to one.
    """

    top_k: int
    normalized: bool

    def route(self, logits_NE: Tensor) -> Routing:
        """Return the routing of N tokens."""
        weights_Nk, experts_Nk = logits_NE.softmax(-1).topk(self.top_k, dim=-1)
        if self.normalized:
            weights_Nk = weights_Nk / weights_Nk.sum(-1, keepdim=True)
        return Routing(experts_Nk, weights_Nk)


@dataclass(frozen=True)
class GroupedSigmoid:
    """The k best experts of the best groups; a group is as good as its two best experts.

    Experts are chosen by corrected scores and weighted by the scores alone.

    Attributes:
        top_k: experts per token.
        num_groups: groups of neighbouring experts, of equal size (two or more).
        top_groups: groups per token.
        normalized: the k weights are made to sum to `scale`.
        scale: factor on all weights.
    """

    top_k: int
    num_groups: int
    top_groups: int
    normalized: bool
    scale: float

    def route(self, logits_NE: Tensor, correction_E: Tensor) -> Routing:
        """Return the routing of N tokens.

        Args:
            logits_NE: what the router says.
            correction_E: added to the scores for choosing only.
        """
        scores_NE = logits_NE.sigmoid()
        experts_Nk = self._choose(scores_NE.detach() + correction_E.detach())
        weights_Nk = scores_NE.gather(-1, experts_Nk)
        if self.normalized:
            weights_Nk = weights_Nk / (weights_Nk.sum(-1, keepdim=True) + SMALLEST_SUM)
        return Routing(experts_Nk, weights_Nk * self.scale)

    def _choose(self, scores_NE: Tensor) -> Tensor:
        grouped_NGe = scores_NE.unflatten(-1, (self.num_groups, -1))
        group_scores_NG = grouped_NGe.topk(2, dim=-1).values.sum(-1)
        kept_Ng = group_scores_NG.topk(self.top_groups, dim=-1).indices
        dropped_NG = torch.ones_like(group_scores_NG).scatter(-1, kept_Ng, 0.0).bool()
        eligible_NE = grouped_NGe.masked_fill(dropped_NG[..., None], -math.inf).flatten(-2)
        chosen_Nk: Tensor = eligible_NE.topk(self.top_k, dim=-1).indices
        return chosen_Nk


class Router(nn.Module):
    """Chooses experts by softmax. No linear layer: it is neither adapted nor quantized."""

    def __init__(self, hidden_size: int, num_experts: int, rule: SoftmaxTopK) -> None:
        super().__init__()
        self.rule = rule
        self.weight = nn.Parameter(torch.empty(num_experts, hidden_size))

    def forward(self, x_ND: Tensor) -> Routing:
        """Return the routing of N tokens."""
        return self.rule.route(_logits(x_ND, self.weight))


class CorrectedRouter(nn.Module):
    """Chooses experts by grouped sigmoid scores, with a correction that balances their load.

    The correction is no part of the loss: it takes no gradient (training leaves it as it is). It is
    loaded in float32 whatever the dtype of the model, since it decides between close scores.
    """

    kept_in_float32: ClassVar[tuple[str, ...]] = ("e_score_correction_bias",)

    def __init__(self, hidden_size: int, num_experts: int, rule: GroupedSigmoid) -> None:
        super().__init__()
        self.rule = rule
        self.weight = nn.Parameter(torch.empty(num_experts, hidden_size))
        self.e_score_correction_bias = nn.Parameter(torch.empty(num_experts))

    def forward(self, x_ND: Tensor) -> Routing:
        """Return the routing of N tokens."""
        return self.rule.route(_logits(x_ND, self.weight), self.e_score_correction_bias)


def _logits(x_ND: Tensor, weight_ED: Tensor) -> Tensor:
    """Return the score of each expert, in float32 or wider: close scores must not become ties."""
    wide = torch.promote_types(x_ND.dtype, torch.float32)
    return F.linear(x_ND.to(wide), weight_ED.to(wide))


class MixtureOfExperts(nn.Module):
    """The weighted sum of the chosen experts' outputs, plus the output of shared experts.

    Tokens are gathered per expert, so experts that nobody chose cost nothing. A token's sum is in
    the order of the experts, whatever else is in the batch.

    Args:
        gate: a `Router` or `CorrectedRouter`.
        experts: MLPs of equal widths.
        shared_experts: an MLP that every token goes through, or None.
    """

    def __init__(
        self,
        gate: Router | CorrectedRouter,
        experts: Sequence[nn.Module],
        shared_experts: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.gate = gate
        self.experts = nn.ModuleList(experts)
        self.shared_experts = shared_experts

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return the block's output [B, T, D]."""
        x_ND = x_BTD.reshape(-1, x_BTD.shape[-1])
        out_BTD = self._routed(x_ND, self.gate(x_ND)).view(x_BTD.shape)
        return out_BTD if self.shared_experts is None else out_BTD + self.shared_experts(x_BTD)

    def readers(self) -> tuple[str, ...]:
        """Return what reads its input: the router, and the first layers of all experts."""
        inside = [name + reader for name, mlp in self._mlps() for reader in mlp.readers()]
        return ("gate", *inside)

    def scaling_groups(self) -> list[ScalingGroup]:
        """Return those of each expert."""
        return [group.under(name) for name, mlp in self._mlps() for group in mlp.scaling_groups()]

    def _mlps(self) -> list[tuple[str, Scalable]]:
        """Return every expert with its name and a dot, the shared ones last."""
        named = [(f"experts.{number}.", expert) for number, expert in enumerate(self.experts)]
        if self.shared_experts is not None:
            named.append(("shared_experts.", self.shared_experts))
        return [(name, mlp) for name, mlp in named if isinstance(mlp, Scalable)]

    def _routed(self, x_ND: Tensor, routing: Routing) -> Tensor:
        out_ND = torch.zeros_like(x_ND)
        for expert, places in _by_expert(routing.experts_Nk):
            tokens = places // routing.experts_Nk.shape[-1]
            weights_n1 = routing.weights_Nk.reshape(-1, 1).index_select(0, places)
            out_nD = self.experts[expert](x_ND.index_select(0, tokens)) * weights_n1
            out_ND.index_add_(0, tokens, out_nD.to(out_ND.dtype))
        return out_ND


def _by_expert(experts_Nk: Tensor) -> list[tuple[int, Tensor]]:
    """Return each expert that was chosen, with the places in the flat choice where it was."""
    sorted_M, places_M = experts_Nk.flatten().sort(stable=True)
    chosen, counts = sorted_M.unique_consecutive(return_counts=True)
    return list(zip(chosen.tolist(), places_M.split(counts.tolist()), strict=True))


def gated_mixture(
    hidden_size: int,
    intermediate_size: int,
    *,
    router: Callable[[int, int], Router | CorrectedRouter],
    num_experts: int,
    expert_size: int,
    shared_size: int = 0,
) -> MixtureOfExperts:
    """Return a mixture of gated SiLU MLPs, for layers beside dense ones.

    Args:
        hidden_size: width of the residual stream.
        intermediate_size: of the dense layers; a mixture has its own sizes.
        router: makes the router from hidden_size and num_experts.
        num_experts: experts to choose from.
        expert_size: width inside each expert.
        shared_size: width inside the shared expert; 0: there is none.
    """
    experts = [GatedMLP(hidden_size, expert_size, activation="silu") for _ in range(num_experts)]
    shared = GatedMLP(hidden_size, shared_size, activation="silu") if shared_size else None
    return MixtureOfExperts(router(hidden_size, num_experts), experts, shared)
