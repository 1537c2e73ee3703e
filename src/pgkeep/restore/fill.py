"""Load the file of a plan into one database, and compare the number of rows with the backup."""

import dataclasses
import re

from .. import errors as e
from ..artifact import plain_reader
from ..artifact.file import Artifact, Object
from ..postgres.connection import Connection, Endpoint
from ..progress import Progress
from ..sql.encodings import codec
from . import search_path
from .load import load, plain
from .load.options import Loaded, LoadOptions
from .load.session import EntryText, Statement
from .plan import Mode, Plan
from .run import Run
from .search_path import SearchPath
from .target import foreign_keys, triggers

_ENCODING = re.compile(rb"^SET client_encoding = '(\w+)';$", re.MULTILINE)


def fill(run: Run, endpoint: Endpoint, sha256: str | None, progress: Progress) -> Loaded | None:
    """Load the file; None for a plain dump, which is not known well enough to count its tables.

    Raises:
        RestoreFailed: names the object and what the server said.
        VerificationFailed: the file is damaged, or not the one that was checked.

    """
    plan = run.plan
    if plan.artifact is None:
        run.plain_rows = plain.load(
            endpoint,
            plan.source,
            encoding(plan) or "SQL_ASCII",
            progress,
            sha256=sha256,
            allow=plan.options.allow_statements,
        )
        return None
    loaded = load.load(endpoint, plan.artifact, _Filling(run, plan.artifact).options(), progress)
    if not plan.options.schema_only:
        _compare(run, loaded)
    return loaded


def encoding(plan: Plan) -> str | None:
    """Return the encoding of a backup's database, or the one that a plain dump says it is in."""
    if plan.meta is not None:
        return plan.meta.database.encoding
    match = _ENCODING.search(next(plain_reader.plain_blocks(plan.source), b""))
    return match[1].decode() if match else None


def _compare(run: Run, loaded: Loaded) -> None:
    for table in run.tables():
        found = loaded.rows.get((table.schema, table.name), 0)
        if found != table.rows:
            raise e.RestoreFailed(
                f"{table.schema}.{table.name}: {found} rows loaded, the backup has {table.rows}"
            )


class _Filling:
    """What a load of an artifact asks about the plan."""

    def __init__(self, run: Run, artifact: Artifact) -> None:
        self._run = run
        self._plan = run.plan
        self._artifact = artifact

    def options(self) -> LoadOptions:
        chosen = self._plan.options
        selection = self._run.selection
        tolerant = self._run.failed is not None or (selection is not None and selection.is_tolerant)
        options = LoadOptions(
            jobs=chosen.jobs,
            schema=not chosen.data_only,
            data=not chosen.schema_only,
            owner=chosen.owner,
            privileges=chosen.privileges,
            one_transaction=self._plan.mode in (Mode.IN_PLACE, Mode.DATA_ONLY),
            disable_triggers=chosen.disable_triggers,
            analyze=chosen.analyze and not chosen.schema_only,
            vacuum=chosen.vacuum,
            adapt=self._adapt,
            skips_rows=lambda entry: self._run.skips_rows((entry.schema, entry.name)),
            tolerates=self._tolerates if tolerant else None,
            settings=self._search_path(),
            check=self._check_counts if chosen.data_only else lambda _: None,
        )
        if chosen.session is not None:
            options = dataclasses.replace(options, session=chosen.session)
        return options

    def _adapt(self, entry: Object, text: bytes) -> EntryText | None:
        selection = self._run.selection
        return selection.adapt(entry, text) if selection is not None else (entry, text)

    def _tolerates(self, entry: Object, text: bytes, error: e.RestoreFailed) -> bool:
        while_loading, failed = self._run.while_loading, self._run.failed
        if while_loading is not None and while_loading.tolerates(entry, text, error):
            return True
        if failed is not None:
            failed.record(entry, text, error)
        return failed is not None

    def _search_path(self) -> list[Statement]:
        """Return what sets the search path, where that of the dump does not fit."""
        options = self._plan.options
        if options.data_only:
            # No definition is read; triggers and checks run as in any session (trap G4.3).
            return [b"RESET search_path"]
        if options.search_path == SearchPath.EMPTY:
            return []
        return [search_path.loading(self._artifact.index.meta)]

    def _check_counts(self, connection: Connection) -> None:
        """Compare the tables with the backup before the commit; COPY counts only its own rows."""
        tables = self._run.tables()
        with search_path.empty(connection):
            existing = foreign_keys.tables(
                connection, codec(self._artifact.index.meta.database.encoding)
            )
            fired = triggers.firing(
                connection,
                {existing.get((table.schema, table.name), 0) for table in tables if table.rows},
                triggers.Event.INSERT,
                replica=self._plan.options.disable_triggers,
            )
            if fired:
                rows = {(table.schema, table.name): table.rows for table in tables}
                triggers.compare(connection, rows)
