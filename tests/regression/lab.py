"""The regression database, its backup, and the ways back; each step says what differs."""

import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from pgkeep.postgres.server import Server
from tests.support import invoke
from tests.support.servers import Servers, major_of, programs_for, run, sql

from . import facts
from .facts import Difference
from .source import DATABASE

COMMAND_SECONDS = 600

# The newest programs that are installed, whatever the server's version is.
_NEWEST = """
import sys
from pgkeep import programs
programs.choose = lambda server_major, among: max(among, key=lambda one: one.version)
from pgkeep.cli import main
sys.exit(main())
"""


@dataclass
class Step:
    """What one way back has shown."""

    name: str
    commands: list[str] = field(default_factory=list)
    seconds: float = 0.0
    differences: list[Difference] = field(default_factory=list)
    plain: frozenset[Difference] = frozenset()  # those of pg_dump | psql

    @property
    def has_failed(self) -> bool:
        """Whether a command had an unexpected exit code."""
        return any(difference.kind == "exit code" for difference in self.differences)

    def add(self, kind: str, name: str, before: str, after: str) -> None:
        """Note a difference."""
        self.differences.append(Difference(kind, name, before, after))


class Lab:
    """A source, a folder for backups, and whatever databases are restored from them."""

    def __init__(self, server: Server, folder: Path, servers: Servers) -> None:
        self.server = server
        self.folder = folder
        self.servers = servers
        self.artifact = folder / "backups" / "missing"
        self._plain: dict[tuple[int, str], frozenset[Difference]] = {}

    def pgkeep(
        self,
        step: Step,
        *args: str,
        server: Server | None = None,
        newest: bool = False,
        user: str | None = None,
        code: int = 0,
        shown: bool = True,
    ) -> bytes:
        """Run a command of pgkeep; an unexpected exit code and warnings are differences."""
        env = invoke.environment(server or self.server, BACKUP_DIR=str(self.folder / "backups"))
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", _NEWEST, *args] if newest else [invoke.PGKEEP, *args],
            env=env if user is None else {**env, "PGUSER": user},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        step.seconds += time.monotonic() - began
        command = self._tidy(" ".join(["pgkeep", *args]))
        if shown:
            step.commands.append(command)
        said = [self._tidy(line) for line in done.stderr.decode(errors="replace").splitlines()]
        for line in said:
            if line.startswith("warning: ") and not line.startswith("warning: skipped: "):
                step.add("warning", line.removeprefix("warning: "), "", "")
        if done.returncode != code:
            errors = [one for one in said if not re.match(r"\d\d:|warning: ", one)]
            step.add("exit code", command, str(code), f"{done.returncode}: {' '.join(errors)}")
        return done.stdout

    def psql(self, step: Step, server: Server, name: str, script: bytes, *, stop: bool) -> None:
        """Run an SQL script by psql; each error is a difference."""
        installation = programs_for(major_of(server))
        on_error = ["-v", f"ON_ERROR_STOP={int(stop)}"]
        began = time.monotonic()
        done = subprocess.run(
            [installation.program("psql"), "-X", "-q", "-o", "/dev/null", *on_error],
            env=invoke.environment(server, name),
            input=script,
            capture_output=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        step.seconds += time.monotonic() - began
        for line in done.stderr.decode(errors="replace").splitlines():
            if match := re.match(r"(?:psql:\S* )?(?:ERROR|FATAL): +(.*)", line):
                step.add("error of psql", self._tidy(match[1]), "", "")
        if done.returncode:
            step.add("exit code", "psql", "0", str(done.returncode))

    def create(self, server: Server, name: str, template: str = "template0") -> str:
        """Create a database; return its name."""
        sql(server, "postgres", f"create database {name} template {template}")
        return name

    def compare(
        self, step: Step, name: str, server: Server | None = None, *, source: str = DATABASE
    ) -> None:
        """Compare a restored database with its source, and note what pg_dump | psql has too.

        After a failure there is nothing to compare: restores undo everything.
        """
        if not step.has_failed:
            target = (server or self.server, name)
            step.differences += facts.differences((self.server, source), target)
            step.plain |= self.baseline(target[0], source)

    def baseline(self, target: Server, source: str) -> frozenset[Difference]:
        """Return how a database differs that `pg_dump | psql` has made on a server."""
        major = major_of(target)
        if (major, source) not in self._plain:
            step = Step("pg_dump | psql")
            name = self.create(target, f"plain_{source}")
            written = run(self.server, source, ["pg_dump"], major=major)
            self.psql(step, target, name, written, stop=False)
            found = facts.differences((self.server, source), (target, name), database=False)
            self._plain[major, source] = frozenset([*step.differences, *found])
        return self._plain[major, source]

    def _tidy(self, text: str) -> str:
        """Return a text without what differs in every run."""
        text = text.replace(str(self.artifact), "FILE").replace(str(self.artifact.name), "FILE")
        text = text.replace(f"{self.folder}/", "").replace(f"{self.folder}", ".")
        text = re.sub(r"\b[a-z]+_manual_[0-9TZ]+\.sql\.gz", "NAME.sql.gz", text)
        return re.sub(r"\b(pgkeep|incomplete)_[0-9a-f]{8,12}\b", r"\1_RANDOM", text)
