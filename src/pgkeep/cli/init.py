"""pgkeep init."""

import re
import sys
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import click

from .. import errors as e
from ..scaffold import files as project_files
from ..scaffold.adapt import adapted, compose_file
from ..scaffold.files import FileState, TemplateFile
from ..scaffold.steps import Step, next_steps
from ..scaffold.template import render
from . import output
from .command import pgkeep_command
from .common import complete_directories, json_option, plural, print_json
from .rules import AtMostOne


@pgkeep_command(
    "init",
    examples=(
        "pgkeep init .",
        "pgkeep init . --set postgres_db=shop --set include_kubernetes=no --dry-run",
    ),
    rules=(AtMostOne(("--keep", "--overwrite")),),
    epilog="Values for --set: project_name (default: the name of the directory), project_slug,"
    " postgres_version, postgres_db, postgres_user, postgres_port, include_kubernetes,"
    " include_observability, include_s3, include_encryption, include_github_actions, include_pitr"
    " (yes or no), compose_file (the project's own, if it runs the database), pgkeep_source (wheel,"
    " the default: the pgkeep that runs; or the path of a wheel, git+URL@COMMIT, or a version).",
)
@click.argument("directory", metavar="DIR", shell_complete=complete_directories)
@click.option(
    "--set",
    "values",
    metavar="NAME=VALUE",
    multiple=True,
    help="Set a value of the template. Can be repeated.",
)
@click.option("--keep", is_flag=True, help="Keep existing files as they are.")
@click.option("--overwrite", is_flag=True, help="Replace existing files without asking.")
@click.option("--dry-run", is_flag=True, help="Print what would be done, and write nothing.")
@json_option
def command(
    *,
    directory: str,
    values: tuple[str, ...],
    keep: bool,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Add backups to the project in DIR: scripts, schedule, decision record, runbook.

    The files come from the cookiecutter template. Existing files with other contents are not
    overwritten: on a terminal, pgkeep asks for each of them; otherwise nothing is written unless
    --keep or --overwrite is given. README.md and the list of decision records are never
    overwritten, a .gitignore gets more lines, and records get numbers that are free. At the end
    pgkeep prints the next steps. Requires the extra pgkeep[init].
    """
    project = Path(directory)
    given = _values(values, project)
    rendered = render(given, datetime.now(UTC).date())
    files = project_files.compare(adapted(rendered, project), project)
    if not dry_run:
        files = _decided(files, keep=keep, overwrite=overwrite, may_ask=not as_json)
    steps = next_steps(files, project, given)
    if not dry_run:
        project_files.write(files, project)
    if as_json:
        shown = [{"path": file.path, "state": file.state} for file in files]
        to_do = [{"text": step.text, "lines": step.lines} for step in steps]
        print_json({"directory": directory, "files": shown, "next_steps": to_do})
        return
    for file in files:
        line = f"{file.state:10} {file.path}"
        output.say(line) if dry_run else output.note(line)
    _print_steps(steps, directory)
    counts = Counter(file.state for file in files)
    states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    done = "nothing written" if dry_run else directory
    output.current().done(f"{done}: {plural(len(files), 'file')}: {states}")


def _print_steps(steps: list[Step], directory: str) -> None:
    output.note()
    output.note(f"Next steps, in {directory}:")
    for number, step in enumerate(steps, 1):
        output.note(f"{number:2}. {step.text}")
        for line in step.lines:
            output.note(f"      {line}")
    output.note()


def _values(given: tuple[str, ...], project: Path) -> dict[str, str]:
    # Names of Kubernetes objects must begin with a letter.
    name = re.sub(r"^[^A-Za-z]+", "", project.resolve().name) or "project"
    values = {"project_name": name, "compose_file": compose_file(project)}
    for assignment in given:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise click.UsageError(f"--set: expected NAME=VALUE, got {assignment!r}")
        values[key] = value
    return values


def _decided(
    files: list[TemplateFile], *, keep: bool, overwrite: bool, may_ask: bool
) -> list[TemplateFile]:
    """Decide which existing files with other contents are replaced."""
    existing = [file.path for file in files if file.state == FileState.DIFFERENT]
    asks = may_ask and sys.stdin.isatty()
    if existing and not (keep or overwrite or asks):
        raise e.Refused(
            f"{plural(len(existing), 'file')} with other contents: {', '.join(existing)}",
            hint="Use --keep to keep them as they are, or --overwrite to replace them.",
        )

    def decided(file: TemplateFile) -> TemplateFile:
        if file.state == FileState.EXTENDED and keep:
            return replace(file, state=FileState.KEPT)
        if file.state != FileState.DIFFERENT or project_files.is_wheel(file):
            return file
        replaced = overwrite or (not keep and output.ask(f"Overwrite {file.path}?"))
        return replace(file, state=FileState.REPLACED if replaced else FileState.KEPT)

    return project_files.with_wheel([decided(file) for file in files])
