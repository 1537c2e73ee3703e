"""A project as the template generates it, with its server: for tests that run its documents."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import psycopg

from tests.support import baking, planted, servers
from tests.support.baking import ORDERS, Block

RUNBOOK = "docs/operations/database-recovery.md"
# What DROP TABLE orders CASCADE takes, too.
VIEW = """
create view big_orders as select id, total from orders where total > 2;
grant select on big_orders to reader;
"""


class Place:
    """A project as generated, set up as its README says, and the server that it speaks of."""

    def __init__(self, folder: Path, major: int = 17, **values: str) -> None:
        self.major = major
        self.port = baking.free_port()
        self.project = baking.bake(folder, postgres_port=str(self.port), **values)
        settings = self.project / "scripts" / "backup-config.env"
        settings.write_text(settings.with_suffix(".env.example").read_text())
        self.server = baking.server(self.port, major)

    def reset(self) -> None:
        """Have the database as it was in the last night's backup, and no other."""
        query = "select datname from pg_database where datname like 'app%'"
        for (name,) in servers.sql(self.server, "postgres", query):
            servers.drop(self.server, name)
        backups, kept = self.project / "backups", self.project.parent / "kept"
        if not kept.exists():
            self._begin()
            shutil.copytree(backups, kept)
        shutil.rmtree(backups)
        shutil.copytree(kept, backups)
        servers.sql(self.server, "postgres", "create database app template pristine owner app")
        self.good = self.contents()

    def _begin(self) -> None:
        servers.sql(self.server, "postgres", "create database app owner app")
        with servers.connect(self.server, "app") as connection:
            connection.execute("set role app")
            connection.execute(ORDERS)
            connection.execute("grant select on all tables in schema public to reader")
            connection.execute("grant select on all sequences in schema public to reader")
            connection.execute(VIEW)
        self.shell("./scripts/db-backup.sh --type=daily")
        planted.another(self.project / "backups", "daily", "weekly", days=8)
        servers.sql(self.server, "postgres", "alter database app rename to pristine")

    def contents(self, database: str = "app") -> list[object]:
        """Everything that a reader of the tables sees, and their constraints and indexes."""
        return [
            servers.sql(self.server, database, query)
            for query in (
                "select * from orders order by id",
                "select * from items order by what",
                "select * from big_orders order by id",
                "select relacl::text from pg_class where relname in ('orders', 'big_orders')",
                "select pg_get_constraintdef(oid) from pg_constraint where conname ~ '^(ord|item)'",
                "select indexdef from pg_indexes where schemaname = 'public' order by 1",
                "select pg_get_userbyid(relowner) from pg_class where relname = 'orders'",
            )
        ]

    def spoil(self, statement: str) -> None:
        servers.sql(self.server, "app", statement)
        assert self.contents_or_none() != self.good

    def contents_or_none(self) -> list[object] | None:
        try:
            return self.contents()
        except (psycopg.errors.UndefinedTable, psycopg.OperationalError):  # table or database
            return None

    def shell(self, script: str, code: int = 0) -> str:
        env = baking.shell_environment(self.project, self.major)
        return baking.shell(self.project, script, code=code, env=env)

    def exports(self) -> str:
        """What the runbook has one export before anything else."""
        first = self.blocks("First steps")[0]
        assert first.text.startswith("export PGHOST=localhost PGPORT=")
        return first.text

    def blocks(self, section: str, document: str = RUNBOOK) -> list[Block]:
        """Return the commands of a section."""
        found = [
            block
            for block in baking.blocks(self.project / document)
            if (block.section, block.language) == (section, "sh")
        ]
        assert found, section
        return found

    def as_here(self, text: str) -> str:
        """Put the times of this project's backups for the example's."""
        return baking.as_here(self.project, self.server, text)

    def play(self, section: str, before: str = "", document: str = RUNBOOK) -> Iterator[Block]:
        """Run the commands of a section one after the other, yielding before each."""
        return self.run(self.blocks(section, document), before)

    def run(self, some: list[Block], before: str = "") -> Iterator[Block]:
        return baking.play(self.project, self.server, some, before, self.major)

    def databases(self) -> list[str]:
        query = "select datname from pg_database where datname like 'app%' order by 1"
        return [name for (name,) in servers.sql(self.server, "postgres", query)]
