"""A model whose vocabulary grows: old rows stay, new ones are means, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import assert_close, copy_golden, golden, spoil_config, spoil_weights
from tokenizer_cases import tiny_tokenizer
from vocabulary_cases import (
    EMBEDDING,
    HEAD,
    NEW,
    key,
    sentences,
    small_tokenizer,
    tensors_of,
    with_tokenizer,
)

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
from danlu.tokenizer import load_tokenizer
from danlu.tokenizer.extending import extend
from danlu.tokenizer.stamp import check_stamp

FOLDERS = sorted(path.name for path in golden("").iterdir() if path.is_dir())


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A llama with a tokenizer of 265 tokens and 270 rows."""
    return with_tokenizer(tmp_path / "model", 270)


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


def test_tokens_that_were_added_without_rows_get_rows(tmp_path: Path) -> None:
    model = with_tokenizer(tmp_path / "model", 265)
    (model / "danlu.json").unlink()
    extend(small_tokenizer(), ["丹炉"], ["<|tool|>"]).save(model)
    new = NewTokens(words=["zebra丹炉"])
    report = extend_vocabulary(model, tmp_path / "out", new)
    assert report.as_dict()["model_rows"] == {"before": 265, "after": 268, "is_tied": False}
    before, after = tensors_of(model)[EMBEDDING], tensors_of(tmp_path / "out")[EMBEDDING]
    ordinary = [i for i in range(265) if i not in small_tokenizer().control_texts]
    assert torch.equal(before, after[:265])
    assert_close(after[265], before[ordinary].mean(0), 1e-6)
    assert_close(after[267], before[small_tokenizer().encode("zebra")].mean(0), 1e-6)


def test_weights_that_do_not_fit(model: Path, tmp_path: Path) -> None:
    spoil_config(model, vocab_size=300)
    message = refused(CheckpointError, model, tmp_path / "out", NEW)
    assert "has 270 rows; config.json asks for 300" in message
    spoil_config(model, vocab_size=270)
    spoil_weights(model, **{key(HEAD): None})
    assert "lack lm_head.weight" in refused(CheckpointError, model, tmp_path / "out", NEW)
    (model / "model.safetensors").unlink()
    assert "No weights in" in refused(CheckpointError, model, tmp_path / "out", NEW)


def test_a_size_that_told_the_family_is_replaced_by_a_note(tmp_path: Path) -> None:
    """Only the vocabulary's size says that this config is of the second Baichuan."""
    model = copy_golden("baichuan2-13b", tmp_path / "model")
    assert Checkpoint(model).told_family(108) is None
    spoil_config(model, vocab_size=125696, tokenizer_class="REMOVE")
    assert Checkpoint(model).told_family(125697) == "baichuan2_13b"


def test_a_family_that_was_named_is_noted(model: Path, tmp_path: Path) -> None:
    spoil_config(model, architectures=["MyLlama"], model_type="my")
    (model / "danlu.json").unlink()
    extend_vocabulary(model, tmp_path / "out", NEW, family="llama")
    assert load_decoder(tmp_path / "out").config.vocab_size == 270


def test_a_config_without_the_size(model: Path, tmp_path: Path) -> None:
    checkpoint = Checkpoint(model)
    checkpoint.config.pop("vocab_size")
    with pytest.raises(CheckpointError, match="vocab_size"):
        checkpoint.write(tmp_path, NewRows(270, [[0]], [0]))


def test_no_tokenizer_and_no_folder(model: Path, tmp_path: Path) -> None:
    message = refused(CheckpointError, tmp_path / "no", tmp_path / "out", NEW)
    assert "is not a folder" in message
    (model / "tokenizer.json").unlink()
    assert "There is no tokenizer" in refused(TokenizerError, model, tmp_path / "out", NEW)


def test_generation_config_goes_along(model: Path, tmp_path: Path) -> None:
    shutil.copy(model / "config.json", model / "generation_config.json")
    extend_vocabulary(model, tmp_path / "out", NEW)
    copied = (tmp_path / "out" / "generation_config.json").read_bytes()
    assert copied == (model / "generation_config.json").read_bytes()
