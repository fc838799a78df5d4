"""Training: deterministic, checked input, and folders that stock transformers opens unchanged."""

import logging
import random
from pathlib import Path

import pytest
from tokenizer_cases import CORPUS, random_conversation, random_text, tiny_tokenizer

from danlu.errors import DataError, TokenizerError
from danlu.tokenizer import load_tokenizer, train_bpe


class Recorder:
    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def start(self, what: str, total: int | None) -> None:
        self.calls.append(("start", what, total))

    def advance(self, done: int, note: str = "") -> None:
        self.calls.append(("advance", done))

    def finish(self) -> None:
        self.calls.append(("finish",))


def test_training_is_deterministic_and_fixes_the_control_ids() -> None:
    first, second = (train_bpe(iter(CORPUS), 350) for _ in range(2))
    assert first.fingerprint() == second.fingerprint()
    assert first.special_tokens == {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}
    assert (first.bos_id, first.eos_id, first.pad_id) == (None, 0, 0)
    assert first.vocab_size == 350
    assert first.prompt_prefix() == []
    assert first.stop_ids() == first.stop_ids("chatml") == [0, 2]
    assert first.chat_format == "chatml"


def test_every_byte_is_a_token_and_digits_stay_single() -> None:
    tokenizer = tiny_tokenizer()
    text = "龘 \x00 ꙮ"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode("2024")) == 4


def test_long_phrases_do_not_become_tokens() -> None:
    tokenizer = train_bpe(["小明把红色的球给了小红" * 20], 600)
    lengths = [len(tokenizer.model.token_bytes(i, first=False)) for i in range(3, 600)]
    assert max(lengths) <= 16


def test_progress_is_told() -> None:
    progress = Recorder()
    train_bpe(iter(CORPUS), 300, progress=progress)
    done = sum(call[1] for call in progress.calls if call[0] == "advance")
    assert done == sum(map(len, CORPUS))
    assert progress.calls[0] == ("start", "tokenizer", None)
    assert progress.calls[-1] == ("finish",)


def test_a_small_corpus_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        tokenizer = train_bpe(["one two two"], 5000)
    assert tokenizer.vocab_size < 5000
    assert f"gave {tokenizer.vocab_size} tokens, 5000 were asked for" in caplog.text


@pytest.mark.parametrize("texts", [[], ["", " \n"]])
def test_no_text(texts: list[str]) -> None:
    with pytest.raises(DataError, match=r"no text to train a tokenizer on"):
        train_bpe(texts, 300)


def test_wrong_arguments() -> None:
    with pytest.raises(TokenizerError, match=r"vocab_size is 100; expected at least 259"):
        train_bpe(CORPUS, 100)
    with pytest.raises(TokenizerError, match=r"format 'chatm1'.*Did you mean 'chatml'"):
        train_bpe(CORPUS, 300, chat_format="chatm1")


@pytest.mark.parametrize("model_type", [None, "llama"])
def test_stock_transformers_agrees(tmp_path: Path, model_type: str | None) -> None:
    transformers = pytest.importorskip("transformers")
    ours = tiny_tokenizer()
    ours.save(tmp_path)
    if model_type:  # beside weights, transformers looks at the model type as well
        (tmp_path / "config.json").write_text(f'{{"model_type": "{model_type}"}}')
    stock = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (stock.eos_token_id, stock.pad_token_id, stock.bos_token_id) == (0, 0, None)
    assert len(stock) == ours.vocab_size
    rng = random.Random(5)
    for _ in range(100):
        text = random_text(rng)
        assert stock.encode(text) == ours.encode(text, allow_special=True)
        ids = ours.encode(text)
        assert stock.decode(ids) == ours.decode(ids)
        messages = random_conversation(rng)
        for prompt in (True, False):
            rendered = ours.render_chat(messages, add_generation_prompt=prompt)
            assert rendered.text == stock.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=prompt
            )


def test_stock_transformers_renders_the_same_ids(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    ours = tiny_tokenizer()
    ours.save(tmp_path)
    stock = transformers.AutoTokenizer.from_pretrained(tmp_path)
    messages = [
        {"role": "system", "content": "系统"},
        {"role": "user", "content": "\nThe cat sat?"},
        {"role": "assistant", "content": "The dog."},
        {"role": "user", "content": "小红呢？"},
    ]
    expected = stock.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ours.render_chat(messages).ids == list(expected)


def test_saved_folders_load_again(tmp_path: Path) -> None:
    tiny_tokenizer().save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "chat_template.jinja",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert again.chat_format == "chatml"
    assert again.special_tokens == tiny_tokenizer().special_tokens
    assert again.pad_id == 0
