"""Give a database the name of another one: in one transaction, for a limited time."""

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from .. import errors as e
from .. import interrupts
from .connection import Connection, apply
from .database_names import State, comment_of, derived, naming, renaming
from .facts import shared_rows

PATIENCE = 30.0  # seconds to end all sessions in a database that nobody misses
MARGIN = 0.3  # seconds to undo the renames when the time is over
POLL = 0.05  # seconds

# The sessions that the role may end (manual, table "Server Signaling Functions"). A process without
# a role, such as an autovacuum worker, counts as one of a superuser; ALTER DATABASE ends those of
# autovacuum itself.
_MAY_END = """(SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)
    OR NOT COALESCE(r.rolsuper, true) AND (pg_catalog.pg_has_role(r.oid, 'USAGE')
        OR pg_catalog.pg_has_role('pg_signal_backend', 'USAGE'))"""
_SESSIONS = """FROM pg_catalog.pg_stat_activity a LEFT JOIN pg_catalog.pg_roles r
    ON r.oid = a.usesysid WHERE a.datname = ANY (%s) AND a.pid <> pg_catalog.pg_backend_pid()"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """Which database gets which name."""

    target: str
    incoming: str  # gets the name of the target
    kept: str | None = None  # the new name of the database that is replaced, if there is one
    kept_state: State = State.OLD
    waits_for: str | None = None  # where the target is a dated name: the database it belongs to


@dataclass(slots=True)
class _Phase:
    """Statements that require databases without sessions."""

    databases: list[str]
    statements: list[sql.Composed]
    is_outage: bool


class Exchange:
    """Renames databases in one transaction while another connection ends their sessions.

    RENAME locks a database against new sessions, and then waits for existing ones. Both databases
    are renamed or neither, even after a kill: nothing remains to be undone, as it would be after
    ALLOW_CONNECTIONS false. The new database is locked first, under a name that nobody sees: if
    a session stays in it, the sessions of the target do not notice.
    """

    def __init__(
        self, connection: Connection, helper: Connection, names: Names, limit: float
    ) -> None:
        self._connection = connection
        self._helper = helper
        self._names = names
        self._limit = limit
        self._phases = self._plan()
        self._clearing = self._phases[0].databases
        self._begun: float | None = None  # when sessions of the target were first refused
        self._failure: BaseException | None = None
        self._remaining: list[str] = []
        self.outage: float | None = None  # seconds

    def _plan(self) -> list[_Phase]:
        names, read = self._names, self._connection
        comment = comment_of(read, names.incoming)
        if names.kept is None:
            waits = (State.RESTORED, names.waits_for) if names.waits_for is not None else None
            statements = naming(names.incoming, names.target, comment, waits)
            return [_Phase([names.incoming], statements, is_outage=False)]
        between = derived(names.target, f"__restore_{secrets.token_hex(4)}")
        belongs = (names.kept_state, names.target)
        return [
            _Phase([names.incoming], [renaming(names.incoming, between)], is_outage=False),
            _Phase(
                [names.target, names.incoming],
                [
                    *naming(names.target, names.kept, comment_of(read, names.target), belongs),
                    *naming(between, names.target, comment, None),
                ],
                is_outage=True,
            ),
        ]

    def run(self, exchanged: Callable[[], None]) -> None:
        """Rename the databases, or change nothing.

        A signal cancels the transaction if that is still possible; it is raised when the outcome
        is known.

        Raises:
            RestoreFailed: the databases have the names that they had.

        """
        # Should this process be stopped or cut off, the server ends the outage.
        milliseconds = str(round(self._limit * 1000))
        apply(
            self._connection,
            dict.fromkeys(
                ("statement_timeout", "idle_in_transaction_session_timeout"), milliseconds
            ),
        )
        started = time.monotonic()
        while not self._attempt(exchanged):
            in_use = isinstance(self._failure, psycopg.errors.ObjectInUse)
            if not in_use or self._is_late() or time.monotonic() > started + PATIENCE:
                raise self._error() from self._failure

    def _attempt(self, exchanged: Callable[[], None]) -> bool:
        self._failure = None
        self._clearing = self._phases[0].databases
        done = threading.Event()
        hindrance: Exception | None = None
        with interrupts.held():
            thread = threading.Thread(target=self._rename, args=[done], daemon=True)
            thread.start()
            try:
                while not done.wait(POLL) and not interrupts.pending() and not self._is_late():
                    end_sessions(self._helper, self._clearing)
                if not done.is_set():
                    self._remaining = remaining_sessions(self._helper, self._clearing)
            except psycopg.Error as error:
                hindrance = error  # reported, unless the databases are renamed all the same
            if not done.is_set():
                with contextlib.suppress(psycopg.Error):
                    self._connection.cancel_safe(timeout=5)
            thread.join()
            if self._failure is None:
                exchanged()
                return True
        self._failure = hindrance or self._failure
        return False

    def _rename(self, done: threading.Event) -> None:
        """Execute the transaction, in a thread."""
        try:
            with self._connection.transaction():
                for phase in self._phases:
                    self._clearing = phase.databases
                    if phase.is_outage and self._begun is None:
                        self._begun = time.monotonic()
                    for statement in phase.statements:
                        self._connection.execute(statement)
        except BaseException as error:  # noqa: BLE001 - passed to the thread that waits
            self._failure = error
        finally:
            if self._begun is not None:
                self.outage = round(time.monotonic() - self._begun, 3)
            done.set()

    def _is_late(self) -> bool:
        return self._begun is not None and time.monotonic() > self._begun + self._limit - MARGIN

    def _error(self) -> BaseException:
        failure = self._failure
        if not isinstance(failure, psycopg.Error):
            assert failure is not None  # noqa: S101 - an attempt that failed has its reason
            return failure
        message = failure.diag.message_primary or str(failure).strip()
        if failure.diag.message_detail:  # names sessions and transactions, never rows
            message += f" ({failure.diag.message_detail.strip().rstrip('.')})"
        if isinstance(failure, psycopg.errors.QueryCanceled) and self._begun is not None:
            message = f"its sessions did not end within {self._limit:g} s"
            if self._remaining:
                message += f" ({'; '.join(self._remaining)})"
        if self.outage is not None:
            message += f"; sessions of database {self._names.target} were refused for"
            message += f" {self.outage:.1f} s, then everything was as before"
        if isinstance(failure, psycopg.OperationalError) and failure.sqlstate is None:
            message = f"lost the connection to the server: {message}"
        return e.RestoreFailed(f"swapping {self._names.target}: {message}")


def end_sessions(connection: Connection, databases: Sequence[str]) -> None:
    """End the sessions in databases, as far as the role may."""
    connection.execute(
        f"SELECT pg_catalog.pg_terminate_backend(a.pid) {_SESSIONS} AND ({_MAY_END})".encode(),
        [list(databases)],
    )


def remaining_sessions(
    connection: Connection, databases: Sequence[str], *, may_end: bool | None = None
) -> list[str]:
    """Describe sessions in databases; with `may_end`, only those that the role may end or not.

    Autovacuum workers are not listed if the role may not end them: ALTER DATABASE ends them.
    """
    condition = "a.usesysid IS NOT NULL" + {
        None: "", True: f" AND ({_MAY_END})", False: f" AND NOT ({_MAY_END})"
    }[may_end]  # fmt: skip
    rows = shared_rows(
        connection,
        "SELECT a.pid, r.rolname, COALESCE(a.backend_type, ''),"
        f" COALESCE(a.application_name, '') {_SESSIONS} AND {condition} ORDER BY a.pid",
        list(databases),
    )
    return [
        f"process {pid} of role {role}" + "".join(f", {text}" for text in texts if text)
        for pid, role, *texts in rows
    ]
