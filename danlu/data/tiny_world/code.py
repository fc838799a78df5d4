"""Short Python snippets about the tiny world: code for the tokenizer to read beside the prose."""

import random

from danlu.data.tiny_world.ordering import draw_numbers
from danlu.data.tiny_world.words import COLOURS, COUNTABLES, MAX_COUNT, NAMES, PLACES, THINGS


def code_sample(rng: random.Random) -> str:
    """Return a snippet that runs, with what it prints in a comment."""
    return rng.choice([_counting, _owner, _colours, _sorting, _walking])(rng)


def _counting(rng: random.Random) -> str:
    noun = rng.choice(COUNTABLES)
    lost, before = sorted(rng.sample(range(1, MAX_COUNT + 1), 2))
    given = rng.choice(NAMES).en.lower()
    return (
        f"{noun.plural} = {before}\n{given} = 0\n"
        f"for _ in range({lost}):\n    {noun.plural} -= 1\n    {given} += 1\n"
        f"print({noun.plural}, {given})  # {before - lost} {lost}"
    )


def _owner(rng: random.Random) -> str:
    first, second = rng.sample(NAMES, 2)
    thing = rng.choice(THINGS).en
    return (
        f'def give({thing}, name):\n    {thing}["owner"] = name\n    return {thing}\n\n'
        f'{thing} = give({{"owner": "{first.en}"}}, "{second.en}")\n'
        f'print({thing}["owner"])  # {second.en}'
    )


def _colours(rng: random.Random) -> str:
    things, colours = rng.sample(THINGS, 2), rng.sample(COLOURS, 2)
    asked = rng.randrange(2)
    pairs = ", ".join(
        f'"{thing.en}": "{colour.en}"' for thing, colour in zip(things, colours, strict=True)
    )
    name = rng.choice(NAMES).en.lower()
    return (
        f"{name} = {{{pairs}}}\nfor thing, colour in {name}.items():\n    print(thing, colour)\n"
        f'print({name}["{things[asked].en}"])  # {colours[asked].en}'
    )


def _sorting(rng: random.Random) -> str:
    numbers = draw_numbers(rng)
    if rng.random() < 0.5:
        return f"numbers = {numbers}\nnumbers.sort()\nprint(numbers)  # {sorted(numbers)}"
    name = rng.choice(NAMES).en.lower()
    return (
        f"def smallest(numbers):\n    return min(numbers)\n\n"
        f"{name} = {numbers}\nprint(smallest({name}))  # {min(numbers)}"
    )


def _walking(rng: random.Random) -> str:
    name = rng.choice(NAMES).en
    places = [place.en for place in rng.sample(PLACES, rng.randint(2, 3))]
    listed = ", ".join(f'"{place}"' for place in places)
    return (
        f'places = [{listed}]\nname = "{name}"\n'
        f'for place in places:\n    print(f"{{name}} went to the {{place}}")\n'
        f"print(len(places))  # {len(places)}"
    )
