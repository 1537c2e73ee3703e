"""`pgkeep init` adds the template's files to a project, and takes nothing away from it."""

import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from pgkeep.scaffold import records
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
    compose = (project / "compose.backup.yml").read_text()
    assert "image: ship-yard-backup\n" in compose
    assert "POSTGRES_DB: hull\n" in compose


@pytest.fixture
def started(tmp_path: Path) -> Path:
    """A project with files of its own, two of which the template has too."""
    project = tmp_path / "project"
    (project / "docs").mkdir(parents=True)
    for name in ("Dockerfile.backup", "compose.backup.yml", "docs/own.md"):
        (project / name).write_text("mine\n")
    return project


def test_nothing_is_overwritten_unasked(started: Path) -> None:
    """Elsewhere than on a terminal: refused before anything is written."""
    before = contents(started)
    said = init(started, NAMED, code=9)
    assert "2 files with other contents: Dockerfile.backup, compose.backup.yml" in said
    assert "--keep" in said
    assert "--overwrite" in said
    assert "different  Dockerfile.backup" in init(started, NAMED, "--dry-run")
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
        "Dockerfile.backup", "compose.backup.yml",
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
    answers = {"Overwrite Dockerfile.backup?": "n", "Overwrite compose.backup.yml?": "y"}
    code, shown = on_terminal(str(started), NAMED, answers=answers)
    assert code == 0, shown
    assert (started / "Dockerfile.backup").read_text() == "mine\n"
    assert (started / "compose.backup.yml").read_text() != "mine\n"
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


# -- a repository of five years


def git(folder: Path, *words: str) -> str:
    settings = ["-c", "user.name=x", "-c", "user.email=x@example.com"]
    return baking.run(["git", *settings, "-C", str(folder), *words])


OWN = {
    ".gitignore": b"node_modules/\r\n!.env\r\n!*.sql.gz\r\n!drill.*",
    ".env.example": b"SECRET=\n",
    ".dockerignore": b"node_modules\n",
    "Makefile": b"all:\n",
    "README.md": b"# mine\n",
    "docker-compose.yml": b"services: {}\n",
    "doc/adr/0030-older-place.md": b"# 30\n",
    "docs/adr/0001-record-decisions.md": b"# 1\n",
    "docs/adr/0017-use-kafka.md": b"# 17\n",
    "docs/adr/0023-stop-using-kafka.md": b"# 23\n",
    "docs/adr/README.md": b"# Records\n",
}
RECORDS = [
    "0021-kubernetes-deployment.md", "0022-container-security-scanning.md",
    "0025-point-in-time-recovery.md",
    "0031-optional-observability-stack.md", "0032-database-backup-strategy.md",
]  # fmt: skip
# What a project contains later, and no commit may contain.
SECRETS = [
    ".env", ".venv/bin/python", "backups/app_daily_20261122T020000Z.sql.gz", "drill.html",
    "backups/app_daily_20261122T020000Z.globals.sql.gz", "backups/x.prom", "drill.json",
    "scripts/backup-config.env", "scripts/backup-config.env.bak", "scripts/backup-config.env~",
]  # fmt: skip


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A project in a larger repository, with rules that ignore what we need."""
    project = tmp_path / "repository" / "it's an old one"
    for name, contents in OWN.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_bytes(contents)
    (project.parent / ".gitignore").write_text("*.whl\nvendor/\n*.lock\n!*.env\n")
    git(project.parent, "init", "--quiet")
    git(project.parent, "add", "--all")
    git(project.parent, "commit", "--quiet", "--message=five years")
    return project


def test_an_existing_repository(repository: Path) -> None:
    """No secret can be committed, nothing of its own is changed, and no number is used twice."""
    plan = json.loads(init(repository, "--dry-run", "--json"))
    assert git(repository, "status", "--porcelain") == ""
    said = init(repository)
    states = {line[11:]: line[:11].strip() for line in said.splitlines() if line[:1].islower()}
    assert {file["path"]: file["state"] for file in plan["files"]}.items() <= states.items()
    for secret in SECRETS:
        (repository / secret).parent.mkdir(parents=True, exist_ok=True)
        (repository / secret).write_text("secret")
    shown = git(repository, "status", "--porcelain", "-z", "--untracked-files=all", ".")
    changed = {name.split("/", 1)[1] for name in filter(None, (e[3:] for e in shown.split("\0")))}
    assert changed == {path for path, state in states.items() if state in ("new", "extended")}
    (wheel,) = (repository / "scripts" / "vendor").iterdir()
    assert f"scripts/vendor/{wheel.name}" in changed

    for name, contents in OWN.items():
        now = (repository / name).read_bytes()
        assert now.startswith(contents) if name == ".gitignore" else now == contents, name
    assert (repository / ".gitignore").read_bytes().count(b"\r\n") > 5
    assert not re.search(rb"[^\r]\n", (repository / ".gitignore").read_bytes())
    assert not (repository / ".markdownlint.yaml").exists()

    new = {path for path in changed if path.startswith("docs/adr/")}
    assert sorted(new) == [f"docs/adr/{name}" for name in RECORDS]
    for path in (repository / name for name in changed if name.endswith((".md", ".sh", ".yaml"))):
        text = path.read_text()
        assert not re.search(r"ADR-0(17|23|25)\b|\b0(17|21|22|23|25)-[a-z]", text), path
        for link in baking.links(path) if path.suffix == ".md" else ():
            if not link.startswith(("https://", "#")):
                assert (path.parent / link.partition("#")[0]).is_file(), f"{path}: {link}"
    record = (repository / "docs" / "adr" / RECORDS[-1]).read_text()
    assert record.startswith("# ADR-0032: Database Backup Strategy\n")
    assert "[ADR-0021: Kubernetes Deployment](./0021-kubernetes-deployment.md)" in record

    compose = yaml.safe_load((repository / "compose.backup.yml").read_text())
    assert compose["services"].keys() == {"backup", "restore", "backup-page"}
    assert "volumes" not in compose
    assert "depends_on" not in compose["services"]["backup"]
    together = "docker compose -f docker-compose.yml -f compose.backup.yml run --rm backup"
    assert together in (repository / "README.backup.md").read_text()

    steps = said[said.index("Next steps") :].splitlines()
    assert f"      {together}" in steps
    assert max(map(len, steps[1:-1])) <= 80
    assert steps[1] == " 1. Link README.backup.md from the README of the project."
    assert steps[2] == " 2. Add the new records to docs/adr/README.md:"
    assert sorted(steps[3:8]) == [f"      docs/adr/{name}" for name in RECORDS]
    assert [step["text"] for step in plan["next_steps"]] == [
        line[4:] for line in steps if re.match(r"[ \d]\d\. ", line)
    ]

    again = json.loads(init(repository, "--json"))
    assert {file["state"] for file in again["files"]} == {"same", "kept"}
    assert [file["path"] for file in again["files"] if file["state"] == "kept"] == [
        "docs/adr/README.md"
    ]
    assert git(repository, "status", "--porcelain", "-z", "--untracked-files=all", ".") == shown


def test_what_git_would_get_wrong_is_told(tmp_path: Path) -> None:
    """A whole folder is ignored; a file of secrets is already in the repository."""
    project = tmp_path / "p"
    project.mkdir()
    (project / ".gitignore").write_text("/scripts/\n")
    (project / ".env").write_text("")
    git(project, "init", "--quiet")
    git(project, "add", "--all")
    said = init(
        project, "--dry-run", "--set=include_kubernetes=no", "--set=include_observability=no"
    )
    assert "git rm --cached .env" in said
    lines = [line.split() for line in said.splitlines() if "git add -f " in line]
    added = sorted(path for line in lines for path in line[3:])
    needed = [line[11:] for line in said.splitlines() if line.startswith("new        scripts/")]
    assert added == sorted(needed)
    assert "k8s/" not in said
    assert "deploy/monitoring" not in said


@pytest.mark.parametrize(
    ("existing", "expected"),
    [
        ([], ["017", "021", "022", "023"]),
        (["0001-x.md"], ["0017", "0021", "0022", "0023"]),
        (["022-x.md", "adr-0040-y.adoc"], ["0017", "0021", "0041", "0023"]),
        ([f"{number:03}-x{number}.md" for number in range(1, 24)], ["024", "025", "026", "027"]),
        (["023-x.md", "031-database-backup-strategy.md"], ["017", "021", "022", "031"]),
        (["README.md", "template.md", "2023-01-02-meeting.md"], ["0017", "0021", "0022", "0023"]),
    ],
)
def test_numbers_of_records(tmp_path: Path, existing: list[str], expected: list[str]) -> None:
    """Free ones; a record that init has written keeps its own. `.adr-dir` names the folder."""
    (tmp_path / ".adr-dir").write_text("notes/adr\n")
    (tmp_path / "notes" / "adr").mkdir(parents=True)
    for name in existing:
        (tmp_path / "notes" / "adr" / name).touch()
    ours = {
        "optional-observability-stack": "017", "kubernetes-deployment": "021",
        "container-security-scanning": "022", "database-backup-strategy": "023",
    }  # fmt: skip
    numbers = records.chosen(ours, records.existing(tmp_path))
    assert [numbers[title] for title in ours] == expected


def test_links_are_not_followed(tmp_path: Path) -> None:
    """A disk for backups may be elsewhere; nothing else is written outside the project."""
    project, elsewhere = tmp_path / "p", tmp_path / "elsewhere"
    project.mkdir()
    elsewhere.mkdir()
    (project / "backups").symlink_to(elsewhere)
    target = tmp_path / "target"
    target.write_text("mine")
    (project / "Dockerfile.backup").symlink_to(target)
    (project / ".compose.backup.yml.pgkeep-new").symlink_to(target)  # the name of a new file
    init(project, "--overwrite")
    assert [*elsewhere.iterdir()] == []
    assert target.read_text() == "mine"
    assert not (project / "Dockerfile.backup").is_symlink()
    shutil.rmtree(project / "scripts")
    (project / "scripts").symlink_to(elsewhere)
    assert f"scripts is a link to {elsewhere}, outside" in init(project, code=2)
    assert [*elsewhere.iterdir()] == []


# On a file system of its own, which is too small for the wheel, or read-only.
DISK = """
mount -t tmpfs -o size=1m none "$1" && cd "$1" && echo mine >compose.backup.yml || exit 99
[ "$3" = full ] || mount -o remount,ro "$1"
"$2" init . --overwrite
code=$?
find . | sort && cat compose.backup.yml && exit $code
"""


@pytest.mark.parametrize(
    ("disk", "reason"),
    [("full", "No space left on device"), ("read-only", "Read-only file system")],
)
def test_an_error_leaves_the_project_as_it_was(tmp_path: Path, disk: str, reason: str) -> None:
    """Nothing is half written, whatever could already be written."""
    unshare = ["unshare"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user"]
    done = subprocess.run(
        [*unshare, "--mount", "/bin/sh", "-c", DISK, "sh", str(tmp_path), invoke.PGKEEP, disk],
        env=invoke.environment(), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert re.search(rf"^error: could not write .+: {reason}$", done.stderr, re.MULTILINE)
    assert "written: nothing" in done.stderr
    assert done.stdout.splitlines() == [".", "./compose.backup.yml", "mine"]
