"""The learning rate of each step: linear warm-up, then a cosine (arXiv:1608.03983, one cycle)."""

import math


def learning_rate(
    step: int, *, steps: int, peak: float, warmup_steps: int, min_lr_ratio: float
) -> float:
    """Return the rate that optimizer step `step`, counted from 0, uses.

    Step 0 of a warm-up has rate 0; the peak comes at step `warmup_steps`; the cosine would reach
    `min_lr_ratio * peak` at step `steps`, the first that is not made.
    """
    if step < warmup_steps:
        return peak * step / warmup_steps
    done = (step - warmup_steps) / max(1, steps - warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * done))
    return peak * (min_lr_ratio + (1 - min_lr_ratio) * cosine)
