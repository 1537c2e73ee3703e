"""A server whose base backups and WAL tests store in a directory, without commands."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from pgkeep.crypt.options import Encryption
from pgkeep.pitr import base_run
from pgkeep.pitr.base import BaseOptions, ServerState
from pgkeep.pitr.base_manifest import BaseManifest
from pgkeep.pitr.base_run import BaseRun
from pgkeep.pitr.location import ClusterFacts, Location
from pgkeep.postgres.connection import Connection, Endpoint
from pgkeep.postgres.server import Server
from pgkeep.progress import Silent
from pgkeep.stores.local import LocalStore
from tests.support import servers


class Cluster:
    """A server, and a directory for its base backups."""

    def __init__(
        self, server: Server, programs: Path, folder: Path, encryption: Encryption | None = None
    ) -> None:
        self.server, self.programs, self.staging = server, programs, folder / "staging"
        self.encryption = encryption or Encryption()
        self.endpoint = Endpoint({**server.params, "dbname": "postgres"})
        self.store = LocalStore(folder / "base")
        self.wal = LocalStore(folder / "wal")
        self.staging.mkdir(mode=0o700, parents=True, exist_ok=True)

    def location(self, connection: Connection | None = None) -> Location:
        if connection is None:
            with self.endpoint.connect() as opened:
                return self.location(opened)
        state = ServerState(connection)
        facts = ClusterFacts(
            system_identifier=state.system_identifier, segment_size=state.segment_size,
            version_num=state.version_num,
        )  # fmt: skip
        return Location(str(self.store.directory.parent), facts, self.wal, self.store)

    def take(self, kind: str | None = None) -> tuple[BaseManifest, str]:
        with self.run(kind) as run, base_run.alone([self.store], self.staging):
            return run.take(Silent())

    def reason(self) -> str:
        """Return why the next one is of its kind."""
        with self.run() as run:
            return run._choose(run.locations[0]).reason

    @contextlib.contextmanager
    def run(self, kind: str | None = None) -> Iterator[BaseRun]:
        with self.endpoint.connect() as connection:
            options = BaseOptions(
                programs=self.programs, staging=self.staging, jobs=2, encryption=self.encryption
            )
            yield BaseRun(
                endpoint=self.endpoint, connection=connection,
                locations=[self.location(connection)], options=options, kind=kind,
            )  # fmt: skip

    def archive_wal(self, location: Location, start: str) -> None:
        """Archive the WAL from a position on, up to now."""
        archive = location.archive(self.encryption)
        with self.endpoint.connect() as connection:
            connection.execute("select pg_switch_wal()")
            connection.execute("checkpoint")  # the current position leaves the border
            for name, data in connection.execute(
                "select name, pg_read_binary_file('pg_wal/' || name) from pg_ls_waldir()"
                " where name ~ '^[0-9A-F]{24}$' and name >= pg_walfile_name(%s::pg_lsn)"
                " and name < pg_walfile_name(pg_current_wal_lsn()) order by name", [start],
            ).fetchall():  # fmt: skip
                archive.put(name, bytes(data))

    def restart(self, *, standby: bool = False) -> None:
        self.server.stop()
        if standby:
            (self.server._data / "standby.signal").touch()
            self.server._account.own(self.server._data)
        self.server.start()

    def shows(self, name: str) -> str:
        value: str = servers.sql(self.server, "postgres", f"show {name}")[0][0]
        return value
