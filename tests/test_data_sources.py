"""Corpora: accepted shapes, document rules, complete errors, the held-out split."""

import json
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.data.sources import TARGET_CHARS, Document, held_out_split, read_corpus
from danlu.errors import DataError


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def texts(path: Path, **options: str) -> list[str]:
    return [document.text for document in read_corpus(path, **options)]


def test_marks_end_documents(tmp_path):
    path = write(tmp_path / "a.txt", "one\n\nstill one\n<|endoftext|>\ntwo\fthree\n")
    documents = list(read_corpus(path))
    assert [document.text for document in documents] == ["one\n\nstill one", "two", "three"]
    assert [document.origin for document in documents] == [f"{path}:1", f"{path}:5", f"{path}:5"]


def test_paragraphs_are_gathered_with_their_neighbours(tmp_path):
    paragraphs = ["word " * 100 + str(number) for number in range(12)]
    found = texts(write(tmp_path / "a.txt", "\n\n".join(paragraphs)))
    assert "\n\n".join(found) == "\n\n".join(paragraphs)
    assert len(found) == 4
    assert all(len(text) <= TARGET_CHARS for text in found)


def test_a_long_paragraph_is_parted_between_lines_and_a_line_is_never_cut(tmp_path):
    lines = ["x" * 700] * 5 + ["y" * (TARGET_CHARS + 1)] + ["z" * 10]
    found = texts(write(tmp_path / "a.txt", "\n".join(lines)))
    assert "\n".join(found).split("\n") == lines
    assert max(map(len, found)) == TARGET_CHARS + 1


def test_line_ends_and_byte_order_mark_are_not_text(tmp_path):
    path = write(tmp_path / "a.txt", b"\xef\xbb\xbf\xe4\xbd\xa0\r\n\xe5\xa5\xbd\r\n")
    assert texts(path) == ["你\n好"]


def test_rows_of_json_lines(tmp_path):
    rows = [{"text": "a"}, "b", {"title": "t", "lines": ["c", "d"]}, {"lines": ["e"]}]
    path = write(tmp_path / "a.jsonl", "\n\n".join(json.dumps(row) for row in rows))
    documents = list(read_corpus(path))
    assert [document.text for document in documents] == ["a", "b", "t\nc\nd", "e"]
    assert documents[2].origin == f"{path}:5"


def test_rows_of_a_json_list_know_their_line(tmp_path):
    path = write(tmp_path / "a.json", '[\n {"body": "a"},\n {\n  "body": "b"}\n]\n')
    documents = list(read_corpus(path, text_key="body"))
    assert documents == [Document("a", f"{path}:2"), Document("b", f"{path}:3")]


def test_a_folder_is_read_in_order_and_the_rest_is_named(tmp_path, caplog):
    write(tmp_path / "b.txt", "b")
    write(tmp_path / "a" / "z.jsonl", '{"text": "az"}')
    write(tmp_path / "notes.md", "not read")
    with caplog.at_level(logging.WARNING):
        assert texts(tmp_path) == ["az", "b"]
    assert "notes.md" in caplog.text


def test_all_problems_of_all_files_are_listed(tmp_path):
    write(tmp_path / "a.txt", b"good\nb\xffd\n")
    write(tmp_path / "b.jsonl", '{"text": "x"}\n{"txt": "y"}\n{"text": \n{"text": " "}\n3\n')
    write(tmp_path / "c.txt", "\n \n")
    write(tmp_path / "d.json", '[{"text": "x"},]')
    with pytest.raises(DataError) as caught:
        texts(tmp_path)
    message = str(caught.value)
    assert "7 problems" in message
    assert "a.txt:2: byte 0xff at byte offset 6 is not UTF-8" in message
    assert "b.jsonl:2: no text under 'text'" in message
    assert "keys are ['txt']" in message
    assert "b.jsonl:3: not JSON" in message
    assert "b.jsonl:4: the text is empty" in message
    assert "b.jsonl:5" in message
    assert "c.txt: the file is empty" in message
    assert "d.json:1: not JSON: a comma before" in message


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", "empty"),
        ("a.jsonl", "\n", "empty"),
        ("a.json", "[]", "empty"),
        ("a.json", '["x" "y"]', "expected ',' or ']'"),
        ("a.json", '["x"] 3', "after the end"),
        ("a.json", '["x"', "not JSON"),
        ("a.csv", "7", "names no columns"),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        texts(write(tmp_path / name, content))


def test_missing_corpus_and_folder_without_files_fail_at_once(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_corpus(tmp_path / "missing")
    with pytest.raises(DataError, match="no data file"):
        read_corpus(tmp_path)


def test_more_than_twenty_problems_are_counted(tmp_path):
    with pytest.raises(DataError, match=r"30 problems(.|\n)*\+10 more"):
        texts(write(tmp_path / "a.jsonl", "{}\n" * 30))


@given(st.lists(st.text(min_size=1, max_size=4), max_size=40), st.integers(0, 3))
def test_held_out_split_parts_by_text_and_leaves_no_side_empty(words, seed):
    documents = [Document(word, f"x:{at}") for at, word in enumerate(words)]
    if len(set(words)) < 2:
        with pytest.raises(DataError, match="at least 2"):
            held_out_split(documents, 0.1, seed)
        return
    train, held = held_out_split(documents, 0.1, seed)
    assert train
    assert held
    assert not {one.text for one in train} & {one.text for one in held}
    assert sorted(train + held, key=lambda one: int(one.origin[2:])) == documents


def test_held_out_share_and_seed():
    documents = [Document(str(number), "x:1") for number in range(2000)]
    train, held = held_out_split(documents, 0.05, 1)
    assert 70 <= len(held) <= 130
    again = held_out_split([*documents, Document("new", "x:2")], 0.05, 1)[1]
    assert [one for one in again if one.text != "new"] == held
    assert held_out_split(documents, 0.05, 2)[1] != held
    with pytest.raises(DataError, match="fraction"):
        held_out_split(documents, 1.0, 1)
    assert len(train) + len(held) == 2000


def test_real_corpora(shared, caplog):
    folder = shared / "data" / "train" / "pretrain"
    quatrain = next(read_corpus(folder / "quatrains_zh.jsonl"))
    assert quatrain.text == "偈\n来年二月二\n与汝暂相弃\n烧灰散长江\n勿占檀那地"
    plays = texts(folder / "tinyshakespeare.txt")
    assert 500 < len(plays) < 700
    wiki = texts(folder / "wiki_demo.txt")
    assert len(wiki) == 30
    assert len(texts(folder)) > 17_000
