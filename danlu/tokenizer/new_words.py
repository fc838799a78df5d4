"""Words of a corpus that cost a tokenizer the most tokens, and so are worth one of their own.

Words of letters end where the letters end. Chinese is written without spaces: there, a run of
characters counts as a word if its parts meet more often than chance lets them, if what stands
before and after it varies, and if it is rarely a whole clause (cohesion and freedom of neighbours;
the ideas are those of Sproat and Shih 1990 and of Feng et al. 2004, "accessor variety").
"""

import heapq
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from danlu.tokenizer.base import Tokenizer

LONGEST_CHINESE_WORD = 6
FEWEST_OCCURRENCES = 3
_COHESION = 10.0  # times more often together than by chance,
_COHESION_SHARE = 0.5  # or this share of what is possible, where a word is frequent
_NEIGHBOUR_SHARE = 0.8  # of the occurrences, at most, have the same character before or after
_CLAUSE_SHARE = 0.5  # of the occurrences, at most, are a whole run

_CHINESE_RUN = re.compile(r"[\u3400-\u9fff]+")
_LETTERS = re.compile(r"( ?)([^\W\d_\u3040-\u30ff\u3400-\u9fff]{2,})")

Costs = dict[str, int]


def costly_words(tokenizer: Tokenizer, texts: Iterable[str], wanted: int) -> list[str]:
    """Return up to `wanted` words by how many tokens they would save as tokens of their own.

    Args:
        tokenizer: whose costs count.
        texts: the corpus; read once.
        wanted: how many at most; fewer are returned if the corpus has no more that save anything.
    """
    spaced: Counter[tuple[str, str]] = Counter()
    runs: Counter[str] = Counter()
    for text in texts:
        spaced.update(match.groups() for match in _LETTERS.finditer(text))  # type: ignore[misc]
        runs.update(_CHINESE_RUN.findall(text))
    counts, costs = _chinese_words(tokenizer, runs)
    savings = {word: counts[word] * (costs[word] - 1) for word in counts}
    savings |= _savings_of_letters(tokenizer, spaced)
    return list(_best(savings, counts, costs, wanted))


def _savings_of_letters(tokenizer: Tokenizer, spaced: Counter[tuple[str, str]]) -> dict[str, int]:
    """Return what each word of letters saves; a space before it stays a token."""
    savings: Counter[str] = Counter()
    occurrences: Counter[str] = Counter()
    for (space, word), count in spaced.items():
        occurrences[word] += count
        cost = len(tokenizer.encode_plain(space + word, prefix=False))
        savings[word] += count * (cost - 1 - len(space))
    return {word: savings[word] for word, n in occurrences.items() if n >= FEWEST_OCCURRENCES}


def _chinese_words(tokenizer: Tokenizer, runs: Counter[str]) -> tuple[Counter[str], Costs]:
    """Return counts and costs of the runs of characters that behave as words."""
    grams = _frequent_grams(runs)
    before: dict[str, int] = defaultdict(int)
    after: dict[str, int] = defaultdict(int)
    for gram, count in grams.items():
        before[gram[1:]] = max(before[gram[1:]], count)
        after[gram[:-1]] = max(after[gram[:-1]], count)
    total = sum(count for gram, count in grams.items() if len(gram) == 1)
    words = Counter(
        {
            gram: count
            for gram, count in grams.items()
            if len(gram) <= LONGEST_CHINESE_WORD
            and count >= FEWEST_OCCURRENCES
            and max(before[gram], after[gram]) <= _NEIGHBOUR_SHARE * count
            and runs[gram] <= _CLAUSE_SHARE * count
            and _cohesion(gram, grams, total) >= min(_COHESION, _COHESION_SHARE * total / count)
        }
    )
    return words, {word: len(tokenizer.encode_plain(word, prefix=False)) for word in words}


def _cohesion(gram: str, grams: Counter[str], total: int) -> float:
    """Return how many times more often than by chance the two parts meet, at the weakest cut."""
    cuts = ((grams[gram[:cut]], grams[gram[cut:]]) for cut in range(1, len(gram)))
    return min((grams[gram] * total / (a * b) for a, b in cuts), default=float(total))


def _frequent_grams(runs: Counter[str]) -> Counter[str]:
    """Return the counts of all runs of up to one character more than the longest word.

    Longer ones are only counted where both shorter ones inside them are frequent.
    """
    frequent: Counter[str] = Counter()
    for length in range(1, LONGEST_CHINESE_WORD + 2):
        found: Counter[str] = Counter()
        for run, count in runs.items():
            for gram in _grams(run, length):
                if length == 1 or (gram[1:] in frequent and gram[:-1] in frequent):
                    found[gram] += count
        fewest = 1 if length == 1 else FEWEST_OCCURRENCES
        frequent.update({gram: count for gram, count in found.items() if count >= fewest})
    return frequent


def _grams(run: str, length: int) -> Iterator[str]:
    return (run[start : start + length] for start in range(len(run) - length + 1))


def _best(
    savings: dict[str, int], counts: Counter[str], costs: Costs, wanted: int
) -> Iterator[str]:
    """Yield the words that save most; those inside a word that was taken count only elsewhere."""
    heap = [(-saving, word) for word, saving in savings.items() if saving > 0]
    heapq.heapify(heap)
    taken: set[str] = set()
    while heap and len(taken) < wanted:
        promised, word = heapq.heappop(heap)
        saving = savings[word]
        if word in costs:
            saved = max((costs[part] - 1 for part in _parts(word) if part in taken), default=0)
            saving = counts[word] * (costs[word] - 1 - saved)
        if saving < -promised:
            if saving > 0:
                heapq.heappush(heap, (-saving, word))
            continue
        taken.add(word)
        for part in _parts(word) if word in costs else ():
            if part in counts:
                counts[part] -= counts[word]
        yield word


def _parts(word: str) -> Iterator[str]:
    """Yield every proper part of a Chinese word."""
    for length in range(1, len(word)):
        yield from _grams(word, length)
