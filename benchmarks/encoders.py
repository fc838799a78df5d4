"""The worker that holds one encoder of conversations; `benchmarks.encoding` asks it for rounds.

Options: `stack` ("danlu", "datasets" or "datasets batched"), `model` (folder of the tokenizer),
`data` (a file of rows with `messages`), `processes`, `chat_format`.
"""

import hashlib
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.worker import Answer, options_of_worker, serve

NO_LIMIT = 1 << 20  # tokens
# The same text as the tokenizer's own template, with the marks that transformers' mask needs.
MARKED = {
    "chatml": (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
        "{% if message['role'] == 'assistant' %}"
        "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
        "{% else %}{{ message['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    )
}


class Encoder(ABC):
    """Encodes the rows of a file, again and again, keeping nothing in between.

    Args:
        model: folder with a tokenizer and a chat template.
        data: JSON Lines with `messages`.
        processes: that work at once.
        chat_format: of the tokenizer.
    """

    def __init__(self, model: str, data: str, processes: int, chat_format: str) -> None:
        self.model, self.data, self.processes = model, data, processes
        self.chat_format = chat_format

    @abstractmethod
    def encode(self, folder: Path) -> tuple[float, Iterable[Any]]:
        """Encode everything into `folder`; return the seconds, and the ids of each row."""

    def measure(self) -> Answer:
        """Return the rows per second, and a digest of the ids of each row."""
        with tempfile.TemporaryDirectory(prefix="danlu-benchmark-") as folder:
            seconds, rows = self.encode(Path(folder))
            digests = [_digest(ids) for ids in rows]
        return {"rows_per_s": len(digests) / seconds, "digests": digests}


def _digest(ids: Any) -> str:
    return hashlib.sha256(np.asarray(ids, np.int64).tobytes()).hexdigest()[:12]


class Danlu(Encoder):
    """What `danlu finetune` does with a source that is new: read, check, render, mask, store."""

    def encode(self, folder: Path) -> tuple[float, Iterable[Any]]:
        """Encode into a store; its time has everything from the opening of the file on."""
        from danlu.config.data import DataSource
        from danlu.data.conversations import read_conversations
        from danlu.data.encoded.cache import encoded_store
        from danlu.data.encoded.encoding import ChatEncoder
        from danlu.loading import load_tokenizer

        encoder = ChatEncoder(load_tokenizer(self.model), NO_LIMIT)
        start = time.perf_counter()
        store = encoded_store(
            DataSource(path=self.data),
            read_conversations,
            encoder,
            folder,
            workers=self.processes,
        )
        seconds = time.perf_counter() - start
        return seconds, (store.array("ids", row) for row in range(len(store)))


class Datasets(Encoder):
    """`Dataset.map` with the stock tokenizer's chat template: ids, and the mask of answers.

    The file is read before the clock starts. A format without a marked template gets no mask.
    """

    batched = False

    def encode(self, folder: Path) -> tuple[float, Iterable[Any]]:
        """Map all rows into a file of `folder`."""
        from datasets import Dataset
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.model)
        marked = MARKED.get(self.chat_format)

        def encoded(example: dict[str, Any]) -> dict[str, Any]:
            found = tokenizer.apply_chat_template(
                example["messages"],
                chat_template=marked,
                return_dict=True,
                return_assistant_tokens_mask=marked is not None,
            )
            return dict(found)

        rows = Dataset.from_json(self.data, cache_dir=str(folder / "read"))
        start = time.perf_counter()
        mapped = rows.map(
            encoded,
            batched=self.batched,
            num_proc=self.processes if self.processes > 1 else None,
            remove_columns=rows.column_names,
            load_from_cache_file=False,
            cache_file_name=str(folder / "mapped.arrow"),
        )
        seconds = time.perf_counter() - start
        return seconds, list(mapped["input_ids"])


class BatchedDatasets(Datasets):
    """The same with a thousand rows at a time."""

    batched = True


STACKS: dict[str, type[Encoder]] = {
    "danlu": Danlu,
    "datasets": Datasets,
    "datasets batched": BatchedDatasets,
}


def make_encoder(stack: str, **options: Any) -> Encoder:
    """Return the encoder that a worker's options describe."""
    return STACKS[stack](**options)


if __name__ == "__main__":
    serve({"measure": make_encoder(**options_of_worker()).measure})
