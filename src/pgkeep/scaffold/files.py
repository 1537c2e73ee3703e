"""Files for a project: how they compare with it, and writing them."""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from .. import errors as e


class FileState(StrEnum):
    """How a file of the template compares with the project, or what is done with it."""

    NEW = "new"
    SAME = "same"
    DIFFERENT = "different"
    KEPT = "kept"
    REPLACED = "replaced"
    EXTENDED = "extended"  # a .gitignore that gets more lines
    OBSOLETE = "obsolete"  # the wheel of another version
    REMOVED = "removed"
    SKIPPED = "skipped"


REQUIREMENTS = "scripts/requirements.txt"
VENDOR = "scripts/vendor"
BACKUPS = "backups"
# The project's own list of its records: it is never replaced.
INDEX = "docs/adr/README.md"
WRITTEN = (FileState.NEW, FileState.REPLACED, FileState.EXTENDED)
SUFFIX = ".pgkeep-new"


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateFile:
    """A rendered file of the template."""

    path: str  # below the project
    contents: bytes = b""
    executable: bool = False
    state: FileState = FileState.NEW


def is_text(file: TemplateFile) -> bool:
    """Return whether a file is text, not a wheel."""
    return not file.path.endswith(".whl")


def is_wheel(file: TemplateFile) -> bool:
    """Return whether a file is a wheel of pgkeep."""
    return file.path.startswith(f"{VENDOR}/") and file.path.endswith(".whl")


def compare(files: Iterable[TemplateFile], project: Path) -> list[TemplateFile]:
    """Return the files, each with its state in the project.

    Raises:
        UsageError: there is a directory in place of a file, a file in place of a directory, or a
            directory is a link that leads out of the project.

    """
    compared = [replace(file, state=_state(file, project)) for file in files]
    paths = {file.path for file in compared}
    old = (f"{VENDOR}/{path.name}" for path in (project / VENDOR).glob("pgkeep-*.whl"))
    return compared + [
        TemplateFile(path=path, state=FileState.OBSOLETE) for path in sorted({*old} - paths)
    ]


def _state(file: TemplateFile, project: Path) -> FileState:
    path = project / file.path
    for folder in (project, *(project / parent for parent in Path(file.path).parents)):
        if folder.exists() and not folder.is_dir():
            raise e.UsageError(f"{folder} is not a directory")
        if folder.is_symlink() and not folder.resolve().is_relative_to(project.resolve()):
            if folder == project / BACKUPS:  # on another disk; Git does not look behind a link
                return FileState.SKIPPED
            raise e.UsageError(f"{folder} is a link to {folder.resolve()}, outside {project}")
    if path.is_dir():
        raise e.UsageError(f"{path} is a directory")
    if not path.exists() and not path.is_symlink():
        return FileState.NEW
    if path.is_file() and _same(path.read_bytes(), file):
        return FileState.SAME
    if path.name == ".gitignore" and not path.is_symlink():
        return FileState.EXTENDED
    return FileState.KEPT if file.path == INDEX else FileState.DIFFERENT


def _same(existing: bytes, file: TemplateFile) -> bool:
    """Return whether the contents are the same; Git can have changed line ends, not in scripts."""
    if is_text(file) and not file.executable:
        existing = existing.replace(b"\r\n", b"\n")
        return existing == file.contents.replace(b"\r\n", b"\n")
    return existing == file.contents


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


def write(files: Iterable[TemplateFile], project: Path) -> None:
    """Write the files that are new or changed, and remove those that are obsolete.

    First all of them are written under temporary names. So an error, such as a full disk, leaves
    the project as it was.

    Raises:
        UsageError: a file cannot be written.

    """
    files = list(files)
    folders: list[Path] = []
    prepared: list[tuple[Path, Path]] = []
    done: list[str] = []
    try:
        for file in files:
            if file.state in WRITTEN:
                _prepare(file, project, folders, prepared)
        for temporary, path in prepared:
            temporary.replace(path)
            done.append(path.relative_to(project).as_posix())
        for file in files:
            if file.state == FileState.REMOVED:
                (project / file.path).unlink(missing_ok=True)
    except OSError as error:
        raise e.UsageError(
            f"could not write {error.filename or project}: {error.strerror}",
            details=[f"written: {', '.join(done) or 'nothing'}"],
            hint="Fix this, and repeat the command. It leaves complete files as they are.",
        ) from error
    finally:
        for temporary, _ in prepared:
            with contextlib.suppress(OSError):  # read-only
                temporary.unlink(missing_ok=True)
        for folder in reversed(folders):
            with contextlib.suppress(OSError):  # it contains files
                folder.rmdir()


def _prepare(
    file: TemplateFile, project: Path, folders: list[Path], prepared: list[tuple[Path, Path]]
) -> None:
    path = project / file.path
    for folder in reversed([path.parent, *path.parent.parents]):
        if not folder.is_dir():
            folder.mkdir()
            folders.append(folder)
    temporary = path.with_name(f".{path.name}{SUFFIX}")
    prepared.append((temporary, path))
    try:
        temporary.unlink(missing_ok=True)
        with temporary.open("xb") as created:  # never through a link that the project contains
            created.write(file.contents)
    except OSError as error:
        error.filename = str(path)
        raise
    if file.executable:
        mode = temporary.stat().st_mode
        temporary.chmod(mode | (mode & 0o444) >> 2)  # executable for everybody who can read it
