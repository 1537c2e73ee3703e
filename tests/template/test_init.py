"""`pgkeep init` adds the template's files to a project, and takes nothing away from it."""

import json
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import baking, invoke
from tests.support.baking import COMBINATIONS

NAMED = "--set=project_name=My Project"


def init(project: Path, *args: str, code: int = 0, **variables: str) -> str:
    return invoke.run("init", str(project), *args, env=invoke.environment() | variables, code=code)


def contents(project: Path) -> dict[str, tuple[bytes, int]]:
    return {
        path.relative_to(project).as_posix(): (path.read_bytes(), path.stat().st_mode)
        for path in project.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("combination", COMBINATIONS[::5], ids=baking.name_of)
def test_the_files_are_those_of_cookiecutter(tmp_path: Path, combination: dict[str, str]) -> None:
    baked = baking.bake(tmp_path, **combination)
    values = [f"--set={name}={value}" for name, value in combination.items()]
    said = init(tmp_path / "new" / "place", NAMED, *values)
    made = contents(tmp_path / "new" / "place")
    assert made == contents(baked)
    assert said.splitlines()[-1].endswith(f" {len(made)} files: {len(made)} new")


def test_the_project_is_called_like_its_directory(tmp_path: Path) -> None:
    """Cookiecutter leaves the scripts of its hooks; none is left outside the project."""
    project = tmp_path / "2 Ship.Yard"
    (temporary := tmp_path / "temporary").mkdir()
    init(project, "--set=postgres_db=hull", TMPDIR=str(temporary))
    assert [*temporary.iterdir()] == []
    compose = (project / "compose.yml").read_text()
    assert "\nname: ship-yard\n" in compose
    assert "POSTGRES_DB: hull\n" in compose


@pytest.fixture
def started(tmp_path: Path) -> Path:
    """A project with files of its own, two of which the template has too."""
    project = tmp_path / "project"
    (project / "docs").mkdir(parents=True)
    for name in ("README.md", "compose.yml", "docs/own.md"):
        (project / name).write_text("mine\n")
    return project


def test_nothing_is_overwritten_unasked(started: Path) -> None:
    """Elsewhere than on a terminal: refused before anything is written."""
    before = contents(started)
    said = init(started, NAMED, code=9)
    assert "2 files with other contents: README.md, compose.yml" in said
    assert "--keep" in said
    assert "--overwrite" in said
    assert "different  README.md" in init(started, NAMED, "--dry-run")
    init(started, NAMED, "--json", code=9)
    assert contents(started) == before


def test_keep_and_overwrite(started: Path, tmp_path: Path) -> None:
    """What is not of the template is never touched; a second run finds everything there."""
    fresh = contents(baking.bake(tmp_path))
    before = contents(started)
    init(started, NAMED, "--keep")
    assert contents(started) == fresh | before
    report = json.loads(init(started, NAMED, "--overwrite", "--json"))
    assert contents(started) == fresh | {"docs/own.md": before["docs/own.md"]}
    states = {one["path"]: one["state"] for one in report["files"]}
    assert {path for path, state in states.items() if state == "replaced"} == {
        "README.md", "compose.yml",
    }  # fmt: skip
    assert init(started, NAMED).splitlines()[-1].endswith(f"{len(fresh)} files: {len(fresh)} same")


def on_terminal(*args: str, answers: dict[str, str]) -> tuple[int, str]:
    """Run with a terminal; type an answer when its question appears."""
    master, terminal = pty.openpty()
    process = subprocess.Popen(
        [invoke.PGKEEP, "init", *args],
        env=invoke.environment(), stdin=terminal, stdout=terminal, stderr=terminal,
    )  # fmt: skip
    os.close(terminal)
    shown, deadline = "", time.monotonic() + 30
    while time.monotonic() < deadline:
        if not select.select([master], [], [], 1)[0]:
            continue
        try:
            shown += os.read(master, 65536).decode()
        except OSError:  # nobody has the terminal open any more
            break
        for question in [answer for answer in answers if answer in shown]:
            os.write(master, f"{answers.pop(question)}\n".encode())
    os.close(master)
    assert answers == {}, shown
    return process.wait(30), shown


def test_on_a_terminal_each_is_asked_about(started: Path) -> None:
    """Who wants JSON is a program, and is asked nothing."""
    code, shown = on_terminal(str(started), NAMED, "--json", answers={})
    assert (code, "--keep" in shown) == (9, True)
    answers = {"Overwrite README.md?": "n", "Overwrite compose.yml?": "y"}
    code, shown = on_terminal(str(started), NAMED, answers=answers)
    assert code == 0, shown
    assert (started / "README.md").read_text() == "mine\n"
    assert (started / "compose.yml").read_text() != "mine\n"
    assert (started / "scripts" / "db-backup.sh").is_file()


MISTAKES = [
    (["--set=postgres_dbb=x"], "the template has no value postgres_dbb"),
    (["--set=_creation_date=x"], "the template has no value _creation_date"),
    (["--set=include_s3=maybe"], "include_s3"),
    (["--set=postgres_version=9"], "postgres_version"),
    (["--set=pgkeep_source=main"], "pgkeep_source: must match wheel|"),
    (["--set=pgkeep_source=/proc/none/pgkeep-1-py3-none-any.whl"], "No such file or directory"),
    (["--set=postgres_port=x"], "the template refuses these values"),
    (["--set", "postgres_db"], "--set: expected NAME=VALUE, got 'postgres_db'"),
    (["--keep", "--overwrite"], "--keep and --overwrite cannot be used together"),
]


@pytest.mark.parametrize(("args", "said"), MISTAKES)
def test_mistakes(tmp_path: Path, args: list[str], said: str) -> None:
    """Told in a sentence, with nothing written."""
    assert said in init(tmp_path / "p", *args, code=2)
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize("path", ["", "docs", "docs/adr", "scripts/db-backup.sh"])
def test_files_where_directories_should_be(tmp_path: Path, path: str) -> None:
    """And the other way round: nothing is written, not even what could be."""
    project = tmp_path / "p"
    wrong = project / path
    wrong.parent.mkdir(parents=True, exist_ok=True)
    wrong.mkdir() if wrong.suffix else wrong.touch()
    said = init(project, "--overwrite", code=2)
    assert f"{wrong} is {'a directory' if wrong.suffix else 'not a directory'}" in said
    assert len([*tmp_path.rglob("*")]) == len(wrong.relative_to(tmp_path).parts)


def test_without_the_extra_it_is_named(tmp_path: Path) -> None:
    hidden = "import sys; sys.modules['cookiecutter'] = None; from pgkeep.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", hidden, "init", str(tmp_path / "p")],
        env=invoke.environment(), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "pip install 'pgkeep[init]'" in done.stderr
