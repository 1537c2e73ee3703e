"""Connections that fail: each with the hint that fits, whatever the language of the server."""

import contextlib
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import psycopg
import pytest

from pgkeep import config, processes
from pgkeep import errors as e
from pgkeep.backup.source import program_error
from pgkeep.postgres.connection import Endpoint
from pgkeep.postgres.messages import LOCK_TABLE_HINT, restore_error
from pgkeep.postgres.server import Server
from tests.support import locales, servers
from tests.support.buckets import free_ports
from tests.support.concurrency import until

HBA = """
local all login peer
local all all trust
host rejected all 127.0.0.1/32 reject
host all login 127.0.0.1/32 scram-sha-256
"""


@pytest.fixture(scope="module")
def german() -> Iterator[Server]:
    """Yield a server that answers in German; only Debian's has translations."""
    settings = {"listen_addresses": "127.0.0.1", "port": str(free_ports(1)[0])}
    settings |= {"max_locks_per_transaction": "10", "max_worker_processes": "2"}
    settings |= {"max_connections": "6", "superuser_reserved_connections": "3"}
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pgkeep-locales-"))
        Path(folder).chmod(0o755)  # the server's user is another one
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("LOCPATH", str(locales.german(Path(folder) / "compiled")))
        settings["lc_messages"] = locales.GERMAN
        server = stack.enter_context(Server(servers.bin_folder(15), settings=settings))
        for statement in (
            "create role login login password 'right'",
            "create role free login",
            "create role dormant nologin",
            "create database shop",
            "create database shop_archive",
            "create database closed allow_connections false",
            "create database private",
            "revoke connect on database private from public",
            "create role limited login connection limit 0",
        ):
            servers.sql(server, "postgres", statement)
        (server.log.parent / "data" / "pg_hba.conf").write_text(HBA)
        servers.sql(server, "postgres", "select pg_reload_conf()")
        yield server


TCP = "host=127.0.0.1 user=login password=right"
LOCAL = "host={host}"
ANSWERS = {
    # connection string, part of the hint
    "unknown role": (f"{LOCAL} user=nobody_here dbname=shop", "CREATE ROLE ... LOGIN"),
    "role without LOGIN": (f"{LOCAL} user=dormant dbname=shop", "ALTER ROLE ... LOGIN"),
    "unknown database": (f"{TCP} dbname=shopp", ("POSTGRES_DB, or the database in DATABASE_URL. The"
        " server has shop and 3 more.")),
    "nothing like it": (f"{TCP} dbname=XYZ", "has postgres, private, shop, shop_archive."),
    "no CONNECT": (f"{TCP} dbname=private", "GRANT CONNECT ON DATABASE"),
    "no connections": (f"{TCP} dbname=closed", "ALLOW_CONNECTIONS true"),
    "template": (f"{TCP} dbname=template0", "It is the server's own template"),
    "wrong password": (f"{TCP} password=wrong dbname=shop", "The password is wrong or has expired"),
    "rejected by pg_hba.conf": (f"{TCP} dbname=rejected", "pg_hba.conf on the server"),
    "no entry": ("host=127.0.0.1 user=free dbname=shop", "pg_hba.conf"),
    "peer": (f"{LOCAL} user=login dbname=shop", "set POSTGRES_HOST to a host name"),
    "connection limit": (f"{LOCAL} user=limited dbname=shop", "increase max_connections"),
}  # fmt: skip


def failure(dsn: str) -> e.ConnectionFailed:
    with pytest.raises(e.ConnectionFailed) as caught:
        Endpoint.from_dsn(dsn).connect(0)
    assert caught.value.hint is not None
    assert "right" not in caught.value.message
    assert " None" not in caught.value.message
    return caught.value


def test_a_server_that_answers_in_another_language(german: Server) -> None:
    """Each answer is recognized by its SQLSTATE, not by its words."""
    shown = {
        case: failure(f"port={german.port} {dsn.format(host=german.host)}")
        for case, (dsn, _) in ANSWERS.items()
    }
    other = {case: shown[case].hint for case, (_, hint) in ANSWERS.items()
             if hint not in str(shown[case].hint)}  # fmt: skip
    assert other == {}
    assert isinstance(shown["connection limit"], e.Crowded)
    assert "Rolle" in shown["unknown role"].message
    assert "too many" not in shown["connection limit"].message


def test_the_same_of_17_and_18(pg17: Server, pg18: Server) -> None:
    for server in (pg17, pg18):
        local = f"host={server.host} port={server.port}"
        assert "CREATE ROLE" in str(failure(f"{local} user=nobody_here dbname=postgres").hint)
        assert "The server has" in str(failure(f"{local} user={server.user} dbname=no").hint)
        assert "template" in str(failure(f"{local} user={server.user} dbname=template0").hint)
        refused = failure(f"{local} user={server.user} target_session_attrs=read-only")
        assert "PGTARGETSESSIONATTRS" in str(refused.hint)


def test_addresses_without_a_server(tmp_path: Path) -> None:
    """The message names every address that was tried, and the hint what can be set."""
    (port,) = free_ports(1)
    refused = failure(f"host=127.0.0.1,localhost port={port} user=u dbname=d")
    assert refused.message.count(f'"127.0.0.1", port {port} failed') == 1
    assert "Multiple" not in refused.message
    assert "server is running, and its settings listen_addresses" in str(refused.hint)
    assert "Multiple" not in failure(f"hostaddr=127.0.0.1,127.0.0.2 port={port} user=u").message
    unknown = failure("host=db.invalid user=u dbname=d")
    assert "db.invalid" in unknown.message
    assert "No address is known" in str(unknown.hint)
    assert "Docker Compose" in str(unknown.hint)
    missing = failure(f"host={tmp_path} port=5433 user=u dbname=d")
    assert f'"{tmp_path}/.s.PGSQL.5433"' in missing.message
    assert f"looks for a socket in {tmp_path}. Set POSTGRES_HOST to a host" in str(missing.hint)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / ".s.PGSQL.5433"))
    assert "Is the server running" in str(failure(f"host={tmp_path} port=5433 user=u").hint)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        slow = failure(f"host=127.0.0.1 port={port} user=u dbname=d connect_timeout=2")
        assert f'"127.0.0.1", port {port} failed: timeout expired' in slow.message
        assert "PGCONNECT_TIMEOUT" in str(slow.hint)
    assert "PGSERVICEFILE" in str(failure("service=nothing").hint)
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer() -> None:
            with other.accept()[0] as client:
                client.recv(1000)
                client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        port = other.getsockname()[1]
        wrong = failure(f"host=127.0.0.1 port={port} user=u dbname=d sslmode=disable")
        thread.join()
        assert "POSTGRES_PORT is the port of PostgreSQL" in str(wrong.hint)


def test_where_the_password_comes_from(
    german: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A7.4: libpq ignores ~/.pgpass if others can access it, and only says so on stderr."""
    for name in os.environ.keys() & {"PGPASSWORD", "PGPASSFILE", "PGSERVICE", "PGHOST", "PGUSER"}:
        monkeypatch.delenv(name)

    def hint_of(environ: Mapping[str, str]) -> str:
        with monkeypatch.context() as patch:
            for name, value in environ.items():
                patch.setenv(name, value)
            with pytest.raises(e.ConnectionFailed) as caught:
                config.load(environ)[0].endpoint().connect()
        return str(caught.value.hint)

    where = {"POSTGRES_HOST": "127.0.0.1", "POSTGRES_PORT": str(german.port)}
    where |= {"POSTGRES_USER": "login", "POSTGRES_DB": "shop", "HOME": str(tmp_path)}
    said = hint_of({**where, "POSTGRES_PASSWORD": "no"})
    assert "The password from POSTGRES_PASSWORD, from the environment, is wrong" in said
    (tmp_path / "secret").write_text("no\n")
    said = hint_of({**where, "POSTGRES_PASSWORD_FILE": str(tmp_path / "secret")})
    assert f"POSTGRES_PASSWORD, from {tmp_path}/secret, is wrong" in said
    url = f"postgresql://login:no@127.0.0.1:{german.port}/shop"
    assert "The password from DATABASE_URL, from the env" in hint_of({"DATABASE_URL": url})
    assert "The password from PGPASSWORD is wrong" in hint_of({**where, "PGPASSWORD": "no"})
    service = tmp_path / "service"
    service.write_text(f"[it]\nhost=127.0.0.1\nport={german.port}\nuser=login\npassword=no\n")
    said = hint_of({"PGSERVICE": "it", "PGSERVICEFILE": str(service), "PGDATABASE": "shop"})
    assert "The password from the service file is wrong" in said
    assert "or add the server to the password file of libpq" in hint_of(where)
    passfile = tmp_path / ".pgpass"
    passfile.write_text("*:*:*:*:no\n")
    passfile.chmod(0o644)
    assert f"libpq ignores {passfile} because others can access it" in hint_of(where)
    passfile.chmod(0o600)
    assert f"The password from {passfile} is wrong" in hint_of(where)
    passfile.write_text("other:*:*:*:right\n")
    assert f"{passfile} has no line for this host" in hint_of(where)
    gone = tmp_path / "gone"
    assert f"{gone} does not exist. Set POSTGRES_PASSWORD" in hint_of(
        {**where, "PGPASSFILE": str(gone)}
    )


def test_a_full_lock_table(german: Server) -> None:
    """A5.20: of a restore and of a program; the hint depends on no language and no size."""
    many = (
        "do $$begin for n in 1..2000 loop execute format('create table t%s ()', n); end loop; end$$"
    )
    with servers.connect(german, "shop") as connection, pytest.raises(psycopg.Error) as caught:
        connection.execute(many)
    assert "shared memory" not in str(caught.value)
    assert restore_error(caught.value, "table t").hint == LOCK_TABLE_HINT
    command = [str(servers.bin_folder(15) / "psql"), "-X", "-h", german.host]
    command += ["-p", str(german.port), "-U", german.user, "-d", "shop", "-c", many]
    with (
        processes.Child(command, processes.environment({})) as child,
        pytest.raises(e.ProgramFailed) as failed,
    ):
        child.finish()
    assert program_error(failed.value, "shop").hint == LOCK_TABLE_HINT


def test_a_server_that_is_full_or_shuts_down(german: Server) -> None:
    """A6.10: a role cannot use reserved connections; 57P03 while a session stays."""
    dsn = f"host={german.host} port={german.port} dbname=shop"
    with contextlib.ExitStack() as stack:
        crowded = None
        while crowded is None:  # sessions of other tests can still end
            try:
                stack.enter_context(Endpoint.from_dsn(f"{dsn} user=free").connect(0))
            except e.Crowded as error:
                crowded = error
        assert "Verbindungen" in crowded.message
        assert "max_connections" in str(crowded.hint)
        process = german.log.parent / "data" / "postmaster.pid"
        os.kill(int(process.read_text().split()[0]), signal.SIGTERM)  # waits for the sessions
        until(lambda: "Herunterfahren" in german.log.read_text())
        assert "starting, shutting down" in str(failure(f"{dsn} user=free").hint)
