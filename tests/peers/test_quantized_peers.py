"""Quantized models in the tools of their formats, each in an environment of its own.

    DANLU_GPTQMODEL_PYTHON=... DANLU_BNB_PYTHON=... DANLU_LLMCOMPRESSOR_PYTHON=... \\
        DANLU_VLLM_PYTHON=... python -m pytest tests/peers -m peer
"""

import os
from pathlib import Path

import pytest

from benchmarks.quantized_peers import CASES, Case, compare


@pytest.mark.peer
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_the_tool_computes_what_danlu_computes(case: Case, tmp_path: Path) -> None:
    python = os.environ.get(case.peer.variable)
    if not python:
        pytest.skip(f"{case.peer.variable} names no interpreter of an environment for this")
    outcome = compare(case, python, tmp_path)
    if outcome.difference is not None:
        assert outcome.difference <= case.tolerance
    assert outcome.theirs == outcome.ours
    assert outcome.smallest_gap > 0.1  # so that equal tokens are no accident
