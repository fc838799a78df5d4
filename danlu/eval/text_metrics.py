"""How near an answer is to the expected one: BLEU-4, ROUGE-1/2/L, exact match, each from 0 to 1.

Texts are compared by tokens that need no dictionary: a Chinese character, Japanese or Korean one is
a token of its own, as the fine-tuning scripts of ChatGLM and LLaMA-Factory have it, and any other
run of letters and digits in lower case is one. Punctuation between words does not count, which is
the rule of the rouge-score package.

* BLEU-4 of a sentence (Papineni et al. 2002): geometric mean of the clipped precisions of 1- to
  4-grams, times the brevity penalty. Where no n-gram of a length matches, half, a quarter, ... of a
  match is counted (NIST's smoothing; `SmoothingFunction.method3` of nltk, `exp` of sacrebleu).
* ROUGE-N and ROUGE-L (Lin 2004): F1 of n-grams and of the longest common subsequence.

A corpus is the mean of its sentences, as in those scripts.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence

from danlu.config.evaluation import TextMetric

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_TOKEN = re.compile(f"[{_CJK}\U00020000-\U0003ffff]|[^\\W_{_CJK}\U00020000-\U0003ffff]+")
_MAX_N = 4


def text_tokens(text: str) -> list[str]:
    """Return the tokens that texts are compared by."""
    return _TOKEN.findall(text.lower())


def bleu4(answer: Sequence[str], reference: Sequence[str]) -> float:
    """Return the smoothed BLEU-4 of the tokens of an answer."""
    precisions = []
    halvings = 0
    for n in range(1, _MAX_N + 1):
        matches, total = _overlap(answer, reference, n), max(1, len(answer) - n + 1)
        if n == 1 and not matches:
            return 0.0
        if not matches:
            halvings += 1
        precisions.append((matches or 0.5**halvings) / total)
    mean = math.exp(sum(map(math.log, precisions)) / _MAX_N)
    return mean * min(1.0, math.exp(1 - len(reference) / len(answer)))


def rouge_n(answer: Sequence[str], reference: Sequence[str], n: int) -> float:
    """Return the F1 of n-grams."""
    matches = _overlap(answer, reference, n)
    return _f1(matches, len(answer) - n + 1, len(reference) - n + 1)


def rouge_l(answer: Sequence[str], reference: Sequence[str]) -> float:
    """Return the F1 of the longest common subsequence."""
    return _f1(_common_subsequence(answer, reference), len(answer), len(reference))


def text_scores(
    answer: str, reference: str, metrics: Sequence[TextMetric]
) -> dict[TextMetric, float]:
    """Return how near an answer is to the expected one, by each metric."""
    tokens = text_tokens(answer), text_tokens(reference)
    return {
        name: float(answer.strip() == reference.strip())
        if name == "exact_match"
        else _BY_TOKENS[name](*tokens)
        for name in metrics
    }


_BY_TOKENS: dict[TextMetric, Callable[[Sequence[str], Sequence[str]], float]] = {
    "bleu4": bleu4,
    "rouge1": lambda answer, reference: rouge_n(answer, reference, 1),
    "rouge2": lambda answer, reference: rouge_n(answer, reference, 2),
    "rougeL": rouge_l,
}


def _overlap(answer: Sequence[str], reference: Sequence[str], n: int) -> int:
    """Return how many n-grams match, each as often as it is in both."""
    return (_ngrams(answer, n) & _ngrams(reference, n)).total()


def _ngrams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def _f1(matches: int, in_answer: int, in_reference: int) -> float:
    return 2 * matches / (in_answer + in_reference) if matches else 0.0


def _common_subsequence(one: Sequence[str], other: Sequence[str]) -> int:
    """Return the length of the longest common subsequence."""
    row = [0] * (len(other) + 1)
    for token in one:
        diagonal = 0
        for j, candidate in enumerate(other, start=1):
            above = row[j]
            row[j] = diagonal + 1 if token == candidate else max(above, row[j - 1])
            diagonal = above
    return row[-1]
