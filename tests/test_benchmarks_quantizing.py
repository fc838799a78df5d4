"""The benchmark of quantization: its table, and that it runs without peers (`-m slow`)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from benchmarks.measuring import Spread
from benchmarks.quantizing import PEERS, Found, table, token_rows


def test_danlu_is_compared_with_gptqmodel() -> None:
    found = Found(versions={"danlu": "1", "gptqmodel": "2", "llmcompressor": "not measured: no"})
    for name, seconds, peak, error in (("danlu", 30.0, 2e9, 0.1), ("gptqmodel", 50.0, 4e9, 0.09)):
        found.seconds[name] = Spread((seconds,))
        found.memory[name] = [peak]
        found.costs[name] = {"logit_error": error, "kl": 0.0}
    made = table(found, weights=1_000_000_000)
    ours, theirs, absent = (dict(zip(made.header, row, strict=True)) for row in made.rows)
    assert ours["ratio"] == "0.60x (0.60 to 0.60)"
    assert ours["aim"] == "<= 0.5: NOT reached"
    assert ours["memory ratio"] == "0.50x"
    assert ours["above the weights"] == "1,000"
    assert ours["aim for the error"] == "<= 1: NOT reached"
    assert theirs["aim"] == ""
    assert absent["seconds"] == "not measured: no"


def test_rows_have_tokens_of_the_vocabulary() -> None:
    rows = token_rows(50, 40, 1000)
    ids = {token for row in rows for token in row}
    assert [len(row) for row in rows] == [40] * 50
    assert min(ids) >= 0
    assert 500 < max(ids) < 1000


@pytest.mark.slow
@pytest.mark.multiprocess
def test_the_script_runs_without_peers(tmp_path: Path) -> None:
    out = tmp_path / "result.md"
    command = [sys.executable, "-m", "benchmarks.quantizing", "--tiny"]
    command += ["--work", str(tmp_path / "work"), "--out", str(out)]
    alone = {name: value for name, value in os.environ.items() if name not in PEERS.values()}
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env=alone)
    (rows,) = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))["tables"].values()
    assert [row["tool"].split()[0] for row in rows] == ["danlu", *PEERS]
    assert 0 < float(rows[0]["logit error"]) < 0.2
    assert all(row["seconds"].startswith("not measured") for row in rows[1:])
