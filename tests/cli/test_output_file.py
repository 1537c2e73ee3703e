"""Files that commands write for people are complete, or as they were before."""

import os
from pathlib import Path

import pytest

from pgkeep import errors as e
from pgkeep.cli import output_file


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_complete_or_as_before(tmp_path: Path) -> None:
    """F11: a reader never sees half of it, and a link is replaced, not followed."""
    path, secret = tmp_path / "page.html", tmp_path / "secret"
    output_file.write(path, b"first")
    secret.write_bytes(b"of somebody else")
    path.unlink()
    path.symlink_to(secret)
    output_file.write(path, b"second")
    assert (path.read_bytes(), secret.read_bytes()) == (b"second", b"of somebody else")
    assert names(tmp_path) == ["page.html", "secret"]
    for place in (tmp_path / "none" / "page", tmp_path):
        with pytest.raises(e.PgkeepError, match=f"could not write {place}: "):
            output_file.write(place, b"third")
    assert names(tmp_path) == ["page.html", "secret"]


def test_a_device_stays_a_device(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        output_file.write(pipe, b"page")
        assert os.read(reader, 100) == b"page"
        assert pipe.is_fifo()
    finally:
        os.close(reader)
