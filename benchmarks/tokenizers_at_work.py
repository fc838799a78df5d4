"""The worker that holds one tokenizer; `benchmarks.tokenizing` asks it.

Options: side ("danlu", "tiktoken", "transformers", "sentencepiece"), kind and folder of the
tokenizer, texts (a JSON file with a list of them), and one_core. Pinned to one core, a library can
use no second, whatever threads it starts.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from benchmarks.worker import Answer, options_of_worker, serve

Ids = list[list[int]]

QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT2_WORDS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
WORDS = {"qwen1": QWEN_WORDS, "qwen2": QWEN_WORDS, "gpt2": GPT2_WORDS}
STOCK_FILES = ("vocab.json", "merges.txt", "tokenizer.model", "tokenizer.json")
STOCK_CLASSES = {
    "qwen1": "Qwen2Tokenizer",
    "qwen2": "Qwen2Tokenizer",
    "gpt2": "GPT2Tokenizer",
    "llama2": "LlamaTokenizer",
    "trained": "PreTrainedTokenizerFast",
}


class Side(ABC):
    """A library with a vocabulary; plain text without control tokens to ids."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Return the ids of one text."""

    @abstractmethod
    def encode_batch(self, texts: list[str]) -> Ids:
        """Return the ids of many texts, on all the cores there are."""


class Danlu(Side):
    """Ours, as every command uses it."""

    def __init__(self, kind: str, folder: Path) -> None:
        from danlu.tokenizer import load_tokenizer

        self._tokenizer = load_tokenizer(folder, None if kind == "trained" else kind)

    def encode(self, text: str) -> list[int]:
        """Return the ids of one text."""
        return self._tokenizer.encode(text)

    def encode_batch(self, texts: list[str]) -> Ids:
        """Return the ids of many texts."""
        return self._tokenizer.encode_batch(texts)


class Tiktoken(Side):
    """OpenAI's tiktoken on the same ranks."""

    def __init__(self, kind: str, folder: Path) -> None:
        import tiktoken
        from tiktoken.load import load_tiktoken_bpe

        ranks = load_tiktoken_bpe(str(folder / "qwen.tiktoken")) if kind == "qwen1" else None
        self._encoding = tiktoken.Encoding(
            kind,
            pat_str=WORDS[kind],
            mergeable_ranks=ranks or _ranks_of(folder / "vocab.json"),
            special_tokens={},
        )
        self._threads = len(os.sched_getaffinity(0))

    def encode(self, text: str) -> list[int]:
        """Return the ids of one text."""
        ids: list[int] = self._encoding.encode_ordinary(text)
        return ids

    def encode_batch(self, texts: list[str]) -> Ids:
        """Return the ids of many texts."""
        ids: Ids = self._encoding.encode_ordinary_batch(texts, num_threads=self._threads)
        return ids


def _ranks_of(vocabulary: Path) -> dict[bytes, int]:
    """Return token -> rank of a vocabulary whose ids follow its merges, control tokens left out."""
    from danlu.tokenizer.pieces import byte_level_bytes

    tokens: dict[str, int] = json.loads(vocabulary.read_text(encoding="utf-8"))
    return {byte_level_bytes(token): i for token, i in tokens.items() if token != "<|endoftext|>"}


class Transformers(Side):
    """The tokenizer class of transformers; Qwen-1's words and merges are those of Qwen2."""

    def __init__(self, kind: str, folder: Path) -> None:
        import transformers

        stock: Any = getattr(transformers, STOCK_CLASSES[kind])
        where = folder.parent / "qwen2" if kind == "qwen1" else folder
        with tempfile.TemporaryDirectory() as plain:  # the vocabulary without its control tokens
            for name in STOCK_FILES:
                if (where / name).is_file():
                    shutil.copy(where / name, plain)
            self._tokenizer = stock.from_pretrained(plain)

    def encode(self, text: str) -> list[int]:
        """Return the ids of one text."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids

    def encode_batch(self, texts: list[str]) -> Ids:
        """Return the ids of many texts."""
        ids: Ids = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
        return ids


class SentencePiece(Side):
    """Google's library on the published model, as the families' own code uses it."""

    def __init__(self, kind: str, folder: Path) -> None:
        from sentencepiece import SentencePieceProcessor

        self._library = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        self._threads = len(os.sched_getaffinity(0))

    def encode(self, text: str) -> list[int]:
        """Return the ids of one text."""
        ids: list[int] = self._library.encode(text)
        return ids

    def encode_batch(self, texts: list[str]) -> Ids:
        """Return the ids of many texts."""
        ids: Ids = self._library.encode(texts, num_threads=self._threads)
        return ids


SIDES: dict[str, Any] = {
    "danlu": Danlu,
    "tiktoken": Tiktoken,
    "transformers": Transformers,
    "sentencepiece": SentencePiece,
}


class AtWork:
    """A side and the texts; a route is "one by one" or "batch"."""

    def __init__(self, side: Side, texts: list[str]) -> None:
        self._side = side
        self._texts = texts

    def measure(self, route: str) -> Answer:
        """Return the seconds that encoding all texts takes."""
        start = time.perf_counter()
        self._ids(route)
        return {"seconds": time.perf_counter() - start}

    def describe(self, route: str) -> Answer:
        """Return the number of tokens, and a digest of each text's ids."""
        ids = self._ids(route)
        digests = [hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16] for found in ids]
        return {"tokens": sum(map(len, ids)), "digests": digests}

    def _ids(self, route: str) -> Ids:
        if route == "batch":
            return self._side.encode_batch(self._texts)
        return [self._side.encode(text) for text in self._texts]


def main() -> None:
    """Load one side and serve."""
    options = options_of_worker()
    if options["one_core"]:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.environ["TOKENIZERS_PARALLELISM"] = "true"  # both sides; one core allows one thread
    side = SIDES[options["side"]](options["kind"], Path(options["folder"]))
    texts = json.loads(Path(options["texts"]).read_text(encoding="utf-8"))
    at_work = AtWork(side, texts)
    serve({"measure": at_work.measure, "describe": at_work.describe})


if __name__ == "__main__":
    main()
