"""Many databases, and many backups or WAL segments in a directory and in a bucket."""

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from tests.support import planted, planted_wal

from pgkeep.model import record
from pgkeep.model.manifest import FileFacts, encode
from pgkeep.model.wal import Segment
from pgkeep.pitr import base_manifest
from pgkeep.pitr.archive import stored_name
from pgkeep.pitr.location import ClusterFacts

from .schemas import RESTORE
from .subject import Command, Stage, Subject

_MISSED = "|| [ $? = 5 ]"  # the exit code if a goal is missed
_PAGE = f"{sys.executable} -m bench.scale.page"
LIST = Command(name="pgkeep list", line="pgkeep list")
JSON = Command(name="pgkeep list --json", line="pgkeep list --json")
STATUS = Command(name="pgkeep status", line=f"pgkeep status {_MISSED}")
METRICS = Command(name="pgkeep metrics", line="pgkeep metrics")
DRY_PRUNE = Command(name="pgkeep prune --dry-run", line="pgkeep prune --dry-run")
PRUNE = Command(
    name="pgkeep prune", line="BACKUP_RETENTION_DAILY=30 pgkeep -q prune --force", once=True
)
PAGE = Command(name="pgkeep serve: /", line=f"{_PAGE} /")
DATABASE = Command(name="pgkeep serve: /database/app", line=f"{_PAGE} /database/app")
SCRAPE = Command(name="pgkeep serve: /metrics", line=f"{_PAGE} /metrics")
HISTORY = Command(name="pgkeep history", line="pgkeep history")
HOLD = Command(
    name="pgkeep hold and release, by name",
    line="name=$(pgkeep list --names --database=app | tail -n 1)"
    " && pgkeep -q hold $name --reason=x && pgkeep -q release $name",
)
BACKUP = Command(name="pgkeep backup", line="pgkeep -q backup --type=daily")
NEW_MACHINE = Command(
    name="pgkeep list, on a new machine", line="XDG_CACHE_HOME=/proc/none pgkeep list"
)
WINDOWS = Command(name="pgkeep pitr windows", line="pgkeep pitr windows")
EXPIRE = Command(
    name="pgkeep prune (base backups and WAL)",
    line="BACKUP_WINDOW=10d pgkeep -q prune --force",
    once=True,
)

APP = "CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 100) AS i"
SUMS = "SELECT count(*), sum(i) FROM t"


def _databases(stage: Stage, count: int) -> None:
    stage.create(APP)
    lab = stage.lab
    script = "".join(f"CREATE DATABASE d{n} TEMPLATE app;\n" for n in range(1, count))
    lab.psql("postgres", script + "CHECKPOINT")
    stage.environment["BACKUP_DATABASES"] = "*"


def _files(stage: Stage, count: int) -> Iterator[tuple[str, bytes]]:
    """Yield files of backups: four fifths are of one database, the others of twenty."""
    cluster = stage.lab.psql("postgres", "SELECT system_identifier FROM pg_control_system()")
    now = datetime.now(UTC).replace(microsecond=0)
    names = {"app": count * 4 // 5} | {f"d{n}": count // 100 for n in range(20)}
    for database, backups in names.items():
        for number in range(backups):
            manifest = planted.manifest(
                now - timedelta(hours=24 * number + 1), database=database, cluster=cluster.strip()
            )
            yield from ((name, b"x") for name in manifest.name.files[:-1])
            yield manifest.name.manifest, encode(manifest)


_NIGHTS = 5  # of which backups exist
_RECORDS = 40  # nights of which records exist


def _nights(stage: Stage, count: int) -> None:
    """Write backups of the last nights, and records of runs that also removed older ones."""
    stage.create(APP)
    now = datetime.now(UTC).replace(microsecond=0)
    names = ["app", *(f"d{n}" for n in range(1, count))]
    (stage.backups / "records").mkdir()
    stems = []
    for night in range(_RECORDS + _NIGHTS):
        taken = now - timedelta(days=night, hours=1)
        manifests = [planted.manifest(taken, database=name) for name in names]
        stems.append([manifest.name.stem for manifest in manifests])
        for manifest in manifests if night < _NIGHTS else ():
            planted.plant(stage.backups, manifest)
    for night in range(_RECORDS):
        taken = now - timedelta(days=night, hours=1)
        results = zip(names, stems[night], strict=True)
        made = record.Record(
            command="backup", pgkeep="0", user="u", host="h", type="daily",
            started=taken, finished=taken + timedelta(minutes=1), exit_code=0,
            results=[record.DatabaseResult(database=name, backup=stem) for name, stem in results],
            removed=stems[night + _NIGHTS],
        )  # fmt: skip
        path = stage.backups / record.name_of(made, night).file
        path.write_bytes(msgspec.json.encode(made))


def _in_directory(stage: Stage, count: int) -> None:
    stage.create(APP)
    for name, data in _files(stage, count):
        (stage.backups / name).write_bytes(data)
    stage.environment["BACKUP_RETENTION_DAILY"] = "36500"


def _use_bucket(stage: Stage) -> Callable[[tuple[str, bytes]], None]:
    """Let the commands use a new bucket; return what puts a file into it."""
    buckets = stage.buckets
    bucket = buckets.bucket()
    settings = buckets.environment(bucket)
    del settings["BACKUP_S3_BUCKET"]
    stage.environment |= settings | {"BACKUP_DIR": f"s3://{bucket}/backups"}
    client = buckets.client()

    def put(file: tuple[str, bytes]) -> None:
        client.put_object(Bucket=bucket, Key=f"backups/{file[0]}", Body=file[1])

    return put


def _in_bucket(stage: Stage, count: int) -> None:
    stage.create(APP)
    put = _use_bucket(stage)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, ((f"daily/{name}", data) for name, data in _files(stage, count))))
    stage.environment["BACKUP_RETENTION_DAILY"] = "36500"


_SEGMENT_TIME = timedelta(minutes=1)
_BASE_EVERY = 500  # segments


def _wal_files(count: int) -> Iterator[tuple[str, bytes, datetime]]:
    """Yield the files of a cluster that stored a segment each minute until now."""
    begin = datetime.now(UTC).replace(microsecond=0) - count * _SEGMENT_TIME
    folder = f"pitr/{planted_wal.IDENTIFIER}"
    facts = ClusterFacts(
        system_identifier=planted_wal.IDENTIFIER, segment_size=planted_wal.SIZE,
        version_num=170000, name=None,
    )  # fmt: skip
    yield f"{folder}.cluster.json", msgspec.json.encode(facts), begin
    for number in range(1, count, _BASE_EVERY):
        started = begin + number * _SEGMENT_TIME
        name = base_manifest.base_name(started, base_manifest.Kind.FULL)
        base = msgspec.structs.replace(
            planted_wal.base(number), started=started, stopped=started + timedelta(seconds=30),
            backup_manifest=FileFacts(f"{name}.manifest", 1, "0"),
        )  # fmt: skip
        yield f"{folder}/base/{name}{base_manifest.SUFFIX}", base_manifest.encode(base), started
        yield f"{folder}/base/{name}.manifest", b"x", started
    for number in range(1, count + 1):
        name = Segment(1, number).name(planted_wal.SIZE)
        path = f"{folder}/wal/{stored_name(name, '0' * 64, None)}"
        yield path, b"", begin + number * _SEGMENT_TIME


def _wal(stage: Stage, count: int) -> None:
    stage.create(APP)
    for name in ("wal", "base", "drill"):
        (stage.backups / "pitr" / planted_wal.IDENTIFIER / name).mkdir(parents=True)
    for name, data, stored in _wal_files(count):
        path: Path = stage.backups / name
        path.write_bytes(data)
        os.utime(path, (stored.timestamp(), stored.timestamp()))


def _wal_in_bucket(stage: Stage, count: int) -> None:
    stage.create(APP)
    put = _use_bucket(stage)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, ((name, data or b"x") for name, data, _ in _wal_files(count))))


DATABASES = Subject(
    title="Databases",
    text="Each has one table with 100 rows.",
    sizes=(250, 500, 1000),
    build=_databases,
    commands=(
        Command(name="pgkeep backup (all databases)", line="pgkeep -q backup --type=daily"),
        Command(name="pgkeep doctor", line="pgkeep -q doctor >/dev/null || true"),
        Command(name="pgkeep verify --latest", line="pgkeep -q verify --latest"),
        LIST, STATUS, METRICS, DRY_PRUNE, HISTORY, PAGE, DATABASE, SCRAPE, RESTORE,
    ),
    sums=SUMS,
    needs=14 << 30,
)  # fmt: skip
NIGHTS = Subject(
    title="Nightly backups of many databases",
    text=f"Backups of {_NIGHTS} nights of n databases, and records of {_RECORDS} runs, each of"
    " which backed up all databases and removed an older backup of each.",
    sizes=(250, 500, 1000),
    build=_nights,
    commands=(LIST, STATUS, METRICS, HISTORY, PAGE, DATABASE, SCRAPE, DRY_PRUNE, PRUNE),
)
BACKUPS = Subject(
    title="Backups in a directory",
    text="Four fifths are of one database, the others of 20.",
    sizes=(1250, 2500, 5000),
    build=_in_directory,
    commands=(
        LIST, JSON, STATUS, METRICS, HISTORY, PAGE, DATABASE, SCRAPE, HOLD, DRY_PRUNE, BACKUP,
        PRUNE,
    ),
)  # fmt: skip
BUCKET = Subject(
    title="Backups in a bucket",
    text="The same backups, in a bucket on the same machine (SeaweedFS). A new machine has no"
    " copies of the manifests.",
    sizes=(1250, 2500, 5000),
    build=_in_bucket,
    commands=(NEW_MACHINE, *BACKUPS.commands),
    bucket=True,
)
WAL = Subject(
    title="WAL segments in a directory",
    text=f"One cluster stored a segment each minute, and took {_BASE_EVERY} segments apart a full"
    " base backup.",
    sizes=(25_000, 50_000, 100_000),
    build=_wal,
    commands=(WINDOWS, LIST, STATUS, METRICS, PAGE, SCRAPE, DRY_PRUNE, EXPIRE),
)
WAL_BUCKET = Subject(
    title="WAL segments in a bucket",
    text="The same files, in a bucket on the same machine (SeaweedFS).",
    sizes=(25_000, 50_000, 100_000),
    build=_wal_in_bucket,
    commands=(WINDOWS, LIST, STATUS, METRICS, PAGE, SCRAPE, DRY_PRUNE, EXPIRE),
    bucket=True,
)
