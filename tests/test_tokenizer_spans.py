"""The characters of each token, told by its bytes, are those that the library finds."""

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.tokenizer import Tokenizer, train_bpe
from danlu.tokenizer.library import LibraryModel
from danlu.tokenizer.pieces import character_spans


@cache
def tokenizer() -> Tokenizer:
    """Few merges, so that many characters are several tokens."""
    return train_bpe(["The cat sat on the mat. 小猫坐在垫子上。 🙂 é"] * 3, 300)


@settings(deadline=None, max_examples=200)
@given(st.text(st.sampled_from("The cat sat小猫坐在🙂👩‍é́\n\t 　"), max_size=30))
def test_spans_are_those_of_the_library(text: str) -> None:
    model = tokenizer().model
    assert isinstance(model, LibraryModel)
    found = model.encode_spans(text, prefix=True)
    expected = model._backend.encode(text, add_special_tokens=False)
    assert found.ids == expected.ids
    assert found.spans == expected.offsets


@pytest.mark.parametrize(
    ("pieces", "spans"),
    [
        ([], []),
        ([b"ab", b" c"], [(0, 2), (2, 4)]),
        ([b"a\xe5", b"\xb0", b"\x8fb"], [(0, 2), (1, 2), (1, 3)]),
    ],
)
def test_tokens_that_share_a_character_all_have_it(
    pieces: list[bytes], spans: list[tuple[int, int]]
) -> None:
    assert character_spans(pieces) == spans
