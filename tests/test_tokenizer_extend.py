"""Extending a tokenizer: old ids stay, new ones follow, words are learned, bad ones refused."""

import base64
import json
from pathlib import Path

import pytest
from tokenizer_cases import CORPUS, tiny_tokenizer
from vocabulary_cases import CONTROL, WORDS, sentences

from danlu.errors import TokenizerError
from danlu.tokenizer import Tokenizer, load_tokenizer
from danlu.tokenizer.extending import extend
from danlu.tokenizer.new_words import costly_words

# ---------------------------------------------------------------- the tokenizer


def test_new_tokens_come_after_the_old_ids_and_old_text_keeps_its_own() -> None:
    old = tiny_tokenizer()
    new = extend(old, WORDS, CONTROL)
    assert [new.model.token_id(text) for text in WORDS + CONTROL] == [350, 351, 352, 353]
    assert (new.vocab_size, old.vocab_size) == (354, 350)
    for text in CORPUS:
        assert new.encode(text) == old.encode(text)
    assert new.special_tokens.keys() - old.special_tokens.keys() == set(CONTROL)
    assert new.fingerprint() != old.fingerprint()


def test_words_are_found_in_text_and_control_tokens_only_where_allowed() -> None:
    new = extend(tiny_tokenizer(), WORDS, CONTROL)
    text = "小明的丹炉, a zebra and zebras <|tool|>"
    ids = new.encode(text)
    assert (ids.count(350), ids.count(351), ids.count(352)) == (1, 1, 0)
    assert new.decode(ids) == text
    assert new.encode(text, allow_special=True)[-1] == 352
    assert new.decode([350, 352, 351], skip_special=True) == "丹炉zebra"


def test_saved_and_opened_again_it_is_the_same(tmp_path: Path) -> None:
    new = extend(tiny_tokenizer(), WORDS, CONTROL)
    new.save(tmp_path)
    again = load_tokenizer(tmp_path)
    text = "丹炉 zebra <|think|>!"
    assert again.fingerprint() == new.fingerprint()
    assert again.encode(text, allow_special=True) == new.encode(text, allow_special=True)
    twice = extend(again, ["炼丹"], ["<|last|>"])
    assert twice.model.token_id("炼丹") == 354
    assert twice.encode("丹炉炼丹") == [350, 354]


def test_transformers_opens_it_with_the_same_ids(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    new = extend(tiny_tokenizer(), WORDS, CONTROL)
    new.save(tmp_path)
    stock = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "小明的丹炉 and a zebra, zebras <|tool|>"
    assert stock(text)["input_ids"] == new.encode(text, allow_special=True)
    assert "<|tool|>" in stock.all_special_tokens


def test_every_bad_token_is_named_at_once() -> None:
    words = ["", "  ", " cat", "丹炉", "丹炉", "the", "\ud800"]
    with pytest.raises(TokenizerError) as caught:
        extend(tiny_tokenizer(), words, ["<|im_end|>", "丹炉"])
    text = str(caught.value)
    for problem in (
        "'' is empty",
        "'  ' is only white space",
        "' cat' has white space around it",
        "'丹炉' is given twice",
        "'\\ud800' is not valid Unicode text",
        "'<|im_end|>' is a token already, with id 2",
    ):
        assert problem in text
    assert text.count("'丹炉' is given twice") == 2


def test_a_word_that_is_one_token_exists() -> None:
    old = tiny_tokenizer()
    word = next(w for w in ("小明", "小红", "cat") if len(old.encode(w)) == 1)
    with pytest.raises(TokenizerError, match=rf"'{word}' is a token already, with id \d+"):
        extend(old, [word])


def test_nothing_to_add_is_the_same_tokenizer() -> None:
    assert extend(tiny_tokenizer()) is tiny_tokenizer()


# ---------------------------------------------------------------- learned words


def test_learned_words_are_those_that_save_most() -> None:
    texts = sentences("电脑", "电脑", "炼丹炉")
    found = costly_words(tiny_tokenizer(), texts, 2)
    assert sorted(found) == ["炼丹炉", "电脑"]
    assert costly_words(tiny_tokenizer(), iter(texts), 2) == found
    assert "丹炉" not in costly_words(tiny_tokenizer(), texts, 50)


def test_a_word_costs_less_once_a_part_of_it_was_taken() -> None:
    texts = sentences("电脑", count=400) + sentences("电脑城", count=12)
    found = costly_words(tiny_tokenizer(), texts, 50)
    assert found[0] == "电脑"
    assert "电脑城" not in found[:1]


def test_words_of_letters_must_save_more_than_their_space() -> None:
    texts = ["the xylophone and the xylophone", "a xylophone; it is of it"]
    assert costly_words(tiny_tokenizer(), texts, 9)[0] == "xylophone"
    assert costly_words(tiny_tokenizer(), ["xylophone xylophone"], 9) == []


# ---------------------------------------------------------------- sentencepiece


@pytest.fixture
def pieces(shared: Path) -> Tokenizer:
    return load_tokenizer(shared / "data" / "models" / "stories260K")


def test_sentencepiece_gets_pieces_that_the_library_knows(pieces: Tokenizer) -> None:
    from sentencepiece import SentencePieceProcessor

    new = extend(pieces, WORDS, CONTROL)
    proto = new.model.files()["tokenizer.model"]
    library = SentencePieceProcessor(model_proto=proto)
    for text in ("小明的丹炉。 A zebra ran", "丹炉", "Once upon a time"):
        assert new.encode(text) == library.encode(text)
        assert new.decode(new.encode(text)) == pieces.decode(pieces.encode(text))
    assert new.encode("Lily saw it.") == pieces.encode("Lily saw it.")
    assert new.model.token_id("<|tool|>") == pieces.vocab_size + 2
    assert 514 not in new.encode("a <|tool|>")


def test_sentencepiece_saved_extended_again(pieces: Tokenizer, tmp_path: Path) -> None:
    new = extend(pieces, WORDS, CONTROL)
    new.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.fingerprint() == new.fingerprint()
    assert again.special_tokens == new.special_tokens
    assert extend(again, ["炼丹"]).encode("炼丹")[-1] == new.vocab_size


@pytest.mark.parametrize(
    "name", [pytest.param("qwen1", marks=pytest.mark.slow), "gpt2", "llama2", "baichuan2"]
)
def test_published_tokenizers_keep_their_golden_encodings(
    name: str, shared: Path, tmp_path: Path
) -> None:
    folder = shared / "data" / "tokenizers" / name
    old = load_tokenizer(folder, name)
    word = "炼丹炉外" if name != "gpt2" else "丹炉"
    extend(old, [word], ["<|tool|>"]).save(tmp_path)
    new = load_tokenizer(tmp_path, name)
    assert new.model.token_id("<|tool|>") == old.vocab_size + 1
    text = f"我在{word}，{word}！"
    assert new.encode(text).count(old.vocab_size) == 2
    assert new.decode(new.encode(text)) == text
    for case in json.loads((folder / "golden_encodings.json").read_text())["cases"]:
        assert new.encode(case["text"]) == old.encode(case["text"])
    assert {**old.special_tokens, "<|tool|>": old.vocab_size + 1} == new.special_tokens


def test_rank_files_get_added_tokens(tmp_path: Path) -> None:
    ranks = [bytes([byte]) for byte in range(256)] + [b"th", b"the", b" the"]
    lines = [f"{base64.b64encode(token).decode()} {rank}" for rank, token in enumerate(ranks)]
    (tmp_path / "qwen.tiktoken").write_text("\n".join(lines) + "\n")
    added = {"259": {"content": "<|endoftext|>", "special": True}}
    config = {"tokenizer_class": "QWenTokenizer", "added_tokens_decoder": added}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    new = extend(load_tokenizer(tmp_path), WORDS, CONTROL)
    new.save(tmp_path / "out")
    again = load_tokenizer(tmp_path / "out")
    assert again.fingerprint() == new.fingerprint()
    assert again.special_tokens == {"<|endoftext|>": 259, "<|tool|>": 262, "<|think|>": 263}
    assert again.encode(" the丹炉 zebra") == [258, 260, 32, 261]


def test_a_kind_that_cannot_hold_a_word_says_so(shared: Path) -> None:
    """ChatGLM2's own tokens are numbered behind the pieces, so a new piece would move them."""
    old = load_tokenizer(shared / "data" / "tokenizers" / "chatglm2", "chatglm2")
    with pytest.raises(TokenizerError, match="'炼丹炉外' would change the text around it"):
        extend(old, ["炼丹炉外"])
    new = extend(old, control=["<|tool|>"])
    assert new.encode("a <|tool|>", allow_special=True)[-1] == old.vocab_size
