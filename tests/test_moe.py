"""Routing and mixtures of experts by hand; attention whose values have a size of their own."""

import pytest
import torch
from torch import Tensor

from danlu.nn.moe import GroupedSigmoid, MixtureOfExperts, Router, SoftmaxTopK, gated_mixture
from danlu.nn.scaled_attention import scaled_attention

# Routing, by hand.


def test_softmax_weights_are_probabilities_among_all_experts() -> None:
    logits_NE = torch.tensor([[0.0, 2.0, 1.0, -1.0]])
    shares = logits_NE[0].exp() / logits_NE[0].exp().sum()
    plain = SoftmaxTopK(2, normalized=False).route(logits_NE)
    assert plain.experts_Nk.tolist() == [[1, 2]]
    torch.testing.assert_close(plain.weights_Nk[0], shares[[1, 2]])
    normal = SoftmaxTopK(2, normalized=True).route(logits_NE)
    torch.testing.assert_close(normal.weights_Nk[0], shares[[1, 2]] / shares[[1, 2]].sum())


def test_grouped_sigmoid_ranks_groups_by_their_two_best() -> None:
    rule = GroupedSigmoid(top_k=2, num_groups=2, top_groups=1, normalized=False, scale=3.0)
    scores = torch.tensor([[0.9, 0.1, 0.1, 0.6, 0.55, 0.2]])
    routing = rule.route(scores.logit(), torch.zeros(6))
    assert routing.experts_Nk.tolist() == [[3, 4]]  # 0.6 + 0.55 beats 0.9 + 0.1
    torch.testing.assert_close(routing.weights_Nk, 3.0 * scores[:, [3, 4]])
    corrected = rule.route(scores.logit(), torch.tensor([0.0, 0.5, 0.0, 0.0, 0.0, 0.0]))
    assert sorted(corrected.experts_Nk[0].tolist()) == [0, 1]
    weights = dict(zip(corrected.experts_Nk[0].tolist(), corrected.weights_Nk[0], strict=True))
    assert float(weights[1]) == pytest.approx(0.3)  # the correction is no part of the weight


def test_negative_corrections_do_not_let_a_dropped_group_in() -> None:
    rule = GroupedSigmoid(top_k=2, num_groups=2, top_groups=1, normalized=True, scale=1.0)
    routing = rule.route(torch.zeros(1, 4), torch.tensor([-2.0, -2.0, -3.0, -3.0]))
    assert sorted(routing.experts_Nk[0].tolist()) == [0, 1]


def test_close_scores_stay_apart_in_bfloat16() -> None:
    router = Router(2, 2, SoftmaxTopK(1, normalized=False)).bfloat16()
    router.weight.data = torch.tensor([[1.0, 1.0], [1.0, 1.0078125]]).bfloat16()
    x_ND = torch.tensor([[100.0, 1.0]]).bfloat16()
    assert router(x_ND).experts_Nk.tolist() == [[1]]  # 101.0078 is no bfloat16 number
    assert router(x_ND).weights_Nk.dtype == torch.float32


def random_mixture(shared_size: int = 5) -> MixtureOfExperts:
    rule = SoftmaxTopK(2, normalized=True)
    mixture = gated_mixture(
        8,
        99,
        router=lambda hidden, experts: Router(hidden, experts, rule),
        num_experts=6,
        expert_size=4,
        shared_size=shared_size,
    )
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in mixture.parameters():
            parameter.normal_(generator=generator)
    return mixture


def by_hand(mixture: MixtureOfExperts, x_D: Tensor) -> Tensor:
    experts, weights = mixture.gate(x_D[None])
    out = sum(
        weight * mixture.experts[int(expert)](x_D)
        for expert, weight in zip(experts[0], weights[0], strict=True)
    )
    return out if mixture.shared_experts is None else out + mixture.shared_experts(x_D)


@pytest.mark.parametrize("shared_size", [0, 5])
def test_a_mixture_is_the_weighted_sum_of_its_experts(shared_size: int) -> None:
    mixture = random_mixture(shared_size)
    x_BTD = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(4))
    found = mixture(x_BTD)
    for row in range(2):
        for step in range(5):
            torch.testing.assert_close(found[row, step], by_hand(mixture, x_BTD[row, step]))


def test_experts_without_tokens_are_not_called() -> None:
    mixture, called = random_mixture(0), []
    for index, expert in enumerate(mixture.experts):
        expert.register_forward_hook(lambda _, x, out, index=index: called.append(index))
    x_BTD = torch.randn(1, 1, 8, generator=torch.Generator().manual_seed(5))
    mixture(x_BTD)
    assert called == sorted(mixture.gate(x_BTD[0]).experts_Nk[0].tolist())
    called.clear()
    assert mixture(torch.empty(2, 0, 8)).shape == (2, 0, 8)
    assert called == []


def test_order_of_a_batch_changes_no_bit() -> None:
    mixture = random_mixture()
    x_BTD = torch.randn(6, 3, 8, generator=torch.Generator().manual_seed(6))
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    once = mixture(x_BTD)
    assert torch.equal(mixture(x_BTD), once)
    torch.testing.assert_close(mixture(x_BTD[order]), once[order], atol=1e-6, rtol=1e-6)


def test_gradients_reach_router_experts_and_input() -> None:
    mixture = random_mixture().double()
    x_BTD = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(7)).double()
    parameters = [mixture.gate.weight, mixture.experts[0].up_proj.weight]
    inputs = (x_BTD.requires_grad_(), *parameters)
    assert torch.autograd.gradcheck(lambda *_: mixture(x_BTD), inputs)
    mixture(x_BTD).square().sum().backward()
    assert all(bool(tensor.grad.abs().max() > 0) for tensor in inputs)


# Heads of two sizes.


def by_formula(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    num_queries, num_keys = q.shape[2], k.shape[2]
    visible = torch.ones(num_queries, num_keys).tril(num_keys - num_queries).bool()
    scores = (q @ k.transpose(-1, -2) * scale).masked_fill(~visible, float("-inf"))
    return scores.softmax(-1) @ v


@pytest.mark.parametrize("value_dim", [3, 8, 11])
@pytest.mark.parametrize("num_queries", [1, 4, 6])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_may_have_a_size_of_their_own(
    value_dim: int, num_queries: int, masked: bool, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(8)
    q = torch.randn(2, 4, num_queries, 8, generator=generator)
    k, v = (torch.randn(2, 4, 6, dim, generator=generator) for dim in (8, value_dim))
    mask = torch.ones(num_queries, 6).tril(6 - num_queries).bool()[None, None] if masked else None
    trained = q.to(dtype).requires_grad_()  # bfloat16 with gradients takes the plain path
    found = scaled_attention(trained, k.to(dtype), v.to(dtype), 0.3, mask)
    bound = 1e-5 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(found.float(), by_formula(q, k, v, 0.3), atol=bound, rtol=bound)
