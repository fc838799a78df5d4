"""Damaged tokenizer files: one TokenizerError each, which says what is wrong; nothing written."""

import base64
import json
from pathlib import Path

import pytest
from rank_folders import rank_lines, small_ranks, write_pairs, write_ranks
from tokenizer_cases import published

from danlu.errors import TokenizerError
from danlu.tokenizer import load_tokenizer
from danlu.tokenizer.kinds.tiktoken_ranks import _extra_ranks
from danlu.tokenizer.rank_files import read_ranks
from danlu.tokenizer.special import AddedToken

CUTS = (0.001, 0.1, 0.5, 0.9, 0.999)


def refusal(folder: Path, family: str | None = None) -> str:
    """Return the one error about a folder; a tokenizer must not come out."""
    with pytest.raises(TokenizerError) as caught:
        load_tokenizer(folder, family=family)
    message = str(caught.value)
    assert str(folder) in message
    return message


@pytest.mark.parametrize("cut", CUTS)
def test_a_truncated_qwen_file(shared: Path, tmp_path: Path, cut: float) -> None:
    data = (shared / "data/tokenizers/qwen1/qwen.tiktoken").read_bytes()
    (tmp_path / "qwen.tiktoken").write_bytes(data[: int(cut * len(data))])
    message = refusal(tmp_path)
    assert "not a complete tiktoken rank file" in message
    assert "Fetch it again" in message


def test_a_qwen_file_cut_between_lines(shared: Path, tmp_path: Path) -> None:
    lines = (shared / "data/tokenizers/qwen1/qwen.tiktoken").read_bytes().splitlines()
    (tmp_path / "qwen.tiktoken").write_bytes(b"\n".join(lines[:-3]))
    message = refusal(tmp_path)
    assert "it has 151640 ranks, expected 151643, the first missing is 151640" in message


@pytest.mark.parametrize("cut", CUTS)
def test_a_truncated_llama3_file(shared: Path, tmp_path: Path, cut: float) -> None:
    data = (shared / "data/tokenizers/llama3/tokenizer.model").read_bytes()
    (tmp_path / "tokenizer.model").write_bytes(data[: int(cut * len(data))])
    assert "rank file" in refusal(tmp_path, family="llama3")
    assert "tiktoken" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda lines: [*lines, lines[7]], "is there twice, as 7 and 7"),
        (lambda lines: [*lines[:-1], lines[-1].split()[0] + b" 5"], "the rank 5 is there twice"),
        (lambda lines: lines[:300] + lines[301:], "the first missing is 300"),
        (lambda lines: [b"UVFRUVFR 900", *lines[1:]], "the first missing is 0"),
        (lambda lines: [*lines, b"not base64!! 320"], "line 321 is b'not base64!! 320'"),
        (lambda lines: [*lines, b"QUJDRA== many"], "line 321 is b'QUJDRA== many'"),
        (lambda lines: [*lines, b"QUJDRA=="], "line 321 is b'QUJDRA=='"),
        (lambda lines: [*lines, b"QUJDRA== -7"], "line 321"),
        (lambda lines: [*lines, b"\xff\xfe 320"], "line 321"),
    ],
)
def test_wrong_ranks(tmp_path: Path, change: object, says: str) -> None:
    folder = write_ranks(tmp_path / "t", small_ranks())
    path = folder / "tokenizer.model"
    assert callable(change)
    path.write_bytes(b"\n".join(change(path.read_bytes().splitlines())))
    assert says in refusal(folder, family="llama3")


def test_all_problems_of_a_rank_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "ranks"
    path.write_bytes(rank_lines(small_ranks()) + b"??? 1\nQQ==\nQUJDRA== x\n")
    with pytest.raises(TokenizerError) as caught:
        read_ranks(path)
    assert all(f"line {number}" in str(caught.value) for number in (321, 322, 323))


def test_ranks_without_a_family(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(rank_lines(small_ranks()))
    message = refusal(tmp_path)
    assert "tiktoken file of 320 ranks" in message
    assert "151643 (qwen), 128000 (llama3), 151329 (glm4)" in message


def test_ranks_without_some_bytes(tmp_path: Path) -> None:
    folder = write_ranks(tmp_path / "t", small_ranks())
    lines = (folder / "tokenizer.model").read_bytes().splitlines()
    lines[65] = base64.b64encode(b"long unused token") + b" 65"
    (folder / "tokenizer.model").write_bytes(b"\n".join(lines))
    assert "1 of the 256 single bytes have no rank" in refusal(folder, family="llama3")


def test_extra_words_that_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "qwen_extra.tiktoken"
    path.write_bytes(b"QUI= 9\nQUJD 3\n")
    with pytest.raises(TokenizerError, match=r"has 1 words or ids .* b'ABC' as 3"):
        _extra_ranks(path, {b"A": 3}, (AddedToken("<x>", 4),))


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"{}", b"version https://git-lfs.github.com/spec/v1\n"]
)
def test_a_model_file_that_is_no_model(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.model").write_bytes(content)
    for family in (None, "llama3", "chatglm2"):
        message = refusal(tmp_path, family)
        assert "sentencepiece" in message


@pytest.mark.parametrize("name", ["llama2", "chatglm"])
@pytest.mark.parametrize("cut", CUTS)
def test_a_truncated_sentencepiece_model(
    shared: Path, tmp_path: Path, name: str, cut: float
) -> None:
    file, data = next(iter(published(shared, name).model.files().items()))
    (tmp_path / file).write_bytes(data[: int(cut * len(data))])
    assert "sentencepiece" in refusal(tmp_path)


@pytest.mark.parametrize("file", ["vocab.json", "merges.txt"])
@pytest.mark.parametrize("cut", [0.0, *CUTS])
def test_truncated_pairs(tmp_path: Path, file: str, cut: float) -> None:
    folder = write_pairs(tmp_path / "t")
    data = (folder / file).read_bytes().strip()
    (folder / file).write_bytes(data[: int(cut * len(data))])
    assert file in refusal(folder)


@pytest.mark.parametrize("file", ["vocab.json", "merges.txt"])
def test_pairs_that_miss_one_file_or_are_no_text(tmp_path: Path, file: str) -> None:
    folder = write_pairs(tmp_path / "t")
    (folder / file).write_bytes(b"\xff\xfe\x00")
    assert file in refusal(folder)
    (folder / file).unlink()
    assert f"has no {file}" in refusal(folder)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[]", "holds a list; expected a JSON object"),
        ("{}", "holds nothing"),
        ('{"a": "b"}', "holds 'a': 'b'"),
        ('{"a": true}', "holds 'a': True"),
        ('{"a": -1}', "holds 'a': -1"),
    ],
)
def test_a_vocabulary_of_the_wrong_type(tmp_path: Path, content: str, says: str) -> None:
    folder = write_pairs(tmp_path / "t")
    (folder / "vocab.json").write_text(content)
    assert says in refusal(folder)


def test_a_vocabulary_and_merges_of_two_tokenizers(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "t")
    merges = (folder / "merges.txt").read_text()
    (folder / "merges.txt").write_text(merges + "zq zq\n")
    message = refusal(folder)
    assert "the merge 'zq zq' is of tokens it does not have" in message
    assert "the merged token 'zqzq' is not in it" in message
    (folder / "merges.txt").write_text("\n".join(merges.splitlines()[:-2]))
    assert "comes from no merge" in refusal(folder)
    (folder / "merges.txt").write_text(merges + "a b c\n\u0120\n")
    assert "2 lines that are no pair, 'a b c' first" in refusal(folder)


def test_ids_given_twice(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "t")
    vocab = json.loads((folder / "vocab.json").read_text())
    vocab["a"] = vocab["b"]
    (folder / "vocab.json").write_text(json.dumps(vocab))
    assert f"the ids [{vocab['b']}] are there twice" in refusal(folder)


def test_pairs_of_a_family_that_has_none(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "t")
    message = refusal(folder, family="baichuan2")
    assert "tells how the tokenizer of vocab.json cuts text into words" in message
    assert "'baichuan2'" in message


def test_no_file_of_a_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    message = refusal(tmp_path, family="qwen")
    assert "qwen.tiktoken" in message
    assert "Found: config.json" in message


def test_a_chat_format_that_is_none(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "t")
    with pytest.raises(TokenizerError, match=r"Unknown chat format 'llama-2-chat'.*Did you mean"):
        load_tokenizer(folder, chat_format="llama-2-chat")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_format": 3}))
    with pytest.raises(TokenizerError, match=r"chat_format = 3; expected a name"):
        load_tokenizer(folder).render_chat([{"role": "user", "content": "hi"}])


def test_number_of_image_tokens(shared: Path, tmp_path: Path) -> None:
    file, data = next(iter(published(shared, "chatglm").model.files().items()))
    (tmp_path / file).write_bytes(data)
    (tmp_path / "tokenizer_config.json").write_text('{"num_image_tokens": "many"}')
    assert "num_image_tokens = 'many'; expected a number" in refusal(tmp_path)
