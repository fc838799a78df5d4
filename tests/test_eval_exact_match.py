import pytest
from engine_parts import tiny_llm

from danlu.data.examples import Conversation
from danlu.engine.sampling import SamplingParams
from danlu.errors import DataError
from danlu.eval.exact_match import AnswerSample, exact_match, tally_samples


def question(text, expected, kind="", line=1):
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": expected}]
    return Conversation(messages, f"q.jsonl:{line}", kind)


def test_answers_are_right_when_stripped_text_is_equal():
    llm = tiny_llm()
    end = llm.tokenizer.special_tokens["<|im_end|>"]
    [space, letter] = (llm.tokenizer.encode(text)[0] for text in (" ", "x"))
    params = [
        SamplingParams(temperature=0.0, logit_bias={token: 100.0}, max_tokens=2)
        for token in (end, space, letter)
    ]
    for its_params, expected in zip(params, ("", "", "xx"), strict=True):
        result = exact_match(llm, [question("?", f" {expected}\n")], its_params)
        assert result.samples == [AnswerSample("?", expected, expected, True, "", "q.jsonl:1")]
        assert exact_match(llm, [question("?", "X X")], its_params).accuracy == 0.0


def test_the_answer_has_room_for_what_is_expected():
    conversations = [question("a", "long answer " * 3, line=1), question("b", "c", line=2)]
    result = exact_match(tiny_llm(), conversations)
    assert [sample.prompt for sample in result.samples] == ["a", "b"]
    assert (result.total, result.correct) == (2, 0)


def test_the_tally_by_kind():
    samples = [AnswerSample("?", "a", "a", i < 3, "even" if i % 2 == 0 else "") for i in range(4)]
    result = tally_samples(samples)
    assert (result.correct, result.total, result.accuracy) == (3, 4, 0.75)
    assert result.stderr == pytest.approx((0.75 * 0.25 / 4) ** 0.5)
    assert list(result.by_kind) == ["even"]
    assert (result.by_kind["even"].correct, result.by_kind["even"].total) == (2, 2)


def test_conversations_without_an_answer_are_all_named():
    no_answer = Conversation([{"role": "user", "content": "?"}], "q.jsonl:2")
    with pytest.raises(DataError, match=r"1 of them without one:\n  - q.jsonl:2: roles \['user'\]"):
        exact_match(tiny_llm(), [question("?", "a"), no_answer])
    with pytest.raises(DataError, match="found 0 conversations"):
        exact_match(tiny_llm(), [])
