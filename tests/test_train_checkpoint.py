"""Checkpoints: a run that is stopped anywhere and started again ends with the same bytes."""

import json
import logging
import resource
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from train_parts import STEPS, left_behind, packed_rows, tiny_job

from danlu.config.adapter import LoraConfig
from danlu.data.mixing.passes import SamePasses
from danlu.errors import CheckpointError, OutputError
from danlu.train import checkpoint
from danlu.train.checkpoint import checkpoint_folders, load_checkpoint, load_newest
from danlu.train.evaluating.best import BEST
from danlu.train.loop import CHECKPOINTS, METRICS, Job, train
from danlu.train.metrics import StepLog, read_metrics
from danlu.train.source import RowSource

DROPOUT = LoraConfig(lora_rank=2, lora_dropout=0.5)


class Stop(BaseException):
    """What a test throws in the middle of a run."""


class Trap:
    """Throws at the n-th call of anything it is set on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
        self.monkeypatch, self.left = monkeypatch, calls

    def set_on(self, owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def sprung(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                raise Stop
            return original(*args, **kwargs)

        self.monkeypatch.setattr(owner, name, sprung)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("whole")
    job = tiny_job(lora=DROPOUT)
    train(job, folder)
    return left_behind(folder, job)


@pytest.mark.parametrize("calls", range(1, 25, 2))
def test_stopped_anywhere_and_resumed_equals_uninterrupted(
    calls: int, whole: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        trap = Trap(patch, calls)
        trap.set_on(checkpoint, "write_tensors")
        trap.set_on(checkpoint, "file_sha256")
        trap.set_on(StepLog, "write")
        trap.set_on(StepLog, "sync")
        with pytest.raises(Stop):
            train(tiny_job(lora=DROPOUT), tmp_path)
    job = tiny_job(lora=DROPOUT)
    train(job, tmp_path)
    assert left_behind(tmp_path, job) == whole


RESUMED: dict[str, dict[str, Any]] = {
    "adamw8bit": {"optimizer": "adamw8bit"},
    "adafactor": {"optimizer": "adafactor"},
    "muon": {"optimizer": "muon"},
    "sgd": {"optimizer": "sgd", "schedule": "linear"},
    "offloaded": {"offload_optimizer": True},
    "fp16": {"precision": "fp16", "schedule": "wsd"},
    "noise": {"neftune_alpha": 5.0},
    "recomputed": {"activation_checkpointing": "full"},
    "best": {"best_metric": "held_out_loss", "eval_every_steps": 1},
    "early": {"best_metric": "held_out_accuracy", "eval_every_steps": 1, "patience": 2},
}


@pytest.mark.parametrize("variant", RESUMED)
def test_every_kind_of_state_is_resumed(
    variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def job() -> Any:
        lora = DROPOUT if variant in ("noise", "recomputed", "fp16") else None
        made = tiny_job(lora=lora, save_every_steps=1, **RESUMED[variant])
        return Job(**{**vars(made), "lr_scales": dict.fromkeys(list(made.masters.weights)[::2], 4)})

    def left(folder: Path, done: Job[Any]) -> dict[str, Any]:
        best = folder / CHECKPOINTS / BEST / "weights.safetensors"
        last = Job(**{**vars(done), "steps": outcome.counters.step})
        return {**left_behind(folder, last), "best": best.exists() and best.read_bytes()}

    whole = job()
    outcome = train(whole, tmp_path / "whole")
    assert (outcome.counters.step < STEPS) == (variant == "early")
    expected = left(tmp_path / "whole", whole)
    for calls in (3, 2):
        with monkeypatch.context() as patch:
            Trap(patch, calls).set_on(checkpoint, "write_checkpoint")
            with pytest.raises(Stop):
                train(job(), tmp_path / "parts")
    last = job()
    assert train(last, tmp_path / "parts").counters.step == outcome.counters.step
    assert left(tmp_path / "parts", last) == expected


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_used(
    name: str, tmp_path: Path, whole: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    train(tiny_job(lora=DROPOUT), tmp_path)
    damage(tmp_path / CHECKPOINTS / f"step-{STEPS:06d}" / name)
    again = tiny_job(lora=DROPOUT)
    with caplog.at_level(logging.WARNING):
        assert train(again, tmp_path).resumed_from == STEPS - 2
    assert f"step-{STEPS:06d}' is damaged" in caplog.text
    assert left_behind(tmp_path, again) == whole


def test_a_missing_file_is_damage_and_no_whole_checkpoint_is_an_error(tmp_path: Path) -> None:
    train(tiny_job(), tmp_path)
    for path in checkpoint_folders(tmp_path / CHECKPOINTS):
        (path / "state.json").unlink()
    with pytest.raises(CheckpointError, match="All 2 checkpoints"):
        train(tiny_job(), tmp_path)


def test_no_checkpoint_is_a_fresh_start(tmp_path: Path) -> None:
    assert load_newest(tmp_path / "missing") is None


def test_the_last_two_are_kept_and_leftovers_removed(tmp_path: Path) -> None:
    folder = tmp_path / CHECKPOINTS
    leftover = folder / ".step-000002.partial"
    leftover.mkdir(parents=True)
    train(tiny_job(), tmp_path)
    assert [path.name for path in sorted(folder.iterdir())] == ["step-000004", "step-000006"]


def test_a_checkpoint_holds_no_pickle_and_plain_names(tmp_path: Path) -> None:
    train(tiny_job(), tmp_path)
    path = checkpoint_folders(tmp_path / CHECKPOINTS)[-1]
    names = ["optimizer.safetensors", "state.json", "weights.safetensors"]
    assert sorted(item.name for item in path.iterdir()) == names
    snapshot = load_checkpoint(path)
    assert "model.norm.weight" in snapshot.weights
    assert "exp_avg.model.norm.weight" in snapshot.optimizer
    state = json.loads((path / "state.json").read_text())["state"]
    rows = state["cursor"]["num_rows"]
    taken = 4 * STEPS - state["cursor"]["pass"] * rows
    assert state["cursor"] == {"pass": (4 * STEPS - 1) // rows, "taken": taken, "num_rows": rows}


def test_minutes_between_checkpoints(tmp_path: Path) -> None:
    train(tiny_job(save_every_steps=100, save_every_minutes=1e-9), tmp_path)
    names = [path.name for path in checkpoint_folders(tmp_path / CHECKPOINTS)]
    assert names == ["step-000005", "step-000006"]


def test_other_data_than_the_checkpoints_is_refused(tmp_path: Path) -> None:
    train(tiny_job(), tmp_path)
    job = replace(tiny_job(), source=RowSource(SamePasses(packed_rows()[:-1]), 0, 2, 4))
    with pytest.raises(CheckpointError, match="rows of data"):
        train(job, tmp_path)


def test_a_full_disk_leaves_earlier_checkpoints_intact(tmp_path: Path) -> None:
    train(tiny_job(steps=2), tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, hard))  # files of weights are larger
    try:
        with pytest.raises(OutputError, match=r"\.safetensors.*Free some space"):
            train(tiny_job(steps=4), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in (tmp_path / CHECKPOINTS).iterdir()] == ["step-000002"]
    assert train(tiny_job(steps=4), tmp_path).resumed_from == 2


def write_steps(path: Path, count: int) -> None:
    with StepLog(path, 0) as log:
        for step in range(1, count + 1):
            log.write({"step": step, "loss": 1.0})


def test_metrics_on_a_full_disk_are_an_output_error(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    try:
        with pytest.raises(OutputError, match=r"metrics\.jsonl"):
            write_steps(tmp_path / METRICS, 8)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert read_metrics(tmp_path / METRICS)


def test_metrics_lose_later_steps_and_torn_lines(tmp_path: Path) -> None:
    path = tmp_path / METRICS
    write_steps(path, 3)
    path.write_text(path.read_text() + '{"step": 2, "lo')
    StepLog(path, 2).__exit__(None, None, None)
    assert [record["step"] for record in read_metrics(path)] == [1, 2]
    shutil.rmtree(tmp_path / "none", ignore_errors=True)
    assert read_metrics(tmp_path / "none") == []
