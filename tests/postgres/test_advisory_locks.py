"""Advisory locks, which keep two runs from working on the same database."""

from pgkeep.postgres import advisory_locks
from pgkeep.postgres.connection import Endpoint, application_name
from pgkeep.postgres.server import Server
from tests.conftest import DatabaseFactory
from tests.support.servers import connect

KEY = 4711


def test_a_closed_session_of_the_same_run_is_no_other_run(
    pg17: Server, database: DatabaseFactory
) -> None:
    """B11: it releases its lock a moment later; a run with two targets does not refuse itself."""
    name = database(pg17)
    with Endpoint({**pg17.params, "dbname": name}).connect() as waiting:
        for holder, other in ((application_name(), False), ("pgkeep of another run", True)):
            with connect(pg17, name, application_name=holder) as holding:
                assert not advisory_locks.holder_is_idle(waiting, KEY)
                holding.execute("select pg_advisory_lock(%s)", [KEY])
                assert advisory_locks.holder_is_idle(waiting, KEY) is other
