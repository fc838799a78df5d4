"""Evaluations on the way: they change nothing, choose the best weights, and may end a run."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from train_parts import STEPS, left_behind, packed_rows, tiny_decoder, tiny_job

from danlu.config.adapter import LoraConfig
from danlu.data.batch import IGNORE, Batch
from danlu.errors import CheckpointError, ConfigError
from danlu.models.decoder import Decoder
from danlu.train.checkpoint import checkpoint_folders, load_checkpoint
from danlu.train.evaluating.best import BEST, Best
from danlu.train.evaluating.evaluation import Evaluated
from danlu.train.evaluating.held_out import held_out_loss, held_out_metrics
from danlu.train.loop import CHECKPOINTS, METRICS, SAMPLES, Job, Outcome, train
from danlu.train.metrics import read_metrics
from danlu.train.objective import CausalLM
from danlu.train.source import batches_of


class Scripted:
    """An evaluation with given results, which draws random numbers while it makes them."""

    def __init__(self, values: Sequence[float], every_steps: int | None = 1, name: str = "score"):
        self.values, self.every_steps, self.names = list(values), every_steps, (name,)
        self.steps: list[int] = []

    def evaluate(self, decoder: Decoder, step: int) -> Evaluated:
        assert not decoder.training
        assert not torch.is_grad_enabled()
        torch.rand(3)
        np.random.rand()
        self.steps.append(step)
        value = self.values[step - 1]
        return Evaluated({self.names[0]: value}, [{"prompt": "问", "answer": f"答{step}"}])


def job_with(*evaluations: Scripted, **options: Any) -> Job[Batch]:
    job = tiny_job(lora=LoraConfig(lora_rank=2, lora_dropout=0.5), **options)
    return Job(**{**vars(job), "evaluations": evaluations})


def run(folder: Path, *evaluations: Scripted, **options: Any) -> tuple[Job[Batch], Outcome]:
    job = job_with(*evaluations, **options)
    return job, train(job, folder)


def test_evaluating_does_not_change_what_is_trained(tmp_path: Path) -> None:
    plain, _ = run(tmp_path / "plain", eval_every_steps=None)
    watched, _ = run(tmp_path / "watched", Scripted(range(STEPS)), eval_every_steps=1)
    found = [
        left_behind(tmp_path / name, job) for name, job in (("plain", plain), ("watched", watched))
    ]
    assert found[0]["files"] == found[1]["files"]
    losses = [[r["loss"] for r in one["metrics"] if "loss" in r] for one in found]
    assert losses[0] == losses[1]


def test_numbers_and_samples_are_written_with_their_steps(tmp_path: Path) -> None:
    often, at_held_out, rarely = (
        Scripted(range(STEPS), every, name) for every, name in ((1, "a"), (None, "b"), (4, "c"))
    )
    run(tmp_path, often, at_held_out, rarely, eval_every_steps=3)
    assert often.steps == [1, 2, 3, 4, 5, 6]
    assert at_held_out.steps == [3, 6]
    assert rarely.steps == [4, 6]
    numbers = [record for record in read_metrics(tmp_path / METRICS) if "loss" not in record]
    assert numbers[0] == {"step": 1, "a": 0}
    assert numbers[2].keys() == {
        "step", "a", "b", "held_out_loss", "held_out_perplexity", "held_out_accuracy",
    }  # fmt: skip
    lines = (tmp_path / SAMPLES).read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[0]) == {"step": 1, "prompt": "问", "answer": "答1"}
    assert "问" in lines[0]
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 3, 4, 4, 5, 6, 6, 6]


def test_without_evaluations_there_is_no_file_of_samples(tmp_path: Path) -> None:
    run(tmp_path)
    assert not (tmp_path / SAMPLES).exists()


SCORES = (1.0, 3.0, 2.0, 2.5, 3.0, 2.9)


@pytest.mark.parametrize(("name", "step"), [("bleu4", 2), ("eval_loss", 1), ("perplexity", 1)])
def test_the_best_weights_are_kept_and_are_the_result(name: str, step: int, tmp_path: Path) -> None:
    job, outcome = run(tmp_path, Scripted(SCORES, name=name), best_metric=name, save_every_steps=1)
    assert outcome.best == Best(name, SCORES[step - 1], step, STEPS - step)
    best = load_checkpoint(tmp_path / CHECKPOINTS / BEST)
    assert best.counters.step == step
    assert not best.optimizer
    for key, weight in job.masters.weights.items():
        assert torch.equal(weight, best.weights[key])
        assert torch.equal(job.decoder.get_parameter(key), weight)
    steps = [path.name for path in checkpoint_folders(tmp_path / CHECKPOINTS)]
    assert steps == ["step-000005", "step-000006"]


def test_the_last_weights_are_the_result_where_they_are_wanted(tmp_path: Path) -> None:
    last, _ = run(tmp_path / "last")
    job, outcome = run(tmp_path / "best", Scripted(SCORES), best_metric="score", load_best=False)
    assert outcome.best == Best("score", 3.0, 2, 4)
    for key, weight in last.masters.weights.items():
        assert torch.equal(job.masters.weights[key], weight)


@pytest.mark.parametrize(("keep", "steps"), [(1, [6]), (4, [3, 4, 5, 6]), (99, [1, 2, 3, 4, 5, 6])])
def test_the_number_of_checkpoints_is_limited_and_the_best_is_extra(
    keep: int, steps: list[int], tmp_path: Path
) -> None:
    run(tmp_path, Scripted(SCORES), best_metric="score", save_every_steps=1, keep_checkpoints=keep)
    found = sorted(path.name for path in (tmp_path / CHECKPOINTS).iterdir())
    assert found == [BEST, *(f"step-{step:06d}" for step in steps)]


@pytest.mark.parametrize(
    ("patience", "min_delta", "end"),
    [(2, 0.0, 4), (3, 0.0, 5), (4, 0.0, 6), (1, 2.5, 2), (9, 0, 6)],
)
def test_a_run_that_gets_no_better_ends_early(
    patience: int, min_delta: float, end: int, tmp_path: Path
) -> None:
    watched, at_end = Scripted(SCORES), Scripted(SCORES, None, "other")
    options: dict[str, Any] = {"patience": patience, "min_delta": min_delta}
    job, outcome = run(
        tmp_path, watched, at_end, best_metric="score", eval_every_steps=None, **options
    )
    assert outcome.counters.step == end
    assert watched.steps == list(range(1, end + 1))
    assert at_end.steps == [end]
    assert checkpoint_folders(tmp_path / CHECKPOINTS)[-1].name == f"step-{end:06d}"
    assert outcome.best is not None
    again, repeated = run(
        tmp_path, Scripted(SCORES), Scripted(SCORES, None, "other"),
        best_metric="score", eval_every_steps=None, **options,
    )  # fmt: skip
    assert repeated.counters.step == end
    assert repeated.best == outcome.best
    for key, weight in job.masters.weights.items():
        assert torch.equal(again.masters.weights[key], weight)


def test_the_best_is_lost_only_with_an_error(tmp_path: Path) -> None:
    run(tmp_path, Scripted(SCORES), best_metric="score")
    (tmp_path / CHECKPOINTS / BEST / "weights.safetensors").unlink()
    with pytest.raises(CheckpointError, match="best' is damaged"):
        run(tmp_path, Scripted(SCORES), best_metric="score")


@pytest.mark.parametrize(
    ("metric", "advice"),
    [("held_out_los", "Did you mean 'held_out_loss'?"), ("bleu", "held_out_accuracy, bleu4. Did")],
)
def test_a_metric_that_nothing_measures_is_refused_at_once(
    metric: str, advice: str, tmp_path: Path
) -> None:
    evaluation = Scripted(SCORES, name="bleu4")
    with pytest.raises(ConfigError, match=r"best_metric is '\w+'; expected") as caught:
        run(tmp_path, evaluation, best_metric=metric)
    assert advice in str(caught.value)
    assert not evaluation.steps


def test_nothing_to_compare_at_all_says_so(tmp_path: Path) -> None:
    job = Job(**{**vars(tiny_job(best_metric="held_out_loss")), "held_out": []})
    with pytest.raises(ConfigError, match="none: there is no held-out data and no evaluation"):
        train(job, tmp_path)


def test_held_out_numbers_are_those_of_full_logits() -> None:
    decoder, batches = tiny_decoder(), batches_of(packed_rows()[:4], 2)
    found = held_out_metrics(decoder, CausalLM(), batches)
    assert found["held_out_loss"] == held_out_loss(decoder, CausalLM(), batches)
    hits = targets = 0
    for batch in batches:
        best = decoder.logits(decoder.packed_hidden(batch.tokens_BT, batch.documents_BT)).argmax(-1)
        learned = batch.targets_BT != IGNORE
        hits += int((best == batch.targets_BT)[learned].sum())
        targets += int(learned.sum())
    assert 0 < hits < targets
    assert found["held_out_accuracy"] == hits / targets


def test_epochs_are_steps_of_the_job(tmp_path: Path) -> None:
    job = tiny_job(eval_every_steps=None, eval_every_epochs=0.5, save_every_steps=200,
                   save_every_epochs=1.0)  # fmt: skip
    train(Job(**{**vars(job), "epoch_steps": 4.0}), tmp_path)
    records = read_metrics(tmp_path / METRICS)
    assert [record["step"] for record in records if "held_out_loss" in record] == [2, 4, 6]
    steps = [path.name for path in checkpoint_folders(tmp_path / CHECKPOINTS)]
    assert steps == ["step-000004", "step-000006"]
