"""The characters of each token, told by its bytes, are those that the library finds."""

import random
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_cases import random_text

from danlu.tokenizer import Tokenizer, load_tokenizer, train_bpe
from danlu.tokenizer.kinds.sentencepiece_model import SentencePieceModel
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


WORDS = (
    "The",
    "cat",
    "\u2581",
    "小猫",
    "on  the",
    "1",
    "Ａ",
    "ﬁ",
    "<s>",
    "<0x41>",
    "é",
    "\xa0",
)


@pytest.mark.parametrize(
    "name", ["baichuan1", "baichuan2", "chatglm2", "glm-10b-chinese", "llama2", "stories260K"]
)
def test_pieces_that_spell_the_text_tell_its_spans(shared: Path, name: str) -> None:
    folder = "models" if name == "stories260K" else "tokenizers"
    model = load_tokenizer(shared / "data" / folder / name).model
    assert isinstance(model, SentencePieceModel)
    rng = random.Random(0)
    num_spelled = 0
    for _ in range(400):
        words = " ".join(rng.choices(WORDS, k=rng.randint(1, 4)))
        outer = rng.choice(["", " ", "  ", "\n"]), rng.choice(["", " ", "  "])
        text = rng.choice([outer[0] + words + outer[1], random_text(rng)])
        for prefix in (True, False):
            spelled = model._spelled_spans(text, prefix)
            if spelled is not None:
                num_spelled += 1
                assert spelled == model._library_spans(text, prefix), (text, prefix)
    assert num_spelled > 20
