"""`run_align`: every method leaves what it is for, margins grow, a run goes on where it stopped."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from align_parts import align_data, align_options, align_run, pairs, write_rows, write_world
from train_parts import timeless

from danlu.adapters.handling import disabled
from danlu.cli.app import run
from danlu.commands import align
from danlu.commands.align import run_align
from danlu.config.adapter import LoraConfig
from danlu.config.align import AlignRun, ReferenceConfig, starter
from danlu.config.base import Config
from danlu.config.objective import (
    CpoConfig,
    DpoConfig,
    KtoConfig,
    OrpoConfig,
    RewardConfig,
    SimpoConfig,
)
from danlu.config.template import dump_yaml
from danlu.errors import CheckpointError, ConfigError, DanluError, DataError
from danlu.loading import load_decoder, load_tokenizer
from danlu.loading.reward import load_reward_model
from danlu.tokenizer import Tokenizer
from danlu.train import step
from danlu.train.metrics import read_metrics
from danlu.train.preference import storing
from danlu.train.preference.reward import score


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


def steps_of(folder: Path) -> list[dict[str, float]]:
    return [record for record in read_metrics(folder / "metrics.jsonl") if "loss" in record]


METHODS: dict[str, dict[str, Any]] = {
    "dpo": {"objective": DpoConfig()},
    "dpo-whole": {"objective": DpoConfig(), "adapter": None},
    "dpo-pissa": {"objective": DpoConfig(), "adapter": LoraConfig(lora_rank=4, init="pissa")},
    "ipo": {"objective": DpoConfig(loss="ipo", sft_weight=0.1)},
    "kto": {"objective": KtoConfig(), "rows": "labelled"},
    "orpo": {"objective": OrpoConfig()},
    "simpo": {"objective": SimpoConfig()},
    "cpo": {"objective": CpoConfig()},
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_prefers_what_was_preferred(method: str, world: Path, tmp_path: Path) -> None:
    all_rows = {"global_batch_size": 12, "micro_batch_size": 12}
    options = align_options(steps=8, learning_rate=2e-2, **all_rows)
    chosen = align_run(world, tmp_path / "run", train=options, **METHODS[method])
    result = run_align(chosen)
    assert result.output.name == ("model" if "whole" in method else "adapter")
    steps = steps_of(tmp_path / "run")
    assert steps[-1]["reward_margin"] > steps[0]["reward_margin"] + 1e-3
    assert steps[-1]["loss"] < steps[0]["loss"]
    held_out = read_metrics(tmp_path / "run/metrics.jsonl")[-1]
    assert held_out["held_out_reward_accuracy"] > 0.6
    assert "held_out_perplexity" not in held_out
    assert run_align(chosen).already_finished


def test_metrics_and_manifest_tell_everything(world: Path, tmp_path: Path) -> None:
    run_align(align_run(world, tmp_path / "run"))
    first = steps_of(tmp_path / "run")[0]
    assert first["loss"] == pytest.approx(0.6931, abs=1e-4)
    assert first["reward_margin"] == pytest.approx(0, abs=1e-5)
    assert first["log_prob_chosen"] < 0
    assert first["log_prob_rejected"] < 0
    assert first["targets"] == 4
    manifest = json.loads((tmp_path / "run/run.json").read_text())
    assert manifest["command"] == "align"
    assert manifest["counts"]["data"]["examples"] == 12
    assert [file["path"] for file in manifest["inputs"]["data"]] == [
        str(world / "pairs.jsonl"),
        str(world / "pairs.jsonl"),
    ]
    assert json.loads((tmp_path / "run/ledger.json").read_text())["kept"] == 12


def test_kto_reads_pairs_as_labels_and_tells_its_kl(world: Path, tmp_path: Path) -> None:
    data = align_data(world, pairs_as_labels=True)
    run_align(align_run(world, tmp_path / "run", objective=KtoConfig(), data=data))
    steps = steps_of(tmp_path / "run")
    assert all(step["kl"] >= 0 for step in steps)
    assert json.loads((tmp_path / "run/ledger.json").read_text())["kept"] == 24


def test_every_way_to_the_same_reference_gives_the_same_steps(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storing, "EXAMPLES_PER_PART", 5)
    ways = {
        "adapter off": ReferenceConfig(),
        "precomputed": ReferenceConfig(precompute=True),
        "second model": ReferenceConfig(model=str(world / "model"), precompute=False),
        "second model, precomputed": ReferenceConfig(model=str(world / "model")),
    }
    found, two_steps = {}, align_options(steps=2)
    for name, reference in ways.items():
        run_align(align_run(world, tmp_path / name, reference=reference, train=two_steps))
        found[name] = steps_of(tmp_path / name)
        assert (tmp_path / name / "reference").exists() == ("precomputed" in name)
    for steps in found.values():
        for one, other in zip(steps, found["adapter off"], strict=True):
            assert one["loss"] == pytest.approx(other["loss"], abs=1e-4)


def test_a_warm_start_is_compared_with_itself(world: Path, tmp_path: Path) -> None:
    first = run_align(align_run(world, tmp_path / "first", objective=SimpoConfig()))
    chosen = align_run(
        world, tmp_path / "second", warm_start=str(first.output), adapter=LoraConfig()
    )
    run_align(chosen)
    assert steps_of(tmp_path / "second")[0]["reward_margin"] == pytest.approx(0, abs=1e-4)
    with pytest.raises(ValueError, match="base without the adapter"):
        AlignRun(**{**dict(chosen), "reference": ReferenceConfig(precompute=False)})


def test_the_micro_batch_does_not_change_the_run(world: Path, tmp_path: Path) -> None:
    for size in (1, 4):
        options = align_options(micro_batch_size=size, steps=2)
        chosen = align_run(world, tmp_path / str(size), objective=OrpoConfig(), train=options)
        run_align(chosen)
    one, four = (steps_of(tmp_path / str(size)) for size in (1, 4))
    for left, right in zip(one, four, strict=True):
        assert left["loss"] == pytest.approx(right["loss"], abs=1e-4)


KILLED_IN = {
    "reference": (storing, "_computed", 2),
    "step": (step, "clip_factor", 3),
    "writing": (align, "write_policy", 1),
}


@pytest.mark.parametrize(
    ("objective", "rows", "places"),
    [
        (DpoConfig(), "pairs", ["reference", "step", "writing"]),
        (KtoConfig(), "labelled", ["step"]),
    ],
    ids=["dpo", "kto"],
)
def test_a_run_that_was_killed_ends_with_the_same_bytes(
    objective: Config, rows: str, places: list[str], world: Path, tmp_path: Path
) -> None:
    values = {"objective": objective, "reference": ReferenceConfig(precompute=True)}
    with pytest.MonkeyPatch.context() as small_parts:
        small_parts.setattr(storing, "EXAMPLES_PER_PART", 9)
        run_align(align_run(world, tmp_path / "whole", rows, **values))
        chosen = align_run(world, tmp_path / "killed", rows, **values)
        for module, name, call in map(KILLED_IN.__getitem__, places):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(module, name, killing(getattr(module, name), call))
                with pytest.raises(_Killed):
                    run_align(chosen)
        assert run_align(chosen).resumed_from == (4 if "writing" in places else 2)
    last = "checkpoints/step-000004"
    for name in ("adapter/adapter_model", f"{last}/weights", f"{last}/optimizer"):
        files = [tmp_path / one / f"{name}.safetensors" for one in ("killed", "whole")]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert timeless(tmp_path / "killed") == timeless(tmp_path / "whole")


class _Killed(BaseException):
    """Ends a run as a signal would: nothing catches it."""


def killing(original: Callable[..., Any], calls: int) -> Callable[..., Any]:
    """Return `original`, but the process dies at the call of this number."""
    left = iter(range(calls - 1))

    def call(*args: Any, **kwargs: Any) -> Any:
        if next(left, None) is None:
            raise _Killed
        return original(*args, **kwargs)

    return call


def test_the_reference_is_that_of_the_untouched_base(world: Path, tmp_path: Path) -> None:
    result = run_align(align_run(world, tmp_path / "run"))
    base = load_decoder(world / "model")
    aligned = load_decoder(world / "model", adapter=result.output)
    tokens = torch.arange(6)[None]
    with torch.no_grad(), disabled(aligned):
        assert torch.equal(aligned(tokens), base(tokens))


@pytest.mark.parametrize("adapter", [LoraConfig(lora_rank=4), None], ids=["lora", "whole"])
def test_a_reward_model_scores_conversations(
    adapter: LoraConfig | None, world: Path, tmp_path: Path
) -> None:
    options = align_options(steps=8, global_batch_size=8, micro_batch_size=8, learning_rate=2e-2)
    result = run_align(
        align_run(world, tmp_path / "run", objective=RewardConfig(), adapter=adapter, train=options)
    )
    model, tokenizer = load_reward_model(result.output), load_tokenizer(world / "model")
    good, bad = (
        [[*row["prompt"], {"role": "assistant", "content": row[key]}] for row in pairs()]
        for key in ("chosen", "rejected")
    )
    scores = score(model, tokenizer, good + bad, batch_size=5)
    assert all(g > b for g, b in zip(scores[:12], scores[12:], strict=True))
    with pytest.raises(CheckpointError, match="expected the one score"):
        score(load_decoder(world / "model"), tokenizer, good)
    if adapter is None:
        same_in_transformers(result.output, tokenizer, good[0], scores[0])


def same_in_transformers(
    folder: Path, tokenizer: Tokenizer, messages: list[Any], wanted: float
) -> None:
    transformers = pytest.importorskip("transformers")
    stock = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    ids = tokenizer.render_chat(messages, add_generation_prompt=False).ids
    with torch.no_grad():
        assert stock(torch.tensor([ids])).logits.item() == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"adapter": None, "quantize": "int8"}, "quantize needs an adapter"),
        ({"objective": OrpoConfig(), "reference": ReferenceConfig(precompute=True)}, "do nothing"),
        ({"adapter": None, "reference": ReferenceConfig(precompute=False)}, "second copy"),
        ({"warm_start": "x"}, "adapter would do nothing"),
        ({"warm_start": "x", "adapter": None}, "warm_start needs an adapter"),
    ],
)
def test_sections_that_contradict_each_other(
    changes: dict[str, Any], text: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=text):
        align_run(tmp_path, tmp_path, **changes)


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"model": "nowhere"}, CheckpointError, "Correct `model`"),
        ({"warm_start": "nowhere", "adapter": LoraConfig()}, CheckpointError, "`warm_start`"),
        ({"reference": ReferenceConfig(model="nowhere")}, CheckpointError, "`reference.model`"),
        (
            {"objective": RewardConfig(), "adapter": LoraConfig(targets=["q_proj", "lm_head"])},
            ConfigError,
            "a reward model has a head of its own",
        ),
    ],
)
def test_what_cannot_work_is_one_error(
    changes: dict[str, Any], error: type[DanluError], text: str, world: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=text):
        run_align(align_run(world, tmp_path / "run", **changes))
    assert not (tmp_path / "run/run.json").exists()


def test_labelled_rows_are_no_pairs(world: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="labelled"):
        run_align(align_run(world, tmp_path / "run", "labelled"))


def test_margins_that_nothing_reads_are_told(
    world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{**row, "margin": 0.5} for row in pairs()]
    path = str(write_rows(tmp_path / "rows.jsonl", rows))
    data = align_data(world, preferences=path, held_out=None)
    options = align_options(steps=1)
    run_align(align_run(world, tmp_path / "dpo", data=data, train=options))
    assert "12 of 12 pairs state a margin" in caplog.text
    caplog.clear()
    run_align(
        align_run(world, tmp_path / "reward", data=data, objective=RewardConfig(), train=options)
    )
    assert "margin" not in caplog.text


def test_the_command_line_runs_a_file_and_tells_the_rewards(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "dpo.yaml"
    file.write_text(dump_yaml(align_run(world, tmp_path / "run")), encoding="utf-8")
    assert run(["align", str(file), "train.steps=1", "objective.loss=hinge"]) == 0
    assert "held-out reward accuracy" in capsys.readouterr().out
    assert run(["align", str(file), "objective.label_smoothing=0.1"]) == 2
    assert "label_smoothing would do nothing" in capsys.readouterr().err


def test_the_starter_is_a_run_with_help_for_every_key() -> None:
    assert starter() == AlignRun(**starter().model_dump())
    schema = AlignRun.model_json_schema()
    records = [schema, *schema["$defs"].values()]
    keys = [(name, key) for record in records for name, key in record["properties"].items()]
    assert [name for name, key in keys if "description" not in key] == []
