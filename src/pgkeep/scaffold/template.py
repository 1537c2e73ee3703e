"""The files of the template: cookiecutter renders them."""

import contextlib
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

from .. import errors as e
from . import places
from .files import TemplateFile
from .wheel import own_wheel, wheel_file

OWN_WHEEL = "wheel"  # of the pgkeep that runs; the default of pgkeep_source


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
    source = places.template()
    try:
        context = generate.generate_context(str(source / "cookiecutter.json"))
        _check_names(values, context["cookiecutter"])
        generate.apply_overwrites_to_context(context["cookiecutter"], dict(values))
        chosen = prompt.prompt_for_config(context, no_input=True)
        chosen["_creation_date"] = today.isoformat()
        with _temporary_folder() as folder:
            chosen["pgkeep_source"] = _source(chosen["pgkeep_source"], Path(folder))
            made = generate.generate_files(str(source), {"cookiecutter": chosen}, folder)
            return sorted(_read(Path(made)), key=lambda file: file.path)
    except ValueError as error:  # of a choice
        raise e.UsageError(str(error)) from error
    except exceptions.FailedHookException as error:
        raise e.UsageError("the template refuses these values") from error


@contextlib.contextmanager
def _temporary_folder() -> Iterator[str]:
    """Create a folder, also for the scripts that cookiecutter makes of hooks and never removes."""
    with tempfile.TemporaryDirectory(prefix="pgkeep-") as folder:
        before, tempfile.tempdir = tempfile.tempdir, folder
        try:
            yield folder
        finally:
            tempfile.tempdir = before


def _check_names(values: Mapping[str, str], known: Mapping[str, Any]) -> None:
    public = [name for name in known if not name.startswith("_")]
    unknown = [name for name in values if name not in public]
    if unknown:
        raise e.UsageError(
            f"the template has no value {', '.join(unknown)}", hint=f"It has {', '.join(public)}."
        )


def _source(given: str, folder: Path) -> str:
    """Put the wheel that the project gets into a folder, and return its path for the template."""
    if given == OWN_WHEEL:
        wheel = own_wheel()
    elif given.endswith(".whl"):
        wheel = wheel_file(Path(given))
    else:
        return given
    path = folder / wheel.name
    path.write_bytes(wheel.contents)
    return str(path)


def _read(root: Path) -> Iterable[TemplateFile]:
    for path in root.rglob("*"):
        if path.is_file():
            yield TemplateFile(
                path=path.relative_to(root).as_posix(),
                contents=path.read_bytes(),
                executable=bool(path.stat().st_mode & 0o100),
            )
