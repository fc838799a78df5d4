"""The tiny world: stories, instructions and code from one seed, and a folder of them.

Training and held-out text never share a reserved sentence. A hash of the English sentence decides,
the same for every seed: about one sentence in twelve is reserved. Training stories and instructions
contain none of them; every held-out story and test instruction contains at least one. So no test
prompt is ever seen in training, and no sentence to translate in a test is, neither in the corpus.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from danlu.data.examples import Conversation
from danlu.data.tiny_world.code import code_sample
from danlu.data.tiny_world.day import day_story
from danlu.data.tiny_world.instructions import KINDS, ask, story_text
from danlu.data.tiny_world.ordering import sort_story
from danlu.data.tiny_world.owning import count_story, who_story
from danlu.data.tiny_world.story import Story
from danlu.data.tiny_world.words import (
    BY_SENTENCE_SHARE,
    CODE_SHARE,
    MAX_QUESTIONS,
    QUESTION_SHARE,
    RESERVED_PERCENT,
    STORY_WEIGHTS,
)
from danlu.files import write_text

Split = Literal["train", "test"]
STORIES: dict[str, Callable[[random.Random], Story]] = {
    "who": who_story,
    "count": count_story,
    "sort": sort_story,
    "day": day_story,
}
TRIES = 50  # to find an instruction that was not given yet


def is_reserved(text: str) -> bool:
    """Return whether an English sentence (or list of numbers) is kept for held-out use.

    With "Then" in front it is the same sentence.
    """
    digest = hashlib.sha256(text.removeprefix("Then ").encode()).digest()
    return int.from_bytes(digest[:4], "big") % 100 < RESERVED_PERCENT


def is_held_out(story: Story) -> bool:
    """Return whether the story contains anything reserved."""
    return any(is_reserved(sentence.en) for sentence in story.sentences) or any(
        is_reserved(fact) for fact in story.facts
    )


class TinyWorld:
    """Everything that can be told from one seed; each method starts afresh at each call.

    The first `n` items do not depend on how many are asked for.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def stories(self, n: int) -> Iterator[str]:
        """Yield `n` documents for pre-training: parallel stories, and a few Python snippets."""
        rng = self._rng("stories")
        for _ in range(n):
            if rng.random() < CODE_SHARE:
                yield code_sample(rng)
            else:
                yield document(rng, draw_story(rng, None, held_out=False))

    def held_out_stories(self, n: int) -> Iterator[str]:
        """Yield `n` parallel stories that share no reserved sentence with the others."""
        rng = self._rng("held out")
        for _ in range(n):
            yield document(rng, draw_story(rng, None, held_out=True))

    def code_samples(self, n: int) -> list[str]:
        """Return `n` Python snippets."""
        rng = self._rng("code")
        return [code_sample(rng) for _ in range(n)]

    def instructions(self, n: int, split: Split = "train") -> list[Conversation]:
        """Return `n` instructions, balanced over the kinds, with the kind in each.

        No prompt is given twice, unless a kind has no more prompts to give.
        """
        rng = self._rng(f"instructions {split}")
        seen: set[str] = set()
        return [
            self._instruction(rng, KINDS[index % len(KINDS)], index, split, seen)
            for index in range(n)
        ]

    def _instruction(
        self, rng: random.Random, kind: str, index: int, split: Split, seen: set[str]
    ) -> Conversation:
        held_out = split == "test"
        for _ in range(TRIES):
            user, answer = ask(
                kind,
                rng,
                lambda what: draw_story(rng, what, held_out=held_out),
                lambda text: is_reserved(text) == held_out,
            )
            if user not in seen:
                break
        seen.add(user)
        messages = [
            {"role": "user", "content": user},
            {"role": "assistant", "content": answer},
        ]
        return Conversation(messages, f"tiny-world:{kind}:{index}", kind)

    def _rng(self, purpose: str) -> random.Random:
        return random.Random(f"tiny world {self.seed} {purpose}")


def draw_story(rng: random.Random, kind: str | None, *, held_out: bool) -> Story:
    """Return a story of `kind` (None: any) on the wanted side of the split."""
    while True:
        drawn = kind or rng.choices(list(STORY_WEIGHTS), list(STORY_WEIGHTS.values()))[0]
        story = STORIES[drawn](rng)
        if is_held_out(story) == held_out:
            return story


# ---------------------------------------------------------------- documents


def document(rng: random.Random, story: Story) -> str:
    """Return the story in both languages, with questions or a closing statement.

    Either language may come first; the languages alternate by sentence or by paragraph. A question
    and its answer stand on lines of their own, and never at the end.
    """
    languages = rng.sample(["en", "zh"], 2)
    asked = bool(story.questions) and rng.random() < QUESTION_SHARE
    by_sentence, lines = rng.random() < BY_SENTENCE_SHARE, []
    if by_sentence:
        lines = [line.said(language) for line in story.sentences for language in languages]
    for language in languages:
        lines += [] if by_sentence else [story_text(story, language)]
        lines += _answered(rng, story, language) if asked else []
    return "\n".join([*lines, *_closing(rng, story, languages[asked:])])


def _answered(rng: random.Random, story: Story, language: str) -> list[str]:
    """Return questions with their answers, in an order of their own for each language."""
    chosen = rng.sample(story.questions, min(MAX_QUESTIONS, len(story.questions)))
    pairs = [(rng.choice(question.wordings), question.answer) for question in chosen]
    return [line.said(language) for pair in pairs for line in pair]


def _closing(rng: random.Random, story: Story, languages: list[str]) -> list[str]:
    """Return one answer as a statement in these languages; nothing for a day."""
    if not story.questions:
        return []
    statement = rng.choice(story.questions).statement
    return [statement.said(language) for language in languages]


# ---------------------------------------------------------------- files


@dataclass(frozen=True)
class WorldFiles:
    """The files of a written world."""

    corpus: Path
    held_out: Path
    instructions: Path
    instructions_test: Path


def write_world(
    folder: Path | str,
    seed: int = 0,
    num_stories: int = 20_000,
    num_instructions: int = 4_000,
    num_test: int = 200,
    num_held_out: int = 400,
) -> WorldFiles:
    """Write a world as JSON Lines, each file atomically, and return where they are.

    Rows are ``{"text"}`` in the corpus files and ``{"messages", "kind"}`` in the instructions.

    Raises:
        OutputError: if the folder cannot be written.
    """
    world, folder = TinyWorld(seed), Path(folder)
    files = WorldFiles(
        folder / "corpus.jsonl",
        folder / "held_out.jsonl",
        folder / "instructions.jsonl",
        folder / "instructions_test.jsonl",
    )
    _write_rows(files.corpus, ({"text": text} for text in world.stories(num_stories)))
    _write_rows(files.held_out, ({"text": text} for text in world.held_out_stories(num_held_out)))
    _write_rows(files.instructions, _rows(world.instructions(num_instructions, "train")))
    _write_rows(files.instructions_test, _rows(world.instructions(num_test, "test")))
    return files


def _rows(conversations: list[Conversation]) -> Iterator[dict[str, object]]:
    for conversation in conversations:
        yield {"messages": conversation.messages, "kind": conversation.kind}


def _write_rows(path: Path, rows: Iterable[dict[str, object]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
