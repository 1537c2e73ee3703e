"""docs/guide/point-in-time-by-hand.md: a cluster restored with PostgreSQL's programs alone."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

from pgkeep.postgres.server import Account, Server
from tests.support import baking, invoke, private_keys, servers
from tests.support.prose import ROOT

PAGE = ROOT / "docs" / "guide" / "point-in-time-by-hand.md"
TOOLS = (
    "tar", "gzip", "zcat", "age", "sed", "grep", "cat", "cp", "mv", "mkdir", "truncate",
    "sha256sum", "touch", "sh",
)  # fmt: skip


@pytest.mark.parametrize("way", ["plain", "age"])
def test_the_page_restores_to_the_second(way: str) -> None:
    """Rules 12 and 17: a chain, and an encrypted archive; the point is in the unfinished segment.

    Only the programs of PostgreSQL and those of TOOLS exist: no pgkeep and no Python.
    """
    with tempfile.TemporaryDirectory(prefix="by-hand-", dir=servers.data_folder()) as made:
        folder = Path(made)
        key = private_keys.age_key(folder)
        archive, bases, point = _archive(folder, key.recipient if way == "age" else "none", way)
        work = folder / "work"
        values = {
            "PATH": _tools(folder), "ARCHIVE": archive, "WORK": work, "KEY": key.file,
            "POINT": f"'{point}'", "BASES": f"'{bases}'",
        }  # fmt: skip
        account = Account.choose()
        account.own(folder)
        try:
            _run_page(values, account, work)
            psql = [str(servers.bin_folder(17) / "psql"), "-X", "-At", "-h", str(work)]
            query = ["-U", "postgres", "-d", "postgres", "-c", "select count(*) from ledger"]
            found = subprocess.check_output([*psql, *query])
            assert found == b"7\n", "5 before the last base backup, 2 after it, 2 after the point"
        finally:
            pid = work / "data" / "postmaster.pid"
            if pid.is_file():
                os.kill(int(pid.read_text().split()[0]), signal.SIGQUIT)


def _run_page(values: dict[str, object], account: Account, work: Path) -> None:
    """Run its blocks one after the other; what they export has our values."""
    exports = ""
    user: dict[str, Any] = {}
    if account.uid is not None:
        user = {"user": account.uid, "group": account.gid, "extra_groups": []}
    for block in baking.blocks(PAGE):
        if block.language != "sh":
            continue
        text = re.sub(
            r"^export (\w+)=.*$", lambda line: f"export {line[1]}={values[line[1]]}", block.text,
            flags=re.MULTILINE,
        )  # fmt: skip
        done = subprocess.run(
            ["/bin/sh", "-eu", "-c", exports + text], cwd="/",
            env={"LC_ALL": "C", "PATH": "/none"}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
            timeout=60, **user,
        )  # fmt: skip
        log = (work / "log").read_text() if (work / "log").is_file() else ""
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{log}"
        baking.assert_shown(block.expected, done.stdout)
        exports += "".join(re.findall(r"^export .*\n", text, re.MULTILINE))


def _archive(folder: Path, recipients: str, way: str) -> tuple[Path, str, str]:
    """Return an archive, the base backups to use, and a time after 7 of 9 rows."""
    settings = {"max_slot_wal_keep_size": "1GB", "summarize_wal": "on"}
    programs = servers.bin_folder(17)
    with Server(
        programs, settings=settings, initdb=["--wal-segsize=1"], directory=servers.data_folder()
    ) as server:
        env = invoke.environment(
            server, "postgres", BACKUP_DIR=str(folder / "b"), BACKUP_ENCRYPT_TO=recipients,
            PATH=f"{programs}:{invoke.environment()['PATH']}",
        )  # fmt: skip
        (folder / "b").mkdir()
        invoke.run("pitr", "enable", "--service=none", env=env)
        servers.sql(server, "postgres", "create table ledger as select generate_series(1, 5) n")
        if way == "plain":
            invoke.run("pitr", "base", "--incremental", env=env)
        with servers.connect(server, "postgres") as connection:
            moments = []
            for number in range(6, 10):
                connection.execute("insert into ledger values (%s)", [number])
                row = connection.execute("select clock_timestamp()::text").fetchone()
                moments.append(row[0] if row else "")
            row = connection.execute("select pg_current_wal_lsn()::text").fetchone()
        assert row is not None
        invoke.run("pitr", "stream", f"--until={row[0]}", env=env)
        invoke.run("pitr", "disable", env=env)
    (archive,) = (path for path in (folder / "b" / "pitr").iterdir() if path.name.isdigit())
    names = [path.name.removesuffix(".base.json") for path in archive.glob("base/*.base.json")]
    return archive, " ".join(sorted(names)), moments[1]


def _tools(folder: Path) -> Path:
    """Return a folder with nothing but PostgreSQL's programs and some usual ones."""
    tools = folder / "tools"
    tools.mkdir()
    for program in servers.bin_folder(17).iterdir():
        (tools / program.name).symlink_to(program)
    for name in TOOLS:
        found = shutil.which(name)
        assert found is not None, name
        (tools / name).symlink_to(found)
    return tools
