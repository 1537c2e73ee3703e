"""Load a backup file into a database: schema first, rows by several sessions, then the indexes.

pg_dump's own SQL is executed as it stands.
"""

import psycopg

from ... import interrupts
from ...artifact.file import Artifact
from ...postgres.connection import Endpoint
from ...postgres.messages import restore_error
from ...progress import Progress
from ...sql.statements import Name
from ..target import default_privileges
from . import settings
from .analyze import analyze
from .entries import EntryReader
from .options import Loaded, LoadOptions
from .post_data import PostData
from .rows import RowLoader
from .session import Session, Statement


def load(
    endpoint: Endpoint, artifact: Artifact, options: LoadOptions, progress: Progress
) -> Loaded:
    """Load an artifact whose hashes have been checked.

    Raises:
        RestoreFailed: names the object and what the server said.

    """
    return _Load(endpoint, artifact, options, progress).run()


class _Load:
    def __init__(
        self, endpoint: Endpoint, artifact: Artifact, options: LoadOptions, progress: Progress
    ) -> None:
        self._endpoint = endpoint
        self._artifact = artifact
        self._options = options
        self._progress = progress
        self._entries = EntryReader(artifact, options)
        self._sessions: list[Session] = []
        self._header: list[Statement] = []
        self._warnings: list[str] = []

    def run(self) -> Loaded:
        try:
            with self._endpoint.connect() as connection:
                self._header = [
                    *settings.header(connection, self._artifact, definitions=self._options.schema),
                    *(self._options.settings if self._options.schema else ()),
                ]
            for _ in range(1 if self._options.one_transaction else self._options.jobs):
                # One by one: those that are there must be closed when the next is refused.
                session = self._options.session(self._endpoint, self._header)
                session.tolerates = self._options.tolerates
                self._sessions.append(session)
            loaded = self._load()
        except psycopg.Error as error:
            raise restore_error(error, "loading") from error
        finally:
            for session in self._sessions:
                session.connection.close()
        self._warnings += self._entries.warnings()
        return Loaded(loaded, self._warnings)

    @property
    def _main(self) -> Session:
        return self._sessions[0]

    def _load(self) -> dict[Name, int]:
        """Load everything; return the number of rows of each table."""
        options = self._options
        sizes = {
            (table.schema, table.name): table.rows for table in self._artifact.index.table_rows()
        }
        rows = RowLoader(self._artifact, options, self._entries, self._sessions, self._progress)
        post_data = PostData(options, self._entries, self._sessions, sizes)
        if options.one_transaction:
            self._main.connection.execute("BEGIN")
        if options.disable_triggers:
            self._main.connection.execute("SET LOCAL session_replication_role = replica")
        suspended = self._suspend_default_privileges()
        if options.schema:
            self._progress.step("creating tables")
            self._main.execute(list(self._entries.section("pre")))
        if options.data:
            self._progress.step("loading rows")
            raw = sum(
                member.raw for member in self._artifact.index.members if member.section == "data"
            )
            self._progress.total(raw)
            rows.load()
        if options.schema:
            self._progress.step("building indexes")
            post_data.execute()
        elif options.data:
            post_data.refresh_existing()
        default_privileges.resume(self._main.connection, suspended)
        self._main.connection.execute("SET synchronous_commit = on")
        if options.one_transaction:
            options.check(self._main.connection)
            with interrupts.held():
                self._main.connection.execute("COMMIT")
                interrupts.completed("the rows are committed")
        elif options.analyze or options.vacuum:
            # Rows whose commit is not yet on the disk are not known as visible to all.
            self._flush()
            self._progress.step("vacuuming" if options.vacuum else "analyzing")
            self._warnings += analyze(self._sessions, vacuum=options.vacuum)
        self._flush()
        return rows.loaded

    def _flush(self) -> None:
        """Wait until everything that was committed before is on the disk.

        Only the commit of a transaction that has written to the WAL waits for that.
        """
        self._main.connection.execute(
            "SELECT pg_catalog.pg_logical_emit_message(true, 'pgkeep', '')"
        )

    def _suspend_default_privileges(self) -> list[default_privileges.Difference]:
        """Have objects created as the backup has them; a new database has no default privileges."""
        options = self._options
        if not (options.one_transaction and options.privileges):
            return []
        kinds = None if options.schema else "L"  # rows alone create large objects only
        return default_privileges.suspend(self._main.connection, kinds=kinds)
