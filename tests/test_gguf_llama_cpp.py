"""GGUF files in llama.cpp itself. Off by default: `DANLU_LLAMA_PYTHON=PYTHON pytest -m slow`.

DANLU_LLAMA_PYTHON names a python that has llama-cpp-python; it may be another than this one.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

pytest.importorskip("gguf")
needs_llama_cpp = pytest.mark.skipif(
    "DANLU_LLAMA_PYTHON" not in os.environ, reason="needs DANLU_LLAMA_PYTHON"
)


@pytest.mark.slow
@needs_llama_cpp
def test_llama_cpp_computes_what_danlu_computes(tmp_path: Path) -> None:
    out = tmp_path / "result.md"
    command = [sys.executable, "-m", "benchmarks.exports_gguf", "--out", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    tables = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))["tables"]
    models = next(rows for title, rows in tables.items() if title.startswith("Logits"))
    graphs = {row["graph"] for row in models}
    assert graphs >= {"llama", "qwen", "qwen2", "baichuan", "chatglm", "bloom", "gpt2"}
    assert len(models) >= 25
    for row in models:
        for column, cell in row.items():
            name, _, bound = column.partition(" (at most ")
            if bound:
                difference, _, equal = cell.partition(" (")
                assert float(difference) <= float(bound.rstrip(")")), (row["model"], name)
                assert name != "f32" or equal.startswith("2 of 2"), (row["model"], name)
