"""What to do after `pgkeep init`, with the files and options of this project."""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import git
from .adapt import README
from .files import BACKUPS, INDEX, WRITTEN, FileState, TemplateFile
from .records import FOLDER

SETTINGS = "scripts/backup-config.env"
# What must never be committed, by an example of each.
SECRETS = (
    SETTINGS, ".env", f"{BACKUPS}/app_daily_20261122T020000Z.sql.gz", "drill.html", "drill.json",
    "identity.txt",
)  # fmt: skip
WIDTH = 74  # of a line, which is printed with an indent of 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing to do: a sentence, and the commands or lines that belong to it."""

    text: str
    lines: tuple[str, ...] = ()


def next_steps(
    files: Sequence[TemplateFile], project: Path, values: Mapping[str, str]
) -> list[Step]:
    """Return what is left to do, in this order."""
    paths = {file.path for file in files}
    steps = [*_git(files, project), *_documents(files, project)]
    steps.append(
        Step(
            text="Install pgkeep into the project, or build the image from Dockerfile.backup:",
            lines=(
                "python3 -m venv .venv",
                ".venv/bin/pip install -r scripts/requirements.txt",
            ),
        )
    )
    steps.append(
        Step(
            text="Enter the connection and the settings:",
            lines=(f"cp {SETTINGS}.example {SETTINGS}", f"chmod 600 {SETTINGS}"),
        )
    )
    steps.append(
        Step(
            text="Find problems, and make the first backup:",
            lines=("./scripts/pgkeep.sh doctor", "./scripts/db-backup.sh"),
        )
    )
    own = f"-f {values['compose_file']} " if values["compose_file"] else ""
    steps.append(
        Step(
            text="With Docker, add the settings to .env and make a backup there:",
            lines=(
                "cat .env.backup.example >>.env && chmod 600 .env",
                f"docker compose {own}-f compose.backup.yml run --rm backup",
            ),
        )
    )
    places = ["deploy/crontab", "deploy/systemd/"]
    places += ["k8s/"] * any(path.startswith("k8s/") for path in paths)
    steps.append(Step(text=f"Schedule the backups: {_either(places)}."))
    if any(path.startswith("deploy/monitoring/") for path in paths):
        steps.append(Step(text="Set up monitoring: deploy/monitoring/."))
    steps.append(Step(text="Commit the new files. Git ignores settings and backups."))
    return steps


def _either(places: Sequence[str]) -> str:
    return f"{', '.join(places[:-1])} or {places[-1]}"


def _git(files: Sequence[TemplateFile], project: Path) -> list[Step]:
    """Return what Git would commit or ignore by mistake."""
    root = git.toplevel(project.resolve())
    if root is None:
        return []
    rules = {
        file.path: file.contents
        for file in files
        if Path(file.path).name == ".gitignore" and file.state in WRITTEN
    }
    needed = [
        file.path
        for file in files
        if file.state not in (FileState.SKIPPED, FileState.REMOVED, FileState.OBSOLETE)
    ]
    secrets = [
        path
        for path in SECRETS
        if not (path.startswith(BACKUPS) and (project / BACKUPS).is_symlink())
    ]
    ignored = git.ignored(root, project.resolve(), rules, [*needed, *secrets])
    steps = []
    shown = [path for path in secrets if path not in ignored]
    if shown:
        steps.append(
            Step(text="Git does not ignore these. Add them to .gitignore:", lines=tuple(shown))
        )
    in_git = sorted(git.tracked(project, [".env", SETTINGS]))
    if in_git:
        steps.append(
            Step(
                text="The repository contains this file. Enter no password before it is removed:",
                lines=tuple(f"git rm --cached {path}" for path in in_git),
            )
        )
    hidden = [path for path in needed if path in ignored]
    if hidden:
        steps.append(
            Step(
                text="Git ignores files that the project requires. Add them in spite of that:",
                lines=_commands("git add -f", hidden),
            )
        )
    return steps


def _commands(words: str, paths: Iterable[str]) -> tuple[str, ...]:
    """Return commands with as many paths as fit into a line. A folder could contain secrets."""
    lines: list[str] = []
    for path in map(shlex.quote, paths):
        if lines and len(lines[-1]) + len(path) < WIDTH:
            lines[-1] += f" {path}"
        else:
            lines.append(f"{words} {path}")
    return tuple(lines)


def _documents(files: Sequence[TemplateFile], project: Path) -> list[Step]:
    """Return what to add to documents of the project that were not changed."""
    steps = []
    if any(file.path == README for file in files):
        steps.append(Step(text=f"Link {README} from the README of the project."))
    index = next((file for file in files if file.path == INDEX), None)
    if index is not None and index.state == FileState.KEPT:
        own = (project / INDEX).read_text("utf-8", errors="replace")
        rows = re.findall(r"^\|.*\]\((.+?)\).*$", index.contents.decode(), re.MULTILINE)
        missing = [f"{FOLDER}/{name}" for name in rows if name not in own]
        if missing:
            steps.append(Step(text=f"Add the new records to {INDEX}:", lines=tuple(missing)))
    return steps
