"""The merges behind a list of ranked tokens, so that byte-pair encoding can run on pairs.

Rank files (tiktoken) and sentencepiece models name tokens and their order only: two neighbours are
merged whenever their concatenation is a token, the best ranked first, the leftmost of equals.
Whatever the text around it, such a token can come about from one pair only: the last one when it is
encoded alone. So one merge for each token says the same. Proper tokens, which rank behind all that
they are made of, allow a quick test of a pair: undo the merges on both sides of its boundary from
the latest back, and see that none across the boundary would have come first.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import groupby, pairwise

Pair = tuple[str, str]


def token_merges(ranks: Mapping[str, int]) -> list[Pair]:
    """Return the pair that each token of two or more characters is merged from, in rank order.

    Tokens that no merging reaches are left out; text can hold them only as whole words.

    Args:
        ranks: token -> rank, in the order of the ranks; characters that are no token cannot merge.
    """
    cuts: dict[str, int] = {}  # of proper tokens
    merges = []
    for token, rank in ranks.items():
        if len(token) == 1:
            continue
        cut = _proper_cut(ranks, cuts, token, rank)
        if cut is not None:
            cuts[token] = cut
        else:
            cut = _slow_cut(ranks, token)
        if cut is not None:
            merges.append((token[:cut], token[cut:]))
    return merges


def _proper_cut(
    ranks: Mapping[str, int], cuts: Mapping[str, int], token: str, rank: int
) -> int | None:
    """Return where `token` is cut into two earlier tokens that would not have merged across."""
    get = ranks.get
    for cut in range(len(token) - 1, 0, -1):
        left = token[:cut]
        if get(left, rank) < rank or (cut == 1 and left in ranks):
            right = token[cut:]
            earlier = get(right, rank) < rank or (len(right) == 1 and right in ranks)
            if earlier and _stays_apart(ranks, cuts, left, right):
                return cut
    return None


def _stays_apart(ranks: Mapping[str, int], cuts: Mapping[str, int], left: str, right: str) -> bool:
    """Is the boundary between two proper tokens kept until both of them are whole?"""
    get = ranks.get
    left_rank, right_rank = ranks[left], ranks[right]
    while True:
        if len(left) > 1 and (left_rank > right_rank or len(right) == 1):
            limit = left_rank
            cut = cuts.get(left)
            if cut is None:
                return False
            left = left[cut:]
            left_rank = ranks[left]
        elif len(right) > 1:
            limit = right_rank + 1  # of equals the leftmost comes first: the one across
            cut = cuts.get(right)
            if cut is None:
                return False
            right = right[:cut]
            right_rank = ranks[right]
        else:
            return True
        if get(left + right, limit) < limit:
            return False


def _slow_cut(ranks: Mapping[str, int], token: str) -> int | None:
    """Return where `token` is cut last when it is encoded from its characters."""
    parts = list(token)
    while len(parts) > 2:
        pairs = ((ranks.get(a + b), i) for i, (a, b) in enumerate(pairwise(parts)))
        found = [(rank, i) for rank, i in pairs if rank is not None]
        if not found:
            return None
        _, best = min(found)
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return len(parts[0]) if all(part in ranks for part in parts) else None


def order_of_equals(merges: list[Pair], ranks: Mapping[str, int]) -> list[Pair] | None:
    """Return the merges so that of equally ranked neighbours the left pair comes first.

    Where ranks are shared, "the leftmost of equals" must become an order of pairs: (a, b) before
    (b, c). None where two pairs would each have to come before the other.
    """
    ordered: list[Pair] = []
    for _, group in groupby(merges, key=lambda pair: ranks[pair[0] + pair[1]]):
        pairs = list(group)
        sorted_group = list(_left_first(pairs)) if len(pairs) > 1 else pairs
        if len(sorted_group) != len(pairs):
            return None
        ordered += sorted_group
    return ordered


def _left_first(pairs: list[Pair]) -> Iterator[Pair]:
    """Yield each pair once no other pair has to come before it; stops at a circle."""
    waiting = pairs
    while waiting:
        ends = Counter(right for _, right in waiting)
        free = {pair for pair in waiting if ends[pair[0]] == (pair[0] == pair[1])}
        if not free:
            return
        yield from (pair for pair in waiting if pair in free)
        waiting = [pair for pair in waiting if pair not in free]
