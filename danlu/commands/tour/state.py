"""tour.json: the options and plan of a tour, and the proof of each finished step."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import danlu
from danlu.commands.tour.options import TourOptions
from danlu.commands.tour.plan import TourPlan
from danlu.errors import OutputError, bullet_list
from danlu.files import parse_json, write_json

STATE_FILE = "tour.json"
_HIDDEN = (".lock",)


@dataclass(frozen=True)
class StepRecord:
    """A finished step: its line of proof, its seconds, and the facts that later steps read."""

    proof: str
    seconds: float
    facts: dict[str, Any]


@dataclass
class TourState:
    """What a tour has done so far; every change is on the disk at once."""

    folder: Path
    choices: dict[str, Any]
    plan: TourPlan
    steps: dict[str, StepRecord] = field(default_factory=dict)

    def record(self, name: str, record: StepRecord) -> None:
        """Note a finished step."""
        self.steps[name] = record
        self.save()

    def facts(self, name: str) -> dict[str, Any]:
        """Return the facts of a finished step."""
        return self.steps[name].facts

    def save(self) -> None:
        """Write tour.json."""
        content = {
            "danlu": danlu.__version__,
            "options": self.choices,
            "plan": self.plan.model_dump(mode="json"),
            "steps": {name: asdict(record) for name, record in self.steps.items()},
        }
        write_json(self.folder / STATE_FILE, content)


def read_state(folder: Path, options: TourOptions) -> TourState | None:
    """Return the state of the tour in `folder`, None if nothing is finished there.

    Raises:
        OutputError: if the folder holds something else, or a tour with other options.
    """
    path = folder / STATE_FILE
    if not path.exists():
        _refuse_foreign(folder)
        return None
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        state = TourState(
            folder=folder,
            choices=content["options"],
            plan=TourPlan.model_validate_json(json.dumps(content["plan"])),
            steps={name: StepRecord(**record) for name, record in content["steps"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise OutputError(
            f"'{path}' cannot be read as the state of a tour ({type(error).__name__}). "
            "Nothing was changed. Choose another folder with --out."
        ) from None
    if not state.steps:  # it stopped before anything was made: wrong options can be corrected
        return None
    _refuse_other_options(state, options)
    return state


def _refuse_other_options(state: TourState, options: TourOptions) -> None:
    asked = options.choices()
    different = [
        f"{name}: {state.choices.get(name)!r} there, {value!r} now"
        for name, value in asked.items()
        if state.choices.get(name) != value
    ]
    if different:
        raise OutputError(
            f"'{state.folder}' holds a tour with other options:{bullet_list(different)}\n"
            "Expected the same, to go on with it. Nothing was changed. "
            "Choose another folder with --out, or remove this one."
        )


def _refuse_foreign(folder: Path) -> None:
    """Refuse a folder with anything in it that no tour wrote."""
    if folder.is_file():
        raise OutputError(f"'{folder}' is a file; expected a folder that can be made.")
    found = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    foreign = [name for name in found if name not in _HIDDEN and not name.startswith(".tour.json")]
    if foreign:
        raise OutputError(
            f"'{folder}' is not empty and holds no tour: {', '.join(foreign[:10])}. "
            "Nothing was changed. Choose a new folder with --out."
        )
