"""The benchmarks of fine-tuning: their arithmetic, and that each script runs (`-m slow`)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from benchmarks.finetuning import Found, memory_table
from benchmarks.measuring import Spread
from benchmarks.step_times import StepTimes


def test_speeds_leave_out_the_warm_up() -> None:
    times = StepTimes(ends=[1.0, 3.0, 5.0], counts=[(900, 90), (100, 10), (300, 50)])
    assert times.speeds(1) == {"tokens_per_s": 100.0, "targets_per_s": 15.0, "s_per_step": 2.0}


def test_memory_is_compared_with_the_leaner_peer_in_each_column() -> None:
    names = ("danlu, packed", "peft, padded", "peft, joined blocks")
    found = Found(tokens={name: Spread((1.0,)) for name in names})
    sizes = [(100, 300), (200, 900), (400, 600)]
    for name, (loaded, peak) in zip(names, sizes, strict=True):
        found.memory[name] = {"loaded": loaded, "peak": peak, "optimizer": 0}
    ours = dict(zip(memory_table("", found).header, memory_table("", found).rows[0], strict=True))
    assert ours["ratio to the leaner peer"] == "0.50x"
    assert ours["aim"] == "<= 0.7: reached"
    assert ours["ratio"] == "1.00x"  # 200 above the loaded model, as the second peer


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize(
    ("script", "options", "least"),
    [
        ("finetuning", ["--methods", "full", "lora"], 4),
        ("token_rows", [], 1),
        ("encoding", [], 1),
        ("gpu", ["--device", "cpu", "--parts", "finetuning"], 2),
        ("gpu", ["--device", "cpu", "--parts", "decoding", "cache"], 5),
    ],
)
def test_scripts_run_tiny(script: str, options: list[str], least: int, tmp_path: Path) -> None:
    for package in ("transformers", "peft", "accelerate", "datasets"):
        pytest.importorskip(package)
    out = tmp_path / "result.md"
    command = [sys.executable, "-m", f"benchmarks.{script}", "--tiny", *options]
    command += ["--work", str(tmp_path / "work"), "--out", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    tables = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))["tables"]
    assert len(tables) >= least
    assert all(tables.values())
    rows = [row for table in tables.values() for row in table]
    assert {row["same ids"] for row in rows if "same ids" in row} <= {"100.0%"}
    assert {row["verdict"] for row in rows if "verdict" in row} <= {"equal"}
