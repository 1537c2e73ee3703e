"""Run pgkeep as users do: a command with its own environment, in its own process."""

import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pgkeep.postgres.server import Server
from tests.support import launcher, servers

PGKEEP = launcher.PGKEEP

# Containers set it, users do not: it hides what Python does with output that it has not written.
os.environ.pop("PYTHONUNBUFFERED", None)


def environment(
    server: Server | None = None, database: str | None = None, **extra: str
) -> dict[str, str]:
    """Return our environment without settings of libpq and pgkeep, and with the given ones."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PG", "POSTGRES_", "BACKUP_", "DATABASE_URL", "AWS_"))
    }
    kept["XDG_CACHE_HOME"] = "/proc/none"  # tests leave nothing in the home of their user
    if server is not None:
        kept |= {f"PG{name.upper()}": value for name, value in server.params.items()}
    if database is not None:
        kept["PGDATABASE"] = database
    return kept | extra


def start(*args: str, env: Mapping[str, str], **options: Any) -> "subprocess.Popen[str]":
    """Start the installed command; launcher.start takes less time."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen(
        [PGKEEP, *args], env=dict(env), stdin=subprocess.DEVNULL, text=True, **options
    )


def complete(*args: str, env: Mapping[str, str], seconds: float = 120) -> tuple[int, str, str]:
    """Run a command to its end; return exit code, standard output and standard error."""
    try:
        done = launcher.run(args, env, seconds)
    except subprocess.TimeoutExpired as error:
        raise AssertionError(f"pgkeep {args} hangs:\n{error.stdout!r}\n{error.stderr!r}") from None
    return done.returncode, done.stdout, done.stderr


def outputs(
    *args: str, env: Mapping[str, str], code: int = 0, seconds: float = 60
) -> tuple[str, str]:
    """Run a command that ends with this exit code; return what it wrote to both streams."""
    status, out, err = complete(*args, env=env, seconds=seconds)
    assert status == code, f"pgkeep {args}: exit {status}\n{out}\n{err}"
    assert "Traceback" not in err, err
    return out, err


def run(*args: str, env: Mapping[str, str], code: int = 0, timeout: float = 120) -> str:
    """Do the same; return its output, or its error message where it fails."""
    out, err = outputs(*args, env=env, code=code, seconds=timeout)
    return out if code == 0 else err


def backup(server: Server, database: str, directory: Path, *args: str, **extra: str) -> Path:
    """Back up; return the artifact's path."""
    env = environment(server, database, BACKUP_DIR=str(directory), **extra)
    report = json.loads(run("backup", "--json", *args, env=env))
    return directory / str(report["backups"][0]["artifact"]["name"])


def restore(server: Server, artifact: Path, target: str, *args: str, **extra: str) -> str:
    """Restore under a name; return what pgkeep printed."""
    env = environment(server, **extra)
    return run("restore", f"--backup={artifact}", f"--target-db={target}", *args, env=env)


def restore_by_hand(server: Server, artifact: Path, target: str) -> None:
    """`zcat FILE | psql -X -v ON_ERROR_STOP=1 -d TARGET`, as the artifact itself says."""
    program = "zstdcat" if artifact.suffix == ".zst" else "zcat"
    zcat = subprocess.Popen([program, str(artifact)], stdout=subprocess.PIPE)
    psql = [servers.programs_for(servers.major_of(server)).program("psql"), "-X", "-q"]
    done = subprocess.run(
        [*psql, "-v", "ON_ERROR_STOP=1", "-o", os.devnull],
        stdin=zcat.stdout,
        env=environment(server, target),
        capture_output=True,
        text=True,
        check=False,
    )
    assert zcat.stdout is not None
    zcat.stdout.close()
    outcome = (done.returncode, "ERROR" in done.stderr, zcat.wait())
    assert outcome == (0, False, 0), done.stderr


def left_over(directory: Path) -> list[str]:
    """Return the names of all files in a backup directory except lock files and records."""
    if not directory.exists():
        return []
    return sorted(
        path.name
        for path in directory.iterdir()
        if not path.name.endswith(".lock") and path.name != "records"
    )


def on_terminal(
    *args: str, env: Mapping[str, str], answers: Mapping[str, str] = {}
) -> tuple[int, str]:
    """Run with a terminal; type an answer when its question appears."""
    master, terminal = pty.openpty()
    process = subprocess.Popen(
        [PGKEEP, *args], env={**env, "TERM": "xterm", "COLUMNS": "120"},
        stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
    )  # fmt: skip
    os.close(terminal)
    shown, open_questions = "", dict(answers)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if not select.select([master], [], [], 1)[0]:
            continue
        try:
            block = os.read(master, 65536)
        except OSError:  # how Linux tells that nobody has the terminal open any more
            break
        shown += block.decode(errors="replace")
        for question in [question for question in open_questions if question in shown]:
            os.write(master, open_questions.pop(question).encode() + b"\n")
    os.close(master)
    if process.poll() is None and time.monotonic() >= deadline:
        process.kill()
    code = process.wait()
    assert not open_questions, shown
    return code, shown


def run_python(
    prelude: str, *args: str, env: Mapping[str, str]
) -> "subprocess.CompletedProcess[str]":
    """Run pgkeep in Python, after a prelude that changes its surroundings."""
    main = f"{prelude}\nfrom pgkeep.cli import main\nmain()"
    return subprocess.run(
        [sys.executable, "-c", main, *args],
        env=dict(env), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def listed(env: dict[str, str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(outputs("list", "--json", env=env)[0])
    return found
