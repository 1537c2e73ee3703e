"""A copy is listed only if it has the bytes of the backup."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pgkeep import errors as e
from pgkeep.catalog import copies
from pgkeep.catalog.live_copy import CopiedUpload, LiveCopy
from pgkeep.stores.local import LocalStore, LocalUpload
from tests.support import invoke, planted

NAME = "app_daily_20261122T020000Z.sql.gz"


def test_other_bytes_than_those_that_were_written(tmp_path: Path) -> None:
    """C9: it reads the file from the disk, which can have lost or changed some."""
    target = LocalStore(tmp_path / "there")
    with (
        LocalUpload(tmp_path, NAME) as original,
        LiveCopy(original, target, NAME, "1", lambda: None) as copy,
    ):
        upload = CopiedUpload(copy)
        upload.write(b"what the disk has")
        upload.seal()
        written = hashlib.sha256(b"what was written").hexdigest()
        with pytest.raises(e.StoreError, match="read different bytes than were written"):
            copy.upload(written)
    assert invoke.left_over(target.directory) == []


def test_a_damaged_file_leaves_no_manifest_there(tmp_path: Path) -> None:
    """C9: the manifest is the last file of a copy."""
    store, target = LocalStore(tmp_path / "here"), LocalStore(tmp_path / "there")
    backup = planted.plant(store.directory, planted.manifest(datetime(2026, 11, 22, tzinfo=UTC)))
    with pytest.raises(e.VerificationFailed, match="was not copied: SHA-256 is"):
        copies.transfer(store, target, backup)
    assert invoke.left_over(target.directory) == []
