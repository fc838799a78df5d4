"""`danlu data build` and `danlu data mix`: the same bytes after a kill, and mixtures on disk."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from danlu.cli.app import run
from danlu.commands.data.build import build_corpus
from danlu.commands.data.mix import mix, parse_sources
from danlu.config.data import DataSource, sources
from danlu.data.encoded.built_corpus import draws_for, open_built_corpus
from danlu.data.encoded.store import ArrayStore
from danlu.errors import ConfigError, DataError, OutputError
from danlu.tokenizer import load_tokenizer, train_bpe

TEXTS = [f"The cat number {n} sat on the mat. 小猫坐在垫子上。" * (1 + n % 3) for n in range(120)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two corpora and a tokenizer."""
    folder = tmp_path_factory.mktemp("world")
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in TEXTS]
    (folder / "corpus.jsonl").write_text("\n".join(lines[:80]) + "\n", encoding="utf-8")
    (folder / "more.jsonl").write_text("\n".join(lines[80:]) + "\n", encoding="utf-8")
    train_bpe(TEXTS, 300).save(folder / "tokenizer")
    return folder


def corpora(world: Path) -> list[DataSource]:
    return sources(world / "corpus.jsonl", world / "more.jsonl")


def test_a_corpus_keeps_documents_and_their_places(world: Path, tmp_path: Path) -> None:
    report = build_corpus(corpora(world), str(world / "tokenizer"), tmp_path / "built")
    tokenizer = load_tokenizer(world / "tokenizer")
    store = open_built_corpus(DataSource(path=str(tmp_path / "built")), tokenizer)
    assert store.columns == {"ids": "<u2"}
    expected = [[*tokenizer.encode(text), tokenizer.eos_id] for text in TEXTS]
    assert [store.array("ids", i).tolist() for i in range(len(store))] == expected
    assert store.origin(79) == f"{world / 'corpus.jsonl'}:80"
    assert store.origin(80) == f"{world / 'more.jsonl'}:1"
    assert (report.documents, report.tokens) == (len(TEXTS), sum(map(len, expected)))
    assert store.about["tokenizer"] == tokenizer.fingerprint()
    assert [file["path"] for file in store.about["files"]] == [
        str(world / name) for name in ("corpus.jsonl", "more.jsonl")
    ]


KILLED = """
import os, signal, sys
from pathlib import Path
from danlu.commands.data import build as data_build
from danlu.config.data import sources
from danlu.data.encoded import encoding_many
from danlu.data.encoded.store_writing import StoreWriter

encoding_many.MOST_EXAMPLES = 10
append, left = StoreWriter.append, int(sys.argv[3])

def dying(self, encoded):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    append(self, encoded)

StoreWriter.append = dying
files = [Path(sys.argv[1]) / name for name in ("corpus.jsonl", "more.jsonl")]
data_build.build_corpus(
    sources(*files), str(Path(sys.argv[1]) / "tokenizer"), Path(sys.argv[2]),
    seconds_between_notes=0,
)
"""


def test_a_killed_build_goes_on_and_ends_with_the_same_bytes(world: Path, tmp_path: Path) -> None:
    build_corpus(corpora(world), str(world / "tokenizer"), tmp_path / "whole")
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    arguments = [sys.executable, "-c", KILLED, str(world), str(tmp_path / "killed"), "30"]
    killed = subprocess.run(arguments, env=env, capture_output=True, timeout=60)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "killed").exists()
    report = build_corpus(corpora(world), str(world / "tokenizer"), tmp_path / "killed")
    assert report.resumed_at == 29
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")
    assert ("note", "went on after 29 documents of a build before") in report.rows()


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_built_corpus_is_not_built_again_nor_overwritten(world: Path, tmp_path: Path) -> None:
    tokenizer, out = str(world / "tokenizer"), tmp_path / "built"
    build_corpus(corpora(world), tokenizer, out)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert build_corpus(corpora(world), tokenizer, out).already_built
    with pytest.raises(OutputError, match="built from something else; different: sources, files"):
        build_corpus(corpora(world)[:1], tokenizer, out)
    assert before == {path: path.stat().st_mtime_ns for path in out.iterdir()}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.doc").write_text("x")
    with pytest.raises(OutputError, match="not empty"):
        build_corpus(corpora(world), tokenizer, tmp_path / "mine")


def test_bad_text_leaves_nothing_behind(world: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "good"}\n{"txt": "bad"}\n{"text": 3}\n')
    with pytest.raises(DataError, match=r"2 problems(.|\n)*bad\.jsonl:2(.|\n)*bad\.jsonl:3"):
        build_corpus(sources(bad), str(world / "tokenizer"), tmp_path / "built")
    assert {path.name for path in tmp_path.iterdir()} == {"bad.jsonl", ".built.lock"}


def test_another_tokenizer_is_refused(world: Path, tmp_path: Path) -> None:
    build_corpus(corpora(world), str(world / "tokenizer"), tmp_path / "built")
    with pytest.raises(DataError, match=r"built with another tokenizer .*300 tokens.*290 tokens"):
        open_built_corpus(DataSource(path=str(tmp_path / "built")), train_bpe(TEXTS, 290))


def test_a_corpus_that_was_changed_by_hand_is_refused(world: Path, tmp_path: Path) -> None:
    build_corpus(corpora(world), str(world / "tokenizer"), tmp_path / "built")
    ids = tmp_path / "built" / "ids.bin"
    ids.write_bytes(b"\xff\xff" + ids.read_bytes()[2:])
    with pytest.raises(DataError, match=r"ids\.bin"):
        open_built_corpus(
            DataSource(path=str(tmp_path / "built")), load_tokenizer(world / "tokenizer")
        )


def test_every_seed_draws_another_share_of_a_corpus(world: Path, tmp_path: Path) -> None:
    build_corpus(corpora(world), str(world / "tokenizer"), tmp_path / "built")
    store = ArrayStore(tmp_path / "built")
    draws = [draws_for(store, seed) for seed in (0, 1, 2)]
    for each in draws:
        assert ((each >= 0) & (each < 1)).all()
        assert len(np.unique(each)) == len(store)
        assert 0.35 < each.mean() < 0.65
    assert not np.allclose(draws[1], draws[2])
    assert draws_for(store, 2).tolist() == draws[2].tolist()


# ---------------------------------------------------------------- mixtures


@pytest.fixture
def chats(tmp_path: Path) -> list[str]:
    names = []
    for name, count in (("a", 4), ("b", 10)):
        path = tmp_path / f"{name}.jsonl"
        rows = [{"prompt": f"{name}{n}", "response": "ok"} for n in range(count)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        names.append(str(path))
    return names


def test_a_mixture_is_written_as_the_table_says(chats: list[str], tmp_path: Path) -> None:
    out = tmp_path / "mixed.jsonl"
    report = mix(parse_sources(["2", chats[0], "0.5", chats[1]]), out=out)
    assert [share.times for share in report.shares] == [2, 0.5]
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    asked = Counter(row["messages"][0]["content"] for row in rows)
    assert all(asked[f"a{n}"] == 2 for n in range(4))
    assert sum(asked[f"b{n}"] for n in range(10)) == 5 == len(rows) - 8
    order = [row["messages"][0]["content"][0] for row in rows]
    assert order != sorted(order)
    again = tmp_path / "again.jsonl"
    mix(parse_sources(["2", chats[0], "0.5", chats[1]]), out=again)
    assert again.read_bytes() == out.read_bytes()
    with pytest.raises(OutputError, match="nothing was overwritten"):
        mix(parse_sources(chats), out=out)


def test_sizes_are_measured_in_tokens(chats: list[str], world: Path) -> None:
    report = mix(parse_sources(chats), tokenizer=str(world / "tokenizer"), temperature=float("inf"))
    assert [share.share for share in report.shares] == pytest.approx([0.5, 0.5])
    assert report.header()[3] == "tokens"
    text = mix(sources(world / "corpus.jsonl"), kind="text")
    assert text.shares[0].documents == 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["0.3", "0.4", "a"], "'0.4' is no weight"),
        (["-1", "a"], "'-1' is no weight"),
        (["nan", "a"], "'nan' is no weight"),
        (["a", "2"], "weight 2 at the end has no path"),
    ],
)
def test_weights_without_a_source_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_sources(arguments)


def test_the_commands(
    chats: list[str], world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    built = ["data", "build", str(world / "corpus.jsonl"), "--tokenizer", str(world / "tokenizer")]
    assert run([*built, "--out", str(tmp_path / "built")]) == 0
    assert run(["data", "mix", "3", *chats]) == 0
    assert run(["data", "mix", "3", *chats, "--json"]) == 0
    out = capsys.readouterr().out
    assert "80" in out
    assert "times per pass" in out
    assert '"times": 3.0' in out
