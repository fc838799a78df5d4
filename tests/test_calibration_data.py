"""Calibration data: rows of any shape in tokens, drawn and cut, with a ledger of both."""

import json
from pathlib import Path
from typing import Any

import pytest
from chat_cases import every_control_tokenizer
from tokenizer_cases import tiny_tokenizer

from danlu.config.data import DataSource
from danlu.config.quantize.run import CalibrationData
from danlu.data.calibration import CalibrationRows, read_calibration
from danlu.data.unknown_text import UnknownCharacters
from danlu.errors import ChatFormatError, DataError
from danlu.tokenizer import load_tokenizer, train_bpe

LONG = "The furnace is hot and the master waits for the powder to turn white. "


def write_rows(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    return path


def read(path: Path, samples: int = 8, max_tokens: int = 64, **options: Any) -> CalibrationRows:
    source = DataSource(path=str(path), **options)
    data = CalibrationData(sources=[source], samples=samples, max_tokens=max_tokens)
    return read_calibration(data, every_control_tokenizer(), 0, 4096)


def origins_of(found: CalibrationRows) -> list[str]:
    return [row.origin for row in found.rows]


def test_conversations_are_what_the_model_will_see(tmp_path: Path) -> None:
    tokenizer = every_control_tokenizer().with_chat_format("llama3-chat")
    row = {"instruction": "How hot is the furnace?", "output": "As hot as the sun."}
    path = write_rows(tmp_path / "rows.jsonl", row)
    data = CalibrationData(sources=[DataSource(path=str(path))])
    messages = [
        {"role": "user", "content": row["instruction"]},
        {"role": "assistant", "content": row["output"]},
    ]
    wanted = tokenizer.render_chat(messages, add_generation_prompt=False).ids
    found = read_calibration(data, tokenizer, 0, 4096)
    assert found.rows == [wanted]
    assert origins_of(found) == [f"{path}:1"]
    pair = {"prompt": row["instruction"], "chosen": row["output"], "rejected": "No."}
    write_rows(path, pair)
    assert read_calibration(data, tokenizer, 0, 4096).rows == [wanted]


def test_texts_give_pieces_and_the_ledger_counts_tokens(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", {"text": LONG}, {"text": LONG * 9}, {"text": "ab"})
    tokenizer = every_control_tokenizer()
    lengths = [len(tokenizer.encode(LONG * n)) + len(tokenizer.prompt_prefix()) for n in (1, 9)]
    found = read(path, samples=4, max_tokens=20)
    assert [len(row) for row in found.rows] == [20, 20, 20, 20]
    ledger = found.ledger.summary()
    short = len(tokenizer.encode("ab")) + len(tokenizer.prompt_prefix())
    assert ledger["tokens"] == {"kept": 80, "cut": sum(lengths) - 80, "dropped": short}
    assert (ledger["kept"], ledger["truncated"], ledger["dropped"]) == (0, 2, 1)
    assert ledger["dropped_rows"][0]["origin"] == f"{path}:3"
    assert "too short" in ledger["dropped_rows"][0]["reason"]
    every = read(path, samples=99, max_tokens=20)
    assert sum(map(len, every.rows)) == every.ledger.kept_tokens == sum(lengths)


def test_rows_are_drawn_by_seed_and_weight(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", *({"text": f"{i} {LONG}"} for i in range(60)))
    few = read(path, samples=10)
    assert len(few.rows) == 10
    assert few.ledger.not_drawn == 50
    numbers = [int(origin.rpartition(":")[2]) for origin in origins_of(few)]
    assert numbers == sorted(numbers)
    other = CalibrationData(sources=[DataSource(path=str(path))], samples=10, max_tokens=64)
    again = read_calibration(other, every_control_tokenizer(), 1, 4096)
    assert origins_of(again) != origins_of(few)
    rare = write_rows(tmp_path / "rare.jsonl", *({"text": f"rare {i} {LONG}"} for i in range(60)))
    sources = [DataSource(path=str(path), weight=50), DataSource(path=str(rare))]
    mixed = CalibrationData(sources=sources, samples=20, max_tokens=64)
    origins = origins_of(read_calibration(mixed, every_control_tokenizer(), 0, 4096))
    assert sum(origin.startswith(str(path)) for origin in origins) >= 17


def test_quant_json_comes_first(tmp_path: Path) -> None:
    row = {"src": "How hot is it?", "tgt": "As hot as the sun in the summer."}
    write_rows(tmp_path / "train.json", row, row)
    tokenizer = every_control_tokenizer().with_chat_format("chatml")
    data = CalibrationData(sources=[DataSource(path=str(tmp_path))])
    assert len(read_calibration(data, tokenizer, 0, 4096).rows) == 2
    write_rows(tmp_path / "quant.json", row)
    found = read_calibration(data, tokenizer, 0, 4096)
    assert origins_of(found) == [f"{tmp_path / 'quant.json'}:1"]


def test_rows_end_with_the_context(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", {"text": LONG * 9})
    data = CalibrationData(sources=[DataSource(path=str(path))], samples=2)
    rows = read_calibration(data, every_control_tokenizer(), 0, 16).rows
    assert [len(row) for row in rows] == [16, 16]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([], "the file has no rows|the file is empty"),
        ([{"text": ""}], "the text is empty"),
        ([{"text": "ab"}, {"text": "cd"}], "2 of 2 rows .*too short: . tokens, expected 8"),
        (
            [{"text": LONG}, {"text": "炉火纯青" * 9}, {"text": "丹成九转" * 9}],
            "2 of 3 rows .*100% of its characters have no token",
        ),
    ],
    ids=["empty", "blank", "short", "foreign"],
)
def test_useless_text_is_one_error(tmp_path: Path, rows: list[Any], told: str) -> None:
    path = write_rows(tmp_path / "rows.jsonl", *rows)
    tokenizer = train_bpe([LONG] * 9, 300)
    data = CalibrationData(sources=[DataSource(path=str(path))])
    with pytest.raises(DataError, match=f"(?s){told}"):
        read_calibration(data, tokenizer, 0, 4096)


def test_conversations_need_a_template_to_be_written_with(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", {"prompt": LONG, "response": LONG})
    data = CalibrationData(sources=[DataSource(path=str(path))])
    tiny_tokenizer().save(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    tokenizer = load_tokenizer(tmp_path)
    with pytest.raises(ChatFormatError, match="the model has no chat template to write it with"):
        read_calibration(data, tokenizer, 0, 4096)


def test_what_a_tokenizer_knows() -> None:
    english, bytewise = train_bpe([LONG] * 9, 300), train_bpe([LONG], 259)
    assert UnknownCharacters(english).share(english.encode("炉火纯青")) == 1
    assert UnknownCharacters(english).share(english.encode(LONG)) == 0
    assert UnknownCharacters(bytewise).share(bytewise.encode("炉火纯青")) == 0
    both = tiny_tokenizer()
    assert 0 <= UnknownCharacters(both).share(both.encode(LONG + "炉")) < 0.2
