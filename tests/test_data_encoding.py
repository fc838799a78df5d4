"""From texts and conversations to rows of arrays: what is learned, and why a row is left out."""

import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from danlu.data.encoded.encoding import ChatEncoder, TextEncoder, as_document
from danlu.data.encoded.encoding_many import MOST_EXAMPLES, encode_in_order
from danlu.data.encoded.workers import WorkerPool
from danlu.data.examples import Conversation, Document
from danlu.data.packing import IGNORE
from danlu.errors import ChatFormatError, DataError, TokenizerError
from danlu.tokenizer import Tokenizer, train_bpe
from danlu.tokenizer.chat.missing_marks import missing_marks

TEXTS = ["The cat sat on the mat.", "小猫坐在垫子上。"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(TEXTS * 5, 280)


def conversation(number: int = 1, answer: str = "ok") -> Conversation:
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": answer}]
    return Conversation(messages, f"x:{number}")


def test_texts_get_an_end_and_are_learned_as_a_whole(tokenizer: Tokenizer) -> None:
    encoder = TextEncoder(tokenizer)
    (row, empty) = encoder([Document("cat", "x:1"), Document("", "x:2")])
    document = as_document(row)
    assert document.ids.tolist() == [*tokenizer.encode("cat"), tokenizer.eos_id]
    assert document.labels is None
    assert document.origin == "x:1"
    assert empty.arrays is None
    assert empty.note == "no token to learn"


def test_conversations_are_learned_where_the_template_says(tokenizer: Tokenizer) -> None:
    encoder = ChatEncoder(tokenizer, max_tokens=64)
    (row,) = encoder([conversation()])
    document = as_document(row)
    rendered = tokenizer.render_chat(conversation().messages, add_generation_prompt=False)
    assert document.ids.tolist() == rendered.ids
    assert document.labels.tolist() == np.where(rendered.loss_mask, rendered.ids, IGNORE).tolist()
    assert document.weights is None
    assert row.arrays[3].tolist() == [document.num_targets] == [sum(rendered.loss_mask)]


def test_turns_may_weigh_more_or_teach_nothing(tokenizer: Tokenizer) -> None:
    heavy, silent = conversation(1), conversation(2)
    heavy.messages[1]["weight"] = 2.0
    silent.messages[1]["loss"] = False
    rows = ChatEncoder(tokenizer, max_tokens=64)([conversation(), heavy, silent])
    plain, twice = (as_document(row).num_targets for row in rows[:2])
    assert twice == 2 * plain
    assert (rows[2].arrays, rows[2].note) == (None, "no token to learn")


def test_what_cannot_be_rendered_is_left_out_with_the_reason(tokenizer: Tokenizer) -> None:
    bad = Conversation([{"role": "prophet", "content": "x"}], "x:2")
    long = conversation(3, "very long " * 40)
    rows = ChatEncoder(tokenizer, max_tokens=64)([conversation(), bad, long])
    assert [row.arrays is None for row in rows] == [False, True, True]
    assert "prophet" in rows[1].note
    assert "more than 64" in rows[2].note


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"format": "llama2-chat"}, "has no token '<s>', which the chat format needs"),
        ({"template_options": {"thinking": True}}, "Unknown template options.*thinking"),
    ],
)
def test_a_format_that_fits_no_row_is_one_error(
    tokenizer: Tokenizer, changes: dict[str, Any], text: str
) -> None:
    encoder = ChatEncoder(tokenizer, max_tokens=64, **changes)
    with pytest.raises(ChatFormatError, match=text):
        encoder([conversation(), conversation()])


def test_marks_of_a_template_that_are_no_tokens_are_named(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    path = tmp_path / "own.jinja"
    path.write_text(
        "{% for m in messages %}<|im_start|><|role|>{{ m.content }}<|over|>{% endfor %}"
    )
    assert missing_marks(tokenizer, tokenizer.format_of(str(path))) == ["<|role|>", "<|over|>"]
    assert missing_marks(tokenizer, tokenizer.format_of()) == []


def test_the_identity_tells_everything_that_decides(tokenizer: Tokenizer, tmp_path) -> None:
    template = tmp_path / "chat.jinja"
    template.write_text("{{ messages[0].content }}")
    first = ChatEncoder(tokenizer, 64, str(template)).identity()
    template.write_text("{{ messages[0].content }}!")
    others = [
        ChatEncoder(tokenizer, 64, str(template)),
        ChatEncoder(tokenizer, 65, "chatml"),
        ChatEncoder(tokenizer, 64, "chatml", learn="last"),
        ChatEncoder(tokenizer, 64, "chatml", long="truncate"),
        ChatEncoder(tokenizer, 64, "chatml", template_options={"a": 1}),
        ChatEncoder(tokenizer, 64, "chatml", split_seed=1),
        ChatEncoder(train_bpe(TEXTS, 279), 64, "chatml"),
        ChatEncoder(tokenizer, 64, "chatml"),
    ]
    identities = [first, *(encoder.identity() for encoder in others)]
    assert len({repr(each) for each in identities}) == len(identities)


# ---------------------------------------------------------------- several processes


def test_other_processes_give_the_same_rows_in_the_same_order(tokenizer: Tokenizer) -> None:
    texts = [Document(TEXTS[n % 2] * (1 + n % 5), f"x:{n}") for n in range(3 * MOST_EXAMPLES + 7)]
    results = []
    for workers in (1, 2):
        chunks = list(encode_in_order(texts, TextEncoder(tokenizer), workers))
        results.append([(r.origin, r.arrays[0].tolist()) for c in chunks for r in c.rows])
        assert [len(chunk.rows) for chunk in chunks] == [*[MOST_EXAMPLES] * 3, 7]
    assert results[0] == results[1]
    assert [origin for origin, _ in results[0]] == [text.origin for text in texts]


class Failing:
    """An encoder with a fault of its own, or of the user's."""

    columns: ClassVar = {"ids": "<i4"}

    def __init__(self, how: str) -> None:
        self.how = how

    def identity(self) -> dict[str, str]:
        return {}

    def size(self, example: Document) -> int:
        return 1

    def __call__(self, examples: list[Document]) -> list[object]:
        if self.how == "user":
            raise TokenizerError("the template is wrong\nin two lines")
        if self.how == "bug":
            raise KeyError("missing")
        import os

        os._exit(3)


@pytest.mark.parametrize(
    ("how", "error", "text"),
    [
        ("user", TokenizerError, "^the template is wrong\nin two lines$"),
        ("bug", KeyError, "missing"),
        ("death", DataError, r"exit code 3\) while at work on x:1 to x:1.*Use fewer workers"),
    ],
)
def test_errors_of_workers_come_whole(how: str, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text) as caught:
        list(encode_in_order([Document("a", "x:1")], Failing(how), workers=2))
    if how == "bug":
        assert "in __call__" in caught.value.__notes__[0]


def test_encoders_can_be_sent_elsewhere(tokenizer: Tokenizer) -> None:
    encoder = ChatEncoder(tokenizer, 64)
    again = pickle.loads(pickle.dumps(encoder))
    assert again([conversation()])[0].arrays[0].tolist() == (
        encoder([conversation()])[0].arrays[0].tolist()
    )


def test_no_process_is_left_behind() -> None:
    with WorkerPool(len, workers=2) as pool:
        assert list(pool.map(["abc", "", "ab"])) == [3, 0, 2]
        processes = [worker._process for worker in pool._all]
        assert [process.poll() for process in processes] == [None, None]
    assert None not in [process.poll() for process in processes]
