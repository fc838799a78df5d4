"""Stories about who has what: handed on, counted, told apart by colour."""

import random

from danlu.data.tiny_world.story import Question, Story, some_asides
from danlu.data.tiny_world.words import (
    COLOURS,
    COUNTABLES,
    FEWER_SHARE,
    FOODS,
    MAX_COUNT,
    MAX_HAND_OVERS,
    NAMES,
    PLACES,
    THINGS,
    Noun,
    Person,
    Phrase,
    a,
    counted,
    the,
)

# ---------------------------------------------------------------- who has it now


def _got(rng: random.Random, who: Person, thing: Noun) -> Phrase:
    it, place = a(thing, rng.choice(COLOURS)), rng.choice(PLACES)
    return rng.choice(
        [
            Phrase(
                f"{who.en} found {it.en} in the {place.en}.",
                f"{who.zh}在{place.zh}里找到了{it.zh}。",
            ),
            Phrase(f"{who.en} bought {it.en}.", f"{who.zh}买了{it.zh}。"),
            Phrase(
                f"{who.en} took {it.en} to the {place.en}.",
                f"{who.zh}带着{it.zh}去了{place.zh}。",
            ),
        ]
    )


def _gave(rng: random.Random, who: Person | Phrase, thing: Noun, to: Person) -> Phrase:
    it = the(thing)
    verb = rng.choice(
        [Phrase("gave", "给了"), Phrase("handed", "递给了"), Phrase("lent", "借给了")]
    )
    return Phrase(f"{who.en} {verb.en} {it.en} to {to.en}.", f"{who.zh}把{it.zh}{verb.zh}{to.zh}。")


def who_story(rng: random.Random) -> Story:
    """Somebody has a thing and hands it on once or more."""
    people = rng.sample(NAMES, MAX_HAND_OVERS + 2)
    thing, hand_overs = rng.choice(THINGS), rng.randint(1, MAX_HAND_OVERS)
    it, first, owner = the(thing), people[0], people[hand_overs]
    between = some_asides(rng, people[1], people[-1])
    by_name = bool(between) or rng.random() < 0.5
    giver = _as_subject(first, by_name=by_name)
    sentences = [_got(rng, first, thing), *between, _gave(rng, giver, thing, people[1])]
    for taker in people[2 : hand_overs + 1]:
        gave = _gave(rng, people[1], thing, taker)
        sentences.append(Phrase(f"Then {gave.en}", f"然后，{gave.zh}"))
    sentences += some_asides(rng, people[-1])
    questions = (
        Phrase(f"Who has {it.en} now?", f"现在{it.zh}在谁手里？"),
        Phrase(f"Who has {it.en} in the end?", f"最后{it.zh}在谁手里？"),
    )
    statement = Phrase(f"Now {owner.en} has {it.en}.", f"现在{it.zh}在{owner.zh}手里。")
    question = Question(questions, Phrase(owner.en, owner.zh), statement)
    return Story("who", tuple(sentences), (question,))


def _as_subject(person: Person, *, by_name: bool) -> Phrase:
    """Return the name or, where it is clear who is meant, the pronoun."""
    return Phrase(person.en, person.zh) if by_name else person.subject


# ---------------------------------------------------------------- how many


def _fewer(rng: random.Random, she: Phrase, other: Person, some: Phrase, *, food: bool) -> Phrase:
    sentences = [
        Phrase(f"{she.en} gave {some.en} to {other.en}.", f"{she.zh}给了{other.zh}{some.zh}。"),
        Phrase(f"{she.en} lost {some.en}.", f"{she.zh}丢了{some.zh}。"),
    ]
    if food:
        sentences.append(Phrase(f"{she.en} ate {some.en}.", f"{she.zh}吃了{some.zh}。"))
    return rng.choice(sentences)


def _more(rng: random.Random, she: Phrase, her: Phrase, other: Person, some: Phrase) -> Phrase:
    number, noun = some.en.split(" ")
    return rng.choice(
        [
            Phrase(f"{other.en} gave {some.en} to {her.en}.", f"{other.zh}给了{her.zh}{some.zh}。"),
            Phrase(f"{she.en} bought {number} more {noun}.", f"{she.zh}又买了{some.zh}。"),
        ]
    )


def _change(rng: random.Random, who: Person, noun: Noun, change: int) -> list[Phrase]:
    """Return how `who` gets `change` more of the things (fewer if negative), perhaps an aside."""
    other = rng.choice([person for person in NAMES if person != who])
    asides = some_asides(rng, who, other)
    she = _as_subject(who, by_name=bool(asides))
    her = she if asides else who.object
    if change < 0:
        return [*asides, _fewer(rng, she, other, counted(-change, noun), food=noun in FOODS)]
    return [*asides, _more(rng, she, her, other, counted(change, noun))]


def count_story(rng: random.Random) -> Story:
    """Somebody has some things, and then fewer or more of them."""
    who, noun, fewer = rng.choice(NAMES), rng.choice(COUNTABLES), rng.random() < FEWER_SHARE
    before, after = sorted(rng.sample(range(1, MAX_COUNT + 1), 2), reverse=fewer)
    had, left = counted(before, noun), counted(after, noun)
    start = Phrase(f"At first, {who.en} had {had.en}.", f"一开始，{who.zh}有{had.zh}。")
    sentences = (start, *_change(rng, who, noun, after - before))
    wordings: tuple[Phrase, ...] = (
        Phrase(
            f"How many {noun.plural} does {who.en} have now?",
            f"现在{who.zh}有几{noun.measure}{noun.zh}？",
        ),
    )
    statement = Phrase(f"Now {who.en} has {left.en}.", f"现在{who.zh}有{left.zh}。")
    if fewer:
        is_left = "is" if after == 1 else "are"
        wordings += (
            Phrase(f"How many {noun.plural} are left?", f"还剩几{noun.measure}{noun.zh}？"),
        )
        remain = Phrase(f"{left.en} {is_left} left.", f"还剩{left.zh}。")
        statement = rng.choice([statement, remain])
    answer = Phrase(str(after), f"{after}{noun.measure}")
    return Story("count", sentences, (Question(wordings, answer, statement),))
