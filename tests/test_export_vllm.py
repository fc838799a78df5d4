"""Exported models in vLLM; runs where DANLU_VLLM_PYTHON names an interpreter that has it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("DANLU_VLLM_PYTHON" not in os.environ, reason="there is no vLLM"),
]


@pytest.mark.parametrize("family", ["qwen", "baichuan_7b", "aquila", "baichuan2_7b", "chatglm2"])
def test_vllm_says_the_same_tokens_greedily(family: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.exports_vllm", "--family", family]
    command += ["--out", str(tmp_path / "result.md")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((tmp_path / "result.json").read_text())
    (row,) = result["tables"]["Greedy tokens"]
    assert row["family"] == family
    assert row["equal tokens"] == "72 of 72"
    assert float(row["smallest gap"]) >= 1e-3  # float32 noise is far below
    answers = result["samples"][family]
    assert answers["vllm"] == answers["danlu"]
    assert [len(answer) for answer in answers["vllm"]] == [24, 24, 24]
