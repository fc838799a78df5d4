"""`danlu chat` with a model of every family: random words, in the family's own format."""

import io
import json
from pathlib import Path
from shutil import copytree

import pytest
from checkpoints import FAMILIES, spoil_config

import danlu
from danlu.cli.app import run
from danlu.errors import TokenizerError
from danlu.tokenizer import train_bpe

SENTENCE = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the human's questions."
)
CONTROL = [
    "<s> </s> [UNK] <|startofpiece|> <|endofpiece|> <reserved_102> <reserved_103> <reserved_106>",
    "<reserved_107> [gMASK] <sop> sop <eop> <|user|> <|assistant|> <|observation|> <|system|>",
]
FEWEST_ROWS = 280
# The format of each family, and what it puts around a first question.
FORMATS = {
    "aquila": ("aquila-chat", f"{SENTENCE}###Human: Why?###Assistant: "),
    "aquila2": ("aquila-v1", "<|startofpiece|>Why?<|endofpiece|> "),
    "baichuan-13b": ("baichuan1-chat", "<reserved_102>Why?<reserved_103>"),
    "baichuan-7b": ("baichuan1-chat", "<reserved_102>Why?<reserved_103>"),
    "baichuan2-13b": ("baichuan2-chat", "<reserved_106>Why?<reserved_107>"),
    "baichuan2-7b": ("baichuan2-chat", "<reserved_106>Why?<reserved_107>"),
    "chatglm-6b": ("chatglm-6b", "Why?"),
    "chatglm2-6b": ("chatglm2-6b", "[Round 1]\n\n问：Why?\n\n答："),
    "glm4-0414": ("glm4-chat", "[gMASK]<sop><|user|>\nWhy?<|assistant|>"),
    "glm4-hf": ("glm4-chat", "[gMASK]<sop><|user|>\nWhy?<|assistant|>"),
    "qwen": (
        "qwen1-chat",
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
    ),
}
CHATML = ("chatml", "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n")


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small tokenizer with the control tokens of every format, and no chat template."""
    folder = tmp_path_factory.mktemp("tokenizer")
    train_bpe([SENTENCE] * 3, FEWEST_ROWS + 20, control=" ".join(CONTROL).split()).save(folder)
    (folder / "chat_template.jinja").unlink()
    return folder


def with_tokenizer(golden: Path, tokenizer: Path, folder: Path) -> Path:
    """A golden model beside that tokenizer; ChatGLM-6B is told its ids."""
    copytree(golden, folder)
    for file in tokenizer.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    if golden.name == "chatglm-6b":
        ids = danlu.load_tokenizer(tokenizer).special_tokens
        spoil_config(folder, bos_token_id=ids["<sop>"], gmask_token_id=ids["[gMASK]"])
    return folder


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "deepseek_v3"])
def test_every_family_chats(
    name: str,
    shared: Path,
    tokenizer_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = with_tokenizer(shared / "golden" / name, tokenizer_folder, tmp_path / name)
    own_format, prompt = FORMATS.get(name, CHATML)
    tokenizer = danlu.load_tokenizer(folder)
    assert tokenizer.chat_format == (own_format if name in FORMATS else None)
    question = [{"role": "user", "content": "Why?"}]
    assert tokenizer.render_chat(question, format=own_format).text == prompt

    command = ["chat", str(folder), "--max-tokens", "8", "--temperature", "0"]
    chosen = [] if name in FORMATS else ["--format", own_format]
    monkeypatch.setattr("sys.stdin", io.StringIO("Why?\nAnd now?\n/exit\n"))
    code = run([*command, *chosen])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    assert len(shown.out.strip()) > 0


def test_a_tokenizer_with_more_tokens_than_rows_is_refused(
    shared: Path, tokenizer_folder: Path, tmp_path: Path
) -> None:
    folder = with_tokenizer(shared / "golden" / "deepseek_v3", tokenizer_folder, tmp_path / "model")
    rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    assert rows == FEWEST_ROWS
    with pytest.raises(TokenizerError, match=f"has 300 tokens, but the model has {rows} rows"):
        danlu.LLM(folder)
