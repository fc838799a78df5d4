"""The words of the tiny world in English and Chinese, and the knobs of its difficulty.

Every word has one translation, so that each sentence has one too.
"""

from typing import NamedTuple

# ---------------------------------------------------------------- difficulty knobs
# The tables below are cut to these sizes; fewer words and shorter stories are easier to learn.
NUM_NAMES = 6
NUM_THINGS = 6
NUM_FOODS = 4
NUM_ANIMALS = 3
NUM_COLOURS = 5
NUM_PLACES = 6
NUM_SPOTS = 5
MAX_COUNT = 6  # the largest number of things anybody has
FEWER_SHARE = 0.6  # counting stories where things go away; in the others more come
NUM_SORTED = 3  # how many numbers are put in order, each from 1 to 9
MAX_HAND_OVERS = 2
DISTRACTOR_SHARE = 0.1  # stories with a sentence that has nothing to do with the question
BY_SENTENCE_SHARE = 0.4  # corpus stories whose languages alternate sentence by sentence
QUESTION_SHARE = 0.9  # corpus stories with questions and answers at their end
MAX_QUESTIONS = 2  # about one story, in each language
CODE_SHARE = 0.05  # corpus documents that are Python snippets
RESERVED_PERCENT = 8  # share of all sentences that only held-out stories and tests may use


# How often each kind of story is told in the corpus: what is hard to learn, more often.
STORY_WEIGHTS = {"who": 3, "count": 3, "sort": 1, "day": 3}


class Phrase(NamedTuple):
    """The same words in both languages."""

    en: str
    zh: str

    def said(self, language: str) -> str:
        """Return the words in ``en`` or ``zh``."""
        return self.en if language == "en" else self.zh


class Person(NamedTuple):
    """Somebody, with the pronouns for them."""

    en: str
    zh: str
    subject: Phrase  # She / 她
    object: Phrase  # her / 她


class Noun(NamedTuple):
    """A thing that can be counted."""

    en: str
    plural: str
    zh: str
    measure: str


SHE = (Phrase("She", "她"), Phrase("her", "她"))
HE = (Phrase("He", "他"), Phrase("him", "他"))

NAMES = (
    Person("Lily", "莉莉", *SHE),
    Person("Tom", "汤姆", *HE),
    Person("Anna", "安娜", *SHE),
    Person("Jack", "杰克", *HE),
    Person("Lucy", "露西", *SHE),
    Person("Peter", "彼得", *HE),
    Person("Meimei", "美美", *SHE),
    Person("Dawei", "大伟", *HE),
    Person("Mike", "迈克", *HE),
    Person("Mary", "玛丽", *SHE),
    Person("Tingting", "婷婷", *SHE),
    Person("Lele", "乐乐", *HE),
)[:NUM_NAMES]

THINGS = (
    Noun("ball", "balls", "球", "个"),
    Noun("book", "books", "书", "本"),
    Noun("hat", "hats", "帽子", "顶"),
    Noun("pen", "pens", "笔", "支"),
    Noun("flower", "flowers", "花", "朵"),
    Noun("key", "keys", "钥匙", "把"),
    Noun("umbrella", "umbrellas", "雨伞", "把"),
    Noun("doll", "dolls", "娃娃", "个"),
    Noun("scarf", "scarves", "围巾", "条"),
    Noun("coat", "coats", "外套", "件"),
    Noun("cup", "cups", "杯子", "个"),
    Noun("kite", "kites", "风筝", "只"),
)[:NUM_THINGS]

FOODS = (
    Noun("apple", "apples", "苹果", "个"),
    Noun("pear", "pears", "梨", "个"),
    Noun("peach", "peaches", "桃子", "个"),
    Noun("egg", "eggs", "鸡蛋", "个"),
    Noun("cookie", "cookies", "饼干", "块"),
    Noun("candy", "candies", "糖", "颗"),
)[:NUM_FOODS]

COUNTABLES = (
    *FOODS,
    Noun("book", "books", "书", "本"),
    Noun("pen", "pens", "笔", "支"),
    Noun("flower", "flowers", "花", "朵"),
    Noun("coin", "coins", "硬币", "枚"),
    Noun("card", "cards", "卡片", "张"),
)

ANIMALS = (
    Noun("cat", "cats", "猫", "只"),
    Noun("dog", "dogs", "狗", "只"),
    Noun("rabbit", "rabbits", "兔子", "只"),
    Noun("bird", "birds", "鸟", "只"),
    Noun("duck", "ducks", "鸭子", "只"),
    Noun("horse", "horses", "马", "匹"),
    Noun("cow", "cows", "牛", "头"),
)[:NUM_ANIMALS]

PETS = ANIMALS[:4]

COLOURS = (
    Phrase("red", "红色"),
    Phrase("blue", "蓝色"),
    Phrase("green", "绿色"),
    Phrase("yellow", "黄色"),
    Phrase("black", "黑色"),
    Phrase("white", "白色"),
    Phrase("brown", "棕色"),
    Phrase("pink", "粉色"),
)[:NUM_COLOURS]

FUR = tuple(colour for colour in COLOURS if colour.en in ("black", "white", "brown"))

PLACES = (
    Phrase("park", "公园"),
    Phrase("garden", "花园"),
    Phrase("kitchen", "厨房"),
    Phrase("library", "图书馆"),
    Phrase("shop", "商店"),
    Phrase("classroom", "教室"),
    Phrase("museum", "博物馆"),
    Phrase("forest", "森林"),
    Phrase("market", "市场"),
)[:NUM_PLACES]

OUTDOORS = tuple(place for place in PLACES if place.en in ("park", "garden", "forest", "market"))

SPOTS = (
    Phrase("on the table", "桌子上"),
    Phrase("under the bed", "床底下"),
    Phrase("in the box", "盒子里"),
    Phrase("on the chair", "椅子上"),
    Phrase("behind the door", "门后面"),
    Phrase("in the drawer", "抽屉里"),
    Phrase("by the window", "窗户旁边"),
    Phrase("under the tree", "树底下"),
)[:NUM_SPOTS]

PET_SPOTS = tuple(spot for spot in SPOTS if spot.en != "in the drawer")

FEELINGS = (
    Phrase("happy", "高兴"),
    Phrase("tired", "累"),
    Phrase("busy", "忙"),
)


def a(noun: Noun, colour: Phrase | None = None) -> Phrase:
    """Return "a red ball" and "一个红色的球"; without a colour, "a ball" and "一个球"."""
    words = f"{colour.en} {noun.en}" if colour else noun.en
    article = "an" if words[0] in "aeiou" else "a"
    described = f"{colour.zh}的{noun.zh}" if colour else noun.zh
    return Phrase(f"{article} {words}", f"一{noun.measure}{described}")


def the(noun: Noun) -> Phrase:
    """Return "the ball" and "球"."""
    return Phrase(f"the {noun.en}", noun.zh)


def counted(number: int, noun: Noun) -> Phrase:
    """Return "1 apple", "3 apples" and "3个苹果"."""
    return Phrase(
        f"{number} {noun.en if number == 1 else noun.plural}", f"{number}{noun.measure}{noun.zh}"
    )


def listed(numbers: list[int]) -> Phrase:
    """Return "7, 2, 5" and "7、2、5"."""
    words = [str(number) for number in numbers]
    return Phrase(", ".join(words), "、".join(words))
