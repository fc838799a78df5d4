"""What `danlu generate` and `danlu eval` do, called from Python."""

import json

import pytest
from engine_parts import tiny_decoder, tiny_llm, tiny_tokenizer

from danlu.commands.evaluate import evaluate
from danlu.commands.generate import generate
from danlu.engine.sampling import SamplingParams
from danlu.errors import ConfigError, DataError, OutputError
from danlu.loading import save_decoder

GREEDY = SamplingParams(temperature=0.0, max_tokens=5)
TALK = [{"role": "user", "content": "Who?"}]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_decoder(tiny_decoder(), folder)
    tiny_tokenizer().save(folder)
    return folder


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_prompts_of_a_file_become_rows_of_a_file(tmp_path):
    llm = tiny_llm()
    source = write_rows(tmp_path / "in.jsonl", ["A", {"messages": TALK}, {"prompt": "苹果"}])
    out = tmp_path / "out.jsonl"
    report = generate(llm, source, GREEDY.model_copy(update={"n": 2}), out)
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    texts = [llm.generate("A", GREEDY)[0], llm.chat(TALK, GREEDY), llm.generate("苹果", GREEDY)[0]]
    assert [row["text"] for row in rows] == [a.text for a in texts for _ in range(2)]
    assert [row["index"] for row in rows] == [0, 1] * 3
    assert rows[2]["messages"] == TALK
    assert rows[4]["prompt"] == "苹果"
    assert len(report.answers) == 6
    assert report.num_tokens == sum(row["answer_tokens"] for row in rows)
    assert report.rows()[0] == ("answers", "6")


def test_bad_rows_are_all_named_and_nothing_is_written(tmp_path):
    source = write_rows(tmp_path / "in.jsonl", [{"text": "A"}, "fine", {"messages": []}, 3])
    with pytest.raises(DataError, match="3 problems") as caught:
        generate(tiny_llm(), source, GREEDY, tmp_path / "out.jsonl")
    assert all(f"in.jsonl:{line}" in str(caught.value) for line in (1, 3, 4))
    assert not (tmp_path / "out.jsonl").exists()


def test_an_existing_file_is_kept(tmp_path):
    out = tmp_path / "out.jsonl"
    out.write_text("old")
    with pytest.raises(OutputError, match="exists; nothing was overwritten"):
        generate(tiny_llm(), ["A"], GREEDY, out)
    assert out.read_text() == "old"


def test_an_evaluation_is_written_as_json(model, tmp_path):
    messages = [*TALK, {"role": "assistant", "content": "Anna"}]
    asked = write_rows(tmp_path / "q.jsonl", [{"messages": messages, "kind": "who"}] * 3)
    text = tmp_path / "text.txt"
    text.write_text("安娜有三个红苹果。\n", encoding="utf-8")
    out = tmp_path / "eval.json"
    report = evaluate(model, asked, text, limit=2, with_speed=True, out=out)
    written = json.loads(out.read_text(encoding="utf-8"))
    assert written == report.as_dict()
    assert written["total"] == written["by_kind"]["who"]["total"] == 2
    assert written["samples"][0]["expected"] == "Anna"
    assert written["num_documents"] == 1
    assert written["perplexity"] == report.text.perplexity
    assert written["dtype"] == "float32"
    assert written["weight_bytes"] > 0
    labels = ["weights", "exactly right", "  who", "perplexity", "prefill", "decode"]
    assert [label for label, _ in report.rows()] == labels


def test_a_quantized_model_is_evaluated(model, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("Anna has three red apples.\n" * 3)
    plain, rounded = evaluate(model, text=text), evaluate(model, text=text, quantize="int8")
    assert rounded.quantize == "int8"
    assert plain.answers is plain.speed is None
    assert rounded.text.perplexity != plain.text.perplexity
    assert rounded.text.perplexity == pytest.approx(plain.text.perplexity, rel=0.2)


def test_nothing_to_measure_on_is_an_error(model):
    with pytest.raises(ConfigError, match="nothing to evaluate on"):
        evaluate(model)
