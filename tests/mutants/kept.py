"""Results of earlier runs: valid while the bug, its file and the test that noticed it are the same.

A later run tries only what has changed, and can be interrupted.
"""

import dataclasses
import fcntl
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .bug import Bug
from .tree import ROOT, Outcome

FOLDER = ROOT / ".mutants_cache"


def find(bug: Bug) -> Outcome | None:
    """Return the result of a bug, if a run has found one that is still valid."""
    entry = _read().get(bug.name)
    if entry is None or entry["key"] != _key(bug, entry["test"]):
        return None
    return Outcome(entry["test"], entry["message"], entry["seconds"])


def keep(found: Iterable[tuple[Bug, Outcome]], tree: Path) -> None:
    """Add the results of bugs that were noticed in a tree; several runs can do so at once."""
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        entries = _read()
        for bug, outcome in found:
            fields = {**dataclasses.asdict(outcome), "key": _key(bug, str(outcome.test), tree)}
            entries[bug.name] = fields
        text = json.dumps(entries, indent=1)
        (FOLDER / "results.json").write_text(text, encoding="utf-8")


def _read() -> dict[str, dict[str, Any]]:
    path = FOLDER / "results.json"
    if not path.exists():
        return {}
    entries: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return entries


def _key(bug: Bug, test: str, tree: Path = ROOT) -> str:
    files = (tree / bug.path, tree / test.partition("::")[0])
    texts = [path.read_text(encoding="utf-8") for path in files if path.is_file()]
    return hashlib.sha256(json.dumps([dataclasses.astuple(bug), *texts]).encode()).hexdigest()
