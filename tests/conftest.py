"""Fixtures for every test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# Tiny tensors gain nothing from threads, and threads that spin slow down the other workers.
torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Encoded data and downloads are kept in a folder of the test session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DANLU_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real tokenizers, models and data beside the repository; without them the test skips."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs {folder.name}/ beside the repository")
    return folder


@pytest.fixture(scope="session")
def tiny_tour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished tour of seconds; tests look at it and change nothing."""
    from tour_plan import micro_plan

    from danlu.commands.tour.options import TourOptions
    from danlu.commands.tour.run import run_tour

    folder = tmp_path_factory.mktemp("tour") / "tour"
    run_tour(TourOptions(out=folder), plan=micro_plan())
    return folder
