"""Stores of encoded rows: what is written is read, also after a kill; the cache keeps and mends."""

import json
import logging
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.config.data import DataSource
from danlu.data.encoded import cache
from danlu.data.encoded.cache import encoded_store, remove_old
from danlu.data.encoded.encoding import TextEncoder
from danlu.data.encoded.store import ArrayStore, Encoded, verify
from danlu.data.encoded.store_writing import StoreWriter
from danlu.data.examples import Document
from danlu.data.sources import read_corpus
from danlu.errors import DataError, OutputError
from danlu.files import atomic_folder
from danlu.tokenizer import Tokenizer, train_bpe

COLUMNS = {"ids": "<u2", "labels": "<i4"}
ARRAYS = st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=12)


def encoded(number: int, ids: list[int]) -> Encoded:
    """Every third is dropped, every fourth shortened."""
    note = "long" if number % 4 == 0 else ""
    if number % 3 == 2:
        return Encoded(f"文.txt:{number}", None, "bad", number / 100)
    arrays = (np.array(ids), np.array(ids[1:]))
    return Encoded(f"文.txt:{number}", arrays, note, number / 100)


def content(store: ArrayStore) -> list[Any]:
    return [
        (store.origin(i), store.draws[i], *(store.array(name, i).tolist() for name in COLUMNS))
        for i in range(len(store))
    ]


@settings(max_examples=10, deadline=None)
@given(ARRAYS)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, arrays: Any) -> None:
    folder = tmp_path_factory.mktemp("stores") / "store"
    rows = [encoded(number, ids) for number, ids in enumerate(arrays)]
    with StoreWriter(folder, COLUMNS, "key") as writer:
        for row in rows:
            writer.append(row)
        writer.finish({"about": "x"})
    store = ArrayStore(folder)
    kept = [row for row in rows if row.arrays is not None]
    assert content(store) == [
        (row.origin, row.draw, *(part.tolist() for part in row.arrays)) for row in kept
    ]
    assert store.lengths("ids").tolist() == [len(row.arrays[0]) for row in kept]
    assert store.array("ids", 0).dtype == np.uint16 if kept else True
    assert store.fate.ledger().summary()["dropped"] == len(rows) - len(kept)
    assert store.about == {"about": "x"}
    verify(folder)


def test_a_killed_writer_goes_on_with_the_same_bytes(tmp_path: Path) -> None:
    rows = [encoded(number, list(range(number))) for number in range(20)]
    with StoreWriter(tmp_path / "whole", COLUMNS, "key") as writer:
        for row in rows:
            writer.append(row)
        writer.finish({})
    for stop in (0, 3, 11):
        with StoreWriter(tmp_path / "parts", COLUMNS, "key", seconds=0) as writer:
            for row in rows[writer.examples : stop]:
                writer.append(row)
        with (tmp_path / ".parts.partial" / "ids.bin").open("ab") as file:
            file.write(b"what was not noted before the kill")
    with StoreWriter(tmp_path / "parts", COLUMNS, "key") as writer:
        assert writer.examples == 11
        for row in rows[writer.examples :]:
            writer.append(row)
        writer.finish({})
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")
    with StoreWriter(tmp_path / "parts", COLUMNS, "another key") as writer:
        assert writer.examples == 0


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("damage", ["missing", "short", "changed", "manifest"])
def test_a_damaged_store_is_refused(damage: str, tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "store", COLUMNS, "key") as writer:
        writer.append(encoded(0, [1, 2, 3]))
        writer.finish({})
    spoil(tmp_path / "store", damage)
    with pytest.raises(DataError, match=r"no whole store of encoded data(.|\n)*make it again"):
        verify(tmp_path / "store")


def spoil(folder: Path, damage: str) -> None:
    ids = folder / "ids.bin"
    if damage == "missing":
        ids.unlink()
    elif damage == "short":
        ids.write_bytes(ids.read_bytes()[:-1])
    elif damage == "changed":
        ids.write_bytes(bytes([ids.read_bytes()[0] ^ 1]) + ids.read_bytes()[1:])
    else:
        (folder / "store.json").write_text("{")


# ---------------------------------------------------------------- the cache


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(["The cat sat on the mat."] * 3, 270)


@pytest.fixture
def source(tmp_path: Path) -> DataSource:
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": f"cat {n}"}) + "\n" for n in range(9)))
    return DataSource(path=str(path))


class Reading:
    """Reads a corpus, and counts how often it is read."""

    times = 0

    def __call__(self, source: DataSource, dropped: list[str] | None) -> Iterator[Document]:
        self.times += 1
        return read_corpus(source)


def test_the_same_data_is_encoded_once(
    source: DataSource, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    reading, folder, path = Reading(), tmp_path / "cache", Path(source.path)
    encoder = TextEncoder(tokenizer)
    first = encoded_store(source, reading, encoder, folder)
    assert [first.origin(i) for i in range(len(first))] == [f"{path}:{n}" for n in range(1, 10)]
    again = encoded_store(source.model_copy(update={"weight": 2.0}), reading, encoder, folder)
    assert again.folder == first.folder
    assert reading.times == 1
    encoded_store(source, reading, TextEncoder(tokenizer, split_seed=1), folder)
    encoded_store(source.model_copy(update={"text_key": "text "}), failing, encoder, folder)
    assert reading.times == 2
    path.write_text(path.read_text() + json.dumps({"text": "dog"}) + "\n")
    assert len(encoded_store(source, reading, encoder, folder)) == 10
    assert reading.times == 3


def failing(source: DataSource, dropped: list[str] | None) -> Iterator[Document]:
    yield Document("cat", "x:1")


@pytest.mark.parametrize("damage", ["missing", "changed", "manifest"])
def test_a_damaged_entry_is_made_again(
    damage: str,
    source: DataSource,
    tokenizer: Tokenizer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    logging.getLogger("danlu").propagate = True
    first = encoded_store(source, Reading(), TextEncoder(tokenizer), tmp_path / "cache")
    whole = files_of(first.folder)
    spoil(first.folder, damage)
    again = encoded_store(source, Reading(), TextEncoder(tokenizer), tmp_path / "cache")
    assert files_of(again.folder) == whole
    assert "It is made again now" in caplog.text


def test_a_full_disk_is_one_error_that_names_the_option(
    source: DataSource, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        return Path("/dev/full").open("wb")

    with monkeypatch.context() as patched:
        patched.setattr(StoreWriter, "_open", full)
        patched.setattr(StoreWriter, "_length", lambda *_: 0)
        with pytest.raises(OutputError, match=r"No space left.*as data\.cache says"):
            encoded_store(source, Reading(), TextEncoder(tokenizer), tmp_path / "cache")
    again = encoded_store(source, Reading(), TextEncoder(tokenizer), tmp_path / "cache")
    assert len(again) == 9


def test_wrong_rows_leave_nothing_behind_and_tolerated_ones_are_in_the_ledger(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    def read(source: DataSource, dropped: list[str] | None) -> Iterator[Document]:
        yield Document("cat", "x:1")
        if dropped is None:
            raise DataError("x:2: no text")
        dropped.append("x:2: no text")

    source, folder = DataSource(path="x"), tmp_path / "cache"
    with pytest.raises(DataError, match="x:2: no text"):
        encoded_store(source, read, TextEncoder(tokenizer), folder)
    assert [path for path in folder.iterdir() if path.suffix != ".lock"] == []
    store = encoded_store(source, read, TextEncoder(tokenizer), folder, tolerant=True)
    assert store.fate.dropped == [("x:2", "no text", 0.0)]
    assert store.fate.kept == 1


def test_whoever_comes_second_waits_and_takes_the_others_work(
    source: DataSource, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    begun, go_on, read_by = threading.Event(), threading.Event(), []

    def slow(source: DataSource, dropped: list[str] | None) -> Iterator[Document]:
        read_by.append(threading.current_thread().name)
        begun.set()
        assert go_on.wait(10)
        yield from read_corpus(source)

    stores: dict[str, ArrayStore] = {}

    def run() -> None:
        encoder = TextEncoder(tokenizer)
        name = threading.current_thread().name
        stores[name] = encoded_store(source, slow, encoder, tmp_path / "cache")

    threads = [threading.Thread(target=run, name=name) for name in ("first", "second")]
    threads[0].start()
    assert begun.wait(10)
    threads[1].start()
    go_on.set()
    for thread in threads:
        thread.join()
    assert read_by == ["first"]
    assert content_ids(stores["first"]) == content_ids(stores["second"])


def content_ids(store: ArrayStore) -> list[list[int]]:
    return [store.array("ids", i).tolist() for i in range(len(store))]


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    for number in range(4):
        with atomic_folder(tmp_path / f"store-{number}") as folder:
            (folder / "store.json").write_text("x" * 100)
        stamp(tmp_path / f"store-{number}", number)
    shutil.copytree(tmp_path / "store-0", tmp_path / ".old.partial")
    stamp(tmp_path / ".old.partial", 0)
    remove_old(tmp_path, keep=tmp_path / "store-0", most_bytes=250)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store-0", "store-2", "store-3"]


def stamp(path: Path, seconds: int) -> None:
    cache.os.utime(path, (seconds, seconds))
