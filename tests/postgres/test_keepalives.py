"""Connections notice by themselves that the network no longer carries anything."""

import socket
from pathlib import Path

import pytest

from pgkeep.postgres.connection import Connection, Endpoint
from pgkeep.postgres.server import Server
from tests.conftest import DatabaseFactory
from tests.support import faults, invoke, servers
from tests.support.wire import through, wire

OPTIONS = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
)


def in_effect(connection: Connection) -> list[int]:
    with socket.socket(fileno=socket.dup(connection.fileno())) as sock, connection:
        return [sock.getsockopt(*option) for option in OPTIONS]


def test_keepalives_and_the_users_own(
    pg17: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A6.9: 60 s by default; what a DSN, a service file or the environment sets is used."""
    file = tmp_path / "services"
    with wire(pg17) as running:
        file.write_text(f"[it]\nhost=127.0.0.1\nport={running.port}\nkeepalives_idle=11\n"
                        "tcp_user_timeout=5000\nuser=postgres\ndbname=postgres\n")  # fmt: skip
        params = {"host": "127.0.0.1", "port": str(running.port), "user": "postgres",
                  "dbname": "postgres"}  # fmt: skip
        endpoint = Endpoint(params)
        assert in_effect(endpoint.connect()) == [1, 30, 10, 3, 0]
        reading = endpoint.reading()
        with reading.connect() as connection:
            pinned = reading.pinned(connection)
        assert in_effect(pinned.connect()) == [1, 30, 10, 3, 60000]
        own = Endpoint({**params, "keepalives_idle": "7", "tcp_user_timeout": "9000"})
        assert in_effect(own.reading().connect()) == [1, 7, 10, 3, 9000]
        off = Endpoint({**params, "keepalives": "0"})
        assert in_effect(off.connect())[0] == 0
        monkeypatch.setenv("PGSERVICEFILE", str(file))
        service = Endpoint({"service": "it"})
        assert in_effect(service.reading().connect()) == [1, 11, 10, 3, 5000]
        monkeypatch.setenv("PGCONNECT_TIMEOUT", "17")
        with endpoint.connect() as connection:
            assert b"17" in {option.val for option in connection.pgconn.info}


def test_programs_have_them_too(pg17: Server, database: DatabaseFactory, tmp_path: Path) -> None:
    """A6.9: pg_dump, psql and pg_dumpall get them with their connection string."""
    name = database(pg17)
    servers.sql(pg17, name, "create table big as select i, repeat('x', 900) from"
                " generate_series(1, 30000) i")  # fmt: skip
    seen = tmp_path / "seen"
    script = f'printf "%s\\n" "${{0##*/}} $*" >>{seen}; exec "$real" "$@"'
    scripts = dict.fromkeys(faults.PROGRAMS, script)
    path = faults.path_with(tmp_path / "bin", pg17, scripts)
    with wire(pg17) as running:
        extra = {**through(running), "PATH": path, "BACKUP_JOBS": "2"}
        invoke.backup(pg17, name, tmp_path / "backups", **extra)
    calls = seen.read_text().splitlines()
    assert {call.split()[0] for call in calls} == set(faults.PROGRAMS)
    for call in calls:
        assert "keepalives_idle='30'" in call.replace("=30", "='30'")
        assert "tcp_user_timeout='60000'" in call.replace("=60000", "='60000'")
