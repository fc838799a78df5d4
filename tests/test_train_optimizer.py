"""Every optimizer: what decays, how its state comes back, and how near 8 bits are to 32."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.config.train import TrainOptions
from danlu.errors import CheckpointError
from danlu.train.optimization import optimizer_8bit
from danlu.train.optimization.optimizer import optimizer_for
from danlu.train.optimization.optimizer_8bit import AdamW8bit, dequantize, dynamic_map, quantize
from danlu.train.optimization.optimizer_set import OffloadedSet, OptimizerSet

OPTIMIZERS = ("adamw", "adamw8bit", "adafactor", "muon", "sgd")
RATES = {"adafactor": 0.3, "sgd": 3.0}


def options(name: str, **changes: Any) -> TrainOptions:
    rate = RATES.get(name, 1e-2)
    return TrainOptions(**{"steps": 1, "optimizer": name, "learning_rate": rate} | changes)  # type: ignore[arg-type]


class Problem:
    """Least squares through two layers, one of them large enough for 8-bit states."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
        self.weights = {
            "model.embed_tokens.weight": draw(7, 64),
            "model.layers.0.mlp.up_proj.weight": draw(80, 64) / 8,
            "model.norm.weight": torch.ones(80),
        }
        for weight in self.weights.values():
            weight.requires_grad_()
        self.rows, self.targets = torch.arange(7), draw(7, 80)

    def loss(self) -> Tensor:
        embedding, matrix, norm = self.weights.values()
        return F.mse_loss((embedding[self.rows] @ matrix.T) * norm, self.targets)

    def train(self, optimizer: OptimizerSet, steps: int) -> float:
        for _ in range(steps):
            loss = self.loss()
            for weight, gradient in zip(
                self.weights.values(),
                torch.autograd.grad(loss, list(self.weights.values())),
                strict=True,
            ):
                weight.grad = gradient
            optimizer.step()
        return loss.item()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_learns(name: str) -> None:
    problem = Problem()
    before = problem.loss().item()
    assert problem.train(optimizer_for(problem.weights, options(name)), 40) < 0.5 * before


@pytest.mark.parametrize("offload", [False, True], ids=["stays", "offloaded"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_states_come_back_from_their_tensors(name: str, offload: bool) -> None:
    whole, first = Problem(), Problem()
    chosen = options(name, offload_optimizer=offload)
    whole.train(optimizer_for(whole.weights, chosen), 5)
    before = optimizer_for(first.weights, chosen)
    first.train(before, 3)
    stored = {key: tensor.clone() for key, tensor in before.state_tensors().items()}
    assert stored
    after = optimizer_for(first.weights, chosen)
    after.restore(stored)
    first.train(after, 2)
    for key, weight in whole.weights.items():
        assert torch.equal(first.weights[key], weight), key


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_offloaded_states_give_the_same_bits(name: str) -> None:
    found = []
    for offload in (False, True):
        problem = Problem()
        optimizer = optimizer_for(problem.weights, options(name, offload_optimizer=offload))
        assert isinstance(optimizer, OffloadedSet) == offload
        problem.train(optimizer, 4)
        found.append((problem.weights, optimizer.state_tensors()))
    for stays, offloaded in zip(*found, strict=True):
        assert stays.keys() == offloaded.keys()
        assert all(torch.equal(stays[key], offloaded[key]) for key in stays)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_only_matrices_decay(name: str) -> None:
    problem = Problem()
    optimizer = optimizer_for(problem.weights, options(name, weight_decay=0.5))
    before = {key: weight.detach().clone() for key, weight in problem.weights.items()}
    for weight in problem.weights.values():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    for key, weight in problem.weights.items():
        shrinks = weight.dim() > 1
        assert (weight.norm() < before[key].norm()).item() == shrinks, key
        assert torch.equal(weight, before[key]) != shrinks


def test_muon_leaves_tables_and_vectors_to_adamw() -> None:
    problem = Problem()
    optimizer = optimizer_for(problem.weights, options("muon", momentum=0.9))
    problem.train(optimizer, 1)
    names = optimizer.state_tensors().keys()
    assert {name for name in names if name.startswith("momentum_buffer")} == {
        "momentum_buffer.model.layers.0.mlp.up_proj.weight"
    }
    assert {"exp_avg.model.embed_tokens.weight", "exp_avg.model.norm.weight"} <= names
    assert optimizer.parts[0].param_groups[0]["momentum"] == 0.9


def test_rates_are_scaled_by_weight() -> None:
    problem = Problem()
    scales = {"model.layers.0.mlp.up_proj.weight": 16.0}
    optimizer = optimizer_for(problem.weights, options("adamw"), scales)
    optimizer.set_learning_rate(0.5)
    rates = {
        weight: group["lr"]
        for group in optimizer.parts[0].param_groups
        for weight in group["params"]
    }
    assert [rates[weight] for weight in problem.weights.values()] == [0.5, 8.0, 0.5]


def test_a_state_of_another_run_is_refused() -> None:
    problem = Problem()
    optimizer = optimizer_for(problem.weights, options("adamw"))
    with pytest.raises(CheckpointError, match=r"'exp_avg.other', but the model has no weight"):
        optimizer.restore({"exp_avg.other": torch.zeros(1)})


@pytest.mark.parametrize("signed", [True, False])
def test_the_map_has_256_values_in_order(signed: bool) -> None:
    values = dynamic_map(signed=signed)
    assert len(values.unique()) == 256
    assert torch.equal(values, values.sort().values)
    assert (values[0], values[-1]) == (pytest.approx(-0.993, abs=1e-3) if signed else 0.0, 1.0)
    assert 0.0 in values


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("size", [1, 256, 1000])
def test_codes_are_the_nearest_ones(signed: bool, size: int) -> None:
    values = torch.randn(size, generator=torch.Generator().manual_seed(size)) ** 3
    values = values if signed else values.abs()
    codes, absmax = quantize(values, signed=signed)
    assert codes.dtype == torch.uint8
    assert len(absmax) == -(-size // 256)
    scales = absmax.repeat_interleave(256)[:size]
    every = dynamic_map(signed=signed)[None, :] * scales[:, None]
    nearest = (every - values[:, None]).abs().amin(dim=1)
    found = (dequantize(codes, absmax, signed=signed) - values).abs()
    torch.testing.assert_close(found, nearest, rtol=0, atol=1e-6)


def test_8_bits_follow_32_bits() -> None:
    plain, small = Problem(), Problem()
    start = [weight.detach().clone() for weight in plain.weights.values()]
    losses = [
        problem.train(optimizer_for(problem.weights, options(name)), 30)
        for problem, name in ((plain, "adamw"), (small, "adamw8bit"))
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    for first, exact, near in zip(
        start, plain.weights.values(), small.weights.values(), strict=True
    ):
        assert (near - exact).norm() < 0.1 * (exact - first).norm()


def test_small_tensors_keep_float32_states_and_are_plain_adamw() -> None:
    weights = [torch.randn(100, generator=torch.Generator().manual_seed(1)) for _ in range(2)]
    known: dict[str, Any] = {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-6, "weight_decay": 0.2}
    ours = AdamW8bit([{"params": [nn.Parameter(weights[0])]}], **known)
    theirs = torch.optim.AdamW([nn.Parameter(weights[1])], **known)
    for step in range(5):
        for optimizer in (ours, theirs):
            (weight,) = optimizer.param_groups[0]["params"]
            weight.grad = torch.sin(weight.detach() * (step + 1))
            optimizer.step()
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-6, atol=1e-6)


def test_parts_of_a_tensor_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for chunk in (optimizer_8bit.CHUNK, 512):
        monkeypatch.setattr(optimizer_8bit, "CHUNK", chunk)
        problem = Problem()
        optimizer = optimizer_for(problem.weights, options("adamw8bit"))
        problem.train(optimizer, 3)
        found.append(problem.weights)
        state = optimizer.state_tensors()
        assert state["exp_avg.model.layers.0.mlp.up_proj.weight"].dtype == torch.uint8
        assert len(state["exp_avg_absmax.model.layers.0.mlp.up_proj.weight"]) == 80 * 64 // 256
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])
