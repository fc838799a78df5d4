"""Data read while training: the same rows whenever it is resumed, and nothing lost silently."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from danlu.config.data import DataSource
from danlu.data.encoded.encoding import TextEncoder
from danlu.data.examples import Document
from danlu.data.ledger import Ledger
from danlu.data.mixing.passes import alone, packed
from danlu.data.mixing.streaming import StreamedPasses, StreamOptions
from danlu.errors import DataError
from danlu.tokenizer import Tokenizer, train_bpe
from danlu.train.source import RowSource


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(["abc abd 小猫"] * 3, 262)


def read(source: DataSource, dropped: list[str] | None) -> Iterator[Document]:
    """Documents of growing length; the fifth row of a source is bad, every seventh is empty."""
    letter, count = source.path.split("*")
    for number in range(int(count)):
        if number == 4 and source.text_key == "bad":
            assert dropped is not None
            dropped.append(f"{letter}:{number}: no text")
        text = "" if number % 7 == 6 else letter * (1 + number % 9)
        yield Document(text, f"{letter}:{number}")


def stream(tokenizer: Tokenizer, *sources: DataSource, **changes: Any) -> StreamedPasses:
    values = {"arrange": packed, "max_seq_len": 16, "shuffle_buffer": 8, "seed": 0}
    options = StreamOptions(**values | {"max_dropped": None} | changes)
    return StreamedPasses(sources, read, TextEncoder(tokenizer), options, Ledger())


TWO = (DataSource(path="a*9", weight=1.0), DataSource(path="b*5", weight=3.0))


def origins(passes: StreamedPasses, blocks: int) -> list[str]:
    return [
        document.origin
        for number in range(blocks)
        for row in passes.rows(number)
        for document in row.documents
    ]


def test_sources_take_turns_by_weight_and_begin_again(tokenizer: Tokenizer) -> None:
    seen = Counter(origins(stream(tokenizer, *TWO, arrange=alone), blocks=10))
    by_source = Counter()
    for origin, times in seen.items():
        by_source[origin[0]] += times
    assert by_source["b"] == 60
    assert 20 - 3 <= by_source["a"] <= 20  # without the empty ones
    assert {seen[f"b:{number}"] for number in range(5)} == {12}


def test_a_block_is_the_same_whenever_it_is_read(tokenizer: Tokenizer) -> None:
    one, other = stream(tokenizer, *TWO), stream(tokenizer, *TWO)
    blocks = [rows_of(one, number) for number in range(5)]
    assert [rows_of(other, number) for number in (3, 4, 0, 1)] == [
        blocks[number] for number in (3, 4, 0, 1)
    ]
    assert blocks[0] != blocks[1]
    in_worker = stream(tokenizer, *TWO, workers=1)
    assert [rows_of(in_worker, number) for number in range(5)] == blocks


def rows_of(passes: StreamedPasses, number: int) -> list[list[list[int]]]:
    return [[d.ids.tolist() for d in row.documents] for row in passes.rows(number)]


@pytest.mark.parametrize("stop", [1, 4, 7])
def test_whoever_goes_on_sees_the_same_rows_and_ledger(stop: int, tokenizer: Tokenizer) -> None:
    whole = RowSource(stream(tokenizer, *TWO), 0, 1, 2)
    for _ in range(stop):
        whole.next_step()
    cursor = json.loads(json.dumps(whole.cursor()))
    again_passes = stream(tokenizer, *TWO)
    again = RowSource(again_passes, 0, 1, 2)
    again.seek(cursor)
    for _ in range(8):
        steps = [[batch.tokens_BT.tolist() for batch in s.next_step()] for s in (whole, again)]
        assert steps[0] == steps[1]
        assert whole.origins() == again.origins()
    assert again.cursor() == whole.cursor()


def test_the_ledger_grows_and_counts_each_example_once(tokenizer: Tokenizer) -> None:
    passes = stream(tokenizer, DataSource(path="a*9", text_key="bad"))
    passes.rows(0)
    assert (passes.ledger.kept, len(passes.ledger.dropped)) == (7, 2)
    for number in (1, 2, 3):
        passes.rows(number)
    assert passes.ledger.kept == 8
    assert [vars(entry) for entry in passes.ledger.dropped] == [
        {"origin": "a:6", "reason": "no token to learn"},
        {"origin": "a:4", "reason": "no text"},
    ]


def test_too_many_dropped_rows_stop_the_stream(tokenizer: Tokenizer) -> None:
    passes = stream(tokenizer, DataSource(path="a*30"), max_dropped=1)
    passes.rows(0)
    with pytest.raises(DataError, match=r"2 of 16 rows would be dropped(.|\n)*a:6(.|\n)*a:13"):
        passes.rows(1)


def test_a_block_without_anything_to_learn_is_an_error(tokenizer: Tokenizer) -> None:
    def empty(source: DataSource, dropped: list[str] | None) -> Iterator[Document]:
        yield Document("", "x:1")

    options = StreamOptions(packed, 16, 4, 0, None)
    encoder = TextEncoder(tokenizer)
    passes = StreamedPasses([DataSource(path="x")], empty, encoder, options, Ledger())
    with pytest.raises(DataError, match="None of 4 examples from x:1 to x:1 can be learned"):
        passes.rows(0)


def test_a_source_without_rows_does_not_hang(tokenizer: Tokenizer, tmp_path: Path) -> None:
    passes = stream(tokenizer, DataSource(path="a*0"))
    with pytest.raises(DataError, match=r"'a\*0' has no row"):
        passes.rows(0)
