"""A server whose base backups and WAL are stored, without a receiver: for tests of recovery."""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from pgkeep.crypt.options import Encryption
from pgkeep.model import wal
from pgkeep.pitr import base, bases
from pgkeep.pitr.base import BaseOptions, Parent, ServerState
from pgkeep.pitr.base_manifest import BaseManifest
from pgkeep.pitr.location import ClusterFacts, Location
from pgkeep.pitr.plan import make_plan
from pgkeep.pitr.restore import Recovered, RestoreOptions, recovered
from pgkeep.pitr.target import Target
from pgkeep.postgres.connection import Connection, Endpoint
from pgkeep.postgres.server import Server
from pgkeep.progress import Silent
from pgkeep.stores.local import LocalStore
from tests.support import servers

SETTINGS = {
    "wal_level": "replica", "wal_keep_size": "256MB", "max_prepared_transactions": "5",
    "max_connections": "20", "log_timezone": "Europe/Berlin",
}  # fmt: skip


class WalSource:
    """A server with its location; the caller stores its WAL when it wants."""

    def __init__(self, server: Server, folder: Path, major: int, segment_size: int) -> None:
        self.server = server
        self.folder = folder
        self.programs = servers.bin_folder(major)
        self.connection: Connection = Endpoint(
            {**server.params, "dbname": "postgres"}
        ).connect(search_path="public")  # fmt: skip
        state = ServerState(self.connection)
        self.facts = ClusterFacts(
            system_identifier=state.system_identifier, segment_size=segment_size,
            version_num=state.version_num,
        )  # fmt: skip
        place = folder / "backups"
        own = place / "pitr" / state.system_identifier
        for part in ("wal", "base"):
            (own / part).mkdir(parents=True)
        name = f"{state.system_identifier}.cluster.json"
        (place / "pitr" / name).write_bytes(msgspec.json.encode(self.facts))
        self.location = Location(
            str(place), self.facts, LocalStore(own / "wal"), LocalStore(own / "base")
        )

    def base(self, parent: BaseManifest | None = None) -> BaseManifest:
        """Take a base backup."""
        given = None
        if parent is not None:
            store, keys = self.location.base, Encryption().keys
            given = Parent(
                manifest=parent, backup_manifest=bases.backup_manifest(store, parent, keys)
            )
        options = BaseOptions(
            programs=self.programs, staging=self.folder / "staging", jobs=2,
            encryption=Encryption(), parent=given,
        )  # fmt: skip
        endpoint = Endpoint({**self.server.params, "dbname": "postgres"})
        return base.take(endpoint, self.connection, self.location.base, options, Silent())

    def run(self, statement: str) -> tuple[int, datetime]:
        """Execute a statement in a transaction; return its id and the time after its commit."""
        self.connection.execute("BEGIN")
        self.connection.execute(statement.encode())
        (xid,) = self.row("select pg_current_xact_id()::text::int8")
        self.connection.execute("COMMIT")
        (now,) = self.row("select clock_timestamp()")
        return xid, now

    def row(self, query: str) -> tuple[Any, ...]:
        row = self.connection.execute(query.encode()).fetchone()
        assert row is not None
        return row

    def ship(self, *, switch: bool = True) -> list[str]:
        """Store the complete segments and histories; return all that are stored."""
        if switch:
            self.connection.execute("select pg_switch_wal()")
            # The current position leaves the border; a checkpoint could remove segments.
            self.connection.execute("select pg_logical_emit_message(true, 'x', 'x')")
        archive = self.location.archive(Encryption())
        for name, data in self.connection.execute(
            "select name, pg_read_binary_file('pg_wal/' || name, 0, size, true) from pg_ls_waldir()"
            " where name ~ '^[0-9A-F]{24}$' and right(name, 16) <"
            " right(pg_walfile_name(pg_current_wal_lsn()), 16) or name ~ 'history$' order by name"
        ).fetchall():
            if data and not archive.files().get(name) and not self._is_recycled(name, bytes(data)):
                archive.put(name, bytes(data))
        return sorted(archive.files())

    def _is_recycled(self, name: str, data: bytes) -> bool:
        segment = wal.parse_segment(name, self.facts.segment_size)
        start = 0 if segment is None else int(segment.start(self.facts.segment_size))
        return segment is not None and int.from_bytes(data[8:16], "little") != start


@contextlib.contextmanager
def wal_source(
    major: int,
    *,
    settings: Mapping[str, str] = {},
    initdb: Sequence[str] = (),
    megabytes: int = 1,
    user: str = "postgres",
) -> Iterator[WalSource]:
    """Start a server; its segments have 1 MB unless more is said."""
    with contextlib.ExitStack() as stack:
        folder = Path(
            stack.enter_context(
                tempfile.TemporaryDirectory(prefix="pitr-", dir=servers.data_folder())
            )
        )
        folder.chmod(0o755)
        own = {**SETTINGS, **({"summarize_wal": "on"} if major >= 17 else {}), **settings}
        server = stack.enter_context(
            Server(
                servers.bin_folder(major),
                settings=own,
                initdb=[f"--wal-segsize={megabytes}", *initdb],
                directory=servers.data_folder(),
                user=user,
            )
        )
        source = WalSource(server, folder, major, megabytes << 20)
        stack.callback(source.connection.close)
        yield source


def restored(
    source: WalSource,
    target: Target,
    timeline: int | None = None,
    query: str = "select n from public.ledger order by n",
) -> tuple[Recovered, list[int]]:
    """Recover to a target; return the rows of the ledger."""
    plan = make_plan(source.location, target, Encryption(), timeline)
    directory = source.folder / "data"
    options = RestoreOptions(keep=False)
    with (
        recovered(plan, directory, Encryption(), 2, Silent(), options) as found,
        found.server.endpoint.connect() as connection,
    ):
        rows = connection.execute(query.encode()).fetchall()
    assert not directory.exists()
    return found, [row[0] for row in rows]
