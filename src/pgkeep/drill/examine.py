"""Compare a restored database with the file it came from; collect everything that is wrong."""

from collections.abc import Set

import msgspec

from ..artifact.file import Artifact
from ..model.manifest import Manifest
from ..postgres.connection import Endpoint
from ..progress import Progress
from . import catalog_checks, large_objects, recomputed, sequences
from .checks import DrillCheck
from .expected import ExpectedObjects
from .restored import RestoredDatabase
from .rows import compare, uncounted


class Examined(msgspec.Struct, frozen=True, kw_only=True):
    """What was proved, and what was found wrong."""

    checks: list[DrillCheck]
    warnings: list[str] = []

    @property
    def findings(self) -> list[str]:
        """Everything that is wrong."""
        return [finding for check in self.checks for finding in check.findings]


def examine(
    endpoint: Endpoint,
    artifact: Artifact,
    manifest: Manifest | None,
    *,
    jobs: int,
    progress: Progress,
    unproved: Set[tuple[str, str, str]] = frozenset(),
) -> Examined:
    """Compare a restored database with its artifact.

    `unproved` are the types, schemas and names of objects that were knowingly not restored.

    Raises:
        VerificationFailed: the artifact is damaged.
        ConnectionFailed, DumpFailed: the database cannot be read.

    """
    meta = artifact.index.meta
    checks: list[DrillCheck] = []
    warnings: list[str] = []
    rows = {(schema, name) for kind, schema, name in unproved if kind == "TABLE DATA"}
    if manifest is not None:
        checks.append(catalog_checks.check_manifest(artifact, manifest))
    if not meta.schema_only:
        progress.step("comparing rows")
        checks.append(
            compare(
                endpoint, artifact, zone=meta.timezone, jobs=jobs, progress=progress,
                unproved=rows,
            )
        )  # fmt: skip
        if inserted := uncounted(artifact):
            warnings.append(
                f"the rows of {len(inserted)} tables are INSERT statements: they were restored"
                " without an error, and not compared"
            )
    progress.step("checking objects")
    with endpoint.connect() as connection:
        database = RestoredDatabase(connection)
        expected = ExpectedObjects(artifact, unproved)
        checks += [
            catalog_checks.check_constraints(expected, database),
            catalog_checks.check_indexes(expected, database),
            sequences.check(expected, database, warnings),
            catalog_checks.check_views(expected, database),
            recomputed.check_operators(endpoint, meta.resolutions),
            catalog_checks.check_extensions(meta.extensions, database, warnings),
            catalog_checks.check_roles(artifact, database),
            catalog_checks.check_subscriptions(database),
        ]
        if not meta.schema_only:
            progress.step("comparing large objects")
            checks.append(large_objects.compare(connection, artifact))
    if not meta.schema_only:
        progress.step("comparing computed values")
        checks.append(recomputed.check_values(endpoint, meta.computed, meta.timezone, warnings))
    return Examined(checks=checks, warnings=warnings)
