"""Files by content: every layout gives the same rows, streams them, and says what is wrong."""

import csv
import gzip
import io
import json
import os
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import pytest

from danlu.config.data import DataSource
from danlu.data.conversations import read_conversations
from danlu.data.reading.json_window import Window
from danlu.data.reading.locating import data_files
from danlu.data.reading.problems import Problems
from danlu.data.reading.rows import source_rows
from danlu.data.sources import read_corpus
from danlu.errors import DataError, MissingExtraError

ROWS = [
    {"prompt": "one, two", "response": 'a "quoted"\nanswer'},
    {"prompt": "炼丹", "response": "丹炉"},
    {"prompt": "q", "response": "a\ttab; more"},
]


def table(rows: list[dict[str, str]], delimiter: str) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def dumped(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


LAYOUTS = {
    "lines": "\n".join(map(dumped, ROWS)),
    "lines with blanks": "\n\n".join(map(dumped, ROWS)) + "\n\n",
    "windows": "\ufeff" + "\r\n".join(map(dumped, ROWS)) + "\r\n",
    "list": dumped(ROWS),
    "indented list": dumped(ROWS, indent=2),
    "object with a list": dumped({"version": 1, "data": ROWS}),
    "indented object": dumped({"version": {"x": [1, 2]}, "rows": ROWS, "test": ROWS}, indent=2),
    "train in an object": dumped({"dev": ROWS[:1], "train": ROWS, "more": ROWS}),
    "objects over lines": "\n".join(dumped(row, indent=2) for row in ROWS),
    "csv": table(ROWS, ","),
    "tsv": table(ROWS, "\t"),
    "semicolons": table(ROWS, ";"),
}


def pairs(source: Path | DataSource) -> list[dict[str, str]]:
    return [
        {"prompt": one.messages[-2]["content"], "response": one.messages[-1]["content"]}
        for one in read_conversations(source)
    ]


def problems_of(source: Path | DataSource) -> str:
    with pytest.raises(DataError) as caught:
        list(read_conversations(source))
    return str(caught.value)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_told_by_its_content(tmp_path, layout):
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    plain.write_bytes(LAYOUTS[layout].encode())
    packed.write_bytes(gzip.compress(LAYOUTS[layout].encode()))
    assert pairs(plain) == ROWS
    assert pairs(packed) == ROWS


def test_parquet(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    turns = [
        {"role": "user", "content": "q", "tool_calls": None},
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]
    rows = [{"prompt": None, "response": None, "messages": turns}, *ROWS]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "rows")
    (tmp_path / "packed").write_bytes(gzip.compress((tmp_path / "rows").read_bytes()))
    for name in ("rows", "packed"):
        first, *rest = read_conversations(tmp_path / name)
        assert first.messages[0] == {"role": "user", "content": "q"}
        assert first.messages[1]["tool_calls"] == [call]
        assert [one.origin for one in rest] == [f"{tmp_path / name}:{at}" for at in (2, 3, 4)]
    (tmp_path / "cut").write_bytes((tmp_path / "rows").read_bytes()[:200])
    assert "not a whole Parquet file" in problems_of(tmp_path / "cut")


def test_parquet_without_the_extra(tmp_path, monkeypatch):
    (tmp_path / "rows").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtraError, match=r"danlu\[data\]"):
        list(read_conversations(tmp_path / "rows"))


# ---------------------------------------------------------------- where rows are


@pytest.fixture
def parts(tmp_path):
    """A folder as PaddleNLP has it."""
    folder = tmp_path / "data"
    (folder / "train").mkdir(parents=True)
    for name, rows in (("train/b.json", ROWS[1:]), ("train/a.json", ROWS[:1])):
        (folder / name).write_text(dumped(rows))
    (folder / "dev.json").write_text("\n".join(map(dumped, ROWS[:2])))
    (folder / "quant.json").write_text("\n".join(map(dumped, ROWS[:1])))
    (folder / "README.md").write_text("notes")
    return folder


def test_parts_of_a_folder(parts, caplog):
    assert pairs(parts) == ROWS
    assert "since the part 'train' is: README.md, dev.json, quant.json" in caplog.text
    assert pairs(DataSource(path=str(parts), split="dev")) == ROWS[:2]
    assert pairs(Path(f"{parts}:dev")) == ROWS[:2]
    assert [path.name for path in data_files(parts)] == ["a.json", "b.json"]
    message = problems_of(DataSource(path=str(parts), split="tests"))
    assert "has no part 'tests'; it has parts: dev, quant, train" in message


def test_a_folder_without_parts_is_read_whole_but_for_calibration(tmp_path, caplog):
    for name in ("b.jsonl", "a.csv", "quant.json"):
        (tmp_path / name).write_text(LAYOUTS["csv" if name == "a.csv" else "lines"])
    (tmp_path / ".hidden.jsonl").write_text("no row")
    assert pairs(tmp_path) == ROWS + ROWS
    assert "quant.json" in caplog.text


def test_folders_as_the_hub_has_them(tmp_path):
    (tmp_path / "data").mkdir()
    for number, row in enumerate(ROWS):
        name = f"data/train-0000{number}-of-00003.jsonl"
        (tmp_path / name).write_text(dumped(row))
    (tmp_path / "data" / "test-00000-of-00001.jsonl").write_text(dumped(ROWS[0]))
    assert pairs(tmp_path) == ROWS


def test_a_part_of_a_file(tmp_path):
    lists, column = tmp_path / "lists.json", tmp_path / "column.csv"
    lists.write_text(dumped({"train": ROWS, "dev": ROWS[:1]}))
    named = [{**row, "split": "dev" if at else "train"} for at, row in enumerate(ROWS)]
    column.write_text(table(named, ","))
    assert pairs(Path(f"{lists}:dev")) == ROWS[:1]
    assert pairs(DataSource(path=str(column), split="dev")) == ROWS[1:]
    assert "there is no list 'dex'" in problems_of(Path(f"{lists}:dex"))
    message = problems_of(Path(f"{column}:de"))
    assert "no row of the part 'de'; its parts: dev, train. Did you mean 'dev'?" in message
    with pytest.raises(DataError, match="names the part 'dev', but split is 'train'"):
        list(read_conversations(DataSource(path=f"{lists}:dev", split="train")))


def test_several_lists_must_be_chosen_from(tmp_path):
    (tmp_path / "a.json").write_text(dumped({"first": ROWS, "second": ROWS}))
    message = problems_of(tmp_path / "a.json")
    assert "which list is to be read" in message
    assert "lists of rows: first, second" in message


def test_a_missing_file_is_named_with_the_nearest(tmp_path):
    (tmp_path / "train.jsonl").write_text(LAYOUTS["lines"])
    with pytest.raises(DataError, match=r"Did you mean 'train.jsonl'\?"):
        list(read_conversations(tmp_path / "trian.jsonl"))
    with pytest.raises(DataError, match="write 'hub:owner/name'"):
        list(read_conversations("owner/name"))


def test_links_and_pipes_are_named(tmp_path):
    loop, lost, pipe = tmp_path / "loop.json", tmp_path / "lost.json", tmp_path / "pipe"
    loop.symlink_to(loop)
    lost.symlink_to("/nowhere")
    os.mkfifo(pipe)
    for path, reason in ((loop, "leads nowhere"), (lost, "'/nowhere'"), (pipe, "is a pipe")):
        with pytest.raises(DataError, match=reason):
            list(read_conversations(path))
    with pytest.raises(DataError, match=r"lead nowhere:\n  - .*loop\.json\n  - .*lost\.json"):
        list(read_conversations(tmp_path))


def test_pairs_of_surrogates_are_characters(tmp_path):
    (tmp_path / "a.jsonl").write_text(r'{"prompt": "\ud83d\ude00 \\ud83d", "response": "a"}')
    (found,) = read_conversations(tmp_path / "a.jsonl")
    assert found.messages[0]["content"] == "\U0001f600 \\ud83d"


class FakeHub(SimpleNamespace):
    """The part of the library that is used, and what it was asked."""

    class exceptions:
        class DatasetsError(Exception):
            pass

    def load_dataset(self, *asked: object, **options: object) -> list[dict[str, object]]:
        self.asked = (asked, options)
        if asked[0] == "owner/gone":
            raise self.exceptions.DatasetsError("Dataset 'owner/gone' doesn't exist")
        return [{**row, "extra": None} for row in ROWS]


def test_the_hub_is_asked_only_when_named(monkeypatch):
    hub = FakeHub()
    monkeypatch.setitem(sys.modules, "datasets", hub)
    rows = list(read_conversations("hub:owner/name/subset:validation"))
    assert [row.messages[0]["content"] for row in rows] == [row["prompt"] for row in ROWS]
    assert rows[2].origin == "hub:owner/name/subset:3"
    assert hub.asked == (
        ("owner/name", "subset"),
        {"split": "validation", "streaming": True},
    )
    list(read_corpus(DataSource(path="hub:owner/name", text_key="prompt")))
    assert hub.asked == (("owner/name", None), {"split": "train", "streaming": True})
    assert data_files("hub:owner/name") == []
    assert "'hub:owner/gone' cannot be read" in problems_of(DataSource(path="hub:owner/gone"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match="'datasets'"):
        list(read_conversations("hub:owner/name"))


def test_the_real_library_streams_a_local_set(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    folder = tmp_path / "owner" / "name"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text(LAYOUTS["lines"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert [one.messages[0]["content"] for one in read_conversations("hub:owner/name")] == [
        row["prompt"] for row in ROWS
    ]


# ---------------------------------------------------------------- bad files


GOOD = dumped(ROWS[0])
BAD_FILES = {
    b'{"prompt": "\xff"}\n' + GOOD.encode(): ":1: byte 0xff at byte offset 12 is not UTF-8",
    b"[" + GOOD.encode() + b',\n{"prompt": "\xe7\x82", "response": "a"}]': ":2: byte 0xe7 at byte",
    gzip.compress(GOOD.encode() * 2000)[:-20]: "gzip data is cut off or damaged",
    gzip.compress(b"[" + (GOOD.encode() + b",") * 2000 + GOOD.encode() + b"]")[:-20]: "cut off",
    b"PK\x03\x04rest": "is a zip archive",
    "text".encode("utf-16"): "is text in UTF-16",
    b"[" + GOOD.encode() + b", {]": ":1: not JSON: Expecting property name",
    b"[" + GOOD.encode() + b"] more": "text after the end of the list",
    b"[" * 100_000: "nested too deeply",
    b'{"prompt": "q", "prompt": "r", "response": "a"}': ":1: the key 'prompt' is written twice",
    b'[{"prompt": "q", "response": "a", "id": 1, "id": 2}]': ":1: the key 'id' is written twice",
    b'{"prompt": "\\ud83d", "response": "a"}': r":1: \ud83d is half of a surrogate pair",
    b'[{"prompt": "q", "response": "\\ude00\\ud83d"}]': r":1: \ude00 is half of a surrogate pair",
    b'{"prompt": ' + b"9" * 5000 + b"}": ":1: not JSON: a number with thousands of digits",
    b'[{"prompt": ' + b"9" * 5000 + b"}]": ":1: not JSON: a number with thousands of digits",
    b'{"x": ' * 100_000: "nested too deeply",
    b"prompt,response\nq\n": ":2: 1 cells, but 2 columns",
    b'prompt,response\nq,"a\n': ":2: not CSV: unexpected end of data",
    b"prompt,prompt\nq,a\n": "two columns have one name",
    b"prompt,response\n": "no row after the header prompt, response",
    b"Once upon a time, there was a furnace.\n": "neither JSON nor a table with a header",
    b"": "the file has no rows",
    b"[]": "the file has no rows",
}


@pytest.mark.parametrize(("content", "reason"), BAD_FILES.items(), ids=range(len(BAD_FILES)))
def test_bad_files(tmp_path, content, reason):
    (tmp_path / "rows").write_bytes(content)
    message = problems_of(tmp_path / "rows")
    assert message.startswith("1 problem in"), message
    assert reason in message


def test_problems_of_all_files_come_together_and_good_rows_first(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(GOOD.encode() + b'\n{"prompt": "\xff"}\n{"prompt": 3}\n')
    (tmp_path / "b.json").write_text(dumped([ROWS[1], {"messages": []}], indent=1))
    (tmp_path / "c.json.gz").write_bytes(b"\x1f\x8b\x08 no gzip")
    (tmp_path / "d.jsonl").write_text(f"{GOOD}\nnot json\n{GOOD}")
    rows = read_conversations(tmp_path)
    assert [next(rows).messages[0]["content"] for _ in range(4)] == [
        *(row["prompt"] for row in ROWS[:2]),
        *[ROWS[0]["prompt"]] * 2,
    ]
    with pytest.raises(DataError) as caught:
        next(rows)
    for reason in (
        "5 problems",
        "a.jsonl:2: byte 0xff",
        "a.jsonl:3: 'prompt' is not a text",
        "b.json:6: there is no turn",
        "c.json.gz: the gzip data is cut off",
        "d.jsonl:2: not JSON",
    ):
        assert reason in str(caught.value)


def test_long_lists_of_problems_are_counted(tmp_path):
    (tmp_path / "a.jsonl").write_text("{}\n" * 500)
    message = problems_of(tmp_path / "a.jsonl")
    assert message.startswith("500 problems")
    assert "(+480 more)" in message


@pytest.mark.parametrize("layout", ["lines", "list", "object", "csv"])
def test_a_row_of_ten_megabytes(tmp_path, layout):
    rows = [ROWS[0], {"prompt": "q", "response": "丹炉 " * 1_500_000 + "\nend"}, ROWS[2]]
    contents = {
        "lines": lambda: "\n".join(map(dumped, rows)),
        "list": lambda: dumped(rows),
        "object": lambda: dumped({"data": rows}),
        "csv": lambda: table(rows, ","),
    }
    (tmp_path / "rows").write_text(contents[layout](), newline="")
    assert (tmp_path / "rows").stat().st_size > 10_000_000
    assert pairs(tmp_path / "rows") == rows


def test_a_list_is_never_in_memory_as_a_whole(tmp_path):
    row = dumped({"prompt": "q" * 2000, "response": "a" * 2000})
    with (tmp_path / "rows").open("w") as out:
        out.write("[" + row)
        for _ in range(4_000):
            out.write("," + row)
        out.write("]")
    tracemalloc.start()
    count = sum(1 for _ in read_conversations(tmp_path / "rows"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 4_001
    assert peak < (tmp_path / "rows").stat().st_size / 2


def test_values_are_whole_wherever_the_window_ends(tmp_path, monkeypatch):
    values = [12345, 'text \\ " 炼丹 \u0001', {"a": [True, None, -1.5e-3]}, [], "\ud83d\ude00"]
    (tmp_path / "rows").write_text(json.dumps(values), newline="")
    for size in range(1, 40):
        monkeypatch.setattr("danlu.data.reading.opening.CHUNK_BYTES", size)
        problems = Problems()
        found = [value for _, value in Window(tmp_path / "rows", problems).items()]
        assert found == json.loads(json.dumps(values))
        assert not list(problems)


def test_names_do_not_matter_but_promises_are_kept(tmp_path):
    (tmp_path / "a.txt").write_text(LAYOUTS["lines"])
    assert pairs(tmp_path / "a.txt") == ROWS
    (tmp_path / "b.txt").write_text("[Scene 1]\nA furnace, and smoke.")
    assert [text.text for text in read_corpus(tmp_path / "b.txt")] == [
        "[Scene 1]\nA furnace, and smoke."
    ]
    (tmp_path / "b.txt").write_text('"A furnace," she said.\n"And smoke."')
    assert len(list(read_corpus(tmp_path / "b.txt"))) == 1
    (tmp_path / "c.jsonl").write_text("[Scene 1]\nA furnace")
    with pytest.raises(DataError, match=r"c.jsonl:1: not JSON(.|\n)*c.jsonl:2: not JSON"):
        list(read_corpus(tmp_path / "c.jsonl"))
    (tmp_path / "d.txt").write_text('{"text": "a"}\n{"text": "b"}')
    as_text = DataSource(path=str(tmp_path / "d.txt"), format="text")
    assert [len(list(read_corpus(source))) for source in (tmp_path / "d.txt", as_text)] == [2, 1]


def test_corpora_of_tables(tmp_path):
    (tmp_path / "a.csv").write_text("id,text\n1,one\n2,two\n")
    assert [text.text for text in read_corpus(tmp_path / "a.csv")] == ["one", "two"]
    (tmp_path / "b.csv").write_text("id,body\n1,one\n")
    with pytest.raises(DataError, match="no text under 'text'"):
        list(read_corpus(tmp_path / "b.csv"))
    [document] = read_corpus(DataSource(path=str(tmp_path / "b.csv"), text_key="body"))
    assert (document.text, document.origin) == ("one", f"{tmp_path / 'b.csv'}:2")


def test_rows_know_their_line_in_every_layout(tmp_path):
    for layout, lines in (("lines with blanks", [1, 3, 5]), ("indented list", [2, 6, 10])):
        (tmp_path / "rows").write_text(LAYOUTS[layout])
        origins = [origin for origin, _ in source_rows(tmp_path / "rows", Problems())]
        assert origins == [f"{tmp_path / 'rows'}:{line}" for line in lines]
    (tmp_path / "rows").write_text(LAYOUTS["csv"], newline="")
    origins = [origin for origin, _ in source_rows(tmp_path / "rows", Problems())]
    assert origins == [f"{tmp_path / 'rows'}:{line}" for line in (2, 4, 5)]


def test_bytes_that_are_no_text_are_no_table(tmp_path: Path) -> None:
    path = tmp_path / "rows.txt"
    path.write_bytes(b"\x9f\xf8,\r\x01\n" * 3)
    with pytest.raises(DataError, match="is not UTF-8"):
        list(read_corpus(path))
