"""The loop: equal runs give equal bytes, batches may be cut and packed at will, errors tell all."""

import logging
import math
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from train_parts import STEPS, left_behind, packed_rows, tiny_decoder, tiny_job, token_documents

from danlu.config.adapter import LoraConfig
from danlu.data.batch import Batch
from danlu.data.packing import PackedRow
from danlu.errors import TrainingError
from danlu.models.decoder import Decoder
from danlu.train.checkpoint import checkpoint_folders
from danlu.train.loop import CHECKPOINTS, METRICS, Job, train
from danlu.train.metrics import read_metrics
from danlu.train.objective import CausalLM
from danlu.train.precision import Masters
from danlu.train.source import batches_of

VARIANTS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"precision": "bf16"},
    "lora": {"lora": LoraConfig(lora_rank=2, lora_dropout=0.3)},
    "lora-bf16": {"lora": LoraConfig(lora_rank=2), "precision": "bf16"},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_equal_runs_leave_equal_bytes(variant: str, tmp_path: Path) -> None:
    found = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        job = tiny_job(**VARIANTS[variant])
        torch.manual_seed(len(found))  # the caller's generators do not matter
        train(job, folder)
        found.append(left_behind(folder, job))
    assert found[0] == found[1]


def test_the_callers_random_generators_are_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    job = tiny_job()
    torch.manual_seed(5)
    train(job, tmp_path)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("variant", ["fp32", "bf16", "lora", "lora-bf16"])
def test_it_learns(variant: str, tmp_path: Path) -> None:
    job = tiny_job(steps=60, learning_rate=3e-2, **VARIANTS[variant])
    train(job, tmp_path)
    losses = [record["loss"] for record in read_metrics(tmp_path / METRICS) if "loss" in record]
    assert losses[0] == pytest.approx(math.log(61), rel=0.02)
    assert losses[-1] < losses[0] - (0.01 if "lora" in variant else 0.3)


@pytest.mark.parametrize("micro_batch_size", [1, 2])
def test_the_result_does_not_depend_on_the_micro_batches(
    micro_batch_size: int, tmp_path: Path
) -> None:
    whole, parts = tiny_job(micro_batch_size=4), tiny_job(micro_batch_size=micro_batch_size)
    train(whole, tmp_path / "whole")
    train(parts, tmp_path / "parts")
    for name, weight in whole.masters.weights.items():
        torch.testing.assert_close(parts.masters.weights[name], weight, rtol=0, atol=2e-5)


def test_packed_rows_train_as_documents_alone() -> None:
    decoder, rows = tiny_decoder(), packed_rows()
    alone = [PackedRow([document]) for row in rows for document in row.documents]
    results = [
        loss_and_gradients(decoder, batches_of(r, size)) for r, size in ((rows, 4), (alone, 1))
    ]
    assert results[0][1] == results[1][1]
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-6, atol=0)
    for packed, single in zip(results[0][2], results[1][2], strict=True):
        torch.testing.assert_close(packed, single, rtol=1e-4, atol=1e-4)


def loss_and_gradients(
    decoder: Decoder, batches: Sequence[Batch]
) -> tuple[torch.Tensor, int, list[torch.Tensor]]:
    results = [CausalLM().loss(decoder, batch) for batch in batches]
    loss = torch.stack([loss for loss, _ in results]).sum()
    gradients = list(torch.autograd.grad(loss, list(decoder.parameters())))
    return loss.detach(), sum(count for _, count in results), gradients


def test_metrics_name_everything(tmp_path: Path) -> None:
    job = tiny_job()
    train(job, tmp_path)
    records = read_metrics(tmp_path / METRICS)
    steps = [record for record in records if "loss" in record]
    held_out = [record for record in records if "held_out_loss" in record]
    assert [record["step"] for record in steps] == list(range(1, STEPS + 1))
    assert [record["step"] for record in held_out] == [3, 6]
    assert all(
        record["held_out_perplexity"] == math.exp(record["held_out_loss"]) for record in held_out
    )
    assert steps[0].keys() == {
        "step",
        "loss",
        "learning_rate",
        "grad_norm",
        "tokens",
        "targets",
        "total_tokens",
        "tokens_per_s",
        "elapsed_s",
    }
    assert steps[-1]["total_tokens"] == sum(record["tokens"] for record in steps)
    assert job.decoder.training is False


def test_log_every_steps_keeps_the_last_step(tmp_path: Path) -> None:
    train(tiny_job(log_every_steps=4, eval_every_steps=None), tmp_path)
    assert [record["step"] for record in read_metrics(tmp_path / METRICS)] == [4, 6, 6]


def test_progress_tells_loss_rate_speed_and_memory(tmp_path: Path) -> None:
    class Recorder:
        calls: list[tuple[Any, ...]] = []  # noqa: RUF012

        def start(self, what: str, total: int | None) -> None:
            self.calls.append((what, total))

        def advance(self, done: int, note: str = "") -> None:
            self.calls.append((done, note))

        def finish(self) -> None:
            self.calls.append(())

    recorder = Recorder()
    train(tiny_job(), tmp_path, recorder)
    assert recorder.calls[0] == ("train", STEPS)
    assert recorder.calls[-1] == ()
    done, note = recorder.calls[2]
    assert done == 1
    for part in ("loss 4.1", "lr 0.00e+00", "tok/s", "GiB"):
        assert part in note


def test_masters_hold_float32_and_the_model_their_rounding(tmp_path: Path) -> None:
    job = tiny_job(precision="bf16")
    train(job, tmp_path)
    parameters = dict(job.decoder.named_parameters())
    assert parameters.keys() == job.masters.weights.keys()
    for name, weight in job.masters.weights.items():
        assert weight.dtype == torch.float32
        assert torch.equal(parameters[name], weight.bfloat16())
    assert any((w != w.bfloat16().float()).any() for w in job.masters.weights.values())
    job.masters.export(job.decoder, torch.float32)
    assert all(
        torch.equal(parameters[name], weight) for name, weight in job.masters.weights.items()
    )


def test_gradients_of_micro_batches_add_up_in_float32() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    masters = Masters(model, torch.bfloat16)
    for value in (256.0, 1.0):  # 257 is no bfloat16
        (model.weight * value).sum().backward()
        masters.collect()
    assert [gradient.item() for gradient in masters.gradients()] == [257.0]
    assert model.weight.grad is None


def test_lora_keeps_its_base_in_bfloat16_and_still() -> None:
    job = tiny_job(lora=LoraConfig(), precision="bf16")
    base = [p for p in job.decoder.parameters() if not p.requires_grad]
    assert {p.dtype for p in base} == {torch.bfloat16}
    assert {w.dtype for w in job.masters.weights.values()} == {torch.float32}
    assert all(".lora_" in name for name in job.masters.weights)


def test_nothing_to_train_is_refused(tmp_path: Path) -> None:
    job = tiny_job()
    job.decoder.requires_grad_(False)
    frozen = Job(**{**vars(job), "masters": Masters(job.decoder)})
    with pytest.raises(TrainingError, match="No parameter"):
        train(frozen, tmp_path)


class Spoil:
    """Breaks something before the step that follows `steps` others, once."""

    def __init__(self, job: Job[Batch], steps: int, action: Any) -> None:
        self.left, self.action = steps, action
        self.original = job.source.next_step
        job.source.next_step = self  # type: ignore[method-assign]

    def __call__(self) -> Sequence[Batch]:
        if self.left == 0:
            self.action()
        self.left -= 1
        return self.original()


def test_watchdog_names_the_module_and_the_rows(tmp_path: Path) -> None:
    job = tiny_job()
    weight = job.decoder.get_parameter("model.layers.1.mlp.up_proj.weight")
    Spoil(job, 4, lambda: weight.data.fill_(math.nan))
    with pytest.raises(TrainingError) as caught:
        train(job, tmp_path)
    message = str(caught.value)
    assert "In step 5 the loss is nan" in message
    assert "'model.layers.1.mlp.up_proj'. Its parameters weight are not finite." in message
    assert "data.jsonl:" in message
    assert [path.name for path in checkpoint_folders(tmp_path / CHECKPOINTS)] == [
        "step-000002",
        "step-000004",
    ]


def test_watchdog_names_a_gradient_that_is_not_finite(tmp_path: Path) -> None:
    job = tiny_job()
    weight = job.decoder.get_parameter("model.layers.0.self_attn.q_proj.weight")
    weight.register_hook(lambda gradient: gradient * math.inf)
    before = weight.detach().clone()
    with pytest.raises(TrainingError, match=r"In step 1 the gradient norm is (nan|inf)") as caught:
        train(job, tmp_path)
    assert "the gradient of 'model.layers.0.self_attn.q_proj.weight'" in str(caught.value)
    assert torch.equal(weight, before)


def test_a_held_out_loss_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    job = tiny_job(eval_every_steps=1)
    broken = Job(**{**vars(job), "held_out": [*job.held_out]})
    weight = job.decoder.get_parameter("model.norm.weight")
    original = job.masters.publish

    def publish() -> None:
        original()
        weight.data.fill_(math.inf)

    job.masters.publish = publish  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match="held-out loss is"):
        train(broken, tmp_path)


def test_ctrl_c_ends_the_step_saves_it_and_goes_on_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("danlu").propagate = True
    caplog.set_level(logging.INFO)
    whole = tiny_job()
    train(whole, tmp_path / "whole")
    job = tiny_job()
    Spoil(job, 2, lambda: os.kill(os.getpid(), signal.SIGINT))
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(job, tmp_path / "stopped")
    assert signal.getsignal(signal.SIGINT) is handler
    newest = checkpoint_folders(tmp_path / "stopped" / CHECKPOINTS)[-1]
    assert newest.name == "step-000003"
    assert "Stopped after step 3, which is saved" in caplog.text
    again = tiny_job()
    assert train(again, tmp_path / "stopped").resumed_from == 3
    assert left_behind(tmp_path / "stopped", again) == left_behind(tmp_path / "whole", whole)


def test_token_documents_of_the_tests_have_masks() -> None:
    assert {document.labels is None for document in token_documents()} == {True, False}
