"""What a story of the tiny world is: sentences in English and Chinese and a question about them."""

import random
from dataclasses import dataclass

from danlu.data.tiny_world.words import (
    DISTRACTOR_SHARE,
    FEELINGS,
    FUR,
    PETS,
    PLACES,
    Person,
    Phrase,
    a,
)


@dataclass(frozen=True)
class Question:
    """A question with exactly one right answer.

    Attributes:
        wordings: ways to ask it.
        answer: the answer, a word or a few.
        statement: the answer as a sentence.
    """

    wordings: tuple[Phrase, ...]
    answer: Phrase
    statement: Phrase


@dataclass(frozen=True)
class Story:
    """Sentences in order, and what they make true.

    Attributes:
        kind: what is asked: who, count, sort, order, colour, where; or day, where nothing is.
        sentences: the story itself.
        questions: what can be asked about it; nothing for a day.
        facts: beside the sentences, what decides whether the story is held out.
    """

    kind: str
    sentences: tuple[Phrase, ...]
    questions: tuple[Question, ...] = ()
    facts: tuple[str, ...] = ()


def aside(rng: random.Random, person: Person) -> Phrase:
    """Return a sentence about somebody that changes nothing."""
    place, feeling = rng.choice(PLACES), rng.choice(FEELINGS)
    pet = a(rng.choice(PETS), rng.choice(FUR))
    return rng.choice(
        [
            Phrase(f"{person.en} was in the {place.en}.", f"{person.zh}在{place.zh}里。"),
            Phrase(f"{person.en} was very {feeling.en}.", f"{person.zh}很{feeling.zh}。"),
            Phrase(f"{person.en} saw {pet.en}.", f"{person.zh}看见了{pet.zh}。"),
        ]
    )


def some_asides(rng: random.Random, *people: Person) -> list[Phrase]:
    """Return one aside about one of the people, or, more often, none."""
    return [aside(rng, rng.choice(people))] if rng.random() < DISTRACTOR_SHARE else []
