"""Back up, verify, drill and restore every supported major version: `make versions`.

    python -m tests.versions
    python -m tests.versions --next             also the next one, which is not supported yet
    python -m tests.versions --only 14,18       print the results, and write no document

Every backup is restored into its own version and into every newer one, and the result is compared
with the source. Writes docs/versions.md. Exit code 1 if anything fails.
"""

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from psycopg.conninfo import make_conninfo

from pgkeep.model import naming
from pgkeep.model.manifest import decode
from pgkeep.postgres import versions
from pgkeep.postgres.server import Server
from tests.support import compare, invoke, servers, version_page
from tests.support.servers import SHOP, Servers
from tests.support.version_page import Cell, Row

DOCUMENT = Path(__file__).parents[1] / "docs" / "versions.md"
# Client programs of the newest version only, wherever others are installed.
ONLY_NEWEST = "import pgkeep.postgres.programs as p; p.FOLDERS = (); p.WHEELS = p.WHEELS[:1]"
ROWS = 30
CHECK = f"select count(*) = {ROWS} and sum(i) = {sum(range(ROWS))} from ledger"


@dataclass
class Source:
    """A server, its two databases, and what was found about it."""

    server: Server
    major: int
    folder: Path
    row: Row
    shop: str = "shop"
    objects: str = ""
    backups: dict[str, Path] = field(default_factory=dict)

    def env(self, database: str, **extra: str) -> dict[str, str]:
        """Return the environment of a user who has the client programs of this version."""
        path = f"{servers.programs_for(self.major).bin}:{os.environ['PATH']}"
        return invoke.environment(self.server, database, PATH=path, **extra)


class Matrix:
    """Everything that is done with each version."""

    def __init__(self, running: Servers, folder: Path, majors: list[int]) -> None:
        self._servers, self._folder, self._majors = running, folder, majors
        self.failed: list[str] = []

    def run(self) -> Iterator[Row]:
        """Yield the row of each version."""
        for major in self._majors:
            yield self._row(major)

    def _row(self, major: int) -> Row:
        server = self._servers(major)
        ((version,),) = servers.sql(server, "postgres", "show server_version")
        folder = self._folder / str(major)
        folder.mkdir(mode=0o755)
        row = Row(major, str(version).split()[0])
        source = Source(server, major, folder, row, objects=self._servers.objects(major))
        servers.create(server, source.shop)
        servers.psql(server, source.shop, input=SHOP)
        steps: dict[str, Callable[[Source], str]] = {
            "backup": _backup, "verify": _verify, "drill": _drill,
            "drill on the same server": _drill_on_server, "restore": _restore, "psql": _by_hand,
            "newest programs": _newest_programs,
        }  # fmt: skip
        if major >= versions.OLDEST_FOR_POINT_IN_TIME:
            steps["point in time"] = _point_in_time
        if major > versions.NEWEST:
            del steps["newest programs"]  # which are older than the server
            row.cells["newest programs"] = Cell("-", None)
        for name, step in steps.items():
            row.cells[name] = self._measured(f"{major}, {name}", partial(step, source))
        for target in self._majors:
            if target > major:
                row.targets[target] = self._measured(
                    f"from {major} into {target}",
                    partial(_into, source, self._servers(target), target),
                )
        return row

    def _measured(self, name: str, step: Callable[[], str]) -> Cell:
        began = time.monotonic()
        try:
            found = Cell(step(), time.monotonic() - began)
        except Exception:  # noqa: BLE001 - the others are tried all the same
            traceback.print_exc()
            self.failed.append(name)
            found = Cell("failed", None)
        print(f"{name:<40} {found}", flush=True)
        return found


def _backup(source: Source) -> str:
    for database in (source.shop, source.objects):
        env = source.env(database, BACKUP_DIR=str(source.folder))
        report = json.loads(invoke.run("backup", "--verify", "--json", env=env))
        name = report["backups"][0]["artifact"]["name"]
        source.backups[database] = source.folder / name
        manifest = source.folder / name.replace(".sql.gz", naming.MANIFEST)
        source.row.programs = decode(manifest.read_bytes(), manifest.name).client_version
    return ""


def _verify(source: Source) -> str:
    invoke.run("verify", "--all", env=source.env(source.shop, BACKUP_DIR=str(source.folder)))
    return ""


def _drill(source: Source, *args: str) -> str:
    backup = f"--backup={source.backups[source.shop]}"
    env = source.env(source.shop)
    result = json.loads(invoke.run("drill", backup, "--json", *args, env=env))
    assert result["passed"], result
    return str(result["server"])


def _drill_on_server(source: Source) -> str:
    _drill(source, f"--server={make_conninfo('', **source.server.params, dbname='postgres')}")
    return ""


def _restore(source: Source) -> str:
    target = "restored"
    env = source.env("postgres")
    backup = source.backups[source.objects]
    invoke.run("restore", f"--backup={backup}", f"--target-db={target}", env=env)
    return _same(source, source.objects, target)


def _same(source: Source, database: str, target: str, *, by_hand: bool = False) -> str:
    try:
        compare.assert_same_database(
            source.server, database, source.server, target, ignore_database=by_hand
        )
    finally:
        servers.drop(source.server, target)
    return ""


def _by_hand(source: Source) -> str:
    target = "by hand"
    servers.create(source.server, target)
    invoke.restore_by_hand(source.server, source.backups[source.objects], target)
    return _same(source, source.objects, target, by_hand=True)


def _newest_programs(source: Source) -> str:
    """A1.2, A1.4: their header has settings that older servers do not know."""
    folder = source.folder / "newest"
    env = invoke.environment(
        source.server, source.shop, BACKUP_DIR=str(folder), PATH="/proc/nowhere"
    )
    done = invoke.run_python(ONLY_NEWEST, "backup", "--json", env=env)
    assert done.returncode == 0, done.stderr
    name = json.loads(done.stdout)["backups"][0]["artifact"]["name"]
    invoke.restore(source.server, folder / name, "restored")
    return _same(source, source.shop, "restored")


def _into(source: Source, server: Server, major: int) -> str:
    target, expected = f"from {source.major}", f"by hand from {source.major}"
    env = invoke.environment(server)
    backup = source.backups[source.shop]
    try:
        servers.create(server, expected)
        definitions = servers.dump(source.server, source.shop, "--schema-only")
        servers.psql_bytes(server, expected, script=definitions)
        invoke.run("restore", f"--backup={backup}", f"--target-db={target}", env=env)
        assert compare.facts(server, target, database=False) == compare.facts(
            source.server, source.shop, database=False
        )
        schemas = [compare.schema(server, name, major) for name in (target, expected)]
        assert schemas[0] == schemas[1]
    finally:
        servers.drop(server, target)
        servers.drop(server, expected)
    return ""


def _point_in_time(source: Source) -> str:
    """Enable, base backups, WAL; recover the newest point and a random one, and compare rows."""
    folder = source.folder / "pitr"
    folder.mkdir()
    programs = servers.bin_folder(source.major)
    with Server(
        programs, settings={"max_slot_wal_keep_size": "1GB", **_summarize(source.major)},
        initdb=["--wal-segsize=1"], directory=servers.data_folder(),
    ) as server:  # fmt: skip
        env = invoke.environment(
            server, "postgres", BACKUP_DIR=str(folder), TMPDIR=str(source.folder),
            PATH=f"{programs}:{os.environ['PATH']}", BACKUP_WAL_MAX_LAG="1s",
        )  # fmt: skip
        invoke.run("pitr", "enable", "--service=none", env=env)
        with servers.connect(server, "postgres") as connection:
            connection.execute("create table ledger (i int primary key)")
            for number in range(ROWS):
                connection.execute("insert into ledger values (%s)", [number])
                if number % 10 == 0:
                    connection.execute("select pg_switch_wal()")
        base: Mapping[str, Any] = json.loads(invoke.run("pitr", "base", "--json", env=env))
        ((lsn,),) = servers.sql(server, "postgres", "select pg_current_wal_lsn()::text")
        invoke.run("pitr", "stream", f"--until={lsn}", env=env)
    invoke.run("pitr", "verify", env=env)
    check = folder / "check.sql"
    check.write_text(CHECK)
    asked = ("drill", "--pitr", f"--check={check}", "--database=postgres", "--json")
    (found,) = json.loads(invoke.run(*asked, env=env))
    assert found["passed"], found
    return str(base["kind"])


def _summarize(major: int) -> dict[str, str]:
    return {"summarize_wal": "on"} if major >= 17 else {}


def main() -> int:
    """Run the matrix; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.versions")
    parser.add_argument("--next", action="store_true", help="also the version after the newest")
    parser.add_argument("--only", help="major versions, separated by commas; writes no document")
    options = parser.parse_args()
    majors = [*versions.SUPPORTED, *([servers.NEXT] if options.next else [])]
    if options.only:
        majors = [int(major) for major in options.only.split(",")]
    running = Servers()
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="pgkeep-versions-", dir="/var/tmp") as name:
            Path(name).chmod(0o755)
            matrix = Matrix(running, Path(name), majors)
            rows = list(matrix.run())
    finally:
        running.close()
    print(f"{len(matrix.failed)} failed", *matrix.failed, sep="\n", flush=True)
    if not options.only:
        DOCUMENT.write_text(version_page.page(rows, time.monotonic() - began))
    return int(bool(matrix.failed))


if __name__ == "__main__":
    sys.exit(main())
