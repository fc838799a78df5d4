"""Which answers are made together: static batches of similar length, within a budget.

Pure Python, no tensors. A scheduler with continuous batching takes this file's place and leaves
sampler and runner as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from danlu.engine.sequence import Request

MAX_ROWS = 64


@dataclass(frozen=True)
class Part:
    """Some of the answers of one request: they share its prefill."""

    request: int
    samples: range


def plan_batches(
    requests: Sequence[Request],
    budget_tokens: int,
    slots_in_front: int = 0,
    max_rows: int = MAX_ROWS,
) -> list[list[Part]]:
    """Put every answer of every request into one batch.

    Args:
        requests: what to answer; longest prompts go first, so that memory runs out early or not at
            all.
        budget_tokens: cache slots (rows x longest prompt and answer) a batch may take. A single
            answer that needs more still gets its batch.
        slots_in_front: that a prefix takes in each row.
        max_rows: most answers in one batch.
    """
    batches: list[list[Part]] = []
    prompt = answer = rows = 0
    for part in _parts(requests, budget_tokens, slots_in_front, max_rows):
        request, count = requests[part.request], len(part.samples)
        longer = max(prompt, len(request.prompt_ids)), max(answer, request.max_new_tokens)
        slots = (rows + count) * (slots_in_front + sum(longer))
        fits = rows + count <= max_rows and slots <= budget_tokens
        if not fits or not batches:
            batches.append([])
            longer, rows = (len(request.prompt_ids), request.max_new_tokens), 0
        batches[-1].append(part)
        (prompt, answer), rows = longer, rows + count
    return batches


def _parts(
    requests: Sequence[Request], budget_tokens: int, slots_in_front: int, max_rows: int
) -> list[Part]:
    """The requests by falling length; one with more answers than a batch holds is cut."""
    parts = []
    order = sorted(range(len(requests)), key=lambda i: (-len(requests[i].prompt_ids), i))
    for index in order:
        request = requests[index]
        slots = slots_in_front + len(request.prompt_ids) + request.max_new_tokens
        most = max(1, min(max_rows, budget_tokens // slots))
        for start in range(0, request.params.n, most):
            parts.append(Part(index, range(start, min(start + most, request.params.n))))
    return parts
