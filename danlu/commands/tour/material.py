"""What a tour learns from: the tiny world, or the user's own text and conversations, as one folder.

corpus.jsonl  held_out.jsonl          text to learn, and text only to evaluate on
instructions.jsonl  instructions_test.jsonl   conversations, likewise
code.jsonl                            code, for the tokenizer's table alone
"""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.commands.tour.options import TourOptions
from danlu.commands.tour.plan import TourPlan
from danlu.data.conversations import read_conversations
from danlu.data.examples import Conversation, Document
from danlu.data.sources import held_out_split, read_corpus
from danlu.data.tiny_world import TinyWorld, write_world
from danlu.errors import DataError
from danlu.files import write_text

HELD_OUT_FRACTION = 0.03
TEST_PERCENT = 10
NUM_CODE_SAMPLES = 100
CONTINUE = {"en": "Continue: ", "zh": "续写："}
SHORTEST = {"en": 12, "zh": 5}  # characters of a line that is asked about
LONGEST = 120
_CHINESE = re.compile(r"[\u3400-\u9fff]")


@dataclass(frozen=True)
class Material:
    """The files of a tour's material."""

    folder: Path

    @property
    def corpus(self) -> Path:
        """Text to learn."""
        return self.folder / "corpus.jsonl"

    @property
    def held_out(self) -> Path:
        """Text only to evaluate on."""
        return self.folder / "held_out.jsonl"

    @property
    def instructions(self) -> Path:
        """Conversations to learn."""
        return self.folder / "instructions.jsonl"

    @property
    def instructions_test(self) -> Path:
        """Conversations only to evaluate on."""
        return self.folder / "instructions_test.jsonl"

    @property
    def code(self) -> Path:
        """Code for the tokenizer's table."""
        return self.folder / "code.jsonl"


def write_material(folder: Path, options: TourOptions, plan: TourPlan) -> dict[str, Any]:
    """Write the files of `Material` into `folder`; return counts of what is in them.

    Raises:
        DataError: if the user's text or conversations cannot be read or are too few.
    """
    files = Material(folder)
    write_world(
        folder,
        options.seed,
        num_stories=plan.num_stories,
        num_instructions=plan.num_instructions,
        num_test=plan.num_test,
        num_held_out=plan.num_held_out,
    )
    code = TinyWorld(options.seed).code_samples(NUM_CODE_SAMPLES)
    _write_rows(files.code, ({"text": text} for text in code))
    if options.corpus is not None:
        _write_own_text(files, options.corpus, options.seed, plan)
    if options.instructions is not None:
        _write_own_conversations(files, options.instructions, plan)
    return _counts(files, options)


def _write_own_text(files: Material, corpus: Path, seed: int, plan: TourPlan) -> None:
    """Put the user's text in place, and conversations made of it."""
    documents = list(read_corpus(corpus))
    fraction = min(HELD_OUT_FRACTION, plan.num_held_out / max(1, len(documents)))
    train, held_out = held_out_split(documents, fraction, seed)
    _write_rows(files.corpus, ({"text": document.text} for document in train))
    _write_rows(files.held_out, ({"text": document.text} for document in held_out))
    learn = continuations(train, plan.num_instructions)
    asked = {messages[0]["content"] for messages in learn}
    test = [m for m in continuations(held_out, 2 * plan.num_test) if m[0]["content"] not in asked]
    if not learn or not test:
        raise DataError(
            f"'{corpus}' has too few lines of {SHORTEST['en']} ({SHORTEST['zh']} in Chinese) or "
            f"more characters to make conversations of ({len(learn)} to learn, {len(test)} to "
            "test). Expected at least one of each. "
            "Give your own with --instructions FILE."
        )
    _write_rows(files.instructions, ({"messages": messages} for messages in learn))
    _write_rows(files.instructions_test, ({"messages": m} for m in test[: plan.num_test]))


def _write_own_conversations(files: Material, path: Path, plan: TourPlan) -> None:
    """Put the user's conversations in place, one in ten of them held out."""
    learn, test = split_conversations(list(read_conversations(path)))
    if not learn or not test:
        raise DataError(
            f"'{path}' has too few different conversations to hold some out ({len(learn)} to "
            f"learn, {len(test)} to test). Expected at least 20."
        )
    _write_rows(files.instructions, map(_row, learn))
    _write_rows(files.instructions_test, map(_row, test[: plan.num_test]))


def split_conversations(
    conversations: Sequence[Conversation],
) -> tuple[list[Conversation], list[Conversation]]:
    """Part conversations into (to learn, to test) by a hash of the question.

    Equal questions stay on one side, whatever else is in the file.
    """
    learn: list[Conversation] = []
    test: list[Conversation] = []
    for conversation in conversations:
        question = json.dumps(conversation.messages[:-1], ensure_ascii=False)
        digest = hashlib.sha256(question.encode()).digest()
        is_test = int.from_bytes(digest[:4], "big") % 100 < TEST_PERCENT
        (test if is_test else learn).append(conversation)
    return learn, test


def continuations(documents: Iterable[Document], most: int) -> list[list[dict[str, str]]]:
    """Return at most `most` conversations that ask for the rest of a line of the documents.

    The lines are taken evenly over the documents; nothing is asked twice.
    """
    asked = {
        messages[0]["content"]: messages
        for document in documents
        for line in document.text.splitlines()
        if (messages := _continuation(line.strip()[:LONGEST]))
    }
    step = max(1, len(asked) // most)
    return list(asked.values())[::step][:most]


def _continuation(line: str) -> list[dict[str, str]]:
    """Cut a line near its middle, between words or Chinese characters; a short one gives none."""
    language = "zh" if _CHINESE.search(line) else "en"
    middle = len(line) // 2
    spaces = [place for place, character in enumerate(line) if character == " "]
    cuts = [middle] if language == "zh" else sorted(spaces, key=lambda at: abs(at - middle))
    if len(line) < SHORTEST[language] or not cuts:
        return []
    return [
        {"role": "user", "content": CONTINUE[language] + line[: cuts[0]].strip()},
        {"role": "assistant", "content": line[cuts[0] :].strip()},
    ]


def _row(conversation: Conversation) -> dict[str, Any]:
    kind = {"kind": conversation.kind} if conversation.kind else {}
    return {"messages": conversation.messages, **kind}


def _write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _counts(files: Material, options: TourOptions) -> dict[str, Any]:
    texts = [document.text for document in read_corpus(files.corpus)]
    return {
        "documents": len(texts),
        "characters": sum(map(len, texts)),
        "held_out_documents": sum(1 for _ in read_corpus(files.held_out)),
        "instructions": sum(1 for _ in read_conversations(files.instructions)),
        "test_instructions": sum(1 for _ in read_conversations(files.instructions_test)),
        "own_text": options.corpus is not None,
        "own_instructions": options.instructions is not None,
    }
