"""`run_pretrain` and `run_finetune`: what they leave behind, and what they refuse."""

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from train_parts import timeless

from danlu.commands.finetune import run_finetune
from danlu.commands.pretrain import run_pretrain
from danlu.config.adapter import LoraConfig
from danlu.config.base import Config
from danlu.config.data import FinetuneData, PretrainData
from danlu.config.load import load_config
from danlu.config.model import ModelShape
from danlu.config.run import FinetuneRun, PretrainRun
from danlu.config.train import TrainOptions
from danlu.errors import (
    CheckpointError,
    ConfigError,
    DanluError,
    DataError,
    OutputError,
    TokenizerError,
    TrainingError,
)
from danlu.files import only_run
from danlu.loading import load_decoder
from danlu.tokenizer import load_tokenizer, train_bpe
from danlu.train.checkpoint import checkpoint_folders, file_sha256
from danlu.train.loop import METRICS

TEXTS = [f"The cat number {i} sat on mat {i % 7}.\n小猫坐在垫子上，第{i}次。" for i in range(40)]
SHAPE = ModelShape(
    hidden_size=16, intermediate_size=24, num_layers=2, num_heads=2, num_kv_heads=1, max_seq_len=64
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus, instructions and a tokenizer."""
    folder = tmp_path_factory.mktemp("world")
    rows = [{"text": text} for text in TEXTS]
    chats = [{"prompt": f"Say {i}", "response": f"It is {i}."} for i in range(12)]
    for name, lines in (("corpus.jsonl", rows), ("chats.jsonl", chats)):
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (folder / name).write_text(text, encoding="utf-8")
    train_bpe(TEXTS, 300).save(folder / "tokenizer")
    return folder


def pretrain_config(world: Path, out: Path, **changes: Any) -> PretrainRun:
    values: dict[str, Any] = {
        "out": str(out),
        "seed": 3,
        "model": SHAPE,
        "tokenizer": str(world / "tokenizer"),
        "data": PretrainData(
            corpus=str(world / "corpus.jsonl"), held_out_fraction=0.1, max_seq_len=48
        ),
        "train": train_options(),
    }
    return PretrainRun(**values | changes)


def train_options(**changes: Any) -> TrainOptions:
    values: dict[str, Any] = {
        "steps": 4,
        "micro_batch_size": 2,
        "global_batch_size": 4,
        "learning_rate": 5e-3,
        "warmup_steps": 1,
        "save_every_steps": 2,
        "eval_every_steps": 2,
    }
    return TrainOptions(**values | changes)


@pytest.fixture(scope="module")
def base(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished pre-training run."""
    out = tmp_path_factory.mktemp("base") / "run"
    run_pretrain(pretrain_config(world, out))
    return out


def finetune_config(world: Path, base: Path, out: Path, **changes: Any) -> FinetuneRun:
    values: dict[str, Any] = {
        "out": str(out),
        "model": str(base / "model"),
        "data": FinetuneData(instructions=str(world / "chats.jsonl"), max_seq_len=48),
        "adapter": LoraConfig(lora_rank=2),
        "train": train_options(),
    }
    return FinetuneRun(**values | changes)


# ---------------------------------------------------------------- what is left behind


def test_pretraining_leaves_a_model_and_its_story(world: Path, base: Path) -> None:
    names = {path.name for path in base.iterdir() if not path.name.startswith(".")}
    assert names == {"run.json", "ledger.json", METRICS, "loss.png", "checkpoints", "model"}
    manifest = json.loads((base / "run.json").read_text())
    assert manifest["status"] == "finished"
    assert manifest["command"] == "pretrain"
    data = manifest["inputs"]["data"][0]
    assert data["sha256"] == file_sha256(world / "corpus.jsonl")
    assert manifest["inputs"]["tokenizer"] == load_tokenizer(world / "tokenizer").fingerprint()
    counts = manifest["counts"]
    assert counts["parameters"]["total"] == counts["parameters"]["trainable"] > 0
    assert 0.5 < counts["data"]["packing_efficiency"] <= 1
    assert manifest["final"]["held_out_loss"] == timeless(base)[-1]["held_out_loss"]
    assert json.loads((base / "ledger.json").read_text())["kept"] + counts["held_out"][
        "documents"
    ] == len(TEXTS)
    assert (base / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_loading_run_json_gives_the_run_again(base: Path, tmp_path: Path) -> None:
    run = load_config(PretrainRun, base / "run.json", [f"out={tmp_path / 'again'}"])
    run_pretrain(run)
    weights = "model/model.safetensors"
    assert (tmp_path / "again" / weights).read_bytes() == (base / weights).read_bytes()
    assert timeless(tmp_path / "again") == timeless(base)


def test_transformers_opens_the_pretrained_model(base: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        base / "model", output_loading_info=True
    )
    assert not any(info.values())
    theirs = transformers.AutoTokenizer.from_pretrained(base / "model")
    ids = load_tokenizer(base / "model").encode(TEXTS[3])
    assert theirs(TEXTS[3], add_special_tokens=False)["input_ids"] == ids
    tokens = torch.tensor([ids])
    with torch.no_grad():
        torch.testing.assert_close(
            load_decoder(base / "model")(tokens), model(tokens).logits, rtol=0, atol=1e-5
        )


@pytest.mark.parametrize(("precision", "stored"), [("fp32", "F32"), ("bf16", "BF16")])
def test_the_model_is_stored_as_asked(
    precision: str, stored: str, world: Path, tmp_path: Path
) -> None:
    other = {"fp32": "bf16", "bf16": "fp32"}[precision]
    for save_dtype, expected in ((None, stored), (other, {"F32": "BF16"}.get(stored, "F32"))):
        options = train_options(steps=1, precision=precision, save_dtype=save_dtype)
        result = run_pretrain(pretrain_config(world, tmp_path / str(save_dtype), train=options))
        with safe_open(result.output / "model.safetensors", "pt") as file:
            assert {file.get_slice(name).get_dtype() for name in file.keys()} == {expected}  # noqa: SIM118
        stored_name = json.loads((result.output / "config.json").read_text())["torch_dtype"]
        assert stored_name == {"F32": "float32", "BF16": "bfloat16"}[expected]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_finetuning_leaves_an_adapter(
    precision: str, world: Path, base: Path, tmp_path: Path
) -> None:
    options = train_options(steps=None, epochs=2.0, precision=precision)
    result = run_finetune(finetune_config(world, base, tmp_path / "run", train=options))
    assert result.output == tmp_path / "run/adapter"
    assert json.loads((result.output / "adapter_config.json").read_text())["r"] == 2
    stamp = json.loads((result.output / "danlu.json").read_text())
    assert stamp["tokenizer_fingerprint"] == load_tokenizer(base / "model").fingerprint()
    manifest = json.loads((tmp_path / "run/run.json").read_text())
    counts = manifest["counts"]
    assert counts["steps"] == -(-2 * counts["data"]["rows"] // 4)
    assert 0 < counts["parameters"]["trainable"] < counts["parameters"]["total"]
    assert manifest["parents"][0]["run_sha256"] == file_sha256(base / "run.json")
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        plain = load_decoder(base / "model")(tokens)
        adapted = load_decoder(base / "model", adapter=result.output)(tokens)
    assert (plain - adapted).abs().max() > 1e-4


def test_full_finetuning_leaves_a_model_with_its_tokenizer(
    world: Path, base: Path, tmp_path: Path
) -> None:
    result = run_finetune(finetune_config(world, base, tmp_path / "run", adapter=None))
    assert result.output == tmp_path / "run/model"
    tokenizer = load_tokenizer(result.output)
    assert tokenizer.fingerprint() == load_tokenizer(base / "model").fingerprint()
    generation = json.loads((result.output / "generation_config.json").read_text())
    assert generation["eos_token_id"] == tokenizer.stop_ids()
    again = run_finetune(finetune_config(world, result.folder, tmp_path / "next"))
    assert not again.already_finished


def test_only_answers_are_learned(world: Path, base: Path, tmp_path: Path) -> None:
    result = run_finetune(finetune_config(world, base, tmp_path / "run"))
    tokenizer = load_tokenizer(base / "model")
    masks = [
        tokenizer.render_chat(
            [
                {"role": "user", "content": f"Say {i}"},
                {"role": "assistant", "content": f"It is {i}."},
            ],
            add_generation_prompt=False,
        ).loss_mask
        for i in range(12)
    ]
    counts = json.loads((result.folder / "run.json").read_text())["counts"]["data"]
    assert counts["targets"] == sum(map(sum, masks)) < counts["tokens"] / 2


# ---------------------------------------------------------------- the same folder again


def test_a_finished_run_is_returned_at_once(world: Path, base: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in base.rglob("*") if path.name != ".lock"}
    result = run_pretrain(pretrain_config(world, base))
    assert result.already_finished
    assert result.final.steps == 4
    assert before == {p: p.stat().st_mtime_ns for p in before}


def test_a_lost_output_is_written_again(world: Path, tmp_path: Path) -> None:
    run = pretrain_config(world, tmp_path / "run")
    weights = tmp_path / "run/model/model.safetensors"
    run_pretrain(run)
    expected = weights.read_bytes()
    for path in (tmp_path / "run/model").iterdir():
        path.unlink()
    (tmp_path / "run/model").rmdir()
    result = run_pretrain(run)
    assert result.resumed_from == 4
    assert not result.already_finished
    assert weights.read_bytes() == expected


def test_another_config_names_the_keys_that_differ(world: Path, base: Path) -> None:
    other = train_options(learning_rate=1.0, steps=9)
    with pytest.raises(OutputError) as caught:
        run_pretrain(pretrain_config(world, base, train=other, seed=4))
    message = str(caught.value)
    assert "config.seed: 3 there, 4 now" in message
    assert "config.train.learning_rate: 0.005 there, 1.0 now" in message
    assert "config.train.steps: 4 there, 9 now" in message
    assert "config.train.eps" not in message


def test_changed_data_is_noticed(world: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n\f".join(TEXTS), encoding="utf-8")
    data = PretrainData(corpus=[str(corpus)], max_seq_len=48)
    run = pretrain_config(world, tmp_path / "run", data=data)
    run_pretrain(run)
    corpus.write_text("\n\f".join(TEXTS[1:]), encoding="utf-8")
    with pytest.raises(OutputError, match=r"inputs\.data\[0\]\.sha256"):
        run_pretrain(run)


def test_foreign_files_are_refused_and_kept(world: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.doc").write_text("mine")
    with pytest.raises(OutputError, match=r"holds no run: thesis\.doc"):
        run_pretrain(pretrain_config(world, tmp_path))
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(OutputError, match="no manifest of a run"):
        run_pretrain(pretrain_config(world, tmp_path))
    assert (tmp_path / "thesis.doc").read_text() == "mine"


def test_a_run_that_cannot_begin_leaves_nothing(world: Path, base: Path, tmp_path: Path) -> None:
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.txt").write_text("mine")
    data = FinetuneData(instructions=str(world / "chats.jsonl"), max_seq_len=4)
    for out, error in (("new", DataError), ("foreign", OutputError)):
        with pytest.raises(error):
            run_finetune(finetune_config(world, base, tmp_path / out, data=data))
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == [
        "foreign",
        "foreign/thesis.txt",
    ]


def test_two_runs_in_one_folder_are_refused(world: Path, tmp_path: Path) -> None:
    with only_run(tmp_path / "run"), pytest.raises(OutputError, match="Another run"):
        run_pretrain(pretrain_config(world, tmp_path / "run"))


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a file system nobody writes to")
def test_a_folder_that_cannot_be_written_is_an_output_error(world: Path) -> None:
    with pytest.raises(OutputError, match="Choose another folder"):
        run_pretrain(pretrain_config(world, Path("/sys/kernel/run")))


# ---------------------------------------------------------------- bad input


def test_rows_longer_than_the_model_are_refused_before_training(
    world: Path, base: Path, tmp_path: Path
) -> None:
    data = FinetuneData(instructions=str(world / "chats.jsonl"), max_seq_len=65)
    with pytest.raises(ConfigError, match="65 is longer than the model allows"):
        run_finetune(finetune_config(world, base, tmp_path / "run", data=data))
    assert not (tmp_path / "run/run.json").exists()
    with pytest.raises(ValueError, match="longer than the model allows"):
        pretrain_config(world, tmp_path, data=PretrainData(corpus="x", max_seq_len=65))


def test_conversations_that_do_not_fit_stop_the_run(
    world: Path, base: Path, tmp_path: Path
) -> None:
    data = FinetuneData(instructions=str(world / "chats.jsonl"), max_seq_len=8)
    with pytest.raises(DataError, match="12 of 12 rows would be dropped"):
        run_finetune(finetune_config(world, base, tmp_path / "run", data=data))


def test_a_warm_up_longer_than_the_epochs_is_refused(
    world: Path, base: Path, tmp_path: Path
) -> None:
    options = train_options(steps=None, epochs=1.0, warmup_steps=50)
    with pytest.raises(ConfigError, match=r"expected at least the 50 of train\.warmup_steps"):
        run_finetune(finetune_config(world, base, tmp_path / "run", train=options))


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"tokenizer": "missing"}, TokenizerError, "missing"),
        ({"data": PretrainData(corpus="missing.txt")}, DataError, r"missing\.txt"),
        ({"data": PretrainData(corpus="missing.txt", max_seq_len=8)}, DataError, r"missing\.txt"),
    ],
)
def test_missing_inputs_are_one_error_and_can_be_corrected(
    changes: dict[str, Any], error: type[DanluError], text: str, world: Path, tmp_path: Path
) -> None:
    shape = {"model": SHAPE.model_copy(update={"max_seq_len": 512})}
    with pytest.raises(error, match=text):
        run_pretrain(pretrain_config(world, tmp_path / "run", **shape | changes))
    run_pretrain(pretrain_config(world, tmp_path / "run"))


def test_a_missing_model_is_an_error(world: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="There is no model"):
        run_finetune(finetune_config(world, tmp_path / "none", tmp_path / "run"))


def test_a_folder_that_holds_no_model_says_what_it_is(world: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"is an adapter.*`warm_start` to go on with it"):
        run_finetune(replace_model(world, tmp_path, "adapter"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"There is no model in .* no config\.json"):
        run_finetune(replace_model(world, tmp_path, "empty"))


def replace_model(world: Path, folder: Path, name: str) -> FinetuneRun:
    return finetune_config(world, folder, folder / "run", model=str(folder / name))


def test_steps_larger_than_the_data_are_said(
    world: Path, base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("danlu").propagate = True
    options = train_options(steps=1, global_batch_size=500, micro_batch_size=500)
    run_finetune(finetune_config(world, base, tmp_path / "run", train=options))
    assert "a step takes 500 (train.global_batch_size), so that every step learns" in caplog.text


def test_a_model_too_large_for_the_memory_is_one_error(world: Path, tmp_path: Path) -> None:
    shape = SHAPE.model_copy(update={"hidden_size": 1 << 24, "num_heads": 1, "num_kv_heads": 1})
    with pytest.raises(TrainingError, match=r"memory is used up.*a smaller model"):
        run_pretrain(pretrain_config(world, tmp_path / "run", model=shape))
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_that_the_model_never_saw_is_refused(
    world: Path, base: Path, tmp_path: Path
) -> None:
    model = tmp_path / "base/model"
    model.mkdir(parents=True)
    for file in (base / "model").iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    train_bpe(TEXTS[:5], 290).save(model)
    with pytest.raises(TokenizerError, match="not the one the model was trained with"):
        run_finetune(finetune_config(world, tmp_path / "base", tmp_path / "run"))


def test_a_failed_run_says_so_in_its_manifest_and_goes_on(world: Path, tmp_path: Path) -> None:
    run = pretrain_config(world, tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("danlu.train.step.clip_factor", lambda norm, most: float("nan"))
        with pytest.raises(TrainingError):
            run_pretrain(run)
    manifest = json.loads((tmp_path / "run/run.json").read_text())
    assert manifest["status"] == "failed"
    assert "is nan" in manifest["error"]
    assert not run_pretrain(run).already_finished
    assert "error" not in json.loads((tmp_path / "run/run.json").read_text())


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"steps": None}, "found neither"),
        ({"epochs": 1.0}, "found both"),
        ({"micro_batch_size": 3}, "no multiple"),
        ({"warmup_steps": 5}, "more than all steps"),
        ({"betas": (0.9, 1.0)}, "below 1"),
    ],
)
def test_options_that_contradict_each_other(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        train_options(**changes)


@pytest.mark.parametrize("cls", [PretrainRun, FinetuneRun])
def test_run_files_have_a_json_schema_with_help_for_every_key(cls: type[Config]) -> None:
    schema = cls.model_json_schema()
    records = [schema, *schema["$defs"].values()]
    keys = [(name, key) for record in records for name, key in record["properties"].items()]
    assert len(keys) > 30
    assert [name for name, key in keys if "description" not in key] == []


# ---------------------------------------------------------------- kill -9


def test_killed_again_and_again_it_ends_with_the_same_bytes(
    world: Path, base: Path, tmp_path: Path
) -> None:
    run = pretrain_config(world, tmp_path / "run")
    config = tmp_path / "run-file.json"
    config.write_text(run.model_dump_json(), encoding="utf-8")
    moments = [str(moment) for moment in (1, 3, 6, 9, 12, 14, 15, 17, 19, 23, 24, 11)]
    script = Path(__file__).with_name("train_killing.py")
    done = subprocess.run(
        [sys.executable, str(script), str(config), *moments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(script.parents[1])},
        check=True,
    )
    *killed, finished = map(int, done.stdout.split())
    assert finished == 0
    assert killed.count(-signal.SIGKILL) >= 9
    for name in ("model/model.safetensors", "checkpoints/step-000004/weights.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (base / name).read_bytes()
    assert timeless(tmp_path / "run") == timeless(base)
    folders = checkpoint_folders(tmp_path / "run/checkpoints")
    assert [path.name for path in folders] == ["step-000002", "step-000004"]
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "finished"
