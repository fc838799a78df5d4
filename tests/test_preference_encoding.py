"""Preferences as tokens: one prompt for both answers, cut alike, nothing lost without a word."""

from pathlib import Path
from typing import Any

import pytest
from align_parts import pairs as rows_of_pairs
from align_parts import write_rows

from danlu.data.conversations import read_labelled, read_preferences
from danlu.data.encoded.preference_encoding import (
    Rendering,
    encode_comparisons,
    encode_judgements,
    labelled,
)
from danlu.data.examples import LabelledAnswer, PreferencePair
from danlu.data.ledger import Ledger
from danlu.data.preferences import AnsweredPrompt, Comparison, Judgement, with_mismatched
from danlu.errors import DataError
from danlu.tokenizer import Tokenizer, train_bpe
from danlu.tokenizer.chat.training import NOT_LEARNED

HISTORY = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "An old question about cats"},
    {"role": "assistant", "content": "An old answer about cats"},
    {"role": "user", "content": "And a newer one?"},
    {"role": "assistant", "content": "A newer answer"},
]
QUESTION = {"role": "user", "content": "What do you think of the weather today, my dear friend?"}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(["The cat sat on the mat.", "An old question about cats"], 280)


def answer(text: str, **more: Any) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": text, **more}]


def pair(good: str, bad: str, prompt: list[dict[str, Any]] | None = None) -> PreferencePair:
    return PreferencePair(prompt or [QUESTION], answer(good), answer(bad), "rows.jsonl:1")


def encoded(
    pairs: list[PreferencePair], tokenizer: Tokenizer, max_seq_len: int = 400, **rules: Any
) -> tuple[list[Comparison], Ledger]:
    ledger = Ledger()
    return encode_comparisons(pairs, Rendering(tokenizer, max_seq_len, **rules), ledger), ledger


def judged_text(tokenizer: Tokenizer, sequence: AnsweredPrompt) -> str:
    return tokenizer.decode([label for label in sequence.labels if label != NOT_LEARNED])


def test_only_the_answers_are_judged_behind_one_prompt(tokenizer: Tokenizer) -> None:
    (one,), ledger = encoded([pair("Sunny.", "Rain!", [*HISTORY, QUESTION])], tokenizer)
    assert one.chosen.prompt == one.rejected.prompt
    assert "A newer answer" in tokenizer.decode(one.chosen.prompt)
    assert judged_text(tokenizer, one.chosen).startswith("Sunny.")
    assert judged_text(tokenizer, one.rejected).startswith("Rain!")
    whole = tokenizer.render_chat([*HISTORY, QUESTION, *answer("Sunny.")], None, None, False)
    assert one.chosen.ids == list(whole.ids)
    assert ledger.kept == 1


def test_rounds_are_dropped_alike_and_the_system_text_stays(tokenizer: Tokenizer) -> None:
    (alone,), _ = encoded([pair("Sunny.", "It rains and rains. " * 4)], tokenizer)
    room = len(alone.rejected.ids) + 40
    example = pair("Sunny.", "It rains and rains. " * 4, [*HISTORY, QUESTION])
    (one,), ledger = encoded([example], tokenizer, room)
    prompt = tokenizer.decode(one.chosen.prompt)
    assert one.chosen.prompt == one.rejected.prompt
    assert "Be kind." in prompt
    assert QUESTION["content"] in prompt
    assert "old answer" not in prompt
    assert "rounds dropped" in ledger.truncated[0].reason


def test_a_long_question_is_cut_alike_and_answers_at_the_end(tokenizer: Tokenizer) -> None:
    long_question = [{"role": "user", "content": "Why " * 60}]
    example = pair("Because it is so. " * 9, "No. " * 20, long_question)
    (one,), ledger = encoded([example], tokenizer, 90)
    assert one.chosen.prompt == one.rejected.prompt
    assert max(len(one.chosen.ids), len(one.rejected.ids)) == 90
    assert one.chosen.answer_length > 20
    assert "question cut" in ledger.truncated[0].reason


def test_long_pairs_are_dropped_where_the_run_says_so(tokenizer: Tokenizer) -> None:
    examples, ledger = encoded([pair("Sunny. " * 20, "Rain!")], tokenizer, 60, long="drop")
    assert examples == []
    assert "more than 60" in ledger.dropped[0].reason


@pytest.mark.parametrize(
    ("chosen", "rejected", "room", "reason"),
    [
        (answer("Sunny."), answer("Rain!", loss=False), 400, "no token"),
        (answer("Sunny.", weight=0.5), answer("Rain!"), 400, "weight"),
        (answer("Well " * 60 + "good"), answer("Well " * 60 + "bad"), 80, "the same tokens"),
    ],
)
def test_pairs_that_teach_nothing_are_dropped_with_a_reason(
    chosen: Any, rejected: Any, room: int, reason: str, tokenizer: Tokenizer
) -> None:
    example = PreferencePair([QUESTION], chosen, rejected, "rows.jsonl:7")
    examples, ledger = encoded([example], tokenizer, room)
    assert examples == []
    assert ledger.dropped[0].origin == "rows.jsonl:7"
    assert reason in ledger.dropped[0].reason


def test_equal_answers_are_errors_all_at_once(tokenizer: Tokenizer) -> None:
    same = [pair("Sunny.", "Sunny."), pair("Sunny.", "Rain!"), pair("Rain!", "Rain!")]
    with pytest.raises(DataError, match="2 pairs prefer an answer to itself"):
        encoded(same, tokenizer)


def test_labelled_answers_judge_their_last_turn(tokenizer: Tokenizer) -> None:
    messages = [*HISTORY, QUESTION, *answer("Sunny.")]
    ledger = Ledger()
    (one,) = encode_judgements(
        [LabelledAnswer(messages, True, "a:1")], Rendering(tokenizer, 400), ledger
    )
    assert one.desirable
    assert judged_text(tokenizer, one.answer).startswith("Sunny.")
    assert "newer" not in judged_text(tokenizer, one.answer)


def test_pairs_as_labels_put_the_good_ones_first() -> None:
    found = labelled([pair("A", "B"), pair("C", "D")])
    assert [one.messages[-1]["content"] for one in found] == ["A", "C", "B", "D"]
    assert [one.desirable for one in found] == [True, True, False, False]


def test_mismatched_answers_go_round_and_need_two() -> None:
    rows = [
        Judgement(
            AnsweredPrompt([1, 2, 10 + i], [NOT_LEARNED, NOT_LEARNED, 10 + i]), True, f"a:{i}"
        )
        for i in range(3)
    ]
    found = [one.mismatched for one in with_mismatched(rows, 64)]
    assert [one.ids for one in found if one] == [[1, 2, 12], [1, 2, 10], [1, 2, 11]]
    with pytest.raises(DataError, match="a:0 is the only example"):
        with_mismatched(rows[:1], 64)


def test_files_of_pairs_and_of_labels_are_told_apart(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "pairs.jsonl", rows_of_pairs())
    assert len(list(read_preferences(path))) == 12
    with pytest.raises(DataError, match="preference pair"):
        list(read_labelled(path))
