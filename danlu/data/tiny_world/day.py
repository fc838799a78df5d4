"""Stories of a day: people, animals and places, and nothing to be asked for."""

import random

from danlu.data.tiny_world.story import Story
from danlu.data.tiny_world.words import (
    ANIMALS,
    COLOURS,
    FOODS,
    FUR,
    NAMES,
    OUTDOORS,
    PET_SPOTS,
    PETS,
    PLACES,
    THINGS,
    Person,
    Phrase,
    a,
    counted,
)

DAY_SENTENCES = 3


def day_story(rng: random.Random) -> Story:
    """Two people do one thing after the other."""
    people = rng.sample(NAMES, 2)
    sentences = []
    for number in range(DAY_SENTENCES):
        rng.shuffle(people)
        sentence = _outside(rng, *people) if number % 2 else _doing(rng, *people)
        sentences.append(sentence)
    return Story("day", tuple(sentences))


def _doing(rng: random.Random, who: Person, other: Person) -> Phrase:
    animal, thing = (
        a(rng.choice(ANIMALS), rng.choice(FUR)),
        a(rng.choice(THINGS), rng.choice(COLOURS)),
    )
    some = counted(rng.randint(1, 4), rng.choice(FOODS))
    pet, fur = rng.choice(PETS), rng.choice(FUR)
    return rng.choice(
        [
            Phrase(f"{who.en} drew {animal.en}.", f"{who.zh}画了{animal.zh}。"),
            Phrase(f"{who.en} ate {some.en}.", f"{who.zh}吃了{some.zh}。"),
            Phrase(f"{who.en} wanted to buy {thing.en}.", f"{who.zh}想买{thing.zh}。"),
            Phrase(
                f"{who.en} bought {thing.en} for {other.en}.",
                f"{who.zh}给{other.zh}买了{thing.zh}。",
            ),
            Phrase(
                f"{who.en} likes the {fur.en} {pet.en}.",
                f"{who.zh}喜欢那{pet.measure}{fur.zh}的{pet.zh}。",
            ),
        ]
    )


def _outside(rng: random.Random, who: Person, other: Person) -> Phrase:
    place, pet, spot = rng.choice(PLACES), rng.choice(PETS), rng.choice(PET_SPOTS)
    many, wild = counted(rng.randint(2, 9), rng.choice(ANIMALS)), rng.choice(OUTDOORS)
    there = Phrase(f"in the {place.en}", f"在{place.zh}里")
    return rng.choice(
        [
            Phrase(
                f"{who.en} saw {many.en} in the {wild.en}.",
                f"{who.zh}在{wild.zh}里看见了{many.zh}。",
            ),
            Phrase(
                f"{who.en} looked for {other.en} {there.en}.", f"{who.zh}{there.zh}找{other.zh}。"
            ),
            Phrase(
                f"{who.en} and {other.en} played {there.en}.",
                f"{who.zh}和{other.zh}{there.zh}玩。",
            ),
            Phrase(f"{who.en} read a book {there.en}.", f"{who.zh}{there.zh}看书。"),
            Phrase(f"The {pet.en} slept {spot.en}.", f"{pet.zh}在{spot.zh}睡觉。"),
        ]
    )
