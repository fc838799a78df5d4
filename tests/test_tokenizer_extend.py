"""Extending: old ids and rows stay, new rows start where they should, bad tokens are refused."""

import base64
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import (
    assert_close,
    copy_golden,
    golden,
    spoil_config,
    spoil_weights,
    tiny_checkpoint,
)
from safetensors.torch import load_file
from tokenizer_cases import CORPUS, tiny_tokenizer
from torch import Tensor

import danlu.weights.writing
from danlu.commands.extend import ExtendReport, NewTokens, extend_vocabulary, read_words
from danlu.commands.vocabulary_rows import Checkpoint, NewRows, grown
from danlu.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    OutputError,
    QuantizationError,
    TokenizerError,
)
from danlu.loading import decoder_from_config, load_decoder, read_model_config
from danlu.tokenizer import Tokenizer, load_tokenizer
from danlu.tokenizer.extending import extend
from danlu.tokenizer.new_words import costly_words
from danlu.tokenizer.stamp import check_stamp, write_stamp

WORDS, CONTROL = ["丹炉", "zebra"], ["<|tool|>", "<|think|>"]
NEW = NewTokens(words=WORDS, control=CONTROL)
FOLDERS = sorted(path.name for path in golden("").iterdir() if path.is_dir())
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def small_tokenizer() -> Tokenizer:
    from danlu.tokenizer import train_bpe

    return train_bpe(CORPUS, 265)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A llama with a tokenizer of 265 tokens and 270 rows."""
    return with_tokenizer(tmp_path / "model", 270)


def with_tokenizer(folder: Path, num_rows: int, **config: Any) -> Path:
    """A tiny llama with so many rows, and the small tokenizer beside it."""
    tiny_checkpoint(folder)
    spoil_config(folder, vocab_size=num_rows, **config)
    tensors = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(1)
    shape = num_rows, tensors[EMBEDDING].shape[1]
    rows = {name: torch.randn(shape, generator=generator) for name in (EMBEDDING, HEAD)}
    if config.get("tie_word_embeddings"):
        spoil_weights(folder, **{key(EMBEDDING): rows[EMBEDDING], key(HEAD): None})
    else:
        spoil_weights(folder, **{key(name): tensor for name, tensor in rows.items()})
    small_tokenizer().save(folder)
    write_stamp(folder, small_tokenizer())
    return folder


def key(name: str) -> str:
    return name.replace(".", "__")


def tensors_of(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


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


def sentences(*words: str, count: int = 200) -> list[str]:
    """Short sentences of changing characters around the words."""
    rng = random.Random(0)
    before, after = "我你他她它们谁看买卖修说问", "了吗呢吧的啊过着用想找丢听"
    return [
        rng.choice(before) + rng.choice(words) + rng.choice(after) + rng.choice(before) + "。"
        for _ in range(count)
    ]


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


# ---------------------------------------------------------------- the model


def test_old_rows_stay_and_new_ones_are_means(model: Path, tmp_path: Path) -> None:
    report = extend_vocabulary(model, tmp_path / "out", NEW)
    assert report.model_rows is not None
    assert (report.model_rows.before, report.model_rows.after) == (270, 270)
    before, after = tensors_of(model), tensors_of(tmp_path / "out")
    assert before.keys() == after.keys()
    old = small_tokenizer()
    ordinary = [i for i in range(265) if i not in old.control_texts]
    for name in (EMBEDDING, HEAD):
        assert torch.equal(before[name][:265], after[name][:265])
        pieces = before[name][old.encode("zebra")].mean(0)
        assert_close(after[name][266], pieces, 1e-6)
        assert_close(after[name][267], before[name][ordinary].mean(0), 1e-6)
        assert torch.equal(after[name][269], before[name][269])  # a spare row that stays spare
    for name in before.keys() - {EMBEDDING, HEAD}:
        assert torch.equal(before[name], after[name])


def test_a_full_model_grows_and_answers_as_before(tmp_path: Path) -> None:
    model = with_tokenizer(tmp_path / "model", 265)
    out = tmp_path / "out"
    report = extend_vocabulary(model, out, NEW, pad_to=64)
    assert report.as_dict()["model_rows"] == {"before": 265, "after": 320, "is_tied": False}
    assert json.loads((out / "config.json").read_text())["vocab_size"] == 320
    ids = torch.tensor([small_tokenizer().encode("The cat sat on the mat.")])
    with torch.no_grad():
        before, after = load_decoder(model)(ids), load_decoder(out)(ids)
    assert after.shape[-1] == 320
    assert_close(after[..., :265], before, 1e-5)
    tokenizer = load_tokenizer(out)
    check_stamp(out, tokenizer)
    assert tokenizer.encode("丹炉") == [265]
    assert torch.isfinite(load_decoder(out)(torch.tensor([[265, 266, 267, 268]]))).all()


def test_a_tied_head_stays_tied(tmp_path: Path) -> None:
    model = with_tokenizer(tmp_path / "model", 265, tie_word_embeddings=True)
    report = extend_vocabulary(model, tmp_path / "out", NEW)
    assert HEAD not in tensors_of(tmp_path / "out")
    assert ("head", "tied to the embedding") in report.rows()
    decoder = load_decoder(tmp_path / "out")
    assert decoder.lm_head.weight is decoder.model.embed_tokens.weight
    assert len(decoder.model.embed_tokens.weight) == 269


@pytest.mark.parametrize("name", FOLDERS)
def test_published_layouts_keep_their_logits(name: str, tmp_path: Path) -> None:
    """Shards, .bin files, padded_vocab_size, names without prefix; more words than spare rows."""
    model = copy_golden(name, tmp_path / "model")
    byte_tokenizer(model)
    rows = decoder_from_config(read_model_config(model)).config.vocab_size
    words = [f"词{number}" for number in range(rows - 80)]
    report = extend_vocabulary(model, tmp_path / "out", NewTokens(words=words), pad_to=8)
    assert report.model_rows is not None
    assert report.model_rows.after % 8 == 0
    assert report.model_rows.after > rows == report.model_rows.before
    kept = report.num_tokens_before
    ids = torch.tensor([[5, 9, 30, 60]])
    with torch.no_grad():
        before, after = load_decoder(model)(ids), load_decoder(tmp_path / "out")(ids)
    assert after.shape[-1] == report.model_rows.after
    assert_close(after[..., :kept], before[..., :kept], 1e-5)


def test_all_golden_folders_were_tried() -> None:
    assert len(FOLDERS) == 24


def byte_tokenizer(folder: Path) -> None:
    """A tokenizer of 90 ids that fits the golden models: characters of ASCII, else nothing."""
    from danlu.tokenizer.pieces import byte_level_bytes

    letters = [chr(c) for c in range(33, 122) if len(byte_level_bytes(chr(c))) == 1]
    document = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": False,
        },
        "post_processor": None,
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": False,
        },
        "model": {
            "type": "BPE",
            "vocab": {letter: i for i, letter in enumerate(letters)},
            "merges": [],
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(document))


def test_a_tokenizer_alone(tmp_path: Path) -> None:
    tiny_tokenizer().save(tmp_path / "tokenizer")
    report = extend_vocabulary(tmp_path / "tokenizer", tmp_path / "out", NEW)
    assert report.model_rows is None
    assert report.words == {"丹炉": 350, "zebra": 351}
    assert report.control == {"<|tool|>": 352, "<|think|>": 353}
    assert report.tokens_per_word is not None
    assert report.tokens_per_word.after == 1
    assert load_tokenizer(tmp_path / "out").vocab_size == 354
    assert not (tmp_path / "out" / "danlu.json").exists()


def learned(folder: Path, out: Path) -> ExtendReport:
    corpus = folder.parent / "corpus.txt"
    corpus.write_text("\n".join(sentences("电脑")))
    return extend_vocabulary(folder, out, NewTokens(corpus=[corpus], num_learned=1))


def test_learned_words_make_the_corpus_shorter(model: Path, tmp_path: Path) -> None:
    report = learned(model, tmp_path / "out")
    assert report.words == {"电脑": 265}
    assert report.num_learned == 1
    assert report.tokens_per_document is not None
    assert report.tokens_per_document.after < report.tokens_per_document.before
    rows = dict(report.rows())
    assert rows["words"] == "1, 1 of them learned: 电脑"
    assert rows["rows of the model"] == "270: spare ones were enough"
    manifest = json.loads((tmp_path / "out" / "run.json").read_text())
    assert manifest["result"] == report.as_dict()


def test_a_float_mean_is_rounded_once() -> None:
    matrix = torch.tensor([[1.0, 3.0], [2.0, 4.0], [9.0, 9.0]], dtype=torch.bfloat16)
    out = grown(matrix, NewRows(2, [[0, 1], []], [0]), 6)
    assert out.dtype == torch.bfloat16
    assert out.tolist() == [[1, 3], [2, 4], [1.5, 3.5], [1, 3], [1, 3], [1, 3]]
    assert grown(matrix[:, 0], NewRows(2, [[0, 1]], [0]), 3).tolist() == [1, 2, 1.5]


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


# ---------------------------------------------------------------- what is refused


def refused(error: type[Exception], *args: Any, **options: Any) -> str:
    out = Path(args[1])
    before = sorted(out.parent.iterdir())
    with pytest.raises(error) as caught:
        extend_vocabulary(*args, **options)
    assert sorted(out.parent.iterdir()) == before
    return str(caught.value)


@pytest.mark.parametrize(
    ("new", "pad_to", "expected"),
    [
        (NewTokens(), 1, "there is nothing to add"),
        (NewTokens(words=["x"], num_learned=-1), 1, "-1 words to learn"),
        (NewTokens(num_learned=3), 1, "no corpus to learn them from"),
        (NEW, 0, "padded to a multiple of 0"),
    ],
)
def test_options_that_make_no_sense(
    new: NewTokens, pad_to: int, expected: str, tmp_path: Path
) -> None:
    assert expected in refused(ConfigError, tmp_path / "no", tmp_path / "out", new, pad_to)


def test_a_bad_word_file_is_named(model: Path, tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    new = NewTokens(word_files=[words])
    assert "Cannot read" in refused(DataError, model, tmp_path / "out", new)
    words.write_text("\n \n")
    assert "there is no word in it" in refused(DataError, model, tmp_path / "out", new)
    words.write_bytes(b"good\n\xff\xfe\n")
    message = refused(DataError, model, tmp_path / "out", new)
    assert "words.txt:2: byte 0xff at byte offset 5 is not UTF-8" in message
    words.write_text("zebra\nquagga\nzebra\n")
    assert "'zebra' is given twice" in refused(TokenizerError, model, tmp_path / "out", new)


def test_counts_behind_a_tab_are_no_part_of_a_word(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("丹炉\t120\n\nquagga\t7\n")
    assert read_words(tmp_path / "words.txt") == ["丹炉", "quagga"]


def test_a_corpus_without_words(model: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("1 2 3 ...")
    new = NewTokens(corpus=[corpus], num_learned=2)
    assert "has no word to learn" in refused(DataError, model, tmp_path / "out", new)


def test_out_exists(model: Path, tmp_path: Path) -> None:
    assert "exists and is not empty" in refused(OutputError, model, model, NEW)


def test_a_disk_that_is_full_leaves_nothing(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(danlu.weights.writing, "save_file", full)
    assert "The disk is full" in refused(OutputError, model, tmp_path / "out", NEW)


def test_a_quantized_model(model: Path, tmp_path: Path) -> None:
    spoil_config(model, quantization_config={"quant_method": "gptq"})
    assert "is quantized" in refused(QuantizationError, model, tmp_path / "out", NEW)


def test_an_adapter(model: Path, tmp_path: Path) -> None:
    (model / "adapter_config.json").write_text('{"base_model_name_or_path": "the-base"}')
    message = refused(CheckpointError, model, tmp_path / "out", NEW)
    assert "Extend its base (the-base)" in message


def test_a_tokenizer_of_another_model(model: Path, tmp_path: Path) -> None:
    tiny_tokenizer().save(model)
    (model / "danlu.json").unlink()
    message = refused(CheckpointError, model, tmp_path / "out", NEW)
    assert "has 350 tokens, the model only 270 rows" in message


def test_weights_that_do_not_fit(model: Path, tmp_path: Path) -> None:
    spoil_config(model, vocab_size=300)
    message = refused(CheckpointError, model, tmp_path / "out", NEW)
    assert "has 270 rows; config.json asks for 300" in message
    spoil_config(model, vocab_size=270)
    spoil_weights(model, **{key(HEAD): None})
    assert "lack lm_head.weight" in refused(CheckpointError, model, tmp_path / "out", NEW)
    (model / "model.safetensors").unlink()
    assert "No weights in" in refused(CheckpointError, model, tmp_path / "out", NEW)


def test_a_size_that_would_be_another_family(tmp_path: Path) -> None:
    """Only the vocabulary's size says that this config is of the second Baichuan."""
    model = copy_golden("baichuan2-13b", tmp_path / "model")
    spoil_config(model, vocab_size=125696, tokenizer_class="REMOVE")
    with pytest.raises(
        CheckpointError, match="read as one of family 'baichuan_13b', not"
    ) as caught:
        Checkpoint(model).write(tmp_path / "out", NewRows(125696, [[0]], [0]))
    assert "With 125,697 rows" in str(caught.value)


def test_a_config_without_the_size(model: Path, tmp_path: Path) -> None:
    checkpoint = Checkpoint(model)
    checkpoint.config.pop("vocab_size")
    with pytest.raises(CheckpointError, match="vocab_size"):
        checkpoint.write(tmp_path, NewRows(270, [[0]], [0]))


def test_no_tokenizer_and_no_folder(model: Path, tmp_path: Path) -> None:
    assert "does not exist" in refused(TokenizerError, tmp_path / "no", tmp_path / "out", NEW)
    (model / "tokenizer.json").unlink()
    assert "There is no tokenizer" in refused(TokenizerError, model, tmp_path / "out", NEW)


def test_generation_config_goes_along(model: Path, tmp_path: Path) -> None:
    shutil.copy(model / "config.json", model / "generation_config.json")
    extend_vocabulary(model, tmp_path / "out", NEW)
    copied = (tmp_path / "out" / "generation_config.json").read_bytes()
    assert copied == (model / "generation_config.json").read_bytes()
