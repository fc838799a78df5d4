"""Exported models in vLLM; runs where DANLU_VLLM_PYTHON names an interpreter that has it."""

import os
from pathlib import Path

import pytest

from benchmarks.exports_vllm import CASES, INTERPRETER, MAX_TOKENS, PROMPT_LENGTHS, Case, compare

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(INTERPRETER not in os.environ, reason=f"{INTERPRETER} is not set"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.family)
def test_vllm_says_the_same_tokens_greedily(case: Case, tmp_path: Path) -> None:
    outcome = compare(case, os.environ[INTERPRETER], tmp_path)
    assert outcome.theirs == outcome.ours
    assert outcome.num_tokens == MAX_TOKENS * len(PROMPT_LENGTHS)
    assert outcome.smallest_gap > 1e-4  # float32 noise is far below
