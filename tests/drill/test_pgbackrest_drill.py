"""A drill of a stanza: Debian's pgBackRest with PostgreSQL 15."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pgkeep.postgres.server import Account, Server
from tests.support import invoke, servers

STANZA = "main"


@dataclass(frozen=True)
class Repository:
    """A repository of pgBackRest that a server archives to."""

    folder: Path
    server: Server

    @property
    def config(self) -> Path:
        return self.folder / "pgbackrest.conf"

    def configure(self, **options: str) -> None:
        """Write the configuration; the server runs elsewhere as far as a drill can know."""
        own = {"repo1-path": f"{self.folder}/repo", "lock-path": f"{self.folder}/lock",
               "log-level-file": "off", "start-fast": "y", "repo1-retention-full": "9",
               "archive-async": "n", **options}  # fmt: skip
        lines = "".join(f"{name}={value}\n" for name, value in own.items())
        server = self.server
        self.config.write_text(
            f"[global]\n{lines}[{STANZA}]\npg1-path={server._data}\n"
            f"pg1-socket-path={server.host}\npg1-user=postgres\n"
        )
        self.config.chmod(0o644)

    def run(self, *arguments: str) -> str:
        """Run pgBackRest as the user of the server."""
        command = ["pgbackrest", f"--config={self.config}", f"--stanza={STANZA}", *arguments]
        with Account.choose().popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/"
        ) as process:
            out, err = process.communicate(timeout=120)
        assert process.returncode == 0, (arguments, out, err)
        return out.decode()


@pytest.fixture
def repository() -> Iterator[Repository]:
    """A server of PostgreSQL 15 with a full and an incremental backup, and WAL after them."""
    memory = servers.data_folder()
    with tempfile.TemporaryDirectory(prefix="stanza-", dir=memory) as name:
        folder = Path(name)
        folder.chmod(0o777)
        settings = {
            "archive_mode": "on",
            "archive_command": f"pgbackrest --config={folder}/pgbackrest.conf"
            f" --stanza={STANZA} archive-push %p",
        }
        programs = servers.bin_folder(15)
        with Server(
            programs, settings=settings, initdb=["--wal-segsize=1"], directory=memory
        ) as server:
            found = Repository(folder, server)
            found.configure()
            found.run("stanza-create")
            space = folder / "space"
            space.mkdir()
            Account.choose().own(space)
            servers.sql(server, "postgres", f"create tablespace s location '{space}'")
            table = "create table t tablespace s as select generate_series(1, 9) i"
            servers.sql(server, "postgres", table)
            (folder / "outside").mkdir()
            (folder / "outside/file").write_text("archived")
            Account.choose().own(folder / "outside")
            Account.choose().own(folder / "outside/file")
            (Path(server._data) / "link").symlink_to(folder / "outside")
            found.run("--type=full", "backup")
            servers.sql(server, "postgres", "insert into t values (10)")
            found.run("--type=incr", "backup")
            with servers.connect(server, "postgres") as connection:
                for number in range(11, 41):
                    connection.execute("insert into t values (%s)", [number])
                    if number % 10 == 0:
                        connection.execute("select pg_switch_wal()")
        yield found  # the fast stop has waited until all WAL was archived


def environment(repository: Repository) -> dict[str, str]:
    backups = repository.folder / "backups"
    backups.mkdir(exist_ok=True)
    return invoke.environment() | {
        "BACKUP_DIR": str(backups), "PGBACKREST_CONFIG": str(repository.config),
        "TMPDIR": str(repository.folder),
    }  # fmt: skip


def test_a_stanza(repository: Repository) -> None:
    """A1, A11: both points are proved, recorded; a lost segment is named; errors are clear.

    The options of the configuration for the server's own host write nothing here.
    """
    env, elsewhere = environment(repository), repository.folder / "elsewhere"
    (repository.folder / "outside/file").write_text("live")
    repository.configure(**{
        "link-all": "y", "delta": "y", "recovery-option": "archive_cleanup_command=x",
        "db-exclude": "other", "tablespace-map": f"s={elsewhere}/space",
    })  # fmt: skip
    checks = repository.folder / "checks.sql"
    checks.write_text("select count(*) = 40 from t")
    asked = ("drill", f"--pgbackrest={STANZA}", f"--check={checks}", "--database=postgres")
    report = repository.folder / "drill.html"
    options = ("--seed=1", "--jobs=2", "--check-timeout=30", f"--report={report}", "--json")
    (found,) = json.loads(invoke.run(*asked, *options, env=env))
    assert f"stanza {STANZA} of pgBackRest" in report.read_text()
    assert json.loads(report.with_suffix(".json").read_text()) == [found]
    assert found["passed"], found
    assert (repository.folder / "outside/file").read_text() == "live"
    assert not elsewhere.exists()
    repository.configure()
    assert (found["engine"], found["name"]) == ("pgbackrest", STANZA)
    newest, second = found["points"]
    assert list(newest["seconds"]) == ["fetch", "assemble", "recover", "check", "clean"]
    assert newest["base"].endswith("I")
    assert "UTC" in second["target"]
    assert {check["name"]: check["findings"] for check in found["checks"]} == {
        "tables and indexes": [], "assertions": [],
    }  # fmt: skip
    place = Path(env["BACKUP_DIR"]) / "pitr" / found["system_identifier"] / "drill"
    assert [json.loads(path.read_text()) for path in place.iterdir()] == [found]

    watched = {**env, "BACKUP_PGBACKREST_STANZA": STANZA, "BACKUP_DRILL_MAX_AGE": "1d"}
    status = json.loads(invoke.run("status", "--json", env=watched))
    (stanza,) = status["stanzas"]
    assert (status["ok"], stanza["problems"], stanza["code"]) == (True, [], 0)
    assert list(stanza["stopped"]) == ["full", "incr"]
    assert stanza["drill"]["recovery_seconds"] == found["recovery_seconds"]
    out, _ = invoke.outputs("status", env=watched)
    assert out.startswith(f"ok: pgBackRest {STANZA}\n")
    assert "last drill: passed" in out
    metrics = invoke.run("metrics", env=watched)
    assert f'pgkeep_pgbackrest_status_code{{stanza="{STANZA}"}} 0.0' in metrics
    assert f'pgkeep_pgbackrest_backup_timestamp_seconds{{stanza="{STANZA}",type="incr"}}' in metrics
    assert f'pgkeep_pgbackrest_drill_last_findings{{stanza="{STANZA}"}} 0.0' in metrics
    code, out, _ = invoke.complete("status", "--nagios", env={**watched, "BACKUP_MAX_AGE": "1s"})
    assert (code, "BACKUP_MAX_AGE is 1 s" in out) == (2, True)

    segments = sorted((repository.folder / "repo/archive").rglob("*-*.gz"))
    lost = segments[-2]
    lost.unlink()
    _, err = invoke.outputs("drill", f"--pgbackrest={STANZA}", env=env, code=5)
    assert f"{lost.name[:24]} is missing in the archive of stanza {STANZA}" in err
    _, err = invoke.outputs("drill", "--pgbackrest=other", env=env, code=9)
    assert "stanza other: missing stanza path" in err
    repository.configure(**{"repo1-cipher-type": "aes-256-cbc"})
    _, err = invoke.outputs("drill", f"--pgbackrest={STANZA}", env=env, code=2)
    assert "requires option: repo1-cipher-pass" in err
    assert "PGBACKREST_CONFIG" in err
    _, err = invoke.outputs("status", env=watched, code=5)
    assert f"stanza {STANZA}: pgbackrest info: pgbackrest failed" in err
    repository.configure(**{"repo1-cipher-type": "aes-256-cbc", "repo1-cipher-pass": "x"})
    _, err = invoke.outputs("drill", f"--pgbackrest={STANZA}", env=env, code=9)
    assert "CryptoError" in err
    shutil.rmtree(repository.folder / "repo/backup")
    without = {**env, "PATH": str(Path(invoke.PGKEEP).parent)}
    assert not os.path.lexists(Path(invoke.PGKEEP).parent / "pgbackrest")
    _, err = invoke.outputs("drill", f"--pgbackrest={STANZA}", env=without, code=2)
    assert "pgbackrest is not installed" in err
