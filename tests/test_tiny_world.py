"""The tiny world: right answers, parallel text, no leak from tests into training, seeds."""

import json
import re
import subprocess
import sys
from collections import Counter

import pytest

from danlu.data.conversations import read_conversations
from danlu.data.sources import read_corpus
from danlu.data.tiny_world import KINDS, TinyWorld, write_world
from danlu.data.tiny_world.words import (
    ANIMALS,
    COLOURS,
    COUNTABLES,
    NAMES,
    PLACES,
    SPOTS,
    THINGS,
    Noun,
    a,
    counted,
)
from danlu.data.tiny_world.world import STORIES, draw_story, is_reserved
from danlu.errors import OutputError

ENGLISH = re.compile(r"[A-Za-z]")
CHINESE = re.compile(r"[\u4e00-\u9fff]")


@pytest.fixture(scope="module")
def world() -> TinyWorld:
    return TinyWorld(7)


@pytest.fixture(scope="module")
def corpus(world) -> list[str]:
    return list(world.stories(20_000))


def prompts(conversations) -> list[str]:
    return [conversation.messages[0]["content"] for conversation in conversations]


def test_twenty_thousand_documents_are_different(world, corpus):
    assert list(world.stories(2_000)) == corpus[:2_000]
    duplicates = 1 - len(set(corpus)) / len(corpus)
    assert duplicates < 0.03, f"{duplicates:.2%} of the documents are duplicates"
    lengths = sorted(map(len, corpus))
    assert lengths[len(lengths) // 20] > 60
    assert lengths[-1] < 600


def test_nothing_repeats_or_hides_chat_marks(corpus):
    assert not any("<|" in text or text != text.strip() or "  \n" in text for text in corpus)


def test_documents_are_parallel(corpus):
    prose = [text for text in corpus if "print(" not in text]
    assert 0.03 < 1 - len(prose) / len(corpus) < 0.07
    for text in prose:
        lines = [line for line in text.split("\n") if re.search(r"[.。]$", line)]
        assert any(ENGLISH.search(line) for line in lines)
        assert any(CHINESE.search(line) for line in lines)
        assert not any(ENGLISH.search(line) and CHINESE.search(line) for line in lines)


def test_a_sentence_has_one_translation(world):
    rng = world._rng("test")
    english: dict[str, str] = {}
    chinese: dict[str, str] = {}
    for _ in range(6_000):
        for sentence in STORIES[rng.choice(list(STORIES))](rng).sentences:
            assert english.setdefault(sentence.en, sentence.zh) == sentence.zh
            assert chinese.setdefault(sentence.zh, sentence.en) == sentence.en


def test_words_have_one_translation():
    for table in (NAMES, THINGS, COUNTABLES, ANIMALS, COLOURS, PLACES, SPOTS):
        assert len({word.en for word in table}) == len({word.zh for word in table}) == len(table)


def test_grammar_of_noun_phrases():
    umbrella = Noun("umbrella", "umbrellas", "雨伞", "把")
    red = COLOURS[0]
    assert a(umbrella) == ("an umbrella", "一把雨伞")
    assert a(umbrella, red) == ("a red umbrella", "一把红色的雨伞")
    assert counted(1, COUNTABLES[0]) == ("1 apple", "1个苹果")
    assert counted(3, COUNTABLES[2]) == ("3 peaches", "3个桃子")


# ---------------------------------------------------------------- answers, found another way


def person_after(text: str, marks: str) -> str:
    """Return the name that follows the last of the marks."""
    return re.findall(rf"(?:{marks})({'|'.join(n.en + '|' + n.zh for n in NAMES)})", text)[-1]


def count_in(text: str) -> int:
    first, second = (int(number) for number in re.findall(r"\d+", text)[:2])
    story = text.split("\n")[0]
    owner = re.search("At first, (.*?) had|一开始，(.*?)有", story)
    who = owner[1] or owner[2]
    gets = re.search(rf" to (?:her|him|{who})\.|给了(?:[她他]|{who})|bought|又买了", story)
    return first + second if gets else first - second


def check(kind: str, user: str, answer: str) -> None:
    story, *_, question = user.split("\n")
    if kind.startswith("who"):
        assert answer == person_after(story, " to |给了")
    elif kind.startswith("count"):
        assert int(re.match(r"\d+", answer)[0]) == count_in(user) <= 10
    elif kind.startswith("sort"):
        numbers = re.findall(r"\d", question)
        assert re.findall(r"\d", answer) == sorted(numbers) != numbers
    else:
        assert CHINESE.search(user if kind == "translate-en" else answer)
        assert ENGLISH.search(answer if kind == "translate-en" else user)


@pytest.mark.parametrize("split", ["train", "test"])
def test_answers_are_right(world, split):
    checked = Counter()
    for conversation in world.instructions(800, split):
        user, answer = (message["content"] for message in conversation.messages)
        check(conversation.kind, user, answer)
        checked[conversation.kind] += 1
    assert checked == dict.fromkeys(KINDS, 100)
    assert len(KINDS) == 8


def test_instructions_say_what_they_are(world):
    conversation = world.instructions(5)[4]
    assert conversation.kind == "who-en"
    assert conversation.origin == "tiny-world:who-en:4"
    assert [message["role"] for message in conversation.messages] == ["user", "assistant"]


def test_no_test_prompt_or_sentence_is_in_training(world, corpus):
    train, test = world.instructions(4_200), world.instructions(210, "test")
    train_prompts, test_prompts = prompts(train), prompts(test)
    assert len(set(test_prompts)) == len(test_prompts)
    assert len(set(train_prompts)) > 0.97 * len(train_prompts)
    assert not set(train_prompts) & set(test_prompts)
    trained = {sentence for text in [*train_prompts, *corpus] for sentence in sentences_of(text)}
    for conversation in test:
        if conversation.kind.startswith("translate"):
            question, answer = (message["content"] for message in conversation.messages)
            for text in (question.split("\n")[1], answer):
                assert len(sentences_of(text)) == 1
                assert not set(sentences_of(text)) & trained


def sentences_of(text: str) -> list[str]:
    """Return the sentences, without a leading "then", which may be told with it or without."""
    ends = re.findall(r".+?(?:[.。]|$)", text, flags=re.MULTILINE)
    return [end.strip().removeprefix("Then ").removeprefix("然后，") for end in ends]


def test_the_split_is_by_reserved_sentences(world):
    rng = world._rng("test")
    for _ in range(300):
        train = draw_story(rng, None, held_out=False)
        test = draw_story(rng, None, held_out=True)
        assert not any(is_reserved(sentence.en) for sentence in train.sentences)
        assert any(is_reserved(text) for text in [*(s.en for s in test.sentences), *test.facts])


def test_held_out_stories_are_not_in_the_corpus(world, corpus):
    held_out = set(world.held_out_stories(300))
    assert len(held_out) > 290
    assert not held_out & set(corpus)


def test_code_samples_print_what_their_comment_says(world):
    for code in world.code_samples(40):
        shown = output_of(code)
        assert shown.split("\n")[-1] == code.split("# ")[-1]


def output_of(code: str) -> str:
    printed: list[str] = []
    exec(code, {"print": lambda *values: printed.append(" ".join(map(str, values)))})
    return "\n".join(printed)


def test_seeds_and_prefixes(world):
    assert TinyWorld(7).instructions(30) == world.instructions(60)[:30]
    assert list(TinyWorld(8).stories(5)) != list(world.stories(5))


def test_the_world_does_not_depend_on_the_hash_seed():
    code = (
        "from danlu.data.tiny_world import TinyWorld\n"
        "import hashlib\n"
        "text = '|'.join(TinyWorld(1).stories(50)) + str(TinyWorld(1).instructions(30))\n"
        "print(hashlib.sha256(text.encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_written_worlds_are_read_by_the_same_readers(tmp_path):
    files = write_world(
        tmp_path / "w", seed=3, num_stories=50, num_instructions=16, num_test=8, num_held_out=5
    )
    world = TinyWorld(3)
    assert [document.text for document in read_corpus(files.corpus)] == list(world.stories(50))
    assert len(list(read_corpus(files.held_out))) == 5
    again = list(read_conversations(files.instructions))
    assert [one.messages for one in again] == [one.messages for one in world.instructions(16)]
    assert [one.kind for one in read_conversations(files.instructions_test)] == list(KINDS)
    assert set(json.loads(files.instructions.read_text().split("\n")[0])) == {"messages", "kind"}
    with pytest.raises(OutputError):
        write_world(files.corpus, num_stories=1, num_instructions=1, num_test=1)
