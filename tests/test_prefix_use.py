"""A prefix in use: answers through the engine, training, the command line."""

import json
from pathlib import Path

import pytest
import torch
from command_line import printed
from engine_parts import tiny_decoder, tiny_tokenizer
from train_parts import left_behind, tiny_job

from danlu.commands.finetune import run_finetune
from danlu.commands.models import list_families
from danlu.config.adapter import PrefixConfig, PromptConfig
from danlu.config.data import FinetuneData
from danlu.config.run import FinetuneRun
from danlu.config.train import TrainOptions
from danlu.engine.batches import plan_batches
from danlu.engine.llm import LLM
from danlu.engine.sampling import SamplingParams
from danlu.engine.sequence import Request
from danlu.errors import AdapterError, CheckpointError, RequestError
from danlu.loading import attach_adapter, load_decoder, save_adapter, save_decoder
from danlu.train.loop import train
from danlu.train.metrics import StepLog, read_metrics

GREEDY = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True)
PROMPTS: list[list[int]] = [[5, 9, 3, 7, 1, 2, 8], [4, 6], [11, 12, 13, 14]]
TALK = [{"role": "user", "content": "Who has an apple?"}]
CONFIGS = {
    "prefix": PrefixConfig(num_tokens=8),
    "projected": PrefixConfig(num_tokens=8, projection=True),
    "prompt": PromptConfig(num_tokens=8, init_text="Anna has three red apples."),
}
every_kind = pytest.mark.parametrize("kind", CONFIGS)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder, and one with an adapter of each kind beside it."""
    folder = tmp_path_factory.mktemp("prefixed")
    save_decoder(tiny_decoder(), folder / "model")
    tiny_tokenizer().save(folder / "model")
    for kind, config in CONFIGS.items():
        decoder = load_decoder(folder / "model")
        generator = torch.Generator().manual_seed(5)
        attach_adapter(decoder, config, generator, tokenizer=tiny_tokenizer())
        save_adapter(decoder, folder / kind, folder / "model")
    return folder


@torch.inference_mode()
def continued(llm: LLM, prompt: list[int], count: int) -> list[int]:
    """A greedy answer without a cache."""
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(llm.decoder(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]


@every_kind
def test_answers_are_those_of_the_uncached_model(model: Path, kind: str) -> None:
    llm = LLM(model / "model", adapter=model / kind)
    answers = llm.generate(PROMPTS, GREEDY)
    assert [a.token_ids for a in answers] == [continued(llm, p, 6) for p in PROMPTS]
    plain = LLM(model / "model").generate(PROMPTS, GREEDY)
    assert [a.token_ids for a in answers] != [a.token_ids for a in plain]
    twice = llm.generate(PROMPTS, GREEDY.model_copy(update={"n": 2}))
    assert [a.token_ids for a in twice[::2]] == [a.token_ids for a in answers]
    assert "".join(llm.stream(TALK, GREEDY)) == llm.chat(TALK, GREEDY).text


def test_a_prompt_begins_as_its_text(model: Path) -> None:
    decoder = load_decoder(model / "model", adapter=model / "prompt")
    ids = tiny_tokenizer().encode("Anna has three red apples.")
    wanted = decoder.token_embeddings(torch.tensor((ids * 8)[:8]))
    assert torch.equal(decoder.prefix.embeddings, wanted)  # type: ignore[union-attr]
    with pytest.raises(AdapterError, match="whose tokens nobody gave"):
        attach_adapter(load_decoder(model / "model"), CONFIGS["prompt"], torch.Generator())
    outside = PromptConfig(num_tokens=2, init_ids=[3, 300])
    with pytest.raises(AdapterError, match=r"init_ids \[300\] are outside the vocabulary"):
        attach_adapter(load_decoder(model / "model"), outside, torch.Generator())


def test_the_context_counts_the_prefix(model: Path) -> None:
    llm = LLM(model / "model", adapter=model / "prefix")
    with pytest.raises(RequestError, match="it has 88 tokens; expected fewer than 88"):
        llm.generate([[1] * 88], GREEDY)
    [answer] = llm.generate([[1] * 85], GREEDY)
    assert len(answer.token_ids) == 3
    assert answer.finish_reason == "length"


def test_a_batch_has_room_for_the_prefix() -> None:
    requests = [Request([1] * 4, GREEDY, 6, frozenset(), 0)] * 4
    assert [len(batch) for batch in plan_batches(requests, 40)] == [4]
    assert [len(batch) for batch in plan_batches(requests, 40, slots_in_front=10)] == [2, 2]


def test_the_command_line_takes_it(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask = ("generate", model / "model", "--prompt", "Anna", "--temperature", 0, "--max-tokens", 5)
    shown = printed(capsys, *ask, "--adapter", model / "prefix")
    llm = LLM(model / "model", adapter=model / "prefix")
    params = SamplingParams(temperature=0.0, max_tokens=5)
    assert shown.strip() == llm.generate("Anna", params)[0].text.strip()
    assert shown != printed(capsys, *ask)


def test_a_model_with_a_prefix_is_not_saved_as_if_it_had_none(model: Path, tmp_path: Path) -> None:
    decoder = load_decoder(model / "model", adapter=model / "prefix")
    with pytest.raises(CheckpointError, match=r"carries adapters \(default\)"):
        save_decoder(decoder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@every_kind
def test_training_moves_the_prefix_alone_and_goes_on_where_it_stopped(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CONFIGS[kind].model_copy(update={"init_text": None})
    straight = tiny_job(lora=config)
    parameters = dict(straight.decoder.named_parameters())
    before = {name: p.clone() for name, p in parameters.items()}
    train(straight, tmp_path / "straight")
    moved = {name for name, p in parameters.items() if not torch.equal(p, before[name])}
    assert moved == set(straight.masters.weights)
    assert all(name.startswith("prefix.") for name in moved)
    with monkeypatch.context() as patch:
        steps = iter(range(3))
        write = StepLog.write
        patch.setattr(StepLog, "write", lambda *args: (next(steps), write(*args)))
        with pytest.raises(StopIteration):
            train(tiny_job(lora=config), tmp_path / "resumed")
    resumed = tiny_job(lora=config)
    assert train(resumed, tmp_path / "resumed").resumed_from == 2
    wanted = left_behind(tmp_path / "straight", straight)
    assert left_behind(tmp_path / "resumed", resumed) == wanted


@pytest.mark.parametrize("kind", ["projected", "prompt"])
def test_fine_tuning_from_a_run_file(model: Path, kind: str, tmp_path: Path) -> None:
    chats = [{"prompt": f"Say {i}", "response": f"It is {i}."} for i in range(8)]
    text = "".join(json.dumps(row) + "\n" for row in chats)
    (tmp_path / "chats.jsonl").write_text(text, encoding="utf-8")
    run = FinetuneRun(
        out=str(tmp_path / "run"),
        model=str(model / "model"),
        data=FinetuneData(instructions=str(tmp_path / "chats.jsonl"), max_seq_len=64),
        adapter=CONFIGS[kind],
        train=TrainOptions(
            steps=12, micro_batch_size=2, global_batch_size=4, learning_rate=0.05, warmup_steps=1
        ),
    )
    run_finetune(run)
    losses = [r["loss"] for r in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert min(losses[-3:]) < losses[0] - 0.2
    answer = LLM(model / "model", adapter=tmp_path / "run" / "adapter").chat(TALK, GREEDY)
    assert len(answer.token_ids) == 6


def test_every_family_has_it() -> None:
    assert {row.prefix for row in list_families()} == {"yes"}
