"""What a terminal obeys does not reach it: names of databases, tables, roles, and manifests."""

import contextlib
import json
import os
import pty
import re
import secrets
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgkeep.postgres.server import Server
from pgkeep.terminal import harmless, printable
from tests.conftest import DatabaseFactory
from tests.support import invoke, planted, servers

EVIL = "\x1b]0;owned\x07\x1b[2J\r\nerror: \x9b31m\u202egpj\u2066\u200b\t\x7f"


@given(st.text())
def test_whatever_the_text(text: str) -> None:
    """G5.10: a line stays a line; what was printable stays as it was; twice is once."""
    shown = printable(text)
    assert shown.isprintable()
    assert printable(shown) == shown
    assert text == shown or not text.isprintable()


@given(st.binary())
def test_whatever_the_bytes(data: bytes) -> None:
    """G5.10: of rows and SQL only line ends and tabs are left of what controls a terminal."""
    shown = harmless(data)
    assert not [one for one in shown if one in {*range(0x20), 0x7F} - {0x09, 0x0A}]


def test_bytes_of_other_alphabets_stay() -> None:
    text = "größer, ελλ, 日本, 'a\tb'\n"
    assert harmless(text.encode()) == text.encode()
    assert b"\xe2\x80\xae" not in harmless("\u202e".encode())


def on_a_terminal(*args: str, env: dict[str, str]) -> str:
    """Return what a command writes to a terminal, results and messages."""
    mine, theirs = pty.openpty()
    with subprocess.Popen(
        [invoke.PGKEEP, *args], env=env, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        data = b""
        with contextlib.suppress(OSError):  # the end, on Linux
            while more := os.read(mine, 1 << 16):
                data += more
    os.close(mine)
    assert process.returncode is not None
    return data.decode("utf-8", "replace").replace("\r\n", "\n")


def assert_harmless(said: str) -> None:
    # Colours and the progress bar are ours.
    text = re.sub(r"\x1b\[[0-9;]*m|\x1b\[\?25[lh]|\x1b\[[0-9]*[AK]|\r", "", said)
    assert re.sub(r"[\n\t]", "", text).isprintable(), text
    assert "\nerror: \x9b" not in said


@pytest.fixture
def evil(pg17: Server, database: DatabaseFactory) -> Iterator[str]:
    name = database(pg17, name=f"{secrets.token_hex(3)}{EVIL}")
    role = f"role {secrets.token_hex(3)}{EVIL}"
    servers.sql(pg17, "postgres", f"create role {servers.quoted(role)}")
    try:
        servers.sql(pg17, name, f"create table {servers.quoted('t' + EVIL)}"
            f" as select {servers.quoted('a')} "
              f"from (values ('{EVIL}')) as v(a)")  # fmt: skip
        servers.sql(
            pg17, name, f"alter table {servers.quoted('t' + EVIL)} owner to {servers.quoted(role)}"
        )
        yield name
    finally:
        servers.drop(pg17, name)
        servers.sql(pg17, "postgres", f"drop role {servers.quoted(role)}")


def test_names_on_a_terminal(pg17: Server, evil: str, tmp_path: Path) -> None:
    """G5.10: every command, its progress, warnings and errors."""
    env = invoke.environment(pg17, evil, BACKUP_DIR=str(tmp_path), TERM="xterm", COLUMNS="80")
    said = on_a_terminal("backup", "--database", evil, env=env)
    assert "done: 1 database" in said
    assert_harmless(said)
    (artifact,) = (str(path) for path in tmp_path.glob("*.sql.gz") if "globals" not in path.name)
    for args in (
        ["list"], ["status"], ["prune", "--dry-run"], ["doctor"],
        ["show", artifact], ["show", artifact, "--tree"], ["cat", artifact],
        ["restore", f"--backup={artifact}", "--table=*", "--dry-run"],
        ["restore", f"--backup={artifact}", "--in-place", "--dry-run", f"--target-db={EVIL}"],
        [EVIL],
    ):  # fmt: skip
        assert_harmless(on_a_terminal(*args, env=env))


def test_manifests_on_a_terminal(tmp_path: Path) -> None:
    """G5.10: fields that nobody else has made up; JSON stays JSON."""
    one = planted.manifest(datetime.now(UTC).replace(microsecond=0))
    server = msgspec.structs.replace(one.server, system_identifier=EVIL)
    one = msgspec.structs.replace(
        one, server=server, policy=EVIL, pending=[EVIL], drift=[EVIL], warnings=[EVIL]
    )
    planted.plant(tmp_path, one)
    (tmp_path / f"x{EVIL[:5]}_daily_20200101T000000Z.manifest.json").write_text("{}")
    env = invoke.environment(BACKUP_DIR=str(tmp_path), TERM="xterm")
    for args in (
        ["list"],
        ["status"],
        ["prune", "--dry-run"],
        ["metrics"],
        ["restore", "--latest"],
    ):
        assert_harmless(on_a_terminal(*args, env=env))
    (found,) = json.loads(invoke.run("list", "--json", env=env))
    assert found["manifest"]["policy"] == EVIL
