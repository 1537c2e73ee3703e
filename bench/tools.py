"""The commands that are compared, as somebody would type them."""

import os
from pathlib import Path

from .data import Lab

CORES = os.cpu_count() or 1
GZIP = "pg_dump | gzip"
PIGZ = f"pg_dump | pigz -p{CORES}"
PGKEEP_BACKUP = "pgkeep backup"
PGKEEP_RESTORE = "pgkeep restore"
FLOOR = "COPY to nowhere"

# The artifact is the only file of its kind: the folder was empty before.
ARTIFACT = "$(ls $OUT/*.sql.gz | grep -v '[.]globals[.]sql[.]gz$')"
RESTORE = f"pgkeep restore --backup={ARTIFACT} --target-db=restored --yes"

TABLES = """
SELECT c.oid::regclass, c.relpages FROM pg_class AS c
WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace ORDER BY c.oid
"""


def backups(jobs: int) -> dict[str, str]:
    """Return the commands that back up $PGDATABASE into the folder $OUT."""
    return {
        GZIP: "pg_dump | gzip >$OUT/dump.sql.gz",
        PIGZ: f"pg_dump | pigz -p{CORES} >$OUT/dump.sql.gz",
        f"pg_dump -Fd -j{jobs}": f"pg_dump -Fd -j{jobs} -f $OUT/dump",
        f"pg_dump -Fd -j{jobs} -Z zstd:1": f"pg_dump -Fd -j{jobs} -Z zstd:1 -f $OUT/dump",
        PGKEEP_BACKUP: f"BACKUP_DIR=$OUT BACKUP_JOBS={jobs} pgkeep backup --type=manual",
    }


def restores(jobs: int) -> dict[str, tuple[str, str]]:
    """Return for each command that restores $OUT the command that backs up for it.

    pgkeep makes the new database itself, so for the others that is part of the work too.
    """
    backup = backups(jobs)
    create = "createdb -T template0 restored"
    directory = f"pg_dump -Fd -j{jobs}"
    zstd = f"{directory} -Z zstd:1"
    psql = "psql -X -q -v ON_ERROR_STOP=1 -d restored"
    load = f"{create} && pg_restore -j{jobs} -d restored $OUT/dump"
    return {
        "zcat | psql": (f"{create} && zcat $OUT/dump.sql.gz | {psql}", backup[GZIP]),
        f"pg_restore -j{jobs} (gzip)": (load, backup[directory]),
        f"pg_restore -j{jobs} (zstd:1)": (load, backup[zstd]),
        PGKEEP_RESTORE: (
            f"BACKUP_DIR=$OUT BACKUP_JOBS={jobs} {RESTORE}",
            backup[PGKEEP_BACKUP],
        ),
    }


# One after the other, in the same folder and bucket; an artifact is named by the second.
_NO_BUCKET = "env -u BACKUP_S3_BUCKET"
OFFSITE = {
    "to a directory": f"BACKUP_DIR=$OUT BACKUP_JOBS={{jobs}} {_NO_BUCKET} pgkeep backup",
    "to a directory and a bucket": "BACKUP_DIR=$OUT BACKUP_JOBS={jobs} pgkeep backup",
    "to a bucket": f"BACKUP_DIR=s3://$BUCKET/x BACKUP_JOBS={{jobs}} {_NO_BUCKET} pgkeep backup",
    "from the bucket": f"BACKUP_DIR=s3://$BUCKET/x BACKUP_JOBS={{jobs}} {_NO_BUCKET} pgkeep restore"
    " --latest --target-db=restored",
}


# The settings for a backup and its restore; keys are in the environment.
ENCRYPTION = {
    "not encrypted": "",
    "age": "BACKUP_ENCRYPT_TO=$AGE BACKUP_IDENTITY_FILE=$IDENTITY",
    "GPG": "BACKUP_ENCRYPT_TO=$PUBLIC",
}
ENCRYPTED_BACKUP = "{settings} BACKUP_DIR=$OUT BACKUP_JOBS={jobs} pgkeep backup"
ENCRYPTED_RESTORE = (
    "{settings} BACKUP_DIR=$OUT BACKUP_JOBS={jobs} pgkeep restore --latest --target-db=restored"
    " --yes"
)


def floor(lab: Lab, database: str, folder: Path) -> str:
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
    return f"{started} for child in $(jobs -p); do wait $child; done"
