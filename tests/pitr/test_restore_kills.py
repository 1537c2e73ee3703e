"""A killed restore leaves nothing, and can be repeated."""

import signal

from tests.support.restore_kills import Kills
from tests.support.wal_source import wal_source


def test_kills() -> None:
    """A3: kill -9 and SIGTERM; neither server nor folder remains, and the next one succeeds."""
    with wal_source(17) as source:
        source.base()
        source.run("create table t (i int)")
        source.ship()
        kills = Kills(source)
        assert kills.kill(1.4, signal.SIGKILL)
        assert kills.kill(0.9, signal.SIGTERM)
        kills.complete()
