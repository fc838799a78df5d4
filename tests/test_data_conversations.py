"""Conversations: every accepted shape, and complete errors for the others."""

import json
from pathlib import Path

import pytest

from danlu.data.conversations import read_conversations
from danlu.errors import DataError


def turns(*contents: str, system: str | None = None) -> list[dict[str, str]]:
    first = [] if system is None else [{"role": "system", "content": system}]
    roles = ("user", "assistant")
    return first + [{"role": roles[at % 2], "content": text} for at, text in enumerate(contents)]


def write_rows(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"messages": turns("q", "a", system="s")}, turns("q", "a", system="s")),
        (
            {"messages": [{"role": "Human", "content": "q"}, {"role": "bot", "content": "a"}]},
            turns("q", "a"),
        ),
        (
            {
                "id": 1,
                "conversations": [
                    {"from": "human", "value": "q"},
                    {"from": "gpt", "value": "a"},
                    {"from": "user", "value": "q2"},
                    {"from": "assistant", "value": "a2"},
                ],
                "instruction": "",
            },
            turns("q", "a", "q2", "a2"),
        ),
        ({"prompt": "q", "response": "a"}, turns("q", "a")),
        ({"instruction": "i", "input": "", "output": "a"}, turns("i", "a")),
        (
            {
                "instruction": "i",
                "input": "x",
                "output": "a",
                "system": "s",
                "history": [["q", "b"]],
            },
            turns("q", "b", "i\nx", "a", system="s"),
        ),
        ({"src": "q", "tgt": "a"}, turns("q", "a")),
        (
            {"src": ["q", "r"], "tgt": ["a", "b"], "context": {"system": "s"}},
            turns("q", "a", "r", "b", system="s"),
        ),
    ],
)
def test_shapes(tmp_path, row, messages):
    lines = write_rows(tmp_path / "a.jsonl", row)
    listed = tmp_path / "b.json"
    listed.write_text(json.dumps([row]))
    assert [one.messages for one in read_conversations(lines)] == [messages]
    assert [one.messages for one in read_conversations(listed)] == [messages]
    assert next(read_conversations(lines)).origin == f"{lines}:1"


def test_kind_of_a_row(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", {"prompt": "q", "response": "a", "kind": "k"})
    assert next(read_conversations(path)).kind == "k"


BAD = [
    ({"prompt": "q"}, "'response' is missing"),
    ({"prompt": 3, "response": "a"}, "'prompt' is not a text"),
    ({"id": 1}, "no known shape; its keys are ['id']"),
    ([1], "a row is a list, not an object"),
    ({"messages": "hi"}, "'messages' is not a list"),
    ({"messages": []}, "there is no turn"),
    ({"messages": ["hi"]}, "turn 1 of 'messages' is not an object"),
    ({"messages": [{"role": "usr", "content": "x"}]}, "has the role 'usr'"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "turn 1 is from tool; expected user"),
    ({"messages": turns("q")}, "the last turn is from the user"),
    ({"messages": turns("q", "a")[1:]}, "turn 1 is from assistant; expected user"),
    ({"messages": turns("q", " ")}, "turn 2, from assistant, is empty"),
    ({"src": ["q", "r"], "tgt": ["a"]}, "'src' has 2 texts and 'tgt' 1"),
    ({"src": [1], "tgt": ["a"]}, "'src' holds something that is not a text"),
    ({"src": "q", "tgt": "a", "context": "s"}, "'context' is not an object"),
    ({"instruction": "i", "input": 1, "output": "a"}, "'input' is not a text"),
    ({"instruction": "i", "output": "a", "history": ["q"]}, "not [question, answer]"),
    ({"conversations": [], "system": 3}, "the system message is not a text"),
    ({"messages": turns("q", "a"), "label": True}, "row (messages, label) is a labelled"),
    ({"conversations": [], "chosen": {}, "rejected": {}}, "is a preference pair"),
]


def test_all_bad_rows_are_listed_with_their_line(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", {"prompt": "q", "response": "a"}, *(b for b, _ in BAD))
    with pytest.raises(DataError) as caught:
        list(read_conversations(path))
    assert f"{len(BAD)} problems" in str(caught.value)
    listed = str(caught.value).splitlines()
    for number, (_, reason) in enumerate(BAD[:20], start=2):
        assert any(f"a.jsonl:{number}: " in line and reason in line for line in listed), reason


def test_files_that_hold_no_conversation(tmp_path):
    with pytest.raises(DataError, match="no rows"):
        list(read_conversations(write_rows(tmp_path / "a.jsonl")))
    with pytest.raises(DataError, match="Cannot read"):
        list(read_conversations(tmp_path / "missing.jsonl"))
    (tmp_path / "a.txt").write_text("Some prose, and more of it.")
    with pytest.raises(DataError, match="neither JSON nor a table"):
        list(read_conversations(tmp_path / "a.txt"))
    (tmp_path / "b.jsonl").write_bytes(b'{"prompt": "\xff"}\n')
    with pytest.raises(DataError, match="byte offset 12"):
        list(read_conversations(tmp_path / "b.jsonl"))


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("alpaca_zh_demo.jsonl", 850),
        ("identity.jsonl", 91),
        ("aquila_sft_samples.jsonl", 3),
        ("fastchat_dummy_conversation.json", 500),
    ],
)
def test_real_files(shared, name, count):
    assert len(list(read_conversations(shared / "data" / "train" / "sft" / name))) == count
