import random

import pytest
from engine_parts import tiny_tokenizer

from danlu.engine.sampling import SamplingParams
from danlu.engine.sequence import GenerationSequence, Request
from danlu.engine.text import AnswerText
from danlu.tokenizer import IncrementalDecoder


class Letters:
    """Token i is the i-th piece; one piece is held back, as an unfinished character is."""

    def __init__(self, pieces, held=""):
        self.pieces = pieces
        self.held = held

    def push(self, token_id):
        return self.pieces[token_id]

    def finish(self):
        return self.held


def grow(pieces, stop, held=""):
    """Return (text, what was taken at each step, step that stopped)."""
    text, taken = AnswerText(Letters(pieces, held), stop), []
    for step in range(len(pieces)):
        stopped = text.push(step)
        taken.append(text.take())
        if stopped:
            return text.text, taken, step
    stopped = text.finish()
    taken.append(text.take())
    return text.text, taken, "finish" if stopped else None


def test_a_stop_string_across_tokens_is_cut_and_never_shown():
    text, taken, step = grow(["ab", "c<", "/", "s> tail"], ["</s>"])
    assert (text, taken, step) == ("abc", ["ab", "c", "", ""], 3)


def test_text_held_back_in_vain_is_shown_later():
    text, taken, step = grow(["ab<", "b", ">"], ["</s>"])
    assert (text, taken, step) == ("ab<b>", ["ab", "<b", ">", ""], None)


def test_text_held_back_at_the_end_is_shown():
    assert grow(["ab<", "/"], ["</s>"])[:2] == ("ab</", ["ab", "", "</"])


def test_the_earliest_stop_string_wins():
    assert grow(["one STOP two END"], ["END", "STOP"])[0] == "one "


def test_a_stop_string_may_be_completed_by_the_last_characters():
    assert grow(["ab", "c"], ["cd"], held="d") == ("ab", ["ab", "", ""], "finish")


def test_overlapping_beginnings_are_seen():
    assert grow(["a", "a", "a", "b", "x"], ["aab"])[0] == "a"


@pytest.mark.parametrize("seed", range(20))
def test_taken_pieces_are_the_text_for_random_cuts(seed):
    rng = random.Random(seed)
    whole = "".join(rng.choice("abc") for _ in range(60))
    stop = ["".join(rng.choice("abc") for _ in range(rng.randint(1, 4))) for _ in range(2)]
    cuts = sorted(rng.sample(range(1, 60), 20))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, 60], strict=True)]
    text, taken, _ = grow(pieces, stop)
    found = [whole.find(s) for s in stop if s in whole]
    assert text == (whole[: min(found)] if found else whole)
    assert "".join(taken) == text


def test_characters_split_over_tokens_come_whole():
    tokenizer = tiny_tokenizer()
    ids = tokenizer.encode("苹果🍎!")
    assert len(ids) > 6
    text = AnswerText(IncrementalDecoder(tokenizer))
    pieces = []
    for token in ids:
        text.push(token)
        pieces.append(text.take())
    assert "".join(pieces) == "苹果🍎!"
    assert all("\ufffd" not in piece for piece in pieces)


def answer(stop_ids=(), max_new_tokens=3, text=None):
    request = Request([1], SamplingParams(), max_new_tokens, frozenset(stop_ids), seed=0)
    return GenerationSequence(request, text=text)


def test_an_answer_ends_by_token_text_or_length():
    by_token = answer(stop_ids=[9])
    assert [by_token.append(t) for t in (1, 9)] == [False, True]
    assert (by_token.finish_reason, by_token.stopped_by_token) == ("stop", True)

    by_text = answer(text=AnswerText(Letters(["a", "b"]), ["ab"]))
    assert [by_text.append(t) for t in (0, 1)] == [False, True]
    assert (by_text.finish_reason, by_text.stopped_by_token) == ("stop", False)

    by_length = answer()
    assert [by_length.append(t) for t in (1, 2, 3)] == [False, False, True]
    assert by_length.finish_reason == "length"


def test_a_stop_wins_over_the_length():
    assert answer(stop_ids=[3], max_new_tokens=1).append(3)
    sequence = answer(stop_ids=[3], max_new_tokens=1)
    sequence.append(3)
    assert sequence.finish_reason == "stop"
