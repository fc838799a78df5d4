"""When the steps of a run ended, and how many tokens each had. Imports nothing of Danlu."""

import time
from dataclasses import dataclass, field


@dataclass
class StepTimes:
    """The clock of one round of steps.

    Attributes:
        ends: when each step ended, in seconds.
        counts: per step, real tokens and learned ones.
    """

    ends: list[float] = field(default_factory=list)
    counts: list[tuple[int, int]] = field(default_factory=list)

    def end_step(self) -> None:
        """Note that a step ended now."""
        self.ends.append(time.perf_counter())

    def speeds(self, warm_ups: int) -> dict[str, float]:
        """Return tokens and steps per second, from the end of the last of the warm-up steps on."""
        seconds = self.ends[-1] - self.ends[warm_ups - 1]
        tokens, targets = (sum(column) for column in zip(*self.counts[warm_ups:], strict=True))
        return {
            "tokens_per_s": tokens / seconds,
            "targets_per_s": targets / seconds,
            "s_per_step": seconds / (len(self.ends) - warm_ups),
        }


class Clock:
    """The progress of a Danlu run that notes when each step ended."""

    def __init__(self, times: StepTimes) -> None:
        self._times = times

    def start(self, what: str, total: int | None) -> None:
        """Do nothing."""

    def advance(self, done: int, note: str = "") -> None:
        """Note the time; `done` is 0 before the first step."""
        if done:
            self._times.end_step()

    def finish(self) -> None:
        """Do nothing."""
