"""Stories about order and place: number cards, a way through town, where things lie."""

import random

from danlu.data.tiny_world.story import Question, Story, some_asides
from danlu.data.tiny_world.words import (
    DISTRACTOR_SHARE,
    FUR,
    MOVED_SHARE,
    NAMES,
    NUM_SORTED,
    PET_SPOTS,
    PETS,
    PLACES,
    SPOTS,
    THINGS,
    THREE_STOPS_SHARE,
    TIMES,
    Noun,
    Person,
    Phrase,
    a,
    listed,
    the,
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


# ---------------------------------------------------------------- a way through town


def _goes(she: Person | Phrase, place: Phrase, when: Phrase, other: Person | None) -> Phrase:
    name = she.en if isinstance(she, Person) else she.en.lower()
    en_with, zh_with = (f" with {other.en}", f"和{other.zh}一起") if other else ("", "")
    return Phrase(
        f"{when.en}, {name} went to the {place.en}{en_with}.",
        f"{when.zh}，{she.zh}{zh_with}去了{place.zh}。",
    )


def order_story(rng: random.Random) -> Story:
    """Somebody goes to several places one after the other."""
    who, other = rng.sample(NAMES, 2)
    num_stops = 2 + (rng.random() < THREE_STOPS_SHARE)
    places = rng.sample(PLACES, num_stops)
    times = sorted(rng.sample(range(len(TIMES)), num_stops))
    together = rng.randrange(num_stops * 2)  # at this stop, if there is one
    sentences = [
        _goes(
            who if stop in (0, together + 1) else who.subject,
            place,
            TIMES[time],
            other if stop == together else None,
        )
        for stop, (place, time) in enumerate(zip(places, times, strict=True))
    ]
    wordings = (
        Phrase(f"Where did {who.en} go? List the places in order.", f"{who.zh}先后去了哪些地方？"),
        Phrase(f"List the places {who.en} went to, in order.", f"按顺序说出{who.zh}去过的地方。"),
    )
    answer = Phrase(
        ", ".join(place.en for place in places), "、".join(place.zh for place in places)
    )
    statement = Phrase(f"In order, the places were: {answer.en}.", f"先后去的地方是：{answer.zh}。")
    return Story("order", tuple(sentences), (Question(wordings, answer, statement),))


# ---------------------------------------------------------------- where it is


def _lies(rng: random.Random, who: Person, thing: Noun, spot: Phrase) -> Phrase:
    it = the(thing)
    return rng.choice(
        [
            _put(who, it, spot),
            Phrase(f"{who.en} left {it.en} {spot.en}.", f"{who.zh}把{it.zh}留在{spot.zh}。"),
            Phrase(f"The {thing.en} was {spot.en}.", f"{it.zh}在{spot.zh}。"),
        ]
    )


def where_story(rng: random.Random) -> Story:
    """Things lie at different spots, and one may be moved."""
    people, things = rng.sample(NAMES, 2), rng.sample(THINGS, 2)
    *spots, where = rng.sample(SPOTS, 3)
    sentences = [
        _lies(rng, who, thing, spot) for who, thing, spot in zip(people, things, spots, strict=True)
    ]
    if rng.random() < DISTRACTOR_SHARE:
        pet, at = a(rng.choice(PETS), rng.choice(FUR)), rng.choice(PET_SPOTS)
        sentences.append(Phrase(f"There was {pet.en} {at.en}.", f"{at.zh}有{pet.zh}。"))
    if rng.random() < MOVED_SHARE:
        moved = rng.randrange(2)
        put, spots[moved] = _put(people[1 - moved], the(things[moved]), where), where
        sentences.append(Phrase(f"Then {put.en}", f"然后，{put.zh}"))
    questions = [
        _where_question(the(thing), spot) for thing, spot in zip(things, spots, strict=True)
    ]
    return Story("where", tuple(sentences), tuple(questions))


def _put(who: Person, it: Phrase, spot: Phrase) -> Phrase:
    return Phrase(f"{who.en} put {it.en} {spot.en}.", f"{who.zh}把{it.zh}放在{spot.zh}。")


def _where_question(it: Phrase, where: Phrase) -> Question:
    wordings = (
        Phrase(f"Where is {it.en}?", f"{it.zh}在哪里？"),
        Phrase(f"Where is {it.en} now?", f"{it.zh}现在在哪里？"),
    )
    answer = Phrase(where.en[0].upper() + where.en[1:], f"在{where.zh}")
    statement = Phrase(f"Now {it.en} is {where.en}.", f"现在{it.zh}在{where.zh}。")
    return Question(wordings, answer, statement)
