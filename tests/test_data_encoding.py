"""From text and conversations to token documents, through whatever tokenizer there is."""

from types import SimpleNamespace

from danlu.data.batch import IGNORE
from danlu.data.encoding import CHUNK, encode_conversations, encode_documents, text_document
from danlu.data.examples import Conversation, Document


class ByteTokenizer:
    """One id per byte; the end is 256, the beginning 257; a chat learns the assistant's bytes."""

    eos_id = 256

    def prompt_prefix(self) -> list[int]:
        return [257]

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [list(text.encode()) for text in texts]

    def render_chat(self, messages, tools=None, format=None, add_generation_prompt=True):
        assert tools is None
        assert not add_generation_prompt
        ids, mask = [], []
        for message in messages:
            ids += list(message["content"].encode())
            mask += [message["role"] == "assistant"] * len(message["content"].encode())
        return SimpleNamespace(ids=ids, loss_mask=mask)


class Recorder:
    def __init__(self) -> None:
        self.calls: list[object] = []

    def start(self, what: str, total: int | None) -> None:
        self.calls.append(("start", total))

    def advance(self, done: int, note: str = "") -> None:
        self.calls.append(done)

    def finish(self) -> None:
        self.calls.append("finish")


def test_texts_get_a_beginning_and_an_end():
    progress = Recorder()
    texts = [Document("ab", f"x:{number}") for number in range(CHUNK + 1)]
    encoded = encode_documents(ByteTokenizer(), texts, progress)
    assert encoded[0].ids.tolist() == [257, 97, 98, 256]
    assert encoded[0].labels is None
    assert [document.origin for document in encoded] == [text.origin for text in texts]
    assert progress.calls == [("start", CHUNK + 1), CHUNK, 1, "finish"]


def test_a_tokenizer_without_an_end_adds_none():
    assert text_document([1, 2], None, "x:1").ids.tolist() == [1, 2]


def test_conversations_are_learned_where_the_template_says():
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "ok"}]
    (encoded,) = encode_conversations(ByteTokenizer(), [Conversation(messages, "x:1")])
    assert encoded.labels.tolist() == [IGNORE, *b"ok"]
    assert encoded.num_targets == 2
    assert encoded.origin == "x:1"
