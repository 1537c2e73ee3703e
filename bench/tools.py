"""The commands that are compared, as somebody would type them."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .data import Lab

CORES = os.cpu_count() or 1
GZIP = "pg_dump | gzip"
GZIP_1 = "pg_dump | gzip -1"
PIGZ = f"pg_dump | pigz -p{CORES}"
ZSTD = "pg_dump | zstd -1"
FLOOR = "COPY to nowhere"
PGKEEP_BACKUP = "pgkeep backup"
PGKEEP_RESTORE = "pgkeep restore"
PGKEEP_VERIFY = "pgkeep verify"
WITH_ZSTD = " (zstd)"  # follows the name of a command of pgkeep

TABLES = """
SELECT c.oid::regclass, c.relpages FROM pg_class AS c
WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace ORDER BY c.oid
"""

_CREATE = "createdb -T template0 restored"
_PSQL = "psql -X -q -v ON_ERROR_STOP=1 -d restored"
_ARTIFACT = "$(ls $OUT/*.sql.{suffix} | grep -v '[.]globals[.]')"
_GZ, _ZST = _ARTIFACT.format(suffix="gz"), _ARTIFACT.format(suffix="zst")
_SETTINGS = "BACKUP_DIR=$OUT BACKUP_JOBS={jobs}"
_RESTORED = "--target-db=restored --yes"
_OBJECTS = f"{sys.executable} {Path(__file__).with_name('objects.py')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A command to measure, and how its result is checked beyond its exit status."""

    name: str
    command: str
    reads: str = ""  # prints the backup as SQL: its rows are counted
    restores: bool = False  # the rows of database "restored" are counted
    continues: bool = False  # its figures are those of the step before and its own together


def _backup(jobs: int) -> Step:
    command = f"{_SETTINGS.format(jobs=jobs)} pgkeep backup --type=manual"
    return Step(name=PGKEEP_BACKUP, command=command, reads=f"zcat {_GZ}")


def _backup_zstd(jobs: int) -> Step:
    return Step(
        name=PGKEEP_BACKUP + WITH_ZSTD,
        command=f"BACKUP_COMPRESSION=zstd {_backup(jobs).command}",
        reads=f"zstdcat {_ZST}",
    )


def backups(jobs: int) -> list[Step]:
    """Return the commands that back up $PGDATABASE into the folder $OUT."""
    directory = f"pg_dump -Fd -j{jobs}"
    return [
        Step(name=GZIP, command=f"{GZIP} >$OUT/dump.sql.gz", reads="zcat $OUT/dump.sql.gz"),
        Step(name=PIGZ, command=f"{PIGZ} >$OUT/dump.sql.gz", reads="zcat $OUT/dump.sql.gz"),
        Step(name=ZSTD, command=f"{ZSTD} >$OUT/dump.sql.zst", reads="zstdcat $OUT/dump.sql.zst"),
        Step(
            name=directory, command=f"{directory} -f $OUT/dump", reads="pg_restore -f - $OUT/dump"
        ),
        Step(
            name=f"{directory} -Z zstd:1",
            command=f"{directory} -Z zstd:1 -f $OUT/dump",
            reads="pg_restore -f - $OUT/dump",
        ),
        _backup(jobs),
        _backup_zstd(jobs),
    ]


def small_backups(jobs: int) -> list[Step]:
    """Return the commands that back up many small tables."""
    command = f"{GZIP_1} >$OUT/dump.sql.gz"
    return [Step(name=GZIP_1, command=command, reads="zcat $OUT/dump.sql.gz"), _backup(jobs)]


def restores(jobs: int) -> dict[str, list[Step]]:
    """Return for each command that backs up the commands that restore its output from $OUT.

    pgkeep creates the new database itself, so this is part of the work of the others too.
    """
    directory = f"pg_dump -Fd -j{jobs}"
    load = f"{_CREATE} && pg_restore -j{jobs} -d restored $OUT/dump"
    # vacuumdb analyzes several tables at once; pgkeep does this at the end of a restore.
    analyze = f"vacuumdb --analyze-only -q -j{jobs} -d restored"

    def restored(name: str) -> list[Step]:
        return [
            Step(name=name, command=load),
            Step(name=f"{name}, vacuumdb", command=analyze, restores=True, continues=True),
        ]

    def by_pgkeep(name: str, file: str) -> list[Step]:
        pgkeep = f"{_SETTINGS.format(jobs=jobs)} pgkeep restore --backup={file} {_RESTORED}"
        return [Step(name=name, command=pgkeep, restores=True)]

    psql = f"{_CREATE} && zcat $OUT/dump.sql.gz | {_PSQL}"
    return {
        GZIP: [Step(name="zcat | psql", command=psql, restores=True)],
        directory: restored(f"pg_restore -j{jobs} (gzip)"),
        f"{directory} -Z zstd:1": restored(f"pg_restore -j{jobs} (zstd:1)"),
        PGKEEP_BACKUP: by_pgkeep(PGKEEP_RESTORE, _GZ),
        PGKEEP_BACKUP + WITH_ZSTD: by_pgkeep(PGKEEP_RESTORE + WITH_ZSTD, _ZST),
    }


def verifications() -> dict[str, list[Step]]:
    """Return for each command that backs up the commands that verify its backup file in $OUT.

    The last one is that of pgkeep.
    """
    pgkeep = f"BACKUP_DIR=$OUT {PGKEEP_VERIFY}"
    return {
        PGKEEP_BACKUP: [
            Step(name="gzip -t", command=f"gzip -t {_GZ}"),
            Step(name="pigz -t", command=f"pigz -t {_GZ}"),
            Step(name=PGKEEP_VERIFY, command=f"{pgkeep} {_GZ}"),
        ],
        PGKEEP_BACKUP + WITH_ZSTD: [
            Step(name="zstd -t", command=f"zstd -q -t {_ZST}"),
            Step(name=PGKEEP_VERIFY + WITH_ZSTD, command=f"{pgkeep} {_ZST}"),
        ],
    }


# One after the other, in the same folder and bucket; --latest finds the backup that is only in it.
_ONLY_BUCKET = "BACKUP_DIR=s3://$BUCKET/x BACKUP_JOBS={jobs} env -u BACKUP_S3_BUCKET"
UPLOAD = "pg_dump | gzip -1 | upload"
DOWNLOAD = "download | zcat | psql"
TO_BUCKET = "pgkeep backup, to a bucket"
FROM_BUCKET = "pgkeep restore, from the bucket"


def buckets(jobs: int) -> list[list[Step]]:
    """Return the commands for a bucket; those of an inner list follow each other."""
    local = _SETTINGS.format(jobs=jobs)
    remote = _ONLY_BUCKET.format(jobs=jobs)
    load = f"{_CREATE} && {_OBJECTS} get $BUCKET dump.sql.gz | zcat | {_PSQL}"
    return [
        [
            Step(
                name="pgkeep backup, to a directory",
                command=f"{local} env -u BACKUP_S3_BUCKET pgkeep backup",
            ),
            Step(
                name="pgkeep backup, to a directory and a bucket", command=f"{local} pgkeep backup"
            ),
        ],
        [
            Step(name=UPLOAD, command=f"{GZIP_1} | {_OBJECTS} put $BUCKET dump.sql.gz"),
            Step(name=DOWNLOAD, command=load, restores=True),
        ],
        [
            Step(name=TO_BUCKET, command=f"{remote} pgkeep backup"),
            Step(
                name=FROM_BUCKET,
                command=f"{remote} pgkeep restore --latest {_RESTORED}",
                restores=True,
            ),
        ],
    ]


# The keys are in the environment. gpg would compress once more, so it is told not to.
_CIPHERS = {
    "age": (
        "BACKUP_ENCRYPT_TO=$AGE BACKUP_IDENTITY_FILE=$IDENTITY",
        "age -r $AGE",
        "age -d -i $IDENTITY",
    ),
    "GPG": (
        "BACKUP_ENCRYPT_TO=$PUBLIC",
        "gpg --batch -q --trust-model=always -z0 -e -f $PUBLIC",
        "gpg --batch -q -d",
    ),
}


def encrypted(jobs: int) -> list[list[Step]]:
    """Return the commands that back up, verify and restore, with and without encryption."""
    found = [_by_pgkeep(jobs, "not encrypted", "")]
    for cipher, (settings, encrypt, decrypt) in _CIPHERS.items():
        found += [_by_hand(cipher, encrypt, decrypt), _by_pgkeep(jobs, cipher, settings)]
    return found


def encrypted_peers() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the rows of pgkeep with those that do the same work without it."""
    for cipher in _CIPHERS:
        steps = zip(_by_pgkeep(1, cipher, ""), _by_hand(cipher, "", ""), strict=True)
        yield from ((ours.name, (peer.name,)) for ours, peer in steps)


def _by_pgkeep(jobs: int, cipher: str, settings: str) -> list[Step]:
    settings = f"{settings} {_SETTINGS.format(jobs=jobs)}".strip()
    restore = f"{settings} pgkeep restore --latest {_RESTORED}"
    return [
        Step(name=f"{PGKEEP_BACKUP} ({cipher})", command=f"{settings} pgkeep backup"),
        Step(name=f"{PGKEEP_VERIFY} ({cipher})", command=f"{settings} pgkeep verify --latest"),
        Step(name=f"{PGKEEP_RESTORE} ({cipher})", command=restore, restores=True),
    ]


def _by_hand(cipher: str, encrypt: str, decrypt: str) -> list[Step]:
    program = {"age": "age", "GPG": "gpg"}[cipher]
    file = "$OUT/dump.sql.gz.encrypted"
    load = f"{_CREATE} && {decrypt} {file} | zcat | {_PSQL}"
    return [
        Step(name=f"{GZIP} | {program}", command=f"{GZIP} | {encrypt} >{file}"),
        Step(name=f"{program} -d | gzip -t", command=f"{decrypt} {file} | gzip -t"),
        Step(name=f"{program} -d | zcat | psql", command=load, restores=True),
    ]


def starts() -> list[Step]:
    """Return commands that do little."""
    return [
        Step(name="python -c pass", command=f"exec {sys.executable} -c pass"),
        Step(name="pgkeep --version", command="exec pgkeep --version"),
        Step(name="pgkeep list", command="BACKUP_DIR=$OUT exec pgkeep list"),
    ]


def floor(lab: Lab, database: str, folder: Path) -> Step:
    """Return the command that only reads: every connection copies its share of every table."""
    scripts: list[list[str]] = [[] for _ in range(lab.jobs)]
    for line in lab.psql(database, TABLES).splitlines():
        table, pages = line.split("|")
        # The last share has no upper end: relpages is an estimate.
        bounds = [int(pages) * job // lab.jobs for job in range(lab.jobs)]
        for job, low in enumerate(bounds):
            upper = f" AND ctid < '({bounds[job + 1]},0)'" if job + 1 < lab.jobs else ""
            rows = f"SELECT * FROM {table} WHERE ctid >= '({low},0)'{upper}"
            scripts[job].append(f"COPY ({rows}) TO STDOUT;\n")
    paths = [folder / f"{database}_{job}.sql" for job in range(lab.jobs)]
    for path, script in zip(paths, scripts, strict=True):
        path.write_text("".join(script))
    started = " ".join(f"psql -X -q -v ON_ERROR_STOP=1 -f {path} >/dev/null &" for path in paths)
    return Step(name=FLOOR, command=f"{started} for child in $(jobs -p); do wait $child; done")
