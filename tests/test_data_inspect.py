"""`danlu data inspect`: what it shows of rows, and what it warns of."""

import json
import re
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from chat_cases import every_control_tokenizer
from command_line import Capture, complained, printed
from safetensors.torch import load_file, save_file

from danlu.commands.data.inspect import Plan, inspect_data, page, sample_text
from danlu.commands.data.inspect.embedding import measure, why_untrained
from danlu.config.data import DataSource
from danlu.tokenizer.chat.training import render_training

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "cat?"},
    {"role": "assistant", "content": "dog", "weight": 0.5},
    {"role": "user", "content": "And?\n<|im_end|>"},
    {"role": "assistant", "content": "egg <b>"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer with the control tokens of every format, and ChatML as its own."""
    found = tmp_path_factory.mktemp("tokenizer")
    every_control_tokenizer().with_chat_format("chatml").save(found)
    return found


def rows_file(tmp_path: Path, *rows: Any) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def look(folder: Path, path: Path, **options: Any) -> Any:
    return inspect_data(Plan(str(folder), [DataSource(path=str(path))], **options))


def whats(inspection: Any) -> list[str]:
    return [finding.what for finding in inspection.findings]


def test_what_is_learned_stands_between_brackets(
    folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    path = rows_file(tmp_path, {"messages": TALK})
    shown = printed(capsys, "data", "inspect", "--model", folder, "--data", path)
    assert "<|im_start|>assistant\n\u27e6dog<|im_end|>\n\u27e7<|im_start|>user\nAnd?\n" in shown
    assert "<|im_start|>assistant\n\u27e6egg <b><|im_end|>\n\u27e7" in shown
    assert re.search(r"rows\.jsonl:1 +conversation, \d+ tokens, \d+ learned", shown)
    assert "chat format     chatml" in shown
    assert "1 of 1 rows spell control tokens" in shown


class Tokens(HTMLParser):
    """Reads the tokens of a page back."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tokens: list[tuple[str, str, str]] = []  # classes, data, text
        self.outside: list[str] = []
        self._open: dict[str, str | None] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.outside += [str(found[name]) for name in ("src", "href") if name in found]
        if tag == "i" and "data-t" in found:
            self._open = found
            self.tokens.append((str(found["class"]), str(found["data-t"]), ""))

    def handle_endtag(self, tag: str) -> None:
        self._open = None if tag == "i" else self._open

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            classes, facts, text = self.tokens.pop()
            self.tokens.append((classes, facts, text + data))


def test_the_page_shows_every_token_with_its_facts(folder: Path, tmp_path: Path) -> None:
    path = rows_file(tmp_path, {"messages": TALK})
    inspection = look(folder, path)
    text = page(inspection)
    reader = Tokens()
    reader.feed(text)
    (row,) = inspection.shown
    assert len(reader.tokens) == len(row.tokens)
    rendered = render_training(every_control_tokenizer(), TALK, format="chatml")
    for (classes, facts, shown), token_id, label, role, weight in zip(
        reader.tokens,
        rendered.rendered.ids,
        rendered.labels,
        rendered.rendered.roles,
        rendered.weights or [],
        strict=True,
    ):
        assert facts == f"{token_id}|{'' if label < 0 else label}|{weight:g}"
        assert classes.split()[0] == role
        assert ("learned" in classes.split()) == (label >= 0)
        assert shown
    joined = "".join(shown.replace("\u21b5", "") for _, _, shown in reader.tokens)
    assert joined == rendered.rendered.text
    assert reader.outside == []
    assert "http" not in text


def test_the_page_is_written_and_reads_nothing_else(
    folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    path = rows_file(tmp_path, {"messages": TALK}, {"messages": TALK[1:3]})
    out = tmp_path / "page.html"
    shown = printed(
        capsys, "data", "inspect", "--model", folder, "--data", path, "--html", out, "--rows", 1
    )
    assert f"Written to {out}, 1 rows" in shown
    assert out.read_text(encoding="utf-8").count('<section class="row"') == 1
    assert "rows looked at  2" in shown


def test_nothing_but_an_older_page_is_overwritten(
    folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    path, out = rows_file(tmp_path, {"messages": TALK}), tmp_path / "run.yaml"
    out.write_text("out: runs/mine\n")
    command = ("data", "inspect", "--model", folder, "--data", path, "--html", out)
    assert "nothing was overwritten" in complained(capsys, *command)
    assert out.read_text() == "out: runs/mine\n"
    out.unlink()
    assert printed(capsys, *command) == printed(capsys, *command)


def test_long_rows_are_shown_in_part(
    folder: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("danlu.cli.data.inspect.MOST_SHOWN", 3)
    monkeypatch.setattr(import_module("danlu.commands.data.inspect.page"), "MOST_SHOWN", 3)
    path, out = rows_file(tmp_path, {"messages": TALK}), tmp_path / "page.html"
    command = ("data", "inspect", "--model", folder, "--data", path)
    assert "more tokens; --max-tokens shortens" in printed(capsys, *command)
    printed(capsys, *command, "--html", out)
    assert out.read_text().count("data-t=") == 3


def test_other_rows_than_conversations(folder: Path, tmp_path: Path) -> None:
    pair = {"prompt": "cat?", "chosen": "dog", "rejected": "egg"}
    found = look(folder, rows_file(tmp_path, pair))
    assert [row.what for row in found.rows] == ["chosen answer", "rejected answer"]
    assert all(row.num_learned for row in found.rows)
    judged = {"messages": TALK, "label": False}
    (row,) = look(folder, rows_file(tmp_path, judged)).rows
    assert row.what == "undesirable answer"
    assert next(token.text for token in row.tokens if token.is_learned) != "dog"
    (row,) = look(folder, rows_file(tmp_path, {"text": "The cat sat"})).rows
    assert row.what == "text"
    assert row.num_learned == len(row.tokens) - 1
    plain = tmp_path / "plain.txt"
    plain.write_text("The cat sat\n", encoding="utf-8")
    (row,) = look(folder, plain).rows
    assert "".join(token.text for token in row.tokens).startswith("The cat sat")


def test_labels_that_are_not_the_token(folder: Path, tmp_path: Path) -> None:
    found = look(folder, rows_file(tmp_path, {"messages": TALK}), format="baichuan2-chat")
    (row,) = found.rows
    other = [token for token in row.tokens if token.is_learned and token.label != token.token_id]
    assert [token.text for token in other] == ["<reserved_106>"]
    assert "<sup>\u2192 &lt;/s&gt;</sup>" in page(found)


def test_rows_that_are_lost_or_shortened(folder: Path, tmp_path: Path) -> None:
    silent = [{**message, "loss": False, "weight": None} for message in TALK]
    path = rows_file(tmp_path, {"messages": silent}, {"messages": TALK}, {"messages": "no list"})
    (unread, lost, *_) = found = whats(look(folder, path))
    assert "1 rows cannot be read" in unread
    assert "rows.jsonl:3" in unread
    assert re.match(r"1 of 2 rows cannot be trained on:\n  - .*rows.jsonl:1: no token to le", lost)
    path = rows_file(tmp_path, {"messages": TALK})
    found = whats(look(folder, path, max_tokens=60))
    assert any("shortened" in what and "1 of 2 rounds dropped" in what for what in found)
    found = whats(look(folder, path, max_tokens=60, long="drop"))
    assert any("cannot be trained on" in what and "more than 60" in what for what in found)
    folded = rows_file(tmp_path, {"messages": TALK[1:]})
    found = whats(look(folder, folded, format="chatglm2-6b"))
    assert any("have answers that are not learned" in what for what in found)


def test_a_doubled_bos(folder: Path, tmp_path: Path) -> None:
    template = tmp_path / "doubled.jinja"
    template.write_text(
        "{{ bos_token }}{{ bos_token }}{% for m in messages %}{{ m.content }}\n"
        "{{ eos_token }}{% endfor %}"
    )
    path = rows_file(tmp_path, {"messages": TALK[1:3]})
    assert "1 of 1 rows have a doubled BOS" in whats(look(folder, path, format=str(template)))[0]
    assert not any("BOS" in what for what in whats(look(folder, path)))


def test_a_stop_token_that_is_never_learned(folder: Path, tmp_path: Path) -> None:
    template = tmp_path / "endless.jinja"
    template.write_text(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
        "{% endif %}"
    )
    path = rows_file(tmp_path, {"messages": TALK[1:3]})
    found = whats(look(folder, path, format=str(template)))
    assert "No row teaches where an answer ends (it ends with <|im_start|>, </s>)" in found[0]
    for name in ("chatml", "aquila-chat", "baichuan2-chat", "glm4-chat", "llama3-chat"):
        assert not any(
            "where an answer ends" in what for what in whats(look(folder, path, format=name))
        )


def test_rows_of_an_embedding_that_look_untrained() -> None:
    matrix = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    matrix = 3 * matrix / matrix.norm(dim=1, keepdim=True)
    matrix[1] = 0
    matrix[2] = matrix[5]
    matrix[3] /= 4
    matrix[48:] = 1.5 * matrix[48:] / matrix[48:].norm(dim=1, keepdim=True)
    matrix[4] /= 2
    rows = measure(matrix, [1, 2, 3, 4, 6], num_tokens=48)
    reasons = {token_id: why_untrained(rows, token_id) for token_id in (1, 2, 3, 4, 6)}
    assert reasons[1] == "is all zeros"
    assert reasons[2] == "is equal to 1 other rows"
    assert reasons[3].startswith("has the norm 0.75, half of all have more than")
    assert reasons[4] == "is like the rows without a token"
    assert reasons[6] == ""


def test_control_tokens_a_checkpoint_never_trained(folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    for place in (folder, Path(__file__).parent / "golden-small" / "qwen2"):
        copytree(place, model, dirs_exist_ok=True)
    path = rows_file(tmp_path, {"messages": TALK[:3]})
    assert not any("untrained" in what for what in whats(look(model, path)))
    weights = load_file(model / "model.safetensors")
    weights["model.embed_tokens.weight"][1] = 0
    save_file(weights, model / "model.safetensors")
    (found,) = [what for what in whats(look(model, path)) if "untrained" in what]
    assert found.endswith(f"untrained in '{model}':\n  - <|im_start|> is all zeros")
    found = "".join(whats(look(model, path, format="llama3-chat")))
    assert "<|eot_id|> has no row" in found
    (model / "model.safetensors").unlink()
    (model / "model.safetensors.index.json").write_text("{}")
    found = "".join(whats(look(model, path)))
    assert "The embedding was not looked at: " in found


def test_a_run_file_says_what_to_look_at(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    path = rows_file(tmp_path, {"messages": TALK})
    run = tmp_path / "run.yaml"
    run.write_text(
        f"out: {tmp_path / 'out'}\nmodel: {folder}\n"
        f"data:\n  instructions: {path}\n  max_seq_len: 64\n  learn: last\n  long: truncate\n"
        "train:\n  epochs: 1\n"
    )
    shown = printed(capsys, "data", "inspect", run)
    assert "longest row     64 tokens" in shown
    assert "longest row     99 tokens" in printed(
        capsys, "data", "inspect", run, "data.max_seq_len=99"
    )
    run.write_text(
        f"out: {tmp_path / 'out'}\ntokenizer: {folder}\n"
        f"data:\n  corpus: {path.with_suffix('.txt')}\ntrain:\n  steps: 1\n"
    )
    path.with_suffix(".txt").write_text("The cat sat\n")
    assert "text, " in printed(capsys, "data", "inspect", run)
    pair = {"prompt": "cat?", "chosen": "dog", "rejected": "egg"}
    pairs = rows_file(tmp_path, pair)
    run.write_text(
        f"out: {tmp_path / 'out'}\nmodel: {folder}\n"
        f"data:\n  preferences: {pairs}\ntrain:\n  epochs: 1\n"
    )
    assert "rejected answer, " in printed(capsys, "data", "inspect", run)
    run.write_text(f"out: {tmp_path / 'out'}\nmodel: {folder}\n")
    assert "one of corpus, instructions, preferences" in complained(capsys, "data", "inspect", run)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Expected a run file, or both --model and --data"),
        (["--model", "m"], "Expected a run file, or both --model and --data"),
        (["run.yaml", "--data", "d"], "Expected a run file, or both --model and --data"),
        (["run.yaml", "--format", "chatml"], "--format would not be used: the run file says it"),
        (["none.yaml"], "none.yaml' does not exist"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str, capsys: Capture) -> None:
    assert message in complained(capsys, "data", "inspect", *arguments)


def test_a_sample_in_words() -> None:
    tokenizer = every_control_tokenizer()
    text = render_training(tokenizer, TALK[1:3], format="chatml")
    skipped = text.labels.index(next(label for label in text.labels if label >= 0))
    assert sample_text(tokenizer, text, "rows.jsonl:1") == (
        f"First sample (rows.jsonl:1): {len(text.labels)} tokens, {text.num_learned} learned\n"
        "--- input\n<|im_start|>user\ncat?<|im_end|>\n<|im_start|>assistant\ndog<|im_end|>\n\n"
        f"--- labels\n[{skipped} not learned]dog<|im_end|>\n"
    )
