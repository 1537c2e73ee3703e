"""Connections that fail: each with a hint that fits the cause."""

import dataclasses
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pgkeep import errors as e
from pgkeep import processes
from pgkeep.backup import connection_limits
from pgkeep.backup.connection_limits import ConnectionLimits, shortages
from pgkeep.postgres.connection import Endpoint
from pgkeep.postgres.server import Server
from tests.support import invoke, servers
from tests.support.buckets import free_ports
from tests.support.disposable import Disposables

HBA = """
local all all trust
hostssl all tls 127.0.0.1/32 scram-sha-256
hostnossl all plain 127.0.0.1/32 scram-sha-256
host all rejected 127.0.0.1/32 reject
hostssl all certified 127.0.0.1/32 cert
host all known 127.0.0.1/32 scram-sha-256
"""


def certify(folder: Path, name: str) -> Path:
    """Make a certificate that signs itself, with a key; return its file."""
    certificate = folder / f"{name}.crt"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "2", "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}",
         "-keyout", str(folder / f"{name}.key"), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """Yield a server with TLS and a pg_hba.conf of its own, and a folder with certificates."""
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("db.example", "other"):
        certify(folder, name)
    settings = {"listen_addresses": "127.0.0.1", "port": str(free_ports(1)[0])}
    with Server(servers.bin_folder(17), settings=settings) as server:
        data = server.log.parent / "data"
        owner = data.stat()
        for suffix in ("crt", "key"):
            path = data / f"server.{suffix}"
            shutil.copy(folder / f"db.example.{suffix}", path)
            os.chown(path, owner.st_uid, owner.st_gid)
            path.chmod(0o600)
        (data / "pg_hba.conf").write_text(HBA)
        for role in ("tls", "plain", "rejected", "certified", "known", "unknown"):
            servers.sql(server, "postgres", f"create role {role} login password 'secret'")
        servers.sql(server, "postgres", "alter system set ssl_ca_file = 'server.crt'")
        servers.sql(server, "postgres", "alter system set ssl = on")
        servers.sql(server, "postgres", "select pg_reload_conf()")
        yield server, folder


CASES = {
    # connection string, part of the message, part of the hint
    "no TLS where it is required": (
        "user=tls password=secret sslmode=disable", "no encryption", "Set PGSSLMODE=require"),
    "TLS where it is not allowed": (
        "user=plain password=secret sslmode=require", "SSL encryption", "hostnossl"),
    "no line, with and without TLS": (
        "user=unknown password=secret sslmode=prefer", "no pg_hba.conf entry", "Add a line"),
    "a line with reject": (
        "user=rejected password=secret sslmode=require", "pg_hba.conf rejects", "method reject"),
    "a wrong password": (
        "user=known password=wrong", "password authentication failed", "password is wrong"),
    "no password": ("user=known", "no password supplied", "Set POSTGRES_PASSWORD"),
    "no certificate of the client": (
        "user=certified sslmode=require", "certificate", "PGSSLCERT"),
    "an authority that is not the server's": (
        "user=known password=secret sslmode=verify-ca sslrootcert={folder}/other.crt",
        "certificate verify failed", "PGSSLROOTCERT"),
    "no file of authorities": (
        "user=known password=secret sslmode=verify-ca sslrootcert={folder}/none.crt",
        "does not exist", "sslrootcert in DATABASE_URL"),
    "another name in the certificate": (
        "user=known password=secret sslmode=verify-full sslrootcert={folder}/db.example.crt",
        "does not match host name", "POSTGRES_HOST"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_hint_fits_the_cause(secured: tuple[Server, Path], case: str) -> None:
    """A7.8: with TLS and pg_hba.conf, a check of host and port helps nobody."""
    server, folder = secured
    given, message, hint = CASES[case]
    name = "localhost" if "verify-full" in given else "127.0.0.1"
    dsn = f"host={name} port={server.port} dbname=postgres {given.format(folder=folder)}"
    with pytest.raises(e.ConnectionFailed) as caught:
        Endpoint.from_dsn(dsn).connect()
    assert message in caught.value.message
    assert caught.value.hint is not None
    assert hint in caught.value.hint
    assert "secret" not in caught.value.message


def test_tls_is_required_of_a_server_without(secured: tuple[Server, Path]) -> None:
    server, _ = secured
    servers.sql(server, "postgres", "alter system set ssl = off")
    server.stop()
    server.start()
    dsn = f"host=127.0.0.1 port={server.port} user=known dbname=postgres sslmode=require"
    with pytest.raises(e.ConnectionFailed, match="does not support SSL") as caught:
        Endpoint.from_dsn(dsn).connect()
    assert caught.value.hint is not None
    assert "Set ssl = on" in caught.value.hint


@pytest.mark.parametrize(
    "scheme",
    ["postgres", "postgresql", "PostgreSQL", "postgis", "psql", "pgsql", "postgresql+asyncpg",
     "postgres+psycopg2", "timescale", "timescalegis"],
)  # fmt: skip
def test_urls_of_frameworks(pg17: Server, app: str, scheme: str) -> None:
    """A7.1: what Django and SQLAlchemy call PostgreSQL."""
    dsn = f"{scheme}://{pg17.user}@/{app}?host={pg17.host}&port={pg17.port}"
    said = invoke.run("doctor", env=invoke.environment(DATABASE_URL=dsn))
    assert app in said


@pytest.mark.parametrize("scheme", ["mysql", "sqlite", "https", "jdbc:postgresql"])
def test_a_url_of_something_else(scheme: str, tmp_path: Path) -> None:
    env = invoke.environment(DATABASE_URL=f"{scheme}://u:se%3Acret@h/d", BACKUP_DIR=str(tmp_path))
    said = invoke.run("backup", env=env, code=2)
    assert f"the connection string has the scheme {scheme}, expected postgresql" in said
    assert "cret" not in said


LIMITS = ConnectionLimits(
    role="r", superuser=False, max_connections=100, reserved=5, clients=10, hidden=0, role_limit=-1,
    role_clients=1, database="d", database_limit=-1, database_clients=1, database_hidden=0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"clients": 90}, [("error", "has 5 free", "Use --jobs=4, or increase")]),
        ({"clients": 90, "superuser": True, "reserved": 0}, []),
        ({"clients": 94}, [("error", "has 1 free", "Increase max_connections, which is 100")]),
        ({"hidden": 80}, [("warning", "has 5 free", "Use --jobs=4")]),
        ({"role_limit": 3}, [("error", "can open 3", "CONNECTION LIMIT 7;  -- or use --jobs=1")]),
        ({"role_limit": 2}, [("error", "can open 2", "CONNECTION LIMIT 7;")]),
        ({"role_limit": 2, "superuser": True}, []),
        ({"database_limit": 4}, [("error", "accepts 4", "LIMIT 7;  -- or use --jobs=2")]),
        ({"database_limit": 9, "database_hidden": 3},
         [("warning", "accepts 9", "LIMIT 10;  -- or use --jobs=4")]),
        ({"database_limit": 9}, []),
    ],
)  # fmt: skip
def test_limits_of_connections(
    changes: dict[str, Any], expected: list[tuple[str, str, str]]
) -> None:
    """A6.10: of a backup with five jobs, which needs six more connections."""
    found = list(shortages(dataclasses.replace(LIMITS, **changes), 6))
    assert len(found) == len(expected)
    for shortage, (level, message, remedy) in zip(found, expected, strict=True):
        assert shortage.level == level
        assert message in shortage.message
        assert remedy in str(shortage.remedy)


def test_limits_are_those_of_the_role_that_logged_in(
    server: Server, disposables: Disposables
) -> None:
    """A6.10: on 15, 17 and 18; reserved_connections exists since 16."""
    role, database = disposables.role(server), disposables.database(server)
    servers.sql(server, "postgres", f"alter role {role} connection limit 9")
    servers.sql(server, "postgres", f"alter database {database} connection limit 8")
    dsn = f"host={server.host} port={server.port} user={role} dbname={database}"
    with Endpoint.from_dsn(dsn).connect() as connection:
        found = connection_limits.connection_limits(connection)
        assert found is not None
        assert (found.role_limit, found.role_clients) == (9, 1)
        assert (found.database_limit, found.database_clients) == (8, 1)
        assert (found.superuser, found.reserved) == (False, 3)
    with Endpoint({**server.params, "dbname": database}).connect() as connection:
        found = connection_limits.connection_limits(connection)
    assert found is not None
    assert (found.superuser, found.reserved, found.hidden) == (True, 0, 0)


def failure_of(script: str) -> e.ProgramFailed:
    with processes.Child(["/bin/sh", "-c", script], {}) as child:
        while child.read():
            pass
        with pytest.raises(e.ProgramFailed) as caught:
            child.finish()
    return caught.value


def test_the_first_error_of_a_program_is_shown() -> None:
    """B30: pg_dump prints the statement that failed after the error, which can be long."""
    script = (
        "echo 'pg_dump: error: query failed: ERROR:  the cause' >&2;"
        "echo 'pg_dump: detail: Query was: SELECT' >&2; seq 1 40 >&2; exit 1"
    )
    error = failure_of(script)
    assert "error: query failed: ERROR:  the cause; pg_dump: detail" in error.message
    assert error.message.endswith("; 40")
    assert "the cause" in " ".join(error.said)
    assert failure_of(script.replace("40", "2")).message.count("the cause") == 1
