"""Files for a project: how they compare with it, and writing them."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from .. import errors as e


class FileState(StrEnum):
    """How a file of the template compares with the project."""

    NEW = "new"
    SAME = "same"
    DIFFERENT = "different"
    KEPT = "kept"
    REPLACED = "replaced"
    OBSOLETE = "obsolete"  # the wheel of another version
    REMOVED = "removed"
    SKIPPED = "skipped"


REQUIREMENTS = "scripts/requirements.txt"
VENDOR = "scripts/vendor"


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateFile:
    """A rendered file of the template."""

    path: str  # below the project
    contents: bytes = b""
    executable: bool = False
    state: FileState = FileState.NEW


def compare(files: Iterable[TemplateFile], project: Path) -> list[TemplateFile]:
    """Return the files, each with its state in the project.

    Raises:
        UsageError: there is a directory in place of a file, or a file in place of a directory.

    """
    compared = [replace(file, state=_state(file, project)) for file in files]
    paths = {file.path for file in compared}
    old = (f"{VENDOR}/{path.name}" for path in (project / VENDOR).glob("pgkeep-*.whl"))
    return compared + [
        TemplateFile(path=path, state=FileState.OBSOLETE) for path in sorted({*old} - paths)
    ]


def with_wheel(files: list[TemplateFile]) -> list[TemplateFile]:
    """Decide about the wheel: its hash is in the requirements, so it stays or changes with them."""
    kept = any(file.path == REQUIREMENTS and file.state == FileState.KEPT for file in files)
    states = {
        FileState.NEW: FileState.SKIPPED if kept else FileState.NEW,
        FileState.DIFFERENT: FileState.KEPT if kept else FileState.REPLACED,
        FileState.OBSOLETE: FileState.KEPT if kept else FileState.REMOVED,
    }
    return [
        replace(file, state=states.get(file.state, file.state)) if is_wheel(file) else file
        for file in files
    ]


def is_wheel(file: TemplateFile) -> bool:
    """Return whether a file is a wheel of pgkeep."""
    return file.path.startswith(f"{VENDOR}/") and file.path.endswith(".whl")


def _state(file: TemplateFile, project: Path) -> FileState:
    path = project / file.path
    for folder in (project, *(project / parent for parent in Path(file.path).parents)):
        if folder.exists() and not folder.is_dir():
            raise e.UsageError(f"{folder} is not a directory")
    if path.is_dir():
        raise e.UsageError(f"{path} is a directory")
    if not path.exists() and not path.is_symlink():
        return FileState.NEW
    if path.is_file() and path.read_bytes() == file.contents:
        return FileState.SAME
    return FileState.DIFFERENT


def write(files: Iterable[TemplateFile], project: Path) -> None:
    """Write the files that are new or replaced, and remove those that are obsolete."""
    for file in files:
        if file.state == FileState.REMOVED:
            (project / file.path).unlink(missing_ok=True)
        if file.state not in (FileState.NEW, FileState.REPLACED):
            continue
        path = project / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.contents)
        if file.executable:
            mode = path.stat().st_mode
            path.chmod(mode | (mode & 0o444) >> 2)  # executable for everybody who can read it
