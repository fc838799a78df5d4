"""Stories about order: number cards."""

import random

from danlu.data.tiny_world.story import Question, Story, some_asides
from danlu.data.tiny_world.words import (
    NAMES,
    NUM_SORTED,
    Phrase,
    listed,
)

SORT = (
    Phrase("Sort these numbers from small to large:", "把这些数字从小到大排列："),
    Phrase("Put these numbers in order, the smallest first:", "从小到大排好这些数字："),
)

# ---------------------------------------------------------------- putting in order


def draw_numbers(rng: random.Random) -> list[int]:
    """Return different one-digit numbers that are not in order yet."""
    while True:
        numbers = rng.sample(range(1, 10), NUM_SORTED)
        if numbers != sorted(numbers):
            return numbers


def sort_question(numbers: list[int]) -> Question:
    """Return the question to put these numbers in order."""
    drawn, in_order = listed(numbers), listed(sorted(numbers))
    wordings = tuple(Phrase(f"{ask.en}\n{drawn.en}", f"{ask.zh}\n{drawn.zh}") for ask in SORT)
    statement = Phrase(f"In order, they are {in_order.en}.", f"从小到大是{in_order.zh}。")
    return Question(wordings, in_order, statement)


def sort_story(rng: random.Random) -> Story:
    """Somebody takes number cards, to be put in order."""
    who, numbers = rng.choice(NAMES), draw_numbers(rng)
    drawn, many = listed(numbers), len(numbers)
    took = Phrase(
        f"{who.en} took {many} cards: {drawn.en}.", f"{who.zh}拿了{many}张卡片：{drawn.zh}。"
    )
    sentences = (took, *some_asides(rng, *NAMES))
    return Story("sort", sentences, (sort_question(numbers),), (drawn.en,))
