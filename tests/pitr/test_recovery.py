"""Recovery to every kind of target, proved to the transaction by a ledger."""

import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from pgkeep import errors as e
from pgkeep.crypt.options import Encryption
from pgkeep.model import wal
from pgkeep.model.wal import Lsn
from pgkeep.model.wal import Path as WalPath
from pgkeep.pitr import base, bases, waldump
from pgkeep.pitr import target as targets
from pgkeep.pitr.archive import WalArchive
from pgkeep.pitr.base import BaseOptions
from pgkeep.pitr.recovery import RecoveredServer, raised, stage_wal
from pgkeep.pitr.target import Target, TargetKind
from pgkeep.pitr.wal_file import Origin
from pgkeep.postgres.connection import Endpoint
from pgkeep.postgres.server import Server
from pgkeep.progress import Silent
from pgkeep.stores.local import LocalStore
from tests.support import servers

WAL = {"wal_level": "replica", "wal_keep_size": "64MB"}


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that the user of the server can enter."""
    with tempfile.TemporaryDirectory(prefix="pitr-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.parametrize("major", [15, 17, 18])
def test_every_kind_of_target(major: int, open_folder: Path) -> None:
    """A1: the ledger has exactly the rows that were committed up to the point."""
    tmp_path = open_folder
    programs = servers.bin_folder(major)
    size = 1 << 20
    ledger = []
    with Server(programs, settings=WAL, initdb=["--wal-segsize=1"]) as server:
        endpoint = Endpoint({**server.params, "dbname": "postgres"})
        servers.sql(
            server,
            "postgres",
            "create table ledger (n int, filler text);"
            " alter table ledger alter filler set storage external",
        )
        with endpoint.connect() as connection:
            origin = Origin(base.ServerState(connection).system_identifier, size)
            archive = WalArchive(LocalStore(tmp_path / "wal"), origin, Encryption())
            store = LocalStore(tmp_path / "base")
            options = BaseOptions(
                programs=programs, staging=tmp_path / "staging", jobs=2, encryption=Encryption()
            )
            full = base.take(endpoint, connection, store, options, Silent())
            connection.execute("set timezone to utc")
            for number in range(30):
                row = connection.execute(
                    "insert into public.ledger select %s, repeat(md5(random()::text), 3000)"
                    " returning pg_current_xact_id()::text::int8", [number],
                ).fetchone()  # fmt: skip
                assert row is not None
                if number == 20:
                    connection.execute("select pg_create_restore_point('before the mistake')")
                (lsn, now) = connection.execute(
                    "select pg_current_wal_lsn()::text, clock_timestamp()"
                ).fetchone() or (None, None)
                ledger.append((row[0], Lsn.parse(lsn), now))
                time.sleep(0.002)
            connection.execute("select pg_switch_wal()")
            connection.execute("checkpoint")  # the current position leaves the border
            for name, data in connection.execute(
                "select name, pg_read_binary_file('pg_wal/' || name) from pg_ls_waldir()"
                " where name ~ '^[0-9A-F]{24}$' and name >= pg_walfile_name(%s::pg_lsn)"
                " and name < pg_walfile_name(pg_current_wal_lsn()) order by name", [full.start],
            ).fetchall():  # fmt: skip
                archive.put(name, bytes(data))
    path = WalPath(1, ())
    runs = wal.extents(path, archive.segments(), size)
    names = [segment.name(size) for segment in archive.segments()]
    assert len(names) > 2
    files = {name: archive.get(name) or b"" for name in names}
    stage_wal(tmp_path / "staged", files, size)
    contents = waldump.read(programs, tmp_path / "staged", names)
    end = targets.end_of_wal(full, runs)
    assert end is not None
    cases = [
        (Target(TargetKind.TIME, time=ledger[9][2]), 10),
        (Target(TargetKind.XID, xid=ledger[14][0]), 15),
        (Target(TargetKind.LSN, lsn=ledger[17][1]), 18),
        (Target(TargetKind.NAME, name="before the mistake"), 21),
        (Target(TargetKind.LATEST), 30),
        (Target(TargetKind.TIME, time=full.stopped), 0),
    ]
    for number, (asked, expected) in enumerate(cases if major == 17 else cases[:1] + cases[4:5]):
        (chosen,) = targets.candidates({full.name: full}, asked, path, {full.name: end})
        point = targets.resolve(asked, chosen, contents.commits, contents.restore_points)
        data, run = tmp_path / f"data{number}", tmp_path / f"run{number}"
        run.mkdir(mode=0o755)
        bases.assemble(
            store, [full], programs, data, tmp_path / "work", Encryption().keys, 2, Silent()
        )
        settings = raised(full.settings, contents.settings)
        with RecoveredServer(programs, data, tmp_path / "staged", run, settings) as recovered:
            proof = recovered.recover(point, 1)
            with recovered.endpoint.connect() as connection:
                rows = connection.execute("select n from public.ledger order by n").fetchall()
            assert [row[0] for row in rows] == list(range(expected)), (asked, proof)
            if asked.kind is TargetKind.LATEST:
                recovered.promote()
                with recovered.endpoint.connect() as connection:
                    connection.execute("insert into public.ledger values (99)")
    late = Target(TargetKind.TIME, time=ledger[-1][2] + timedelta(seconds=60))
    with pytest.raises(e.Refused, match="is not in the archived WAL") as refused:
        targets.resolve(late, full, contents.commits, ())
    assert "the last archived commit" in str(refused.value.hint)
    early = Target(TargetKind.TIME, time=full.stopped - timedelta(seconds=1))
    with pytest.raises(e.Refused, match="no base backup on timeline 1 ended before"):
        targets.candidates({full.name: full}, early, path, {full.name: end})
