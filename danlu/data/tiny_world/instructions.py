"""Instructions about the tiny world with one right answer each, in English and in Chinese."""

import random
from collections.abc import Callable

from danlu.data.tiny_world.ordering import draw_numbers, sort_question
from danlu.data.tiny_world.story import Story
from danlu.data.tiny_world.words import Phrase, listed

STORY_KINDS = ("who", "count")
KINDS = (
    "translate-en",  # from Chinese into English
    "translate-zh",  # from English into Chinese
    *(f"{kind}-{language}" for kind in ("sort", *STORY_KINDS) for language in ("en", "zh")),
)

TO_ENGLISH = ("Translate into English:", "把这句话翻译成英文：", "这句话用英文怎么说？")
TO_CHINESE = ("Translate into Chinese:", "把这句话翻译成中文：", "Say this in Chinese:")


def story_text(story: Story, language: str) -> str:
    """Return the sentences as one paragraph in ``en`` or ``zh``."""
    joint = " " if language == "en" else ""
    return joint.join(sentence.said(language) for sentence in story.sentences)


def ask_translation(rng: random.Random, sentence: Phrase, language: str) -> tuple[str, str]:
    """Return (user text, answer) that asks for `sentence` in `language`."""
    asks, source = (TO_ENGLISH, sentence.zh) if language == "en" else (TO_CHINESE, sentence.en)
    return f"{rng.choice(asks)}\n{source}", sentence.said(language)


def ask_sorting(rng: random.Random, numbers: list[int], language: str) -> tuple[str, str]:
    """Return (user text, answer) that asks to put `numbers` in order."""
    question = sort_question(numbers)
    return rng.choice(question.wordings).said(language), question.answer.said(language)


def ask_about(rng: random.Random, story: Story, language: str) -> tuple[str, str]:
    """Return (user text, answer): the story, and one of its questions on a line below."""
    question = rng.choice(story.questions)
    wording = rng.choice(question.wordings).said(language)
    return f"{story_text(story, language)}\n{wording}", question.answer.said(language)


def ask(
    kind: str,
    rng: random.Random,
    draw_story: Callable[[str | None], Story],
    reserved: Callable[[str], bool],
) -> tuple[str, str]:
    """Return (user text, answer) of one of `KINDS`.

    Args:
        kind: what to ask for, and in which language the answer is.
        rng: where chance comes from.
        draw_story: gives a story of a kind (None: any) of the wanted split.
        reserved: whether sentences or numbers belong to the wanted split.
    """
    what, language = kind.split("-")
    if what == "translate":
        while True:
            sentence = rng.choice(draw_story(None).sentences)
            if reserved(sentence.en):
                return ask_translation(rng, sentence, language)
    if what == "sort":
        while True:
            numbers = draw_numbers(rng)
            if reserved(listed(numbers).en):
                return ask_sorting(rng, numbers, language)
    return ask_about(rng, draw_story(what), language)
