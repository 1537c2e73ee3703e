"""In which order the files of a backup become durable and get their names."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from pgkeep import errors as e
from pgkeep.artifact.verify import SideFiles
from pgkeep.catalog.publication import publication
from pgkeep.progress import Silent
from pgkeep.stores.local import LocalStore
from tests.support import invoke, planted
from tests.support.faults import synced_names


def test_all_files_are_durable_before_names_and_the_manifest_is_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B1, B19: after a kill or a loss of power, a manifest describes files that exist."""
    store = LocalStore(tmp_path)
    manifest = planted.manifest(datetime(2026, 11, 22, 2, tzinfo=UTC))
    events = synced_names(monkeypatch)
    real = Path.rename

    def rename(path: Path, target: Path) -> Path:
        events.append(f"named {target.name}")
        return real(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    with publication(store, manifest.name) as files:
        files.write(manifest.name.artifact, b"x")
        files.write_roles(b"")
        files.publish(manifest)
    first = events.index(f"named {manifest.name.artifact}")
    assert sum(".partial-" in event for event in events[:first]) == len(manifest.name.files) == 4
    names = [event.removeprefix("named ") for event in events[first:]]
    assert names == [text for file in manifest.name.files for text in (file, store.url)]
    assert names[-2] == manifest.name.manifest


def test_what_the_disk_has_is_read_before_it_is_published(tmp_path: Path) -> None:
    """B28: a file that is not what was written has no name afterwards."""
    manifest = planted.manifest(datetime(2026, 11, 22, 2, tzinfo=UTC))
    with publication(LocalStore(tmp_path), manifest.name) as files:
        files.write(manifest.name.artifact, b"not a backup")
        with pytest.raises(e.VerificationFailed):
            files.read_back(SideFiles(), 1, Silent())
    assert invoke.left_over(tmp_path) == []
