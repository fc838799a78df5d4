"""BLEU-4, ROUGE and exact match give what nltk and rouge-score give on the same tokens."""

import json
from pathlib import Path
from typing import Any

import pytest

from danlu.config.evaluation import TEXT_METRICS, EvaluationConfig
from danlu.eval.text_metrics import text_scores, text_tokens

STORED = json.loads((Path(__file__).parent / "text_metrics.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("row", STORED["rows"], ids=lambda row: row["answer"][:12])
def test_scores_are_the_stored_ones(row: dict[str, Any]) -> None:
    found = text_scores(row["answer"], row["reference"], ["bleu4", "rouge1", "rouge2", "rougeL"])
    for name, value in found.items():
        assert value == pytest.approx(row[name], abs=1e-9), name


def test_the_stored_rows_are_of_all_kinds() -> None:
    assert len(STORED["rows"]) == 13
    assert sum(0 < row["bleu4"] < 1 for row in STORED["rows"]) >= 8


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("The cat's mat, 2nd.", ["the", "cat", "s", "mat", "2nd"]),
        ("我用PyTorch2训练。", ["我", "用", "pytorch2", "训", "练"]),
        ("かなと한글 snake_case", ["か", "な", "と", "한", "글", "snake", "case"]),
        ("𠀀 naïve Привет", ["𠀀", "naïve", "привет"]),
        ("。,!", []),
    ],
)
def test_tokens_need_no_dictionary(text: str, tokens: list[str]) -> None:
    assert text_tokens(text) == tokens


def test_equal_texts_score_one_and_white_space_does_not_matter() -> None:
    text = "the same four words"
    assert text_scores(f" {text}\n", text, TEXT_METRICS) == dict.fromkeys(TEXT_METRICS, 1.0)
    assert text_scores("The same four words", text, ["exact_match"]) == {"exact_match": 0.0}
    assert text_scores("", "", ["exact_match", "bleu4"]) == {"exact_match": 1.0, "bleu4": 0.0}


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"metrics": []}, "give metrics or samples"),
        ({"metrics": ["bleu4", "bleu4"]}, "named twice"),
        ({"metrics": ["bleu"]}, "'bleu4'"),
        ({"rows": 0}, "greater than or equal to 1"),
    ],
)
def test_wrong_options(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        EvaluationConfig(**options)
