"""Compare values that a restore computed, and the operators that it used, with the source.

Generated columns must be equal. A materialized view need not be: the source's may be older than its
tables, or its query may give other rows each time. Whether the search path made the difference is
found by refreshing it once more with the database's own (trap G4.2).
"""

from collections.abc import Iterator, Sequence

import psycopg

from ..model.manifest import Computed, Resolution
from ..postgres import computed_values, name_resolution, snapshot
from ..postgres.connection import Connection, Endpoint
from ..postgres.facts import server_facts
from ..sql.encodings import codec
from .checks import DrillCheck

REMEDY = "restore it with --search-path=database"


def check_operators(endpoint: Endpoint, expected: Sequence[Resolution]) -> DrillCheck:
    """Compare which operators are used where SQL text cannot name them (trap G4.1)."""
    there: dict[str, Resolution] = {}
    if expected:
        with endpoint.connect() as connection:
            there = name_resolution.resolved(connection, [before.object for before in expected])
    return DrillCheck(
        name="operators",
        checked=len(expected),
        findings=[
            f"{before.object}: {_described(there[before.object])}, in the backup"
            f" {_described(before)}; {REMEDY}"
            for before in expected
            if before.object in there and there[before.object].uses != before.uses
        ],
    )


def _described(before: Resolution) -> str:
    uses = [f"{use.construct} uses {', '.join(use.names)}" for use in before.uses]
    return "; ".join(uses) or "no operator outside pg_catalog"


def check_values(
    endpoint: Endpoint, expected: Sequence[Computed], zone: str | None, warnings: list[str]
) -> DrillCheck:
    """Compare generated columns and materialized views with the hashes of the source's.

    What is missing or not populated is found by other checks.
    """
    findings: list[str] = []
    if expected:
        settings = {} if zone is None else {"TimeZone": zone}
        with endpoint.connect(**settings) as connection:
            findings = list(_Values(connection).differences(expected, warnings))
    return DrillCheck(name="computed values", checked=len(expected), findings=findings)


class _Values:
    """The computed values of a restored database."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        encoding = connection.info.parameter_status("server_encoding") or "UTF8"
        self._codec = codec(encoding)
        in_recovery = server_facts(connection).in_recovery
        tables = computed_values.readable(
            snapshot.tables(connection, self._codec), in_recovery=in_recovery
        )
        self._targets = {
            target.relation.decode(self._codec, "backslashreplace"): target
            for target in computed_values.targets(connection, tables)
        }
        connection.execute(f"SET client_encoding = '{encoding}'".encode())

    def differences(self, expected: Sequence[Computed], warnings: list[str]) -> Iterator[str]:
        """Yield what is wrong; what may as well be right is a warning."""
        for before in expected:
            target = self._targets.get(before.relation)
            if target is None:
                continue
            found = computed_values.read(self._connection, target, self._codec)
            if found is None or found == before:
                continue
            label = target.label(self._codec)
            if target.view is None:
                if found.rows == before.rows:  # else the rows themselves differ, which is found too
                    yield (
                        f"{label}: its generated columns ({before.columns}) are not those of the"
                        f" backup; if they depend on search_path, {REMEDY}"
                    )
            elif self._depends_on_path(target, found, before):
                yield (
                    f"{label}: its {found.rows} rows are not the {before.rows} of the backup and"
                    f" depend on search_path; {REMEDY}"
                )
            else:
                warnings.append(
                    f"{label}: its {found.rows} rows are not the {before.rows} of the source, which"
                    " may have been older than its tables"
                )

    def _depends_on_path(
        self, target: computed_values.ComputedRelation, found: Computed, expected: Computed
    ) -> bool:
        """Whether a refresh with the database's own search path makes a difference."""
        own = self._refreshed(target, b"RESET search_path")
        if own is None or own == found:
            return False
        # Or a query that gives other rows each time.
        return own == expected or self._refreshed(target, b"SELECT 1") == found

    def _refreshed(
        self, target: computed_values.ComputedRelation, setting: bytes
    ) -> Computed | None:
        """Return what a materialized view would hold; in the end nothing is changed."""
        connection = self._connection
        try:
            with connection.transaction(force_rollback=True):
                connection.execute(setting)
                connection.execute(b"REFRESH MATERIALIZED VIEW %s" % target.relation)
                connection.execute("SELECT pg_catalog.set_config('search_path', '', true)")
                return computed_values.read(connection, target, self._codec)
        except psycopg.Error:
            if connection.closed:
                raise
            return None
