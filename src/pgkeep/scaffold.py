"""The files of the template for an existing project: cookiecutter renders them, we write them."""

import logging
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Any

from . import errors as e


class FileState(StrEnum):
    """How a file of the template compares with the project."""

    NEW = "new"
    SAME = "same"
    DIFFERENT = "different"
    KEPT = "kept"
    REPLACED = "replaced"


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateFile:
    """A rendered file of the template."""

    path: str  # below the project
    contents: bytes
    executable: bool
    state: FileState = FileState.NEW


def template() -> Path:
    """Return the folder of the template: in the package, or next to it in a working copy."""
    here = Path(__file__).parent
    places = (here / "template", here.parents[1] / "template")
    return next((place for place in places if (place / "cookiecutter.json").is_file()), places[0])


def render(values: Mapping[str, str], today: date) -> list[TemplateFile]:
    """Return the files of the template with these values, and the defaults of all others.

    Raises:
        UsageError: a name or a value is not known to the template.

    """
    try:
        from cookiecutter import exceptions, generate, prompt  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise e.UsageError(
            f"the template requires another package: {error.name}",
            hint="pip install 'pgkeep[init]'",
        ) from error
    # It logs the tracebacks of what it raises; a hook that refuses prints its reason itself.
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
            return sorted(_read(Path(made)), key=lambda file: file.path)
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


def _read(root: Path) -> Iterable[TemplateFile]:
    for path in root.rglob("*"):
        if path.is_file():
            yield TemplateFile(
                path=path.relative_to(root).as_posix(),
                contents=path.read_bytes(),
                executable=bool(path.stat().st_mode & 0o100),
            )


def compare(files: Iterable[TemplateFile], project: Path) -> list[TemplateFile]:
    """Return the files, each with its state in the project.

    Raises:
        UsageError: there is a directory in place of a file, or a file in place of a directory.

    """
    return [replace(file, state=_state(file, project)) for file in files]


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
    """Write the files that are new or replaced."""
    for file in files:
        if file.state not in (FileState.NEW, FileState.REPLACED):
            continue
        path = project / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.contents)
        if file.executable:
            mode = path.stat().st_mode
            path.chmod(mode | (mode & 0o444) >> 2)  # executable for everybody who can read it
