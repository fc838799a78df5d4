"""`danlu tokenizer`: train, compare and extend as a user calls them, and what they refuse."""

import json
from pathlib import Path

import pytest
from command_line import Capture, complained, printed
from tokenizer_cases import CORPUS, tiny_tokenizer

from danlu.commands.compression import CompressionTable, compare_token_counts
from danlu.commands.tokenizer import train_tokenizer
from danlu.data.text_kinds import CHINESE, CODE, ENGLISH, is_code, parts_by_kind
from danlu.data.tiny_world import TinyWorld
from danlu.errors import ConfigError, DanluError, DataError, TokenizerError
from danlu.tokenizer import load_tokenizer


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    tiny_tokenizer().save(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("\n<|endoftext|>\n".join(CORPUS))
    return path


# ---------------------------------------------------------------- kinds of text


def test_code_is_told_from_prose() -> None:
    world = TinyWorld()
    assert all(is_code(code) for code in world.code_samples(50))
    assert not any(is_code(story) for story in world.held_out_stories(50))
    assert is_code(Path(__file__).read_text())
    assert is_code('#include <stdio.h>\nint main(void) {\n    printf("hi");\n    return 0;\n}')
    assert not is_code("To bake a cake: mix flour (200 g) and sugar.\nThen wait; it takes an hour.")
    assert not is_code("return to me, my love\nif you can hear me calling\nfor I am far away")


def test_parts_by_kind() -> None:
    assert parts_by_kind("你好。\nHello.\n小明 Tom") == [
        (CHINESE, "你好。\n小明 Tom"),
        (ENGLISH, "Hello."),
    ]
    code = "def f(x):\n    # 注释\n    return x\n"
    assert parts_by_kind(code) == [(CODE, code)]
    assert parts_by_kind(" \n\n") == []


# ---------------------------------------------------------------- compare


def counts(table: CompressionTable) -> dict[str, int]:
    return {kind.kind: kind.num_documents for kind in table.kinds}


def test_documents_are_sorted_by_content_or_by_what_is_said(
    tokenizer: Path, corpus: Path, tmp_path: Path
) -> None:
    assert counts(compare_token_counts([tokenizer], [corpus])) == {
        ENGLISH: 2,
        CHINESE: 1,
        CODE: 1,
    }
    assert counts(compare_token_counts([tokenizer], [f"zh={corpus}"])) == {CHINESE: 4}
    source = tmp_path / "main.py"
    source.write_text("x = 1\n\n\nprint(x)\n")
    several = [f"code={corpus}", str(source), f"en={corpus}"]
    assert counts(compare_token_counts([tokenizer], several)) == {ENGLISH: 4, CODE: 5}


def test_numbers_of_the_table(tokenizer: Path, tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("小明把红色的球给了小红。")
    table = compare_token_counts([tokenizer], [text])
    num_tokens = len(tiny_tokenizer().encode("小明把红色的球给了小红。"))
    (row,) = table.kinds
    assert row.tokens_per_document == {"tiny": num_tokens}
    assert row.characters_per_token("tiny") == 12 / num_tokens
    assert row.bytes_per_token("tiny") == 36 / num_tokens
    titles = [title for title, _, _ in table.tables()]
    assert titles == ["Average tokens per document", "Characters per token", "Bytes per token"]
    assert table.tables()[0][2] == [
        ["(documents)", "", "1"],
        ["(one token per byte)", "256", "36.0"],
        ["tiny", "350", f"{num_tokens:.1f}"],
    ]
    assert table.as_dict()["kinds"][0]["bytes_per_token"] == {"tiny": 36 / num_tokens}


def test_without_text_the_tiny_world_is_counted(tokenizer: Path, capsys: Capture) -> None:
    found = json.loads(printed(capsys, "tokenizer", "compare", tokenizer, "--json"))
    assert found["vocab_sizes"] == {"tiny": 350}
    kinds = {kind["kind"]: kind["num_documents"] for kind in found["kinds"]}
    assert kinds == {ENGLISH: 300, CHINESE: 300, CODE: 100}


def test_tokenizers_of_one_name_are_told_apart(tokenizer: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "tiny"
    tiny_tokenizer().save(other)
    table = compare_token_counts([tokenizer, other], [f"en={__file__}"])
    assert list(table.vocab_sizes) == [str(tokenizer), str(other)]


@pytest.mark.parametrize(
    ("text", "error", "expected"),
    [
        ("french=corpus.txt", ConfigError, "no kind of text 'french'"),
        ("missing.txt", DataError, "there is no such file"),
        ("zh=missing.txt", DataError, "Cannot read 'missing.txt': there is no such file"),
        ("{}/empty.py", DataError, "empty.py: the file is empty"),
        ("{}/bytes.md", DataError, "bytes.md:2: byte 0xff at byte offset 3 is not UTF-8"),
        ("{}/empty.txt", DataError, "empty.txt: the file is empty"),
    ],
)
def test_compare_refuses_wrong_texts(
    text: str, error: type[DanluError], expected: str, tokenizer: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty.py").write_text("\n\n")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "bytes.md").write_bytes(b"ok\n\xff")
    with pytest.raises(error) as caught:
        compare_token_counts([tokenizer], [text.format(tmp_path)])
    assert expected in str(caught.value)


def test_compare_names_a_folder_without_tokenizer(tmp_path: Path, capsys: Capture) -> None:
    assert "There is no tokenizer in" in complained(capsys, "tokenizer", "compare", tmp_path)


# ---------------------------------------------------------------- train


def test_train_with_further_control_tokens(corpus: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out"
    train = ("tokenizer", "train", corpus, "--out", out, "--vocab-size", 290)
    assert "290 tokens" in printed(capsys, *train, "--control", "<|tool|>", "--control", "<|end|>")
    found = load_tokenizer(out)
    assert found.special_tokens["<|tool|>"] == 3
    assert found.encode("<|end|>", allow_special=True) == [4]
    assert json.loads((out / "run.json").read_text())["config"]["control"] == [
        "<|tool|>",
        "<|end|>",
    ]


def test_train_with_a_template_file(corpus: Path, tmp_path: Path) -> None:
    template = tmp_path / "chat.jinja"
    template.write_text("{% for m in messages %}[{{ m.role }}]{{ m.content }}<|end|>{% endfor %}")
    report = train_tokenizer([corpus], tmp_path / "out", 290, str(template), control=["<|end|>"])
    found = load_tokenizer(report.folder)
    assert found.chat_format == "jinja"
    rendered = found.render_chat([{"role": "user", "content": "a"}], add_generation_prompt=False)
    assert rendered.text == "[user]a<|end|>"


@pytest.mark.parametrize(
    ("options", "error", "expected"),
    [
        ({"vocab_size": 20}, TokenizerError, "vocab_size is 20; expected at least 259"),
        ({"control": ["<|a|>"] * 2}, TokenizerError, "there already: ['<|a|>']"),
        ({"control": ["<|im_end|>", " "]}, TokenizerError, "[' ', '<|im_end|>']"),
        ({"chat_format": "chatlm"}, TokenizerError, "Did you mean 'chatml'?"),
        ({"chat_format": "no.jinja"}, TokenizerError, "'no.jinja' cannot be read"),
    ],
)
def test_train_refuses(
    options: dict[str, object],
    error: type[DanluError],
    expected: str,
    corpus: Path,
    tmp_path: Path,
) -> None:
    with pytest.raises(error) as caught:
        train_tokenizer([corpus], tmp_path / "out", **options)  # type: ignore[arg-type]
    assert expected in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_train_overwrites_nothing(corpus: Path, tokenizer: Path, capsys: Capture) -> None:
    before = (tokenizer / "tokenizer.json").read_bytes()
    message = complained(capsys, "tokenizer", "train", corpus, "--out", tokenizer)
    assert "exists and is not empty" in message
    assert (tokenizer / "tokenizer.json").read_bytes() == before


# ---------------------------------------------------------------- extend


def test_extend(tokenizer: Path, corpus: Path, tmp_path: Path, capsys: Capture) -> None:
    words, out = tmp_path / "words.txt", tmp_path / "out"
    words.write_text("丹炉\nquagga\n")
    flags = ("--words", words, "--word", "zebra", "--control", "<|tool|>", "--corpus", corpus)
    shown = printed(capsys, "tokenizer", "extend", tokenizer, out, *flags)
    assert "3, 0 of them learned: zebra, 丹炉, quagga" in shown
    assert "350 -> 354" in shown
    assert "tokens per document" in shown
    assert load_tokenizer(out).encode("丹炉") == [351]
    assert "exists and is not empty" in complained(
        capsys, "tokenizer", "extend", tokenizer, out, *flags
    )


def test_extend_says_what_is_missing(tokenizer: Path, tmp_path: Path, capsys: Capture) -> None:
    extend = ("tokenizer", "extend", tokenizer, tmp_path / "out")
    assert "there is nothing to add" in complained(capsys, *extend)
    assert "no corpus to learn them from" in complained(capsys, *extend, "--add", 5)
    message = complained(capsys, *extend, "--words", tmp_path / "no.txt")
    assert "Cannot read" in message
    message = complained(capsys, *extend, "--word", "new", "--corpus", tmp_path / "no.txt")
    assert "there is no such file" in message
    assert not (tmp_path / "out").exists()
