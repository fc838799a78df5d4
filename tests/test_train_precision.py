"""float16: losses are scaled, steps that overflow are skipped, and nothing else changes."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from train_parts import STEPS, left_behind, tiny_job

from danlu.config.adapter import LoraConfig
from danlu.errors import TrainingError
from danlu.train import step
from danlu.train.loop import METRICS, train
from danlu.train.metrics import read_metrics
from danlu.train.optimization import loss_scale
from danlu.train.optimization.loss_scale import DynamicScaling


def test_the_scale_follows_gradscaler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_scale, "GROWTH_INTERVAL", 3)
    ours, theirs = DynamicScaling(), torch.amp.GradScaler("cpu", growth_interval=3)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    ours.scaled(torch.zeros(()), terms=1)
    theirs.scale(torch.zeros(()))
    for value in (1.0, math.inf, 1.0, 1.0, 1.0, math.nan, math.inf, 1.0, 1.0, 1.0, 1.0):
        weight.grad = torch.tensor([value])
        theirs.step(optimizer)
        theirs.update()
        ours.update(finite=math.isfinite(value))
        assert ours.scale == theirs.get_scale()
    assert ours.skipped == 3


def test_the_first_scale_is_that_of_a_mean() -> None:
    scaling = DynamicScaling()
    assert scaling.scaled(torch.tensor(3.0), terms=1000) == 3 * 2**6
    assert scaling.scaled(torch.tensor(3.0), terms=1) == 3 * 2**6
    assert scaling.metrics() == {"loss_scale": 2**6, "skipped_steps": 0}


def test_a_scale_changes_nothing_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, scaled = tiny_job(), tiny_job()
    train(plain, tmp_path / "plain")
    monkeypatch.setattr(step, "scaling_for", lambda precision: DynamicScaling())
    train(scaled, tmp_path / "scaled")
    for name, weight in plain.masters.weights.items():
        assert torch.equal(scaled.masters.weights[name], weight)
    assert read_metrics(tmp_path / "scaled" / METRICS)[0]["loss_scale"] > 1


@pytest.mark.parametrize("lora", [None, LoraConfig(lora_rank=2)], ids=["full", "lora"])
def test_float16_is_near_float32(lora: LoraConfig | None, tmp_path: Path) -> None:
    exact, half = tiny_job(lora=lora), tiny_job(lora=lora, precision="fp16")
    assert {p.dtype for p in half.decoder.parameters() if not p.requires_grad} <= {torch.float16}
    assert {weight.dtype for weight in half.masters.weights.values()} == {torch.float32}
    for name, job in (("fp32", exact), ("fp16", half)):
        train(job, tmp_path / name)
    losses = [
        [record["loss"] for record in read_metrics(tmp_path / name / METRICS) if "loss" in record]
        for name in ("fp32", "fp16")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=2e-3)
    assert losses[1] != losses[0]


def overflowing(job: Any, at: set[int]) -> None:
    """Let the gradients of some steps, counted from 0, be infinite."""
    weight = job.decoder.get_parameter("model.layers.0.self_attn.q_proj.weight")
    number = iter(range(10**6))
    steps = job.options.global_batch_size // job.options.micro_batch_size

    def hook(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * (math.inf if next(number) // steps in at else 1.0)

    weight.register_hook(hook)


def test_a_step_that_overflows_is_skipped_and_counted(tmp_path: Path) -> None:
    job = tiny_job(precision="fp16", steps=4)
    overflowing(job, {1})
    seen = []
    original = job.masters.publish
    job.masters.publish = lambda: (seen.append(1), original())  # type: ignore[method-assign,func-returns-value]
    train(job, tmp_path)
    records = [record for record in read_metrics(tmp_path / METRICS) if "loss" in record]
    assert [record["skipped_steps"] for record in records] == [0, 1, 1, 1]
    assert [record["loss_scale"] for record in records[:2]] == [
        records[0]["loss_scale"],
        records[0]["loss_scale"] / 2,
    ]
    assert ["grad_norm" in record for record in records] == [True, False, True, True]
    assert len(seen) == 3
    plain = tiny_job(precision="fp16", steps=4)
    train(plain, tmp_path / "plain")
    rates = [
        [r["learning_rate"] for r in read_metrics(p / METRICS) if "loss" in r]
        for p in (tmp_path, tmp_path / "plain")
    ]
    assert rates[0] == rates[1]


def test_gradients_that_always_overflow_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_scale, "LEAST_SCALE", 2.0**8)
    job = tiny_job(precision="fp16", steps=20)
    overflowing(job, set(range(20)))
    with pytest.raises(TrainingError, match=r"In step \d+ the gradient norm is (nan|inf)"):
        train(job, tmp_path)


def test_a_loss_that_is_not_finite_is_an_error_at_any_scale(tmp_path: Path) -> None:
    job = tiny_job(precision="fp16")
    job.decoder.get_parameter("model.norm.weight").data.fill_(math.inf)
    with pytest.raises(TrainingError, match=r"In step 1 the loss is nan.*'model\.norm'"):
        train(job, tmp_path)


def test_the_scale_of_a_resumed_run_is_the_old_one(tmp_path: Path) -> None:
    found = []
    for folder, halves in (("whole", [STEPS]), ("parts", [2, STEPS])):
        for steps in halves:
            job = tiny_job(precision="fp16", steps=STEPS)
            overflowing(job, {0} if steps == halves[0] else set())
            changed = type(job)(**{**vars(job), "steps": steps})
            train(changed if steps < STEPS else job, tmp_path / folder)
        found.append(read_metrics(tmp_path / folder / METRICS)[-2]["loss_scale"])
        assert left_behind(tmp_path / folder, job)["files"]
    assert found[0] == found[1]
