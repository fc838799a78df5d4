"""What is saved: the published files as they were, and the same tokenizer as tokenizer.json."""

import json
import random
from pathlib import Path

import pytest
from rank_folders import write_pairs
from tokenizer_cases import PUBLISHED, published, random_text
from transformers import AutoTokenizer

from danlu.errors import TokenizerError
from danlu.tokenizer import Tokenizer, load_tokenizer

EXACT = (
    *("aquila", "baichuan1", "baichuan2", "chatglm2", "gpt2", "llama2", "llama3", "opt"),
    *("qwen1", "qwen2"),
)
LARGE = ("baichuan2", "llama3", "qwen1", "qwen2")  # seconds each
OWN_FORMAT = ("aquila", "gpt2", "opt", "qwen2")  # stock transformers knows these files
WEIGHTS = ("tokenizer.model", "ice_text.model", "cog-pretrain.model", "qwen.tiktoken")
FILES = (*WEIGHTS, "vocab.json", "merges.txt", "added_tokens.json")
SPELLED = ("<reserved_", "<s>", "</s>", "<unk>", "[gMASK]")


def sample_texts(shared: Path, name: str, tokenizer: Tokenizer) -> list[str]:
    """Golden texts and random ones, without any that spell a control token."""
    path = shared / "data/tokenizers" / name / "golden_encodings.json"
    rng = random.Random(23)
    texts = [case["text"] for case in json.loads(path.read_text())["cases"]]
    texts += [random_text(rng) for _ in range(200)]
    texts += [" " * count + "x" + " " * count for count in range(20)]
    texts += [
        "\uff21\uff22\uff0c\u3002\uff1f\u2460\ufb01 \u00a0\u3000\u200d\ufeff\ufffd\x00\x07\r\n"
    ]
    control = (*SPELLED, *tokenizer.special_tokens)
    return [text for text in texts if not any(spelled in text for spelled in control)]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_saved_folder_is_the_published_one(shared: Path, tmp_path: Path, name: str) -> None:
    tokenizer = published(shared, name)
    tokenizer.save(tmp_path)
    source = shared / "data/tokenizers" / name
    kept = [file for file in FILES if (source / file).is_file()]
    assert kept
    for file in kept:
        if (name, file) != ("qwen2", "added_tokens.json"):  # its sections are no tokenizer's file
            assert (tmp_path / file).read_bytes() == (source / file).read_bytes()
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {*kept, "tokenizer_config.json"}


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name not in ("qwen1", "llama3")])
def test_a_saved_folder_is_the_same_tokenizer(shared: Path, tmp_path: Path, name: str) -> None:
    tokenizer = published(shared, name)
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.fingerprint() == tokenizer.fingerprint()
    assert again.special_tokens == tokenizer.special_tokens
    assert again.encode_prompt("a b") == tokenizer.encode_prompt("a b")


def test_side_files_stay_byte_for_byte(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "t")
    files = {
        "tokenizer_config.json": b'{"tokenizer_class":"GPT2Tokenizer",  "model_max_length": 7}',
        "special_tokens_map.json": b'{"eos_token":   "<|endoftext|>"}',
        "chat_template.jinja": b"{{ messages[0].content }}\r\n",
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    tokenizer = load_tokenizer(folder)
    tokenizer.save(tmp_path / "saved")
    for name, data in files.items():
        assert (tmp_path / "saved" / name).read_bytes() == data
    other = tokenizer.with_chat_format("chatml")
    other.save(tmp_path / "other")
    template = (tmp_path / "other/chat_template.jinja").read_text()
    assert "<|im_start|>" in template
    assert load_tokenizer(tmp_path / "other").fingerprint() == other.fingerprint()


@pytest.mark.parametrize("name", OWN_FORMAT)
def test_stock_transformers_opens_what_is_saved(shared: Path, tmp_path: Path, name: str) -> None:
    tokenizer = published(shared, name)
    tokenizer.save(tmp_path)
    stock = AutoTokenizer.from_pretrained(tmp_path)
    path = shared / "data/tokenizers" / name / "golden_encodings.json"
    cases = json.loads(path.read_text())["cases"]
    for case in cases:
        assert stock(case["text"], add_special_tokens=False)["input_ids"] == case["ids"]
    assert stock.eos_token_id == tokenizer.eos_id


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in LARGE else []) for n in EXACT]
)
def test_tokenizer_json_in_stock_transformers(shared: Path, tmp_path: Path, name: str) -> None:
    tokenizer = published(shared, name)
    tokenizer.save_tokenizer_json(tmp_path)
    stock = AutoTokenizer.from_pretrained(tmp_path)
    texts = sample_texts(shared, name, tokenizer)
    assert len(texts) > 150
    for text in texts:
        ids = tokenizer.encode(text)
        assert stock(text, add_special_tokens=False)["input_ids"] == ids
        assert stock.decode(ids) == tokenizer.decode(ids)
    named = (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
    assert (stock.bos_token_id, stock.eos_token_id, stock.pad_token_id) == named
    assert stock("hi")["input_ids"] == tokenizer.encode_prompt("hi")
    control = list(tokenizer.special_tokens)[-1]
    assert (
        stock(f"a{control}", add_special_tokens=False)["input_ids"][-1]
        == (tokenizer.special_tokens[control])
    )
    assert len(stock) == tokenizer.vocab_size


@pytest.mark.parametrize("name", ["gpt2", "llama2", "baichuan1", "aquila"])
def test_tokenizer_json_in_danlu(shared: Path, tmp_path: Path, name: str) -> None:
    tokenizer = published(shared, name)
    tokenizer.save_tokenizer_json(tmp_path)
    again = load_tokenizer(tmp_path)
    for text in sample_texts(shared, name, tokenizer):
        assert again.encode(text) == tokenizer.encode(text)
        assert again.decode(tokenizer.encode(text)) == tokenizer.decode(tokenizer.encode(text))
    assert again.encode_prompt("hi") == tokenizer.encode_prompt("hi")


def test_the_template_goes_with_tokenizer_json(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_pairs(tmp_path / "t")).with_chat_format("chatml")
    tokenizer.save_tokenizer_json(tmp_path / "out")
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    config = json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert config["eos_token"] == "<|endoftext|>"
    assert "auto_map" not in config


@pytest.mark.parametrize(
    ("name", "reason"),
    [("chatglm", "white space is written as pieces"), ("glm-10b-chinese", "drops spaces")],
)
def test_what_tokenizer_json_cannot_say(
    shared: Path, tmp_path: Path, name: str, reason: str
) -> None:
    tokenizer = published(shared, name)
    assert tokenizer.model.tokenizer_json() is None
    with pytest.raises(TokenizerError, match=reason):
        tokenizer.save_tokenizer_json(tmp_path)
    assert not any(tmp_path.iterdir())
