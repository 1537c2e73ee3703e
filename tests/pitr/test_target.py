"""Which commit a target is, and that it was reached: decisions without a cluster."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pgkeep import errors as e
from pgkeep.model.wal import Lsn
from pgkeep.pitr.recovery import RecoveredServer, _compare
from pgkeep.pitr.target import Point, Target, TargetKind, resolve
from pgkeep.pitr.waldump import Commit, WalContents
from pgkeep.postgres.connection import Endpoint
from pgkeep.postgres.server import Server
from tests.support.planted_wal import base

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
COMMITS = [Commit(Lsn(0x1001000 + n), 700 + n, NOON + timedelta(seconds=n)) for n in range(3)]


def point(moment: datetime) -> Point:
    target = Target(TargetKind.TIME, time=moment)
    return resolve(target, base(1), WalContents(commits=list(COMMITS)))


def test_the_commit_of_a_time() -> None:
    """The last one at or before it; exactly at its own time it is restored."""
    for seconds, xid in ((0, 700), (0.5, 700), (1, 701), (1.999, 701), (2, 702)):
        found = point(NOON + timedelta(seconds=seconds))
        assert found.setting == ("recovery_target_xid", str(xid)), seconds


def test_a_time_after_the_last_commit() -> None:
    """Nobody knows what was committed then: a restore would end earlier without an error."""
    with pytest.raises(e.Refused, match="is not in the archived WAL"):
        point(NOON + timedelta(seconds=3))


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("stopping after commit of transaction 702, time 2026-11-22 12:00:02+00", "another point"),
        ("ended", "another point"),
        ("stopping after commit of transaction 701, time 2026-11-22 12:00:01+00",
         "the last replayed commit is that of None"),
    ],
)  # fmt: skip
def test_recovery_that_stopped_elsewhere(
    pg17: Server, tmp_path: Path, said: str, error: str
) -> None:
    """The log names the chosen commit, and the server has replayed it; a pause proves nothing."""
    server = RecoveredServer.__new__(RecoveredServer)
    server.log = tmp_path / "log"
    server.log.write_text(f"LOG:  recovery {said}\n")
    wanted = point(NOON + timedelta(seconds=1))
    with (
        Endpoint({**pg17.params, "dbname": "postgres"}).connect() as connection,
        pytest.raises(e.RestoreFailed, match=error),
    ):
        server._proof(connection, wanted, promoted=False)


def test_the_last_replayed_commit() -> None:
    """Other commits have other times; the log rounds ours to milliseconds."""
    wanted = point(NOON + timedelta(seconds=1))
    _compare(NOON + timedelta(seconds=1, microseconds=400), wanted)
    for seconds in (0, 0.99, 1.01, 2):
        with pytest.raises(e.RestoreFailed, match="the last replayed commit is that of 2026"):
            _compare(NOON + timedelta(seconds=seconds), wanted)
