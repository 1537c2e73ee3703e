"""Execute the post-data: indexes and keys side by side, then what needs them, then refreshes."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ... import errors as e
from ...artifact.file import Object
from ...sql import statements
from ...sql.statements import Name
from ...task_group import TaskGroup, for_each
from .entries import EntryReader
from .options import LoadOptions
from .session import RETRIES, EntryText, Session, is_deadlock

# These can be made side by side once the rows are there; everything else keeps pg_dump's order.
PARALLEL_TYPES = frozenset({"INDEX", "CONSTRAINT", "FK CONSTRAINT"})


@dataclass(slots=True, eq=False)
class _Job:
    """One object of the post-data and the tables that it locks."""

    entry: Object
    text: bytes
    exclusive: frozenset[tuple[bytes, bytes]]
    shared: frozenset[tuple[bytes, bytes]]

    def conflicts(self, other: "_Job") -> bool:
        mine, theirs = self.exclusive, other.exclusive
        return bool(mine & (theirs | other.shared) or theirs & self.shared)


class PostData:
    """Execute the post-data of a backup file."""

    def __init__(
        self, options: LoadOptions, entries: EntryReader, sessions: Sequence[Session],
        sizes: Mapping[Name, int],
    ) -> None:  # fmt: skip
        self._options = options
        self._entries = entries
        self._sessions = sessions
        self._sizes = sizes  # rows of each table
        self._deadlocks = 0  # of what was built side by side

    @property
    def _main(self) -> Session:
        return self._sessions[0]

    def execute(self) -> None:
        """Execute the post-data in its order, but runs of indexes and keys in parallel."""
        serial: list[EntryText] = []
        run: list[_Job] = []
        comments: list[EntryText] = []
        refreshes: list[EntryText] = []
        defaults: list[EntryText] = []
        for entry, text in self._entries.section("post"):
            if entry.type == "DEFAULT ACL":
                defaults.append((entry, text))  # they must not apply to anything of the backup
                continue
            if _is_refresh(entry):
                if self._options.data:  # without rows they would be populated, and empty
                    refreshes.append((entry, text))  # pg_dump sorts them to the end
                continue
            job = _job(entry, text) if not self._options.one_transaction else None
            if job is not None and not (run and _kind(run[-1].entry) != _kind(entry)):
                self._main.execute(serial)
                serial = []
                run.append(job)
            elif run and entry.type == "COMMENT":
                comments.append((entry, text))  # on what is being built; can wait for it
            else:
                self._build(run)
                self._main.execute(comments)
                run, comments = [], []
                if job is not None:
                    run.append(job)
                else:
                    serial.append((entry, text))
        self._build(run)
        self._main.execute([*comments, *serial])
        self._refresh(refreshes)
        self._main.execute(defaults)

    def _build(self, jobs: list[_Job]) -> None:
        """Execute jobs side by side, never two that want the same table for themselves.

        What an event trigger locks besides is unknown: after some deadlocks, one by one.
        """
        if not jobs:
            return
        waiting = sorted(jobs, key=lambda job: _weight(job, self._sizes), reverse=True)
        running: list[_Job] = []
        apart: set[_Job] = set()
        changed = threading.Condition()

        def take(threads: TaskGroup) -> _Job | None:
            with changed:
                while waiting:
                    threads.check()
                    for job in waiting:
                        if not any(job.conflicts(other) for other in running):
                            waiting.remove(job)
                            running.append(job)
                            return job
                    changed.wait(0.5)
                return None

        def work(_: int, session: Session, threads: TaskGroup) -> None:
            while (job := take(threads)) is not None:
                done = _executed(session, job)
                with changed:
                    running.remove(job)
                    if not done:
                        self._deadlocks += 1
                        waiting.append(job)
                    if self._deadlocks >= RETRIES:
                        apart.update(waiting)
                        waiting.clear()
                    changed.notify_all()

        for_each(range(len(jobs)), self._sessions, work, name="build", cancel=Session.cancel)
        for job in jobs:
            if job in apart:
                self._main.try_one(job.entry, job.text)

    def _refresh(self, waiting: list[EntryText]) -> None:
        """Refresh materialized views, again and again as long as that gets some further.

        One may read another through a function, which pg_dump does not see (trap A5.6).
        """
        while waiting:
            failed: list[EntryText] = []
            errors: list[e.RestoreFailed] = []
            for entry, text in waiting:
                try:
                    with self._main.connection.transaction():
                        self._main.execute_one(entry, text)
                except e.RestoreFailed as error:
                    failed.append((entry, text))
                    errors.append(error)
            if len(failed) == len(waiting):
                for (entry, text), failure in zip(failed, errors, strict=True):
                    if not self._main.is_tolerated(entry, text, failure):
                        raise failure
                return
            waiting = failed

    def refresh_existing(self) -> None:
        """Refresh the materialized views that an existing database has."""
        rows = self._main.connection.execute(
            "SELECT schemaname, matviewname FROM pg_catalog.pg_matviews"
        )
        names = set(rows.fetchall())
        self._refresh([
            (entry, text)
            for entry, text in self._entries.section("post")
            if _is_refresh(entry) and (entry.schema, entry.name) in names
        ])  # fmt: skip


def _is_refresh(entry: Object) -> bool:
    """Whether this fills a materialized view, whose rows are computed from others."""
    return entry.type == "MATERIALIZED VIEW DATA"


def _kind(entry: Object) -> str:
    """Foreign keys need the keys that they refer to: they make runs of their own."""
    return "foreign" if entry.type == "FK CONSTRAINT" else "index"


def _job(entry: Object, text: bytes) -> _Job | None:
    """Return what locks a statement takes; None if that is unknown."""
    if entry.type not in PARALLEL_TYPES:
        return None
    match = (statements.INDEX_ON if entry.type == "INDEX" else statements.ALTER_TABLE).search(text)
    if match is None:
        return None
    table = (match["schema"], match["name"])
    if entry.type == "INDEX" and not statements.ALTER_TABLE.search(text):
        return _Job(entry, text, frozenset(), frozenset({table}))
    tables = {table}
    if entry.type == "FK CONSTRAINT":
        referenced = statements.REFERENCES.search(text, match.end())
        if referenced is None:
            return None
        tables.add((referenced["schema"], referenced["name"]))
    return _Job(entry, text, frozenset(tables), frozenset())


def _executed(session: Session, job: _Job) -> bool:
    """Execute a job; False if the server gave it up to resolve a deadlock."""
    try:
        session.try_one(job.entry, job.text, attempts=1)
    except e.RestoreFailed as error:
        if is_deadlock(error.__cause__):
            return False
        raise
    return True


def _weight(job: _Job, rows: Mapping[Name, int]) -> int:
    return sum(
        rows.get((statements.unquoted(schema), statements.unquoted(name)), 0)
        for schema, name in job.exclusive | job.shared
    )
