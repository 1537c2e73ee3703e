"""Fixtures: real servers, databases in them, and one database with everything in it."""

import os
import secrets
import signal
import sys
from collections.abc import Callable, Iterator

import pytest

from pgkeep.postgres.server import Server
from tests.support import private_keys
from tests.support.buckets import Buckets
from tests.support.disposable import Disposables
from tests.support.private_keys import AgeKey, GpgKey
from tests.support.servers import DEFAULT, Servers, create, drop, major_of, sql

DatabaseFactory = Callable[..., str]

# An installed pgkeep is compiled. Without this each of some thousand runs would compile it anew
# where the variable is set, as it is in many containers.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


def pytest_configure() -> None:
    """Under nohup pgkeep would rightly ignore SIGHUP, after a shell's & SIGINT: tests send both."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """Start a server of any major: `servers(14)`; it runs until the session ends."""
    running = Servers()
    yield running
    running.close()


@pytest.fixture(scope="session", params=DEFAULT, ids=lambda major: f"pg{major}")
def server(request: pytest.FixtureRequest, servers: Servers) -> Server:
    """Run the test on each server of the default matrix.

    Other majors: `@pytest.mark.parametrize("server", [12, 16], ids=..., indirect=True)`.
    """
    return servers(request.param)


@pytest.fixture(scope="session")
def pg15(servers: Servers) -> Server:
    return servers(15)


@pytest.fixture(scope="session")
def pg17(servers: Servers) -> Server:
    return servers(17)


@pytest.fixture(scope="session")
def pg18(servers: Servers) -> Server:
    return servers(18)


@pytest.fixture(scope="session")
def buckets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buckets]:
    """A real S3 server."""
    running = Buckets(tmp_path_factory.mktemp("s3"))
    running.start()
    yield running
    running.stop()


@pytest.fixture
def objects(server: Server, servers: Servers) -> str:
    """The name of the database with one of everything on `server`: for reading only."""
    return servers.objects(major_of(server))


@pytest.fixture
def database() -> Iterator[DatabaseFactory]:
    """Create databases that the test drops: `database(server, "encoding latin1", name="a b")`."""
    made: list[tuple[Server, str]] = []

    def new(server: Server, options: str = "", *, name: str | None = None) -> str:
        chosen = name or f"test_{os.getpid()}_{secrets.token_hex(4)}"
        create(server, chosen, options)
        made.append((server, chosen))
        return chosen

    yield new
    for server, name in made:
        drop(server, name)


@pytest.fixture
def disposables() -> Iterator[Disposables]:
    """Create databases and roles that are dropped after the test."""
    with Disposables() as made:
        yield made


@pytest.fixture
def app(pg17: Server, database: DatabaseFactory) -> str:
    """A small database."""
    name = database(pg17)
    sql(pg17, name, "create table t as select generate_series(1, 1000) a")
    sql(pg17, name, "create table u as select 1 a")
    return name


@pytest.fixture(scope="session")
def age_key(tmp_path_factory: pytest.TempPathFactory) -> AgeKey:
    return private_keys.age_key(tmp_path_factory.mktemp("age"))


@pytest.fixture(scope="session")
def other_age_key(tmp_path_factory: pytest.TempPathFactory) -> AgeKey:
    return private_keys.age_key(tmp_path_factory.mktemp("age"))


@pytest.fixture(scope="session")
def gpg_key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GpgKey]:
    key = private_keys.gpg_key(tmp_path_factory.mktemp("gpg"))
    yield key
    private_keys.close(key)
