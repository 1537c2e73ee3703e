"""A schema's owner who moves names while somebody else reads by them."""

import contextlib
import random
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from pgkeep.postgres.server import Server
from tests.support import invoke, servers
from tests.support.concurrency import SPARSE

ROWS = 40_000  # of a large table: two slices, if it is cut
SMALL = 50
WHOLE = (ROWS, SMALL, 4711)


class Attacker:
    """Owns schema `mine`, is no superuser, and may create schemas."""

    def __init__(self, server: Server, database: str, marks: Path) -> None:
        self.server = server
        self.database = database
        self.role = f"attacker_{secrets.token_hex(4)}"
        self._marks = marks
        servers.sql(server, database, f"create role {self.role} login")
        servers.sql(
            server, database, f"grant create on database {servers.quoted(database)} to {self.role}"
        )
        self.execute(
            f"""
            create schema mine;
            create table mine.big (i int, p text) {SPARSE};
            insert into mine.big select g, repeat(chr(65 + g % 26), 100)
                from generate_series(1, {ROWS}) g;
            create table mine.small as select generate_series(1, {SMALL}) i;
            create sequence mine.counter start 4711;
            """
        )

    def execute(self, *statements: str, pause: float = 0) -> None:
        with servers.connect(self.server, self.database) as connection:
            connection.execute(f"set session authorization {self.role}")
            for statement in statements:
                connection.execute(statement)
                time.sleep(pause)

    def away(self, *impostors: str) -> None:
        """Rename the schema; others of its name hold something else."""
        self.execute(
            "begin; alter schema mine rename to hidden; create schema mine;"
            + ";".join(impostors or TABLES)
            + "; commit"
        )

    def back(self) -> None:
        self.execute("begin; drop schema mine cascade; alter schema hidden rename to mine; commit")

    @property
    def code(self) -> str:
        """A function that leaves a mark if a superuser runs it; it says that it is immutable."""
        program = f"touch {self._marks}/$$"
        return (
            "create function mine.mark() returns int language plpgsql as $f$ begin"
            " if (select usesuper from pg_catalog.pg_user where usename = current_user) then"
            f" execute $q$ copy (select 1) to program '{program}' $q$; end if;"
            " return 1; end $f$;"
            "create function mine.code(int) returns int language plpgsql immutable as"
            " $f$ begin return mine.mark(); end $f$"
        )

    @property
    def views(self) -> tuple[str, ...]:
        """What runs code when it is read."""
        return (
            self.code,
            "create view mine.big as select mine.code(1) i, '' p",
            "create view mine.small as select mine.code(1) i",
            "create view mine.counter as select mine.code(1)::bigint last_value, true is_called",
        )

    @property
    def indexed(self) -> tuple[str, ...]:
        """What runs code when a query on it is planned."""
        return (
            self.code,
            *TABLES,
            "create index on mine.big (i) where mine.code(1) > 0",
            "create index on mine.small (i) where mine.code(1) > 0",
        )

    def has_run_code(self) -> bool:
        return any(self._marks.iterdir())

    @contextlib.contextmanager
    def once(self, longest: float, *impostors: str) -> Iterator[None]:
        """Move the names away and back, once, at some moment while the block is executed."""

        def work() -> None:
            time.sleep(random.uniform(0, longest))  # noqa: S311
            self.away(*impostors)
            time.sleep(random.uniform(0, longest / 4))  # noqa: S311
            self.back()

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            thread.join()


# What looks like the original, and is empty.
TABLES = (
    "create table mine.big (i int, p text)",
    "create table mine.small (i int)",
    "create sequence mine.counter start 1",
)


@contextlib.contextmanager
def attacker(server: Server, database: str, *copies: str) -> Iterator[Attacker]:
    """Load the attacker's schema into a database; drop this and its copies, and the role."""
    marks = Path(tempfile.mkdtemp(prefix="pgkeep-marks-"))
    marks.chmod(0o777)
    one = Attacker(server, database, marks)
    try:
        yield one
    finally:
        for name in (database, *copies):
            servers.drop(server, name)
        servers.sql(server, "postgres", f"drop role {one.role}")
        shutil.rmtree(marks)


def contents(server: Server, database: str, schema: str = "mine") -> tuple[int, int, int]:
    """Rows of both tables, and the value of the sequence."""
    (row,) = servers.sql(
        server,
        database,
        f"select (select count(*) from {schema}.big), (select count(*) from {schema}.small),"
        f" (select last_value from {schema}.counter)",
    )
    return row[0], row[1], row[2]


def attempt(one: Attacker, kind: str, copy: str, folder: Path, longest: float) -> str:
    """Back up while names move once; tell how it ended. What is complete is restored and counted.

    Raises:
        AssertionError: rows are missing, or code of the attacker's has run as a superuser.

    """
    impostors = {"tables": (), "views": one.views, "indexed": one.indexed}[kind]
    env = invoke.environment(one.server, one.database, BACKUP_DIR=str(folder), BACKUP_JOBS="2")
    with one.once(longest, *impostors):
        status, out, err = invoke.complete("backup", "--verify", env=env)
    assert not one.has_run_code()
    if status != 0:
        assert status == 4, out + err
        assert not [name for name in invoke.left_over(folder) if ".partial-" not in name]
        return "refused"
    (path,) = [name for name in folder.glob("*.sql.gz") if "globals" not in name.name]
    servers.drop(one.server, copy)
    invoke.restore(one.server, path, copy)
    names = {row[0] for row in servers.sql(one.server, copy, "select nspname from pg_namespace")}
    found = contents(one.server, copy, "hidden" if "hidden" in names else "mine")
    assert found == WHOLE, found
    return "complete"
