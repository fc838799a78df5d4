"""Packing, collating, sampling and the ledger: every token once, nothing lost without a word."""

import time
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from danlu.data.batch import IGNORE, PADDING, Batch, collate
from danlu.data.documents import DocumentList
from danlu.data.ledger import Ledger
from danlu.data.mixing.sampler import RowSampler
from danlu.data.packing import PackedRow, TokenDocument, cut_documents, pack, single_rows
from danlu.errors import DataError, ShapeError


def documents_of(lengths: list[int]) -> list[TokenDocument]:
    """Return documents whose ids are all different, so that a lost or doubled token shows."""
    made, start = [], 0
    for number, length in enumerate(lengths):
        made.append(TokenDocument(range(start, start + length), origin=f"x:{number}"))
        start += length
    return made


def masked(ids: list[int], mask: list[bool], origin: str) -> TokenDocument:
    return TokenDocument(ids, np.where(mask, ids, IGNORE), origin=origin)


def plain(rows: Sequence[PackedRow]) -> list[list[list[int]]]:
    """The ids of every document of every row."""
    return [[document.ids.tolist() for document in row.documents] for row in rows]


LENGTHS = st.lists(st.integers(0, 60), max_size=40)


@given(LENGTHS, st.integers(1, 40), st.integers(0, 3))
def test_every_token_is_packed_exactly_once(lengths, max_seq_len, seed):
    documents = documents_of(lengths)
    rows = pack(documents, max_seq_len, seed)
    ids = [token for row in rows for document in row.documents for token in document.ids]
    assert sorted(ids) == list(range(sum(lengths)))
    assert all(0 < row.num_tokens <= max_seq_len for row in rows)
    for row in rows:
        for document in row.documents:
            first, last = document.ids[0], document.ids[-1]
            assert document.ids.tolist() == list(range(first, last + 1))
    assert plain(rows) == plain(pack(documents, max_seq_len, seed))


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60))
def test_best_fit_wastes_little(lengths):
    rows = pack(documents_of(lengths), 40)
    assert sum(row.num_tokens <= 20 for row in rows) <= 1
    assert len(rows) <= 11 / 9 * (sum(lengths) / 40) * 1.5 + 1


def test_packing_is_fast():
    documents = documents_of([1 + number * 7919 % 150 for number in range(20_000)])
    start = time.perf_counter()
    rows = pack(documents, 256)
    assert time.perf_counter() - start < 2.0
    assert sum(row.num_tokens for row in rows) / (256 * len(rows)) > 0.99


def test_the_seed_moves_documents_of_one_length():
    documents = documents_of([8] * 50)
    assert plain(pack(documents, 16, seed=0)) != plain(pack(documents, 16, seed=1))


def test_split_pieces_are_documents_of_their_own():
    labels, weights = [IGNORE, 1, 2, IGNORE, 4, 5, 6], [0.5] * 4 + [2.0] * 3
    documents = DocumentList([TokenDocument(range(7), labels, weights, "x:1")])
    rows = single_rows(documents, cut_documents(np.arange(1), documents.lengths, 3))
    pieces = [document for row in rows for document in row.documents]
    assert rows.num_targets == 5
    assert [piece.ids.tolist() for piece in pieces] == [[0, 1, 2], [3, 4, 5], [6]]
    assert pieces[1].labels.tolist() == [IGNORE, 4, 5]
    assert pieces[1].weights.tolist() == [0.5, 2.0, 2.0]
    assert [piece.num_targets for piece in pieces] == [1.0, 4.0, 0.0]


def test_pack_refuses_what_it_would_have_to_cut():
    with pytest.raises(DataError, match="x:1: 3 tokens, more than max_seq_len 2"):
        pack([masked([1, 2, 3], [True] * 3, "x:1")], 2)
    with pytest.raises(DataError, match="max_seq_len is 0"):
        pack([], 0)
    with pytest.raises(DataError, match="x:1: 2 tokens have 1 labels; expected one for each"):
        TokenDocument([1, 2], [2], origin="x:1")
    with pytest.raises(DataError, match="2 tokens have 3 weights"):
        TokenDocument([1, 2], None, [1, 1, 1], "x:1")


# ---------------------------------------------------------------- the ledger


def test_the_limit_of_dropped_rows() -> None:
    ledger = Ledger()
    ledger.note("x:1", "", is_dropped=False)
    ledger.note("x:2", "6 tokens, more than 4", is_dropped=False)
    ledger.note("x:3", "no token to learn", is_dropped=True)
    assert ledger.summary() == {
        "kept": 1,
        "truncated": 1,
        "dropped": 1,
        "truncated_rows": [{"origin": "x:2", "reason": "6 tokens, more than 4"}],
        "dropped_rows": [{"origin": "x:3", "reason": "no token to learn"}],
    }
    with pytest.raises(DataError, match=r"1 of 3 rows would be dropped(.|\n)*x:3: no token"):
        ledger.check()
    ledger.check(max_dropped=1)
    ledger.check(max_dropped=None)
    again = Ledger()
    again.restore(ledger.summary())
    assert again == ledger


def test_nothing_left_is_an_error():
    with pytest.raises(DataError, match="No row is left"):
        Ledger().check()


# ---------------------------------------------------------------- batches


def test_collate_by_hand():
    text = TokenDocument([5, 6, 7], origin="x:1")
    chat = masked([1, 2, 3, 4], [True, False, True, True], "x:2")
    batch = collate([PackedRow([text, chat]), PackedRow([text])], pad_id=9)
    assert batch.tokens_BT.tolist() == [[5, 6, 7, 1, 2, 3, 4], [5, 6, 7, 9, 9, 9, 9]]
    assert batch.targets_BT.tolist() == [
        [6, 7, IGNORE, IGNORE, 3, 4, IGNORE],
        [6, 7, IGNORE, IGNORE, IGNORE, IGNORE, IGNORE],
    ]
    assert batch.documents_BT.tolist() == [[0, 0, 0, 1, 1, 1, 1], [0, 0, 0] + [PADDING] * 4]
    assert batch.num_targets == 6
    assert batch.weights_BT is None
    assert all(tensor.dtype == torch.int64 for tensor in tensors(batch))


def test_labels_may_differ_from_the_ids_and_weights_count() -> None:
    text = TokenDocument([5, 6, 7], origin="x:1")
    chat = TokenDocument([1, 2, 3, 4], [IGNORE, 9, IGNORE, 4], [1, 0.5, 1, 2], "x:2")
    batch = collate([PackedRow([chat, text]), PackedRow([text])])
    assert batch.targets_BT[0].tolist() == [9, IGNORE, 4, IGNORE, 6, 7, IGNORE]
    assert batch.weights_BT.tolist() == [[0.5, 1, 2, 1, 1, 1, 1], [1] * 7]
    assert batch.num_targets == 2.5 + 2 + 2
    assert batch.to("cpu").weights_BT.dtype == torch.float32


def tensors(batch: Batch) -> list[torch.Tensor]:
    return [batch.tokens_BT, batch.targets_BT, batch.documents_BT]


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=12), min_size=1, max_size=20))
def test_targets_of_a_batch_are_the_next_learned_tokens(masks):
    documents = [
        masked(ids.ids, mask, ids.origin)
        for ids, mask in zip(documents_of([len(mask) for mask in masks]), masks, strict=True)
    ]
    batch = collate(pack(documents, 16), length=16)
    learned = batch.targets_BT[batch.targets_BT != IGNORE].tolist()
    expected = [
        token
        for document, mask in zip(documents, masks, strict=True)
        for token, learn in list(zip(document.ids.tolist(), mask, strict=True))[1:]
        if learn
    ]
    assert sorted(learned) == sorted(expected)
    assert batch.num_targets == len(expected)
    rows, places = torch.nonzero(batch.targets_BT != IGNORE, as_tuple=True)
    assert torch.equal(
        batch.targets_BT[rows, places], batch.tokens_BT[rows, (places + 1).clamp(max=15)]
    )


def test_collate_refuses_what_does_not_fit():
    row = PackedRow(documents_of([3]))
    with pytest.raises(ShapeError, match="3 tokens to the length 2"):
        collate([row], length=2)
    with pytest.raises(ShapeError, match="0 rows"):
        collate([])
    assert collate([row]).to("cpu").num_targets == 2


# ---------------------------------------------------------------- sampler


@given(st.integers(1, 9), st.integers(0, 3), st.lists(st.integers(0, 7), max_size=12))
def test_the_stream_does_not_depend_on_how_it_is_cut(num_rows, seed, cuts):
    whole = RowSampler(num_rows, seed).take(sum(cuts))
    sampler = RowSampler(num_rows, seed)
    parts = []
    for cut in cuts:
        parts += sampler.take(cut)
        sampler = RowSampler(num_rows, seed, consumed=sampler.consumed)  # resume here
    assert parts == whole
    for start in range(0, len(whole) - num_rows + 1, num_rows):
        assert sorted(whole[start : start + num_rows]) == list(range(num_rows))


def test_epochs_and_seeds_differ():
    sampler = RowSampler(100, seed=0)
    first, second = sampler.take(100), sampler.take(100)
    assert first != second
    assert sampler.epoch == 2
    assert first != RowSampler(100, seed=1).take(100)
    with pytest.raises(DataError, match="0 rows"):
        RowSampler(0, 0)
