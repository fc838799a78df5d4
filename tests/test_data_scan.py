"""Contamination: what is planted is found, all of it and nothing else."""

import csv
import json
import random
from pathlib import Path

import pytest
from command_line import printed

from danlu.cli.app import run
from danlu.commands.data.scan import scan
from danlu.data.scanning.contamination import EvaluationIndex
from danlu.data.scanning.row_texts import RowText, RowTexts
from danlu.data.scanning.text_units import joined, units_of
from danlu.errors import ConfigError, DataError, OutputError

SYLLABLES = ("ka", "lo", "mi", "ren", "tu", "vas", "sho", "quel", "dri", "pon")
CHARACTERS = "炉火丹砂铅汞金石云山水木日月星辰风雨雷电春夏秋冬东南西北天地玄黄宇宙洪荒"
LETTERS = "ABCD"


def words(draw: random.Random, count: int) -> list[str]:
    return ["".join(draw.choices(SYLLABLES, k=5)) for _ in range(count)]


def question(draw: random.Random, number: int) -> str:
    """A question in English (even) or Chinese (odd); every fifth is shorter than a run."""
    count = 7 if number % 5 == 0 else 24
    if number % 2:
        return "".join(draw.choices(CHARACTERS, k=count + 3)) + "？"
    first, *rest = words(draw, count)
    return " ".join([first.capitalize(), *rest]) + "?"


def filler(draw: random.Random) -> str:
    english, chinese = words(draw, 30), draw.choices(CHARACTERS, k=40)
    return f"{' '.join(english)}. {''.join(chinese)}。"


def altered(text: str, number: int) -> str:
    """The text as it is, in capitals, with other punctuation, or wide."""
    if number % 4 == 1:
        return text.upper().replace("?", " !!")
    if number % 4 == 2:
        return " ... ".join(text.split(" ")).replace("？", "?").lower()
    if number % 4 == 3:
        return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)
    return text


def planted(draw: random.Random, questions: list[str]) -> list[dict[str, object]]:
    """A training set of 400 rows, of which every twentieth holds a question."""
    rows: list[dict[str, object]] = []
    for number in range(400):
        asked, said = filler(draw), filler(draw)
        if number % 20 == 7:
            plant = altered(questions[number // 20], number // 40)
            longer = (number // 20) % 3
            asked = plant if longer == 0 else f"{asked} {plant} {filler(draw)}"
            if longer == 2:
                asked, said = said, asked
        turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": said}]
        rows.append({"id": f"row_{number}", "conversations": turns})
    return rows


def write_evaluation(path: Path, draw: random.Random, questions: list[str]) -> Path:
    """Write the questions with four choices each, in the layout of the file's name."""
    rows = [
        {
            "question": text,
            **{letter: " ".join(words(draw, 3)) for letter in LETTERS},
            "answer": "B",
        }
        for text in questions
    ]
    if path.name == "plain.csv":  # as MMLU has it: no names of columns
        with path.open("w", newline="") as out:
            csv.writer(out).writerows([list(row.values()) for row in rows])
    elif path.name == "header.csv":  # as CMMLU has it: an index without a name
        with path.open("w", newline="") as out:
            csv.writer(out).writerow(["", "Question", *LETTERS, "Answer"])
            csv.writer(out).writerows([[at, *row.values()] for at, row in enumerate(rows)])
    elif path.suffix == ".jsonl":
        choices = [{"question": r["question"], "choices": [r[x] for x in LETTERS]} for r in rows]
        path.write_text("\n".join(json.dumps(row) for row in choices))
    else:  # as BBH has it
        examples = [{"input": row["question"], "target": "B"} for row in rows]
        path.write_text(json.dumps({"canary": "no", "examples": examples}, indent=1))
    return path


@pytest.mark.parametrize("name", ["plain.csv", "header.csv", "rows.jsonl", "object.json"])
def test_twenty_planted_are_twenty_found(tmp_path, name):
    draw = random.Random(7)
    questions = [question(draw, number) for number in range(60)]
    training = tmp_path / "train.jsonl"
    rows = planted(draw, questions)
    training.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    against = write_evaluation(tmp_path / name, draw, questions)

    report = scan([str(training)], [against], out=tmp_path / "report.json")
    expected = {f"{training}:{number + 1}" for number in range(400) if number % 20 == 7}
    assert {overlap.row for overlap in report.overlaps} == expected
    assert (report.rows_found, len(report.overlaps), report.num_rows) == (20, 20, 400)
    assert len(report.items_found) == 20
    assert report.num_items == 60
    assert sum(overlap.is_whole for overlap in report.overlaps) >= 4

    written = json.loads((tmp_path / "report.json").read_text())
    assert written["training_rows_found"] == 20
    assert written["evaluation_files"] == {str(against): {"rows": 60, "found": 20}}
    assert {one["row"] for one in written["overlaps"]} == expected
    by_row = {one["row"]: one for one in written["overlaps"]}
    for number, text in enumerate(questions[:20]):
        found = by_row[f"{training}:{number * 20 + 8}"]
        assert found["text"] == joined(units_of(text))
        assert 0.2 < found["share"] <= 1

    clean = tmp_path / "clean.jsonl"
    clean.write_text("\n".join(json.dumps(row) for row in planted(draw, [filler(draw)] * 20)))
    report = scan([str(clean)], [against])
    assert (report.rows_found, report.num_rows) == (0, 400)


def index_of(*texts: str, ngram: int = 13) -> EvaluationIndex:
    rows = [RowTexts(f"eval:{at}", [RowText("question", text)]) for at, text in enumerate(texts)]
    return EvaluationIndex(rows, ngram)


def found_in(index: EvaluationIndex, *texts: str) -> list[tuple[str, float, str]]:
    row = RowTexts("train:1", [RowText("value", text) for text in texts])
    return [(one.item, one.share, one.text) for one in index.overlaps(row)]


LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"


def test_share_and_longest_run():
    index = index_of(LONG)
    assert found_in(index, f"x {LONG} y") == [("eval:0", 1.0, LONG)]
    [(_, share, text)] = found_in(index, LONG.removeprefix("one ").replace("fifteen", "16"))
    assert share == pytest.approx(1 / 3)
    assert text == " ".join(LONG.split()[1:14])
    assert found_in(index, LONG.replace("eight", "8")) == []


def test_one_unit_less_is_not_a_run_and_runs_do_not_leave_the_row():
    index = index_of(LONG)
    assert found_in(index, " ".join(LONG.split()[:12])) == []
    assert found_in(index, *LONG.split(" eight ")) == []
    assert (
        len(found_in(index, *LONG.split(" seven ")[:1], "seven " + LONG.split(" seven ")[1])) == 1
    )


@pytest.mark.parametrize(
    ("item", "text", "is_found"),
    [
        ("Who wrote the play Hamlet?", "Tell me: who wrote the play HAMLET... please", True),
        ("中国的首都是哪里？", "请问中国的首都是哪里", True),
        ("3 + 4 * 5 = ?", "3 + 4 * 5 =", True),  # tells little: only as a whole text
        ("3 + 4 * 5 = ?", "so 3 + 4 * 5 = 23", False),
        ("Who are you?", "And who are you, sir?", False),
        ("Thank you", "Thank you", False),
        (" ".join(map(str, range(20))), " ".join(map(str, range(30))), False),
    ],
)
def test_short_items(item, text, is_found):
    assert bool(found_in(index_of(item), text)) is is_found


def test_what_many_items_have_is_no_item():
    short = "Choose the right answer below"
    assert found_in(index_of(short, short, short), f"x {short} y") == []
    assert len(found_in(index_of(short, short), f"x {short} y")) == 2


def test_plain_text_folders_and_shorter_runs(tmp_path):
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "test.txt").write_text("A furnace and a cauldron of iron stood there.\n")
    (tmp_path / "corpus.txt").write_text("first\n\n... a furnace, and a cauldron of iron, too\n")
    assert scan([str(tmp_path / "corpus.txt")], [tmp_path / "eval"]).rows_found == 0
    report = scan([str(tmp_path / "corpus.txt")], [tmp_path / "eval"], ngram=6)
    assert report.overlaps[0].text == "a furnace and a cauldron of iron"
    strict = scan([str(tmp_path / "corpus.txt")], [tmp_path / "eval"], ngram=6, min_share=0.9)
    assert strict.rows_found == 0


def test_the_command(tmp_path, capsys):
    (tmp_path / "train.jsonl").write_text(json.dumps({"prompt": LONG, "response": "a"}))
    (tmp_path / "eval.jsonl").write_text(json.dumps({"question": LONG}))
    arguments = [
        "data",
        "scan",
        str(tmp_path / "train.jsonl"),
        "--against",
        f"{tmp_path}/eval.jsonl",
    ]
    shown = printed(capsys, *arguments, "--out", tmp_path / "out.json", "--fail-over", 1)
    assert "1 of them contaminated" in shown
    assert "eval.jsonl:1, 100% of its runs" in shown.replace("\n", "")
    assert run([*arguments, "--fail-over", "0"]) == 2
    failed = capsys.readouterr()
    assert "1 training rows hold items" in failed.err
    assert "1 of them contaminated" in failed.out


def test_bad_input(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"a": "b"}\n{"a": \n')
    (tmp_path / "eval.jsonl").write_text('{"a": "b"}')
    (tmp_path / "empty.jsonl").write_text("\n")
    training = [str(tmp_path / "train.jsonl")]
    with pytest.raises(DataError, match=r"train.jsonl:2: not JSON"):
        scan(training, [tmp_path / "eval.jsonl"], out=tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()
    with pytest.raises(DataError, match="There is no row in"):
        scan(training, [tmp_path / "empty.jsonl"])
    with pytest.raises(DataError, match="no such file"):
        scan(training, [tmp_path / "gone.jsonl"])
    with pytest.raises(ConfigError, match="ngram is 1"):
        scan(training, [tmp_path / "eval.jsonl"], ngram=1)
    with pytest.raises(OutputError):
        scan(training, [tmp_path / "eval.jsonl"], out=tmp_path / "eval.jsonl")


def test_public_sets(shared, tmp_path):
    folder = shared / "data" / "eval"
    items = (folder / "gsm8k" / "test.jsonl").read_text().splitlines()
    training = tmp_path / "train.jsonl"
    rows = (shared / "data/train/sft/identity.jsonl").read_text().splitlines()
    training.write_text("\n".join([*rows, *items[100:120]]))
    against = [folder / "gsm8k" / "test.jsonl", folder / "cmmlu" / "test" / "anatomy.csv"]
    report = scan([str(training)], against)
    assert (report.rows_found, len(report.items_found)) == (20, 20)
    assert report.num_items == 1148
