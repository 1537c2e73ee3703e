"""The template's files for a project that exists: cookiecutter renders, we compare and write."""

import logging
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Any

from . import errors as e


class State(StrEnum):
    """What a file of the template is to the project."""

    NEW = "new"
    SAME = "same"
    DIFFERENT = "different"
    KEPT = "kept"
    REPLACED = "replaced"


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file of the template, rendered."""

    path: str  # below the project
    contents: bytes
    executable: bool
    state: State = State.NEW


def template() -> Path:
    """Return the folder of the template: inside the package, or beside it in a working copy."""
    here = Path(__file__).parent
    places = (here / "template", here.parents[1] / "template")
    return next((place for place in places if (place / "cookiecutter.json").is_file()), places[0])


def render(values: Mapping[str, str], today: date) -> list[File]:
    """Return the template's files with these values, and its own for all others.

    Raises:
        UsageError: a value has no such name, or is none that the template takes.

    """
    try:
        from cookiecutter import exceptions, generate, prompt  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise e.UsageError(
            f"the template needs another package: {error.name}", hint="pip install 'pgkeep[init]'"
        ) from error
    # It logs the tracebacks of what it raises; the hook that refuses has told its reason itself.
    logging.getLogger("cookiecutter").addHandler(logging.NullHandler())
    source = template()
    try:
        context = generate.generate_context(str(source / "cookiecutter.json"))
        _check_names(values, context["cookiecutter"])
        generate.apply_overwrites_to_context(context["cookiecutter"], dict(values))
        chosen = prompt.prompt_for_config(context, no_input=True)
        chosen["_creation_date"] = today.isoformat()
        with tempfile.TemporaryDirectory(prefix="pgkeep-") as folder:
            made = generate.generate_files(str(source), {"cookiecutter": chosen}, folder)
            return sorted(_read(Path(made)), key=lambda one: one.path)
    except ValueError as error:  # of a choice
        raise e.UsageError(str(error)) from error
    except exceptions.FailedHookException as error:
        raise e.UsageError("the template refuses these values") from error


def _check_names(values: Mapping[str, str], known: Mapping[str, Any]) -> None:
    public = [name for name in known if not name.startswith("_")]
    unknown = [name for name in values if name not in public]
    if unknown:
        raise e.UsageError(
            f"the template has no value {', '.join(unknown)}", hint=f"It has {', '.join(public)}."
        )


def _read(root: Path) -> Iterable[File]:
    for path in root.rglob("*"):
        if path.is_file():
            yield File(
                path=path.relative_to(root).as_posix(),
                contents=path.read_bytes(),
                executable=bool(path.stat().st_mode & 0o100),
            )


def compare(files: Iterable[File], project: Path) -> list[File]:
    """Return the files with what each of them is to the project.

    Raises:
        UsageError: a directory stands where a file should be, or the other way round.

    """
    return [replace(file, state=_state(file, project)) for file in files]


def _state(file: File, project: Path) -> State:
    path = project / file.path
    for folder in (project, *(project / parent for parent in Path(file.path).parents)):
        if folder.exists() and not folder.is_dir():
            raise e.UsageError(f"{folder} is not a directory")
    if path.is_dir():
        raise e.UsageError(f"{path} is a directory")
    if not path.exists() and not path.is_symlink():
        return State.NEW
    if path.is_file() and path.read_bytes() == file.contents:
        return State.SAME
    return State.DIFFERENT


def write(files: Iterable[File], project: Path) -> None:
    """Write those that are new or to be replaced."""
    for file in files:
        if file.state not in (State.NEW, State.REPLACED):
            continue
        path = project / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.contents)
        if file.executable:
            mode = path.stat().st_mode
            path.chmod(mode | (mode & 0o444) >> 2)  # executable for whoever may read it
