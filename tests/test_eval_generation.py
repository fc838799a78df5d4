"""A model in training answers: judged, written to files, and without a trace in its training."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_parts import tiny_decoder, tiny_llm, tiny_tokenizer

from danlu.config.evaluation import EvaluationConfig
from danlu.config.train import TrainOptions
from danlu.data.examples import Conversation
from danlu.data.mixing.passes import SamePasses
from danlu.data.packing import PackedRow, TokenDocument
from danlu.engine.sampling import SamplingParams
from danlu.errors import DataError, RequestError
from danlu.eval.generation import GENERATED, text_evaluations
from danlu.eval.text_metrics import text_scores
from danlu.models.decoder import Decoder
from danlu.tokenizer import Tokenizer
from danlu.train.checkpoint import checkpoint_folders
from danlu.train.evaluating.evaluation import Evaluation
from danlu.train.loop import CHECKPOINTS, METRICS, SAMPLES, Job, train
from danlu.train.metrics import read_metrics
from danlu.train.objective import CausalLM
from danlu.train.precision import Masters
from danlu.train.source import RowSource

TOOL = {"type": "function", "function": {"name": "f", "description": "", "parameters": {}}}


def conversation(question: str, answer: str, line: int = 1, **more: Any) -> Conversation:
    messages = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
    ]
    return Conversation(messages, f"held.jsonl:{line}", **more)


HELD_OUT = [
    conversation("安娜?", "安娜有三个红苹果。", 1),
    conversation("Anna?", "Anna has three red apples.", 2),
    conversation("Ben?", "She gave Ben one.", 3),
]
SHORT: dict[str, Any] = {"max_new_tokens": 6, "batch_size": 2}


def evaluations(folder: Path, decoder: Decoder, **options: Any) -> list[Evaluation]:
    config = EvaluationConfig(**SHORT | options)
    return text_evaluations(config, decoder, tiny_tokenizer(), HELD_OUT, folder)


def test_answers_are_judged_and_written(tmp_path: Path) -> None:
    [judged] = evaluations(tmp_path, tiny_decoder(), metrics=["rouge1", "exact_match"])
    assert judged.names == ["rouge1", "exact_match"]
    found = judged.evaluate(tiny_decoder(), 7)
    lines = (tmp_path / GENERATED).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    params = SamplingParams(temperature=0.0, max_tokens=6)
    for row, held_out in zip(rows, HELD_OUT, strict=True):
        assert row["answer"] == tiny_llm().chat(held_out.messages[:1], params).text
        assert row["step"] == 7
        assert row["origin"] == held_out.origin
        assert row["prompt"] == held_out.messages[:1]
        assert row["reference"] == held_out.messages[1]["content"]
        scores = text_scores(row["answer"], row["reference"], ["rouge1", "exact_match"])
        assert {name: row[name] for name in scores} == scores
    assert "安娜" in lines[0]
    assert found.numbers == {
        name: sum(row[name] for row in rows) / 3 for name in ("rouge1", "exact_match")
    }
    assert not found.samples


def test_samples_are_prompts_and_answers(tmp_path: Path) -> None:
    [samples] = evaluations(tmp_path, tiny_decoder(), metrics=[], samples=["甲", "b"])
    assert list(samples.names) == []
    params = SamplingParams(temperature=0.0, max_tokens=6)
    questions = [[{"role": "user", "content": text}] for text in ("甲", "b")]
    answers = [answer.text for answer in tiny_llm().chat(questions, params)]
    assert samples.evaluate(tiny_decoder(), 1).samples == [
        {"prompt": "甲", "answer": answers[0]},
        {"prompt": "b", "answer": answers[1]},
    ]
    assert not (tmp_path / GENERATED).exists()


def test_rows_are_limited_and_those_without_an_answer_left_out(tmp_path: Path) -> None:
    config = EvaluationConfig(rows=1, metrics=["bleu4"], **SHORT)
    call = Conversation(
        [{"role": "user", "content": "?"}, {"role": "assistant", "content": ""}], "x:1"
    )
    found = text_evaluations(config, tiny_decoder(), tiny_tokenizer(), [call, *HELD_OUT], tmp_path)
    found[0].evaluate(tiny_decoder(), 1)
    [row] = map(json.loads, (tmp_path / GENERATED).read_text(encoding="utf-8").splitlines())
    assert row["origin"] == "held.jsonl:1"
    with pytest.raises(DataError, match=r"none of 1 does\. Give data\.held_out"):
        text_evaluations(config, tiny_decoder(), tiny_tokenizer(), [call], tmp_path)


def test_long_conversations_lose_their_oldest_rounds_before_training(tmp_path: Path) -> None:
    old = [{"role": "user", "content": "apples " * 40}, {"role": "assistant", "content": "yes"}]
    long = Conversation([*old, *HELD_OUT[1].messages], "held.jsonl:9")
    config = EvaluationConfig(metrics=["bleu4"], **SHORT)
    [judged] = text_evaluations(config, tiny_decoder(), tiny_tokenizer(), [long], tmp_path)
    judged.evaluate(tiny_decoder(), 1)
    [row] = map(json.loads, (tmp_path / GENERATED).read_text(encoding="utf-8").splitlines())
    assert row["prompt"] == HELD_OUT[1].messages[:1]
    endless = conversation("apples " * 200, "yes")
    with pytest.raises(RequestError):
        text_evaluations(config, tiny_decoder(), tiny_tokenizer(), [endless], tmp_path)


def test_tools_of_a_conversation_are_in_its_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    original = Tokenizer.render_chat

    def render(self: Tokenizer, messages: Any, tools: Any = None, **options: Any) -> Any:
        seen.append(tools)
        return original(self, messages, **options)

    config = EvaluationConfig(metrics=["bleu4"], **SHORT)
    held_out = [HELD_OUT[0], conversation("Anna?", "yes", tools=[TOOL])]
    monkeypatch.setattr(Tokenizer, "render_chat", render)
    [judged] = text_evaluations(config, tiny_decoder(), tiny_tokenizer(), held_out, tmp_path)
    seen.clear()
    judged.evaluate(tiny_decoder(), 1)
    assert seen == [None, [TOOL]]


def job(folder: Path, *, evaluates: bool) -> Job[Any]:
    tokenizer, decoder = tiny_tokenizer(), copy.deepcopy(tiny_decoder())
    documents = [
        TokenDocument(ids, origin=c.origin)
        for c in HELD_OUT
        for ids in [list(tokenizer.render_chat(c.messages, add_generation_prompt=False).ids)]
    ]
    options = TrainOptions(
        steps=4, micro_batch_size=1, global_batch_size=2, learning_rate=3e-2, save_every_steps=3,
        best_metric="rougeL" if evaluates else None,
    )  # fmt: skip
    found: list[Evaluation] = []
    if evaluates:
        more: dict[str, Any] = {"metrics": ["rougeL"], "samples": ["Anna?"], "every_steps": 2}
        found = evaluations(folder, decoder, **more)
    passes = SamePasses([PackedRow([document]) for document in documents])
    source = RowSource(passes, 0, 1, 2)
    return Job(decoder, Masters(decoder), CausalLM(), source, [], options, 4, 0, evaluations=found)


def test_a_run_that_answers_trains_the_same_weights(tmp_path: Path) -> None:
    runs = {
        name: job(tmp_path / name, evaluates=name == "answers") for name in ("plain", "answers")
    }
    for name, one in runs.items():
        train(one, tmp_path / name)
    last = [
        (checkpoint_folders(tmp_path / name / CHECKPOINTS)[-1] / file).read_bytes()
        for file in ("weights.safetensors", "optimizer.safetensors")
        for name in runs
    ]
    assert last[0] == last[1]
    assert last[2] == last[3]
    records = read_metrics(tmp_path / "answers" / METRICS)
    assert [record["step"] for record in records if "rougeL" in record] == [2, 4]
    samples = (tmp_path / "answers" / SAMPLES).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in samples] == [2, 4]
    assert all(json.loads(line)["prompt"] == "Anna?" for line in samples)
    assert torch.is_grad_enabled()
