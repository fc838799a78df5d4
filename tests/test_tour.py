"""The tour, with real steps on tiny sizes: what it leaves, how it goes on, what it refuses."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tour_plan import micro_plan

from danlu.cli.app import run
from danlu.commands.tour import run as tour_run
from danlu.commands.tour.material import continuations, split_conversations
from danlu.commands.tour.options import TourOptions
from danlu.commands.tour.plan import default_plan, plan_tour, scaled_plan
from danlu.commands.tour.run import StepDone, run_tour
from danlu.data.examples import Conversation, Document
from danlu.errors import DataError, OutputError
from danlu.files import only_run

STEP_TITLES = [
    "Material", "Tokenizer", "Pre-training", "Fine-tuning", "Merge", "Quantization", "Evaluation",
]  # fmt: skip


@pytest.fixture
def finished(tiny_tour: Path) -> Path:
    return tiny_tour


def read(path: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    return content


def test_it_leaves_everything_that_it_promises(finished: Path) -> None:
    folders = ("world", "tokenizer", "pretrain", "finetune", "model", "model-int8", "model-int4")
    for name in (*folders, "evaluate"):
        assert read(finished / name / "run.json")["config"] is not None, name
    steps = read(finished / "tour.json")["steps"]
    assert isinstance(steps, dict)
    assert len(steps) == len(STEP_TITLES)
    assert all(record["proof"] and record["seconds"] >= 0 for record in steps.values())
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [line["run"] for line in lines if "loss" in line] == ["pretrain"] * 4 + ["finetune"] * 3
    assert [line["model"] for line in lines if line["run"] == "evaluate"] == [
        "before", "after", "merged", "int8", "int4",
    ]  # fmt: skip


def test_no_test_instruction_is_trained_on(finished: Path) -> None:
    def prompts(name: str) -> set[str]:
        lines = (finished / "world" / name).read_text(encoding="utf-8").splitlines()
        return {json.loads(line)["messages"][0]["content"] for line in lines}

    assert not prompts("instructions.jsonl") & prompts("instructions_test.jsonl")
    assert len(prompts("instructions_test.jsonl")) == 14


def test_the_report_is_one_page_with_all_numbers(finished: Path) -> None:
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=|https?://|@import|url\(", page), "the page loads something"
    assert page.count("<svg") == 2
    steps = read(finished / "tour.json")["steps"]
    assert isinstance(steps, dict)
    for record in steps.values():
        assert record["proof"].split("; ")[0].replace("->", "→") in page
    for word in ("pre-trained", "fine-tuned", "merged", "int8", "int4", "count-en", "who-zh"):
        assert word in page
    assert f"danlu chat {finished}/model" in page


def test_the_same_command_skips_what_is_finished(finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    said: list[StepDone] = []
    run_tour(TourOptions(out=finished), watch=said.append)
    assert [done.title for done in said] == STEP_TITLES
    assert all(done.skipped for done in said)
    after = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    changed = [path.name for path in after if after[path] != before.get(path)]
    assert changed in ([], [".lock"])


def test_stopped_after_every_step_it_ends_with_the_same_bytes(
    finished: Path, tmp_path: Path
) -> None:
    options = TourOptions(out=tmp_path / "tour")

    def stop_at_new(done: StepDone) -> None:
        if not done.skipped:
            raise KeyboardInterrupt

    for _ in STEP_TITLES:
        with pytest.raises(KeyboardInterrupt):
            run_tour(options, watch=stop_at_new, plan=micro_plan())
    run_tour(options)
    for name in ("model", "model-int4", "finetune/adapter"):
        for path in sorted((finished / name).glob("*.safetensors")):
            assert path.read_bytes() == (options.out / name / path.name).read_bytes(), path
    assert (options.out / "report.html").exists()


def test_a_lost_output_is_made_again_and_later_steps_stay(finished: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "tour"
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / "tokenizer")
    said: list[StepDone] = []
    run_tour(TourOptions(out=folder), watch=said.append)
    assert [done.title for done in said if not done.skipped] == ["Tokenizer"]


def test_other_options_in_the_same_folder_are_refused(finished: Path) -> None:
    with pytest.raises(OutputError, match=r"other options:\s+- seed: 0 there, 3 now"):
        run_tour(TourOptions(out=finished, seed=3))


def test_a_foreign_or_damaged_folder_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match=r"is not empty and holds no tour: thesis\.txt"):
        run_tour(TourOptions(out=tmp_path), plan=micro_plan())
    with pytest.raises(OutputError, match="is a file; expected a folder"):
        run_tour(TourOptions(out=tmp_path / "thesis.txt"))
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "tour.json").write_text('{"options": {}, "plan": ')
    with pytest.raises(OutputError, match="cannot be read as the state of a tour"):
        run_tour(TourOptions(out=damaged))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["damaged", "thesis.txt"]


def test_two_tours_in_one_folder_are_refused(finished: Path) -> None:
    with only_run(finished), pytest.raises(OutputError, match="Another run is at work"):
        run_tour(TourOptions(out=finished))


def test_wrong_text_is_said_at_once_and_can_be_corrected(tmp_path: Path) -> None:
    corpus = tmp_path / "text.txt"
    corpus.write_bytes(b"caf\xe9\n")
    options = TourOptions(out=tmp_path / "tour", corpus=corpus)
    with pytest.raises(DataError, match=r"text\.txt"):
        run_tour(options, plan=micro_plan())
    assert not (tmp_path / "tour" / "world").exists()
    other = TourOptions(out=tmp_path / "tour", corpus=tmp_path / "missing.txt")
    with pytest.raises(DataError, match=r"missing\.txt"):
        run_tour(other, plan=micro_plan())


def test_own_text_and_own_instructions(tmp_path: Path) -> None:
    corpus = tmp_path / "text.txt"
    lines = [f"The lamp number {n} stands by the old window of room {n % 7}." for n in range(400)]
    corpus.write_text("\n\n".join(lines), encoding="utf-8")
    said: list[StepDone] = []
    plan = micro_plan()
    run_tour(TourOptions(out=tmp_path / "a", corpus=corpus), watch=said.append, plan=plan)
    assert "of your text" in said[0].proof
    page = (tmp_path / "a" / "report.html").read_text(encoding="utf-8")
    assert "exact matches are rare" in page
    first = (tmp_path / "a" / "world" / "instructions.jsonl").read_text().splitlines()[0]
    assert json.loads(first)["messages"][0]["content"].startswith("Continue: The lamp")


def test_continuations_cut_between_words_and_ask_nothing_twice() -> None:
    lines = ("First Citizen:", "Half of all the honours go to him", "关关雎鸠，在河之洲")
    text = "\n".join((*lines, "abcdefghijklmnop", "no"))
    asked = continuations([Document(text, "x:1"), Document(text, "x:2")], 10)
    assert [[message["content"] for message in messages] for messages in asked] == [
        ["Continue: First", "Citizen:"],
        ["Continue: Half of all the", "honours go to him"],
        ["续写：关关雎鸠", "，在河之洲"],
    ]
    many = [Document("\n".join(f"line number {n} of the text" for n in range(100)), "y:1")]
    assert len(continuations(many, 10)) == 10


def test_split_of_conversations_depends_on_the_question_alone() -> None:
    every = [
        Conversation(
            [{"role": "user", "content": f"{n}"}, {"role": "assistant", "content": "a"}], ""
        )
        for n in range(300)
    ]
    learn, test = split_conversations(every)
    assert 15 <= len(test) <= 45
    assert len(learn) + len(test) == 300
    assert split_conversations(every[::-1])[1] == test[::-1]


def test_scaled_plan_keeps_the_proportion_and_is_never_nothing() -> None:
    plan = default_plan()
    usual = (plan.pretrain.steps or 0, plan.finetune.steps or 0)
    twice = scaled_plan(plan, seconds=2 * sum(usual) / 0.65, step_seconds=1.0)
    assert (twice.pretrain.steps, twice.finetune.steps) == (2 * usual[0], 2 * usual[1])
    least = scaled_plan(plan, seconds=1.0, step_seconds=1.0)
    assert least.pretrain.steps == least.finetune.steps == 20
    assert least.pretrain.warmup_steps <= 2
    type(plan).model_validate(least.model_dump())


def test_without_minutes_the_plan_is_fixed() -> None:
    assert plan_tour(TourOptions()) == default_plan()


def test_minutes_measure_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    from danlu.commands.tour import plan as planning

    monkeypatch.setattr(planning, "default_plan", micro_plan)
    plan = plan_tour(TourOptions(minutes=1.0))
    assert (plan.pretrain.steps or 0) > 20


def test_the_command_shows_proofs_table_and_how_to_go_on(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["tour", "--out", str(finished), "--no-chat"]) == 0
    shown = capsys.readouterr().out
    for number, title in enumerate(STEP_TITLES, start=1):
        assert f"✓ {number}/7 {title}  finished before" in shown
    assert re.search(r"exactly right +perplexity +KL +size +tokens/s", shown)
    assert f"danlu chat {finished}/model" in shown.replace("\n", "")
    assert "report.html" in shown


def test_ctrl_c_says_that_nothing_is_lost(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tour_run, "run_tour", stop)
    assert run(["tour", "--out", str(finished)]) == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_wrong_flags_of_the_tour(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["tour", "--out", str(tmp_path / "t"), "--minutes", "-1"]) == 2
    assert "minutes: should be greater than 0; found -1" in capsys.readouterr().err
    assert run(["tour", "--out", str(tmp_path / "t"), "--corpus", str(tmp_path / "no")]) == 2
    assert "there is no such file or folder" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on(tmp_path: Path, finished: Path) -> None:
    tests = Path(__file__).parent
    code = (
        f"import sys; sys.path[:0] = [{str(tests)!r}, {str(tests.parent)!r}]\n"
        "from pathlib import Path\nfrom tour_plan import micro_plan\n"
        "from danlu.commands.tour.options import TourOptions\n"
        "from danlu.commands.tour.run import run_tour\n"
        f"run_tour(TourOptions(out=Path({str(tmp_path / 'tour')!r})), plan=micro_plan())\n"
    )
    for seconds in (3.5, 4.5, 5.0, 5.5, 6.0, 6.5):
        process = subprocess.Popen([sys.executable, "-c", code])
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    subprocess.run([sys.executable, "-c", code], check=True)
    for path in sorted((finished / "model").glob("*.safetensors")):
        assert path.read_bytes() == (tmp_path / "tour" / "model" / path.name).read_bytes()


@pytest.mark.slow
def test_a_short_tour_from_the_command_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "danlu", "tour", "--minutes", "0.1", "--no-chat"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "tour")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "✓ 7/7 Evaluation" in done.stdout
