"""Mixtures: how often each source is seen, in every pass; the same for the same seed."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.data.documents import DocumentList, TokenDocument
from danlu.data.mixing.mixture import Mixture, shares_of
from danlu.data.mixing.passes import MixedPasses, alone, packed, rows_in
from danlu.data.packing import PackedRows
from danlu.errors import CheckpointError, DataError
from danlu.train.source import RowSource


def sized(*tokens: int) -> list[np.ndarray]:
    return [np.full(10, many // 10) for many in tokens]


def named(weights: list[float], *tokens: int) -> list:
    return [(f"s{i}", w, s) for i, (w, s) in enumerate(zip(weights, sized(*tokens), strict=True))]


def test_temperatures_by_hand() -> None:
    plain = shares_of(named([1, 1], 100, 900))
    assert [share.times for share in plain] == [1, 1]
    assert [share.share for share in plain] == pytest.approx([0.1, 0.9])
    weighted = shares_of(named([3, 0.5], 100, 900))
    assert [share.times for share in weighted] == [3, 0.5]
    assert [share.share for share in weighted] == pytest.approx([300 / 750, 450 / 750])
    softer = shares_of(named([1, 1], 100, 900), temperature=2)
    assert [share.share for share in softer] == pytest.approx([0.25, 0.75])
    assert [share.times for share in softer] == pytest.approx([2.5, 0.75 * 1000 / 900])
    megatron = shares_of(named([0.3, 0.7], 100, 900), temperature=float("inf"))
    assert [share.share for share in megatron] == pytest.approx([0.3, 0.7])
    assert sum(share.times * share.tokens for share in megatron) == pytest.approx(1000)
    assert plain[0].as_json() == {
        "source": "s0",
        "weight": 1,
        "documents": 10,
        "tokens": 100,
        "times": 1,
        "share": 0.1,
    }


def test_an_empty_source_is_named() -> None:
    with pytest.raises(DataError, match="Nothing is left to learn of s1"):
        shares_of([("s0", 1.0, np.ones(3)), ("s1", 1.0, np.ones(0))])


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=3),
    st.lists(st.sampled_from([0.1, 0.5, 1, 2, 2.3]), min_size=3, max_size=3),
    st.integers(0, 2),
)
def test_every_document_is_seen_as_often_as_its_neighbours(sizes, times, seed) -> None:
    ends = np.cumsum([0, *sizes])
    sources = [np.arange(a, b) for a, b in pairwise(ends)]
    mixture = Mixture(sources, times[: len(sizes)], seed)
    seen: Counter[int] = Counter()
    for number in range(10):
        chosen = mixture.of_pass(number)
        assert chosen.tolist() == mixture.of_pass(number).tolist()
        seen.update(chosen.tolist())
    for documents, often in zip(sources, times, strict=False):
        counts = [seen[document] for document in documents.tolist()]
        assert max(counts) - min(counts) <= 1
        wanted = 10 * (int(often) * len(documents) + round(often % 1 * len(documents)))
        assert sum(counts) == wanted
    assert mixture.is_fixed == all(often % 1 == 0 for often in times[: len(sizes)])


def passes_of(times: list[float], arrange=packed) -> MixedPasses:
    documents = DocumentList([TokenDocument(np.full(1 + n % 7, n)) for n in range(60)])
    sources = [np.arange(40), np.arange(40, 60)]
    return MixedPasses(documents, Mixture(sources, times, 0), arrange, 16, seed=0)


def ids_of(rows: PackedRows) -> list[list[int]]:
    return [[int(document.ids[0]) for document in row.documents] for row in rows]


def test_a_pass_is_the_same_whenever_it_is_made() -> None:
    passes, again = passes_of([0.5, 2]), passes_of([0.5, 2])
    first = [ids_of(passes.rows(number)) for number in (0, 1, 2)]
    assert [ids_of(again.rows(number)) for number in (2, 1, 0)] == first[::-1]
    assert first[0] != first[1]
    assert passes_of([1, 2]).rows(0) is not None
    fixed = passes_of([1, 2])
    assert fixed.rows(0) is fixed.rows(5)


def test_parts_of_passes_are_counted() -> None:
    fixed, moving = passes_of([1, 2], alone), passes_of([0.5, 0.25], alone)
    assert rows_in(fixed, 2.3) == 2.3 * 80
    assert rows_in(moving, 2.5) == 2.5 * 25


@pytest.mark.parametrize("stop", [0, 3, 9, 20])
def test_the_stream_goes_on_where_it_stopped(stop: int) -> None:
    whole = RowSource(passes_of([0.5, 2.3]), 0, 2, 4)
    first = [whole.next_step() and whole.origins() for _ in range(stop)]
    cursor = whole.cursor()
    rest = [ids(whole.next_step()) for _ in range(12)]
    again = RowSource(passes_of([0.5, 2.3]), 0, 2, 4)
    again.seek(cursor)
    assert [ids(again.next_step()) for _ in range(12)] == rest
    assert len(first) == stop
    if stop:
        with pytest.raises(CheckpointError, match="rows of data"):
            RowSource(passes_of([2, 2]), 0, 2, 4).seek(cursor)


def ids(batches: list) -> list[list[list[int]]]:
    return [batch.tokens_BT.tolist() for batch in batches]
