"""Why a connection failed: the SQLSTATE of the server's answer, and libpq's message.

libpq writes its own messages in English, because Python does not set LC_MESSAGES. The server writes
in the language of its lc_messages, so its answers are recognized by their SQLSTATE. libpq does not
report it for a connection that failed. It traces it, however: a second attempt reads the trace.
"""

import contextlib
import difflib
import os
import re
import select
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.pq import ConnStatus, PGconn, PollingStatus
from psycopg.pq.abc import PGconn as AbstractPGconn

from .messages import one_line

TOO_MANY_CONNECTIONS = "53300"
UNKNOWN_DATABASE = "3D000"
PROBE_SECONDS = 10.0
NAMES = 5  # of databases in a hint

# Answers for which no second attempt is made: it would count as another failed login, or ask a
# crowded server again. In other languages they cost it.
_ENGLISH = (
    (re.compile(r"(password|SCRAM|MD5) authentication failed"), "28P01"),
    (
        re.compile(r"too many (clients|connections)|remaining connection slots are reserved"),
        TOO_MANY_CONNECTIONS,
    ),
)
# An answer of the server: libpq puts two spaces after the severity, in any language.
_ANSWER = re.compile(r"(?:^|failed: )[^\s:]+:  ")
_TRACED = re.compile(rb'^[^\n]*\tErrorResponse\t[^\n]*? C "([0-9A-Z]{5})"', re.MULTILINE)
_ATTEMPT = re.compile(
    r"^- host: (?:'([^']*)'|None), port: (?:'([^']*)'|None), hostaddr: (?:'([^']*)'|None): ",
    re.MULTILINE,
)
_WAITS = {PollingStatus.READING: select.POLLIN, PollingStatus.WRITING: select.POLLOUT}


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A connection that failed."""

    message: str
    state: str | None  # SQLSTATE, if the server answered
    given: Mapping[str, str]  # libpq keywords that are set anywhere; others have defaults
    password_from: str | None = None
    databases: Sequence[str] = ()  # of the server, if it does not have the given one

    @property
    def socket(self) -> str | None:
        """The Unix socket that was tried last, if any."""
        found = re.findall(r'on socket "([^"]*)"', self.message)
        return found[-1] if found else None


def examine(
    error: psycopg.Error, conninfo: str, given: Mapping[str, str], password_from: str | None
) -> Failure:
    """Find out why a connection failed; asks the server again if its answer is not known."""
    message = _message(error, given)
    state = error.sqlstate
    if state is None and _ANSWER.search(message):
        state = next((code for pattern, code in _ENGLISH if pattern.search(message)), None)
        state = state or _traced_state(conninfo)
    databases: Sequence[str] = ()
    if state == UNKNOWN_DATABASE:
        databases = _databases(conninfo)
    return Failure(
        message=message, state=state, given=given, password_from=password_from,
        databases=databases,
    )  # fmt: skip


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """Return the most similar names; without a similar one, the first ones."""
    found = list(names)
    folded = {known.lower(): known for known in reversed(found)}
    near = difflib.get_close_matches(name.lower(), folded, NAMES)
    return [folded[known] for known in near] or found[:NAMES]


def _message(error: psycopg.Error, given: Mapping[str, str]) -> str:
    """Return the message on one line, with each address that was tried, and no password."""
    text = str(error)
    parts = _ATTEMPT.split(text)
    if len(parts) > 1:
        attempts = [parts[start : start + 4] for start in range(1, len(parts), 4)]
        tried = [_attempt(said, host or address, port) for host, port, address, said in attempts]
        text = "; ".join(dict.fromkeys(tried))
    else:
        text = _attempt(text, given.get("host") or given.get("hostaddr"), given.get("port"))
    password = given.get("password")
    return text.replace(password, "********") if password else text


def _attempt(said: str, host: str | None, port: str | None) -> str:
    said = re.sub(r"^connection (failed|is bad): ", "", one_line(said))
    if said == "connection timeout expired":  # the driver's, which names no address
        address = f'at "{host or "localhost"}", port {port or 5432}'
        return f"connection to server {address} failed: timeout expired"
    return re.sub(r"\[Errno -?\d+\] ", "", said)


def _traced_state(conninfo: str) -> str | None:
    """Connect again, and return the SQLSTATE of the server's last answer."""
    if not hasattr(os, "memfd_create"):
        return None
    trace = os.memfd_create("pgkeep")  # in memory: the trace contains a password
    attempt = PGconn.connect_start(conninfo.encode())
    try:
        with contextlib.suppress(psycopg.NotSupportedError):
            attempt.trace(trace)
            _poll(attempt, time.monotonic() + PROBE_SECONDS)
            attempt.untrace()
    finally:
        attempt.finish()
        size = os.lseek(trace, 0, os.SEEK_END)
        traced = os.pread(trace, size, 0)
        os.close(trace)
    states = _TRACED.findall(traced)
    return states[-1].decode() if states else None


def _poll(attempt: AbstractPGconn, deadline: float) -> None:
    while attempt.status != ConnStatus.BAD and time.monotonic() < deadline:
        status = attempt.connect_poll()
        if status not in _WAITS:
            return
        waiting = select.poll()  # select() cannot wait for high numbers
        waiting.register(attempt.socket, _WAITS[PollingStatus(status)])
        waiting.poll(max(0.0, deadline - time.monotonic()) * 1000)


def _databases(conninfo: str) -> list[str]:
    """Return the names of the server's databases, if this role can connect to one of the usual."""
    for usual in ("postgres", "template1"):
        with (
            contextlib.suppress(psycopg.Error),
            psycopg.connect(make_conninfo(conninfo, dbname=usual), autocommit=True) as connection,
        ):
            rows = connection.execute(
                "SELECT datname FROM pg_catalog.pg_database"
                " WHERE datallowconn AND NOT datistemplate ORDER BY datname"
            )
            return [str(row[0]) for row in rows]
    return []
