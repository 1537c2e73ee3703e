"""Fit the files of the template into a project that has files of its own."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from .files import TemplateFile
from .records import renumbered

README = "README.backup.md"
LINT = ".markdownlint"
COMPOSE_FILES = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")


def compose_file(project: Path) -> str:
    """Return the name of the project's own compose file, as Docker finds it, or nothing."""
    return next((name for name in COMPOSE_FILES if (project / name).is_file()), "")


def adapted(files: Iterable[TemplateFile], project: Path) -> list[TemplateFile]:
    """Return the files as the project needs them, with numbers and names that are free."""
    files = renumbered(files, project)
    if not _has_own_readme(files, project):
        return _extended(files, project)
    result = []
    for file in files:
        if file.path == "README.md":
            result.append(replace(file, path=README))
        # It would also apply to the documents of the project.
        elif not file.path.startswith(LINT) or (project / file.path).exists():
            result.append(file)
    return _extended(result, project)


def _has_own_readme(files: Iterable[TemplateFile], project: Path) -> bool:
    ours = next(file.contents for file in files if file.path == "README.md")
    found = (path for path in project.glob("*") if path.stem.lower() == "readme")
    return any(
        path.name != "README.md" or not path.is_file() or path.read_bytes() != ours
        for path in found
    )


def _extended(files: Iterable[TemplateFile], project: Path) -> list[TemplateFile]:
    return [
        replace(file, contents=with_lines(project / file.path, file.contents))
        if Path(file.path).name == ".gitignore"
        else file
        for file in files
    ]


def with_lines(path: Path, lines: bytes) -> bytes:
    """Return the contents of a file with these lines at its end, where the last rule wins."""
    if not path.is_file():
        return lines
    own = path.read_bytes()
    if b"\r\n" in own:
        lines = lines.replace(b"\n", b"\r\n")
    if lines in own:
        return own
    ending = b"\r\n" if b"\r\n" in own else b"\n"
    if own and not own.endswith(b"\n"):
        own += ending
    return own + (ending if own else b"") + lines
