"""Runs over mixtures, streams, built corpora and every kind of batch: what they train on."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from train_parts import timeless

from danlu.commands import training_data
from danlu.commands.data.build import build_corpus
from danlu.commands.finetune import run_finetune
from danlu.commands.pretrain import run_pretrain
from danlu.config.adapter import LoraConfig
from danlu.config.base import Config
from danlu.config.data import DataSource, FinetuneData, PretrainData, sources
from danlu.config.model import ModelShape
from danlu.config.run import FinetuneRun, PretrainRun
from danlu.config.train import TrainOptions
from danlu.errors import ConfigError, DataError
from danlu.tokenizer import train_bpe
from danlu.train.run_folder import RunResult
from danlu.train.source import RowSource

TEXTS = [f"The cat number {i} sat on mat {i % 7}.\n小猫坐在垫子上，第{i}次。" for i in range(40)]
WEIGHTS = "model/model.safetensors"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two corpora, two files of conversations, a tokenizer and a model."""
    folder = tmp_path_factory.mktemp("world")
    texts = [{"text": text} for text in TEXTS]
    chats = [{"prompt": f"Say {i}", "response": f"It is {i}."} for i in range(24)]
    write(folder / "corpus.jsonl", texts[:30])
    write(folder / "more.jsonl", texts[30:])
    write(folder / "chats.jsonl", chats[:16])
    write(folder / "others.jsonl", chats[16:])
    train_bpe(TEXTS, 300).save(folder / "tokenizer")
    run_pretrain(pretraining(folder, folder / "base", steps=1))
    return folder


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def options(**changes: Any) -> TrainOptions:
    values = {"steps": 3, "micro_batch_size": 2, "global_batch_size": 4, "save_every_steps": 2}
    return TrainOptions(**values | changes)


def pretraining(world: Path, out: Path, steps: int = 3, **data: Any) -> PretrainRun:
    values = {"corpus": str(world / "corpus.jsonl"), "max_seq_len": 48} | data
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_layers": 1, "num_heads": 2}
    return PretrainRun(
        out=str(out),
        model=ModelShape(**shape, num_kv_heads=1, max_seq_len=64),
        tokenizer=str(world / "tokenizer"),
        data=PretrainData(**values),
        train=options(steps=steps),
    )


def finetuning(world: Path, out: Path, train: dict[str, Any] | None = None, **data: Any) -> Config:
    values = {"instructions": str(world / "chats.jsonl"), "max_seq_len": 48} | data
    return FinetuneRun(
        out=str(out),
        model=str(world / "base/model"),
        data=FinetuneData(**values),
        adapter=LoraConfig(lora_rank=2),
        train=options(**train or {}),
    )


def facts_of(result: RunResult) -> tuple[dict[str, Any], dict[str, Any]]:
    """The counts of the manifest, and the ledger."""
    manifest = json.loads((result.folder / "run.json").read_text())
    return manifest["counts"], json.loads((result.folder / "ledger.json").read_text())


# ---------------------------------------------------------------- mixtures and batches


def test_weighted_sources_are_in_the_ledger(world: Path, tmp_path: Path) -> None:
    mixed = [
        {"path": str(world / "chats.jsonl"), "weight": 0.5},
        {"path": str(world / "others.jsonl"), "weight": 2.0},
    ]
    run = finetuning(world, tmp_path / "run", {"steps": None, "epochs": 2.0}, instructions=mixed)
    counts, ledger = facts_of(run_finetune(run))
    assert [source["times"] for source in ledger["sources"]] == [0.5, 2]
    assert [source["documents"] for source in ledger["sources"]] == [16, 8]
    assert counts["data"]["documents"] == 8 + 16
    assert ledger["kept"] == 24


@pytest.mark.parametrize("batching", ["padded", "grouped", "padding-free"])
def test_every_kind_of_batch_trains(batching: str, world: Path, tmp_path: Path) -> None:
    run = finetuning(world, tmp_path / "run", {"steps": None, "epochs": 1.0}, batching=batching)
    counts, _ = facts_of(run_finetune(run))
    assert counts["data"]["rows"] == counts["data"]["documents"] == 16
    assert counts["steps"] == 4


def test_a_part_of_the_conversations_is_held_out(world: Path, tmp_path: Path) -> None:
    run = finetuning(world, tmp_path / "run", held_out_fraction=0.3)
    counts, ledger = facts_of(run_finetune(run))
    held_out = counts["held_out"]["documents"]
    assert 0 < held_out < 16
    assert counts["data"]["documents"] == ledger["kept"] == 16 - held_out
    assert ledger["held_out"]["kept"] == held_out
    other = finetuning(world, tmp_path / "other", held_out=str(world / "others.jsonl"))
    assert facts_of(run_finetune(other))[0]["held_out"]["documents"] == 8


def test_rows_that_are_no_conversation_count_as_dropped(world: Path, tmp_path: Path) -> None:
    rows = [{"prompt": "a", "response": "b"}, {"prompt": "a"}, {"prompt": "c", "response": "d"}]
    write(tmp_path / "bad.jsonl", rows)
    bad = str(tmp_path / "bad.jsonl")
    with pytest.raises(DataError, match=r"bad\.jsonl:2: 'response' is missing"):
        run_finetune(finetuning(world, tmp_path / "run", instructions=bad))
    _, ledger = facts_of(
        run_finetune(finetuning(world, tmp_path / "run", instructions=bad, max_dropped=1))
    )
    (dropped,) = ledger["dropped_rows"]
    assert dropped["origin"] == f"{bad}:2"
    assert dropped["reason"].startswith("'response' is missing")


def test_encoded_data_is_used_again(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = str(tmp_path / "cache")
    first = run_finetune(finetuning(world, tmp_path / "a", cache=cache))

    def refuse(*arguments: object) -> Iterator[None]:
        raise AssertionError("read again")

    monkeypatch.setattr(training_data, "read_conversations", refuse)
    again = run_finetune(finetuning(world, tmp_path / "b", cache=cache))
    assert timeless(first.folder) == timeless(again.folder)
    with pytest.raises(AssertionError):
        run_finetune(finetuning(world, tmp_path / "c", cache=cache, learn="all"))


# ---------------------------------------------------------------- built corpora


def test_a_built_corpus_gives_the_rows_of_its_text(world: Path, tmp_path: Path) -> None:
    texts = [str(world / "corpus.jsonl"), str(world / "more.jsonl")]
    build_corpus(sources(*texts), str(world / "tokenizer"), tmp_path / "built")
    changes = {"held_out_fraction": 0.2}
    plain = run_pretrain(pretraining(world, tmp_path / "a", corpus=texts, **changes))
    built = run_pretrain(
        pretraining(world, tmp_path / "b", corpus=str(tmp_path / "built"), **changes)
    )
    assert (built.folder / WEIGHTS).read_bytes() == (plain.folder / WEIGHTS).read_bytes()
    assert timeless(built.folder) == timeless(plain.folder)
    assert facts_of(built)[0]["held_out"]["documents"] > 0
    mixed = [DataSource(path=str(tmp_path / "built"), weight=0.5), *sources(texts[1])]
    _, ledger = facts_of(run_pretrain(pretraining(world, tmp_path / "c", corpus=mixed)))
    assert [source["documents"] for source in ledger["sources"]] == [40, 10]


# ---------------------------------------------------------------- streams


class Crash(BaseException):
    """What no handler expects, like a kill."""


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_a_stream_that_breaks_off_ends_with_the_same_bytes(
    kind: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"streaming": True, "shuffle_buffer": 5, "workers": 1}

    def start(out: Path) -> RunResult:
        if kind == "pretrain":
            corpus = [str(world / "corpus.jsonl"), str(world / "more.jsonl")]
            return run_pretrain(pretraining(world, out, steps=5, corpus=corpus, **changes))
        return run_finetune(finetuning(world, out, {"steps": 5}, **changes))

    steps, original = [], RowSource.next_step

    def counted(self: RowSource) -> Any:
        steps.append(len(steps) + 1)
        if len(steps) == 5 + 4:
            raise Crash
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(RowSource, "next_step", counted)
        whole = start(tmp_path / "whole")
        with pytest.raises(Crash):
            start(tmp_path / "parts")
    parts = start(tmp_path / "parts")
    assert parts.resumed_from == 2
    assert timeless(parts.folder) == timeless(whole.folder)
    output = next(whole.output.glob("*.safetensors")).name
    assert (parts.output / output).read_bytes() == (whole.output / output).read_bytes()
    assert facts_of(parts)[1] == facts_of(whole)[1]


def test_a_stream_needs_steps_and_stops_at_too_many_dropped_rows(
    world: Path, tmp_path: Path
) -> None:
    changes = {"streaming": True, "shuffle_buffer": 4, "workers": 1}
    epochs = {"steps": None, "epochs": 1.0}
    with pytest.raises(ConfigError, match=r"data\.streaming needs train\.steps.*epochs 1\.0"):
        run_finetune(finetuning(world, tmp_path / "a", epochs, **changes))
    rows = [{"prompt": "a", "response": "b" * (1 if n < 10 else 400)} for n in range(13)]
    write(tmp_path / "long.jsonl", rows)
    long = {"instructions": str(tmp_path / "long.jsonl"), "max_dropped": 2}
    with pytest.raises(DataError, match=r"3 of 13 rows would be dropped(.|\n)*long\.jsonl:13"):
        run_finetune(finetuning(world, tmp_path / "b", {"steps": 9}, **changes, **long))
    ledger = json.loads((tmp_path / "b/ledger.json").read_text())
    assert [row["origin"][-2:] for row in ledger["dropped_rows"]] == ["11", "12", "13"]
    assert json.loads((tmp_path / "b/run.json").read_text())["status"] == "failed"


def test_the_workers_and_the_cache_may_change_when_a_run_goes_on(
    world: Path, tmp_path: Path
) -> None:
    run_finetune(finetuning(world, tmp_path / "run", workers=1))
    changed = {"workers": 2, "cache": str(tmp_path / "cache")}
    assert run_finetune(finetuning(world, tmp_path / "run", **changed)).already_finished


# ---------------------------------------------------------------- options that do not fit


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"held_out": "b", "held_out_fraction": 0.1}, "either held_out or held_out_fraction"),
        ({"streaming": True, "held_out_fraction": 0.1}, "cannot hold out a fraction"),
        ({"streaming": True, "temperature": 2.0}, "temperature must be 1"),
        ({"shuffle_buffer": 7}, "shuffle_buffer is only for streaming"),
        ({"held_out": [{"path": "b", "weight": 2.0}]}, "b can have no weight"),
        ({"max_prompt_tokens": 7}, "only for long: truncate"),
        ({"instructions": []}, "instructions is empty"),
    ],
)
def test_options_that_would_not_be_used_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FinetuneData(**{"instructions": "a"} | options)


def test_text_has_no_columns_and_a_built_corpus_no_options(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"columns and mend are for conversations, and a\.csv"):
        PretrainData(corpus=[{"path": "a.csv", "mend": True}])
    build_corpus(sources(world / "more.jsonl"), str(world / "tokenizer"), tmp_path / "built")
    source = {"path": str(tmp_path / "built"), "text_key": "content"}
    with pytest.raises(DataError, match="built already, so it cannot be read with text_key"):
        run_pretrain(pretraining(world, tmp_path / "run", corpus=[source]))
    streamed = {"corpus": str(tmp_path / "built"), "streaming": True}
    with pytest.raises(ConfigError, match="which is built already"):
        run_pretrain(pretraining(world, tmp_path / "run", **streamed))


def test_sources_are_written_as_they_were_given() -> None:
    given = {"instructions": ["a", {"path": "b", "weight": 2.0}], "temperature": "infinite"}
    data = FinetuneData(**given)
    written = data.model_dump(mode="json")
    assert {key: written[key] for key in given} == given
    assert FinetuneData(**written) == data
    assert data.instructions[1].weight == 2
