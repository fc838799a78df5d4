"""Running a tour from whatever is finished to its end."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from danlu.commands.tour.options import TourOptions
from danlu.commands.tour.paths import TourPaths
from danlu.commands.tour.plan import TourPlan, plan_tour
from danlu.commands.tour.report import write_report
from danlu.commands.tour.state import StepRecord, TourState, read_state
from danlu.commands.tour.steps import STEPS, Step, Tour
from danlu.files import only_run
from danlu.progress import Progress, Silent


@dataclass(frozen=True)
class StepDone:
    """What is said after a step; `skipped`: it had been finished before."""

    number: int
    total: int
    title: str
    proof: str
    seconds: float
    skipped: bool


Watcher = Callable[[StepDone], None]


@dataclass(frozen=True)
class TourResult:
    """A finished tour."""

    paths: TourPaths
    state: TourState


def run_tour(
    options: TourOptions,
    progress: Progress | None = None,
    watch: Watcher | None = None,
    plan: TourPlan | None = None,
) -> TourResult:
    """Take a tiny model through its whole life; go on where an earlier call stopped.

    Args:
        options: what the user asks for.
        progress: hears of the work inside the steps.
        watch: hears of each finished step.
        plan: the tour's numbers; None: those for the options. A tour that goes on keeps its own.

    Raises:
        OutputError: if the folder holds something else, another tour, or cannot be written.
        DataError: if the user's text or conversations are wrong.
        KeyboardInterrupt: after Ctrl-C; what is finished stays.
    """
    folder = options.out.resolve()
    state = read_state(folder, options)
    with only_run(folder):
        if state is None:
            state = TourState(folder, options.choices(), plan or plan_tour(options))
            state.save()
        paths = TourPaths(folder)
        for number, step in enumerate(STEPS, start=1):
            done = _run_step(step, number, options, state, progress or Silent())
            if not done.skipped:
                paths.report.unlink(missing_ok=True)  # it tells of what was before
            if watch is not None:
                watch(done)
        if not paths.report.exists():
            write_report(paths, state)
    return TourResult(paths, state)


def _run_step(
    step: Step, number: int, options: TourOptions, state: TourState, progress: Progress
) -> StepDone:
    """Run a step unless it is finished; note it as soon as it is."""
    paths = TourPaths(state.folder)
    skipped = step.name in state.steps and all(_exists(path) for path in step.outputs(paths))
    if not skipped:
        facts = {name: record.facts for name, record in state.steps.items()}
        started = time.perf_counter()
        proof, found = step.work(Tour(options, state.plan, paths, facts, progress))
        seconds = round(time.perf_counter() - started, 1)
        state.record(step.name, StepRecord(proof, seconds, found))
    record = state.steps[step.name]
    return StepDone(number, len(STEPS), step.title, record.proof, record.seconds, skipped)


def _exists(path: Path) -> bool:
    return path.is_file() or (path.is_dir() and any(path.iterdir()))
