"""Every command on a tiny real model: it does its work and prints what it found."""

import io
import json
import re
from pathlib import Path

import pytest
from command_line import Capture, complained, printed


def test_merge(tiny_tour: Path, tmp_path: Path, capsys: Capture) -> None:
    base, adapter = tiny_tour / "pretrain" / "model", tiny_tour / "finetune" / "adapter"
    out = tmp_path / "merged"
    shown = printed(capsys, "merge", base, adapter, out)
    assert "top-1 agreement" in shown
    saved = (out / "model.safetensors").read_bytes()
    assert saved == (tiny_tour / "model" / "model.safetensors").read_bytes()
    assert "exists and is not empty" in complained(capsys, "merge", base, adapter, out)
    assert "fp31" in complained(capsys, "merge", base, adapter, tmp_path / "x", "--dtype", "fp31")


def test_quantize(tiny_tour: Path, tmp_path: Path, capsys: Capture) -> None:
    model = tiny_tour / "model"
    shown = printed(capsys, "quantize", model, tmp_path / "q8", "--bits", 8, "--no-speed")
    assert "rtn, 8 bits, whole rows" in shown
    shown = printed(capsys, "quantize", model, tmp_path / "q4", "--group-size", 16, "--no-speed")
    assert "rtn, 4 bits, groups of 16" in shown
    shown = complained(capsys, "quantize", model, tmp_path / "q5", "--bits", 5)
    assert "bits: should be 2, 3, 4 or 8; found 5" in shown


def test_compare(tiny_tour: Path, capsys: Capture) -> None:
    text = tiny_tour / "world" / "held_out.jsonl"
    models = tiny_tour / "model", tiny_tour / "model-int4"
    shown = printed(capsys, "compare", *models, "--text", text, "--no-speed")
    assert "KL divergence" in shown
    assert "decode" not in shown


def test_eval(tiny_tour: Path, tmp_path: Path, capsys: Capture) -> None:
    test = tiny_tour / "world" / "instructions_test.jsonl"
    out = tmp_path / "scores.json"
    flags = ("--instructions", test, "--text", tiny_tour / "world" / "held_out.jsonl")
    adapter = tiny_tour / "finetune" / "adapter"
    base = tiny_tour / "pretrain" / "model"
    shown = printed(capsys, "eval", base, *flags, "--adapter", adapter, "--limit", 4, "--out", out)
    assert "exactly right" in shown
    assert "perplexity" in shown
    assert len(json.loads(out.read_text())["samples"]) == 4
    assert "There is nothing to evaluate on" in complained(capsys, "eval", base)


def test_generate_streams_the_same_as_the_library(tiny_tour: Path, capsys: Capture) -> None:
    import danlu

    model = tiny_tour / "model"
    flags = ("--temperature", 0, "--max-tokens", 8)
    params = danlu.SamplingParams(temperature=0.0, max_tokens=8)
    llm = danlu.LLM(model)
    expected = llm.generate("Tom has", params)[0].text
    assert printed(capsys, "generate", model, "--prompt", "Tom has", *flags) == expected + "\n"
    answer = llm.chat([{"role": "user", "content": "Who?"}], params).text
    shown = printed(capsys, "generate", model, "--chat", "--prompt", "Who?", *flags)
    assert shown == answer + "\n"


def test_generate_reads_stdin_and_files(
    tiny_tour: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_tour / "model"
    flags = ("--temperature", 0, "--max-tokens", 4)
    direct = printed(capsys, "generate", model, "--prompt", "Tom", *flags)
    monkeypatch.setattr("sys.stdin", io.StringIO("Tom"))
    assert printed(capsys, "generate", model, "--prompt", "-", *flags) == direct
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "answers.jsonl"
    prompts.write_text('{"prompt": "Tom"}\n{"prompt": "Lily"}\n')
    shown = printed(capsys, "generate", model, "--prompts", prompts, "--out", out, *flags)
    assert "answers  2" in shown
    assert json.loads(out.read_text().splitlines()[0])["text"] + "\n" == direct


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], "found neither"),
        (["--prompt", "a", "--prompts", "b"], "found both"),
        (["--prompts", "b"], "belong together"),
        (["--prompts", "b", "--out", "c", "--chat"], "--chat is for --prompt"),
        (["--prompt", "a", "--top-p", "2"], "top_p"),
    ],
)
def test_generate_refuses_flags_that_do_not_fit(
    flags: list[str], expected: str, capsys: Capture
) -> None:
    assert expected in complained(capsys, "generate", "no-model", *flags)


def test_chat(tiny_tour: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = iter(["/set max_tokens=3", "Who has the ball?", "/exit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    shown = printed(capsys, "chat", tiny_tour / "model", "--temperature", 0, "--system", "Hi.")
    assert shown.startswith("max_tokens = 3\n")
    assert shown.endswith("Goodbye.\n")
    assert len(shown.splitlines()) >= 3


def test_tokenizer(tiny_tour: Path, tmp_path: Path, capsys: Capture) -> None:
    world, out = tiny_tour / "world", tmp_path / "tokenizer"
    train = ("tokenizer", "train", world / "corpus.jsonl", "--out", out, "--vocab-size", 300)
    assert "300 tokens" in printed(capsys, *train)
    assert "exists and is not empty" in complained(capsys, *train)
    texts = ("--text", world / "held_out.jsonl", "--text", f"code={world / 'code.jsonl'}")
    shown = printed(capsys, "tokenizer", "compare", out, *texts).splitlines()
    assert shown[1].split() == ["vocabulary", "English", "Chinese", "code"]
    in_bytes, counts = (line.split()[-3:] for line in shown[3:5])
    assert all(float(a) > float(b) for a, b in zip(in_bytes, counts, strict=True))


def test_tokenizer_on_a_bad_corpus(tmp_path: Path, capsys: Capture) -> None:
    corpus = tmp_path / "bad.jsonl"
    corpus.write_text('{"text": "a"}\n{"txt": "b"}\n')
    out = tmp_path / "tokenizer"
    assert "bad.jsonl:2" in complained(capsys, "tokenizer", "train", corpus, "--out", out)
    assert not out.exists()


def test_info(tiny_tour: Path, capsys: Capture) -> None:
    shown = printed(capsys, "info", tiny_tour / "model")
    assert "chatml" in shown
    assert re.search(r"layers +2 x hidden 32", shown)
    assert "quantized" in printed(capsys, "info", tiny_tour / "model-int4")
    shown = printed(capsys, "info", tiny_tour / "finetune" / "adapter")
    assert "adapter (LORA)" in shown
    assert re.search(r"rank +32", shown)


def test_pretrain_and_finetune_from_run_files(
    tiny_tour: Path, tmp_path: Path, capsys: Capture
) -> None:
    for command in ("pretrain", "finetune"):
        run_file = tiny_tour / command / "run.json"
        again = (command, run_file, f"out={tmp_path / command}", "train.steps=2")
        assert "steps" in printed(capsys, *again)
        assert "this run had finished before" in printed(capsys, *again)
        assert "holds a different run" in complained(capsys, *again[:-1], "train.steps=3")
