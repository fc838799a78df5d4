"""Streaming: pieces joined are the whole text, whole characters only, at a constant cost."""

import random
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor
from tokenizer_cases import PUBLISHED, published, random_text, tiny_tokenizer
from tokenizers import Tokenizer as Backend

from danlu.tokenizer import IncrementalDecoder, Tokenizer, load_tokenizer

FOLDING = ("baichuan1", "chatglm", "glm-10b-chinese", "qwen1", "qwen2")  # text comes back changed


@pytest.fixture(params=["trained", *PUBLISHED])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    if request.param == "trained":
        return tiny_tokenizer()
    return published(request.getfixturevalue("shared"), request.param)


def pieces_of(tokenizer: Tokenizer, ids: list[int], skip_special: bool) -> list[str]:
    decoder = IncrementalDecoder(tokenizer, skip_special)
    return [*(decoder.push(token_id) for token_id in ids), decoder.finish()]


def test_valid_text_comes_out_in_whole_characters(tokenizer: Tokenizer) -> None:
    rng = random.Random(1)
    for _ in range(200):
        text = random_text(rng).replace("\u2581", "_")
        ids = tokenizer.encode(text)
        pieces = pieces_of(tokenizer, ids, skip_special=True)
        assert "".join(pieces) == tokenizer.decode(ids)
        if Path(tokenizer.settings.origin).name not in FOLDING:
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


@pytest.mark.parametrize(
    "file",
    [
        "models/stories260K/tokenizer.model",
        "tokenizers/llama2/tokenizer.model",
        "tokenizers/baichuan1/tokenizer.model",
        "tokenizers/baichuan2/tokenizer.model",
        "tokenizers/chatglm2/tokenizer.model",
        "tokenizers/glm-10b-chinese/cog-pretrain.model",
    ],
)
def test_random_ids_decode_as_sentencepiece_does(shared: Path, file: str) -> None:
    path = shared / "data" / file
    tokenizer = load_tokenizer(path.parent)
    library = SentencePieceProcessor(model_file=str(path))
    rng = random.Random(4)
    spaces = [library.piece_to_id(piece) for piece in ("\u2581", "\u2581a") for _ in range(200)]
    ordinary = [*range(3, library.vocab_size()), *spaces]
    for _ in range(1000):
        ids = [rng.choice(ordinary) for _ in range(rng.randint(0, 12))]
        assert tokenizer.decode(ids) == library.decode(ids)


def test_a_half_character_is_held_back(tokenizer: Tokenizer) -> None:
    rare = "\U0001e910"  # four bytes, in no vocabulary
    ids = tokenizer.encode(f"a{rare}")
    if tokenizer.decode(ids) != f"a{rare}":
        assert tokenizer.decode(ids) == "a \u2047 "  # a vocabulary without single bytes
        return
    pieces = pieces_of(tokenizer, ids, skip_special=True)
    assert [piece for piece in pieces if piece] == ["a", rare]
    cut = pieces_of(tokenizer, ids[:-1], skip_special=True)
    assert cut[-1].startswith("\ufffd")
    assert cut[-2] == ""


def test_a_decoder_can_be_used_again_after_finish(tokenizer: Tokenizer) -> None:
    decoder = IncrementalDecoder(tokenizer)
    ids = tokenizer.encode("Once upon")
    for _ in range(2):
        assert "".join(map(decoder.push, ids)) + decoder.finish() == "Once upon"
