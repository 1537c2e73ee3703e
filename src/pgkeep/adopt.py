"""Make an artifact whose manifest is lost a backup again."""

import hashlib
from datetime import UTC, datetime

from . import artifact as a
from . import errors as e
from . import manifest as m
from . import naming, verify
from .stores import Store, chunks


def adopt(store: Store, name: str, *, jobs: int, progress: verify.Progress) -> m.Manifest:
    """Verify an artifact to its end and write the manifest that it lacks.

    Raises:
        Refused: it has a manifest, or a name that tells neither type nor time.
        VerificationFailed: it is not whole.

    """
    parsed = naming.parse(name)
    if parsed is None or name != parsed.artifact:
        raise e.Refused(
            f"{name} is not named like an artifact",
            hint="Names are DATABASE_TYPE_TIMESTAMP.sql.gz, such as"
            " app_daily_20261122T020000Z.sql.gz.",
        )
    there = {item.name for item in store.items()}
    if parsed.manifest in there:
        raise e.Refused(f"{name} has a manifest already")
    verify.verify(store, name, jobs=jobs, progress=progress)
    source = store.open(name)
    try:
        digest = hashlib.sha256()
        for chunk in chunks(source):
            digest.update(chunk)
        artifact = a.Artifact(source)
        index = artifact.index
        size = source.size
    finally:
        source.close()
    meta = index.meta
    if meta.database.name != parsed.database:
        raise e.Refused(f"{name} holds database {meta.database.name}, not {parsed.database}")
    if meta.schema_only != parsed.schema_only:
        holds = "definitions only" if meta.schema_only else "rows too"
        raise e.Refused(f"{name} holds {holds}, its name says otherwise")
    manifest = m.Manifest(
        pgkeep=meta.pgkeep,
        database=meta.database,
        server=meta.server,
        client_version=meta.client_version,
        type=parsed.type,
        schema_only=meta.schema_only,
        taken=parsed.taken,
        snapshot=datetime.fromisoformat(meta.snapshot),
        finished=datetime.now(UTC),
        artifact=m.FileFacts(name, size, digest.hexdigest()),
        raw_bytes=index.raw_bytes,
        index_sha256=artifact.index_sha256,
        tables=index.table_rows(),
        extensions=meta.extensions,
        roles=meta.roles,
        warnings=["the manifest was lost and has been made anew"],
        verified=datetime.now(UTC),
    )
    with store.create(parsed.manifest) as upload:
        upload.write(m.encode(manifest))
        upload.seal()
        upload.publish()
    return manifest
