"""Streaming: pieces joined are the whole text, whole characters only, at a constant cost."""

import random
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor
from tokenizer_cases import random_text, tiny_tokenizer
from tokenizers import Tokenizer as Backend

from danlu.tokenizer import IncrementalDecoder, Tokenizer, load_tokenizer


@pytest.fixture(params=["byte_level", "sentencepiece"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    if request.param == "byte_level":
        return tiny_tokenizer()
    return load_tokenizer(request.getfixturevalue("shared") / "data/tokenizers/llama2")


def pieces_of(tokenizer: Tokenizer, ids: list[int], skip_special: bool) -> list[str]:
    decoder = IncrementalDecoder(tokenizer, skip_special)
    return [*(decoder.push(token_id) for token_id in ids), decoder.finish()]


def test_valid_text_comes_out_in_whole_characters(tokenizer: Tokenizer) -> None:
    rng = random.Random(1)
    for _ in range(200):
        text = random_text(rng).replace("\u2581", "_")
        pieces = pieces_of(tokenizer, tokenizer.encode(text), skip_special=True)
        assert "".join(pieces) == text
        assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("skip_special", [True, False])
def test_random_ids_join_to_decode(tokenizer: Tokenizer, skip_special: bool) -> None:
    rng = random.Random(2)
    for _ in range(300):
        ids = [rng.randrange(tokenizer.vocab_size + 3) for _ in range(rng.randint(0, 30))]
        pieces = pieces_of(tokenizer, ids, skip_special)
        assert "".join(pieces) == tokenizer.decode(ids, skip_special)


def test_random_ids_decode_as_the_tokenizers_library_does() -> None:
    tokenizer = tiny_tokenizer()
    backend = Backend.from_str(tokenizer.model.files()["tokenizer.json"].decode())
    rng = random.Random(3)
    for _ in range(1000):
        ids = [rng.randrange(tokenizer.vocab_size) for _ in range(rng.randint(0, 12))]
        for skip_special in (True, False):
            expected = backend.decode(ids, skip_special_tokens=skip_special)
            assert tokenizer.decode(ids, skip_special) == expected


def test_random_ids_decode_as_sentencepiece_does(shared: Path) -> None:
    folder = shared / "data/models/stories260K"
    tokenizer = load_tokenizer(folder)
    library = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    rng = random.Random(4)
    for _ in range(1000):
        ids = [rng.randrange(3, tokenizer.vocab_size) for _ in range(rng.randint(0, 12))]
        assert tokenizer.decode(ids) == library.decode(ids)


def test_a_half_character_is_held_back(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a😀")
    pieces = pieces_of(tokenizer, ids, skip_special=True)
    assert [piece for piece in pieces if piece] == ["a", "😀"]
    cut = pieces_of(tokenizer, ids[:-1], skip_special=True)
    assert cut[-1].startswith("\ufffd")
    assert cut[-2] == ""


def test_a_decoder_can_be_used_again_after_finish(tokenizer: Tokenizer) -> None:
    decoder = IncrementalDecoder(tokenizer)
    ids = tokenizer.encode("Once upon")
    for _ in range(2):
        assert "".join(map(decoder.push, ids)) + decoder.finish() == "Once upon"
