"""Outputs that are no plain files and folders."""

import os
from pathlib import Path

import pytest

from danlu.errors import OutputError
from danlu.files import atomic_folder, refuse_existing, write_text


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """A pipe, which stands for /dev/null and all devices."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


def test_a_device_is_not_replaced_by_a_folder(pipe: Path) -> None:
    told = "pipe' is a device or a pipe; expected a folder"
    with pytest.raises(OutputError, match=told), atomic_folder(pipe, replace=True):
        pytest.fail("it was begun")
    assert pipe.is_fifo()
    assert list(pipe.parent.iterdir()) == [pipe]


def test_a_device_is_not_replaced_by_a_file(pipe: Path) -> None:
    with pytest.raises(OutputError, match="pipe' is a device or a pipe; expected a file"):
        write_text(pipe, "text")
    assert pipe.is_fifo()
    assert list(pipe.parent.iterdir()) == [pipe]


@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_is_written_through(tmp_path: Path, is_there: bool) -> None:
    disk, link = tmp_path / "disk", tmp_path / "link"
    if is_there:
        disk.mkdir()
    link.symlink_to(disk, target_is_directory=True)
    with atomic_folder(link) as folder:
        (folder / "made").touch()
    assert link.is_symlink()
    assert (disk / "made").exists()
    assert sorted(tmp_path.iterdir()) == [disk, link]


def test_a_name_that_no_disk_takes(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="File name too long"):
        refuse_existing(tmp_path / ("x" * 300))
