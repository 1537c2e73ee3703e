"""What must be true after each step, and after a run that nothing disturbs."""

import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from tests.support import buckets, servers

from . import ledger, plan
from .operations import backup_of, compare
from .world import MARK, Known, Result, World

DOCUMENTED = frozenset(range(12)) - {1}  # 1: unexpected
BAD = ("Traceback", "Exception ignored", "Fatal Python", "a bug in pgkeep", "unexpected error")
SETTLING = 15.0  # seconds for what ends after its run: backends, children of a killed run
HELD_MOST = 14  # backups that are kept; manual ones are removed by hand
# libfaketime makes time.sleep() fail in threads.
FAKETIME = re.compile(r"Exception in thread (?s:.){1,2000}?OSError: \[Errno 22\] Invalid argument")
# A killed run leaves public keys, which only the next run that encrypts with GPG removes.
PUBLIC_KEYS = "pgkeep-gpg-"
TEMPORARY = re.compile(r"\.partial-|^\.tmp")


def truth(result: Result, fault: plan.Fault | None, *, signalled: bool) -> list[str]:
    """Check the exit code and what was printed."""
    of_python = fault is not None and "SIGINT" in fault.name and "pgkeep/cli" not in result.err
    if of_python and ("KeyboardInterrupt" in result.err or "Fatal Python" in result.err):
        return []  # the signal met Python's own start
    said = result.err + result.out[:100_000]
    if fault is not None and "clock" in fault.name:
        said = FAKETIME.sub("", said)
    problems = [f"printed {word!r}" for word in BAD if word in said]
    code = result.code
    if code not in DOCUMENTED and not (signalled and (code < 0 or 128 < code < 160)):
        problems.append(f"exit code {code} is not documented")
    if code > 0 and "error:" not in result.err and "ended by" not in result.err:
        problems.append(f"exit code {code} without an error message: {result.last!r}")
    if code == 0 and re.match("error:", result.last):
        problems.append(f"exit code 0, and the last line is {result.last!r}")
    return problems


def nothing_lost(world: World, *, removing: bool) -> list[str]:
    """Compare the list of backups with those that are known."""
    listing = {entry["name"]: entry for entry in world.listing()}
    problems = []
    for name, entry in listing.items():
        if not [url for url, missing in entry["stores"].items() if not missing]:
            problems.append(f"{name} is listed, and no store has its file")
        if name not in world.known:
            problems.append(f"{name} is listed, and no run has made it")
    gone = [known for name, known in world.known.items() if name not in listing]
    for known in gone:
        newest = max(
            (each.name for each in world.known.values() if same(each, known) and each.verified),
            key=moment, default="",
        )  # fmt: skip
        if not removing:
            problems.append(f"{known.name} is lost")
        elif known.name == newest and not known.schema_only:
            problems.append(f"{known.name}, the newest verified backup, was removed")
        elif known.name in world.held:
            problems.append(f"{known.name} is held and was removed")
        del world.known[known.name]
    return problems


def same(left: Known, right: Known) -> bool:
    return left.name.split("_2")[0].rpartition("_")[0] == right.name.split("_2")[0].rpartition("_")[
        0
    ] and (left.schema_only == right.schema_only)


def moment(name: str) -> str:
    found = re.search(r"_(\d{8}T\d{6}Z)", name)
    return found[1] if found else ""


def restores(world: World, names: Sequence[str], number: int) -> list[str]:
    """Restore backups, every other one by the standard programs, and compare everything."""
    problems = []
    for place, name in enumerate(names):
        known = world.known.get(name)
        if known is None:
            continue
        target = f"check {number}"
        world.drop(target)
        if (place + number) % 2:
            error = by_hand(world, name, target)
        else:
            done = world.call(
                "restore", f"--backup={name}", f"--target-db={target}", "--no-analyze"
            )
            error = "" if done.code == 0 else f"exit code {done.code}: {done.tail()}"
        if error:
            problems.append(f"{name} is listed as complete and was not restored: {error}")
        elif not known.schema_only:
            with servers.connect(world.server, target) as connection:
                found = ledger.examine(connection)
            source = world.ledgers[known.database]
            problems += [f"{name}: {problem}" for problem in compare(found, known, source)]
        world.drop(target)
    return problems


def by_hand(world: World, name: str, target: str) -> str:
    """Restore with the standard programs; return the error."""
    entry = next(entry for entry in world.listing() if entry["name"] == name)
    bucket = all(url.startswith("s3:") for url, gone in entry["stores"].items() if not gone)
    artifact = entry["manifest"]["artifact"]["name"]
    data = world.load(artifact, bucket=bucket)
    if data is None:
        return f"{artifact} does not exist"
    file = world.folder / artifact
    file.write_bytes(data)
    identities = " ".join(f"-i {key.file}" for key in world.age)
    age, gpg = f'age -d {identities} "$1"', 'gpg --batch --quiet -d "$1"'
    read = {".age": age, ".gpg": gpg}.get(file.suffix, 'cat "$1"')
    unpack = "zstdcat" if ".sql.zst" in artifact else "zcat"
    servers.create(world.server, target)
    psql = f"{world.programs}/psql -X -q -v ON_ERROR_STOP=1 -o /dev/null"
    script = f"set -o pipefail; {read} | {unpack} | {psql}"
    done = subprocess.run(
        ["bash", "-c", script, "bash", str(file)], check=False, capture_output=True, text=True,
        env={**world.environment(), "PGDATABASE": target},
    )  # fmt: skip
    file.unlink()
    return "" if done.returncode == 0 else f"by hand: {done.returncode}: {done.stderr[-500:]}"


def tidy(world: World) -> None:
    """Remove old backups by hand, so that a step does not take longer and longer."""
    names = sorted(world.known, key=moment)
    for name in names[: max(0, len(names) - HELD_MOST)]:
        alike = [each for each in world.known if same(world.known[each], world.known[name])]
        if name != max(alike, key=moment):
            world.forget(name)


def nothing_left(world: World) -> list[str]:
    """Run everything once more without a fault, and look for what killed runs have left."""
    for name in plan.DATABASES:
        for stores in ("both", "bucket")[: 2 if name == "app" else 1]:
            operation = plan.Operation(
                name="backup", variant="", database=name, stores=stores, cipher="none",
                compression="gzip", jobs=2, pick=0,
            )  # fmt: skip
            backup_of(world, operation)
    problems = []
    for command in (("sync",), ("prune",)):
        # Short, so that base backups and WAL do not fill the directory.
        done = world.run(*command, env=world.environment(direct=True) | {"BACKUP_WINDOW": "6min"})
        if done.code != 0:
            problems.append(f"{command[0]} after faults: exit code {done.code}: {done.tail()}")
    deadline = time.monotonic() + SETTLING
    while (left := leftovers(world)) and time.monotonic() < deadline:
        time.sleep(0.3)
    return problems + left + orphans(world)


def leftovers(world: World) -> list[str]:
    """Return temporary files, uploads, databases, slots, sessions, locks and processes."""
    folder = world.folder / "backups" / "b"
    left = [f"file {path.name}" for path in folder.iterdir() if TEMPORARY.search(path.name)]
    left += [f"TMPDIR/{path.name}" for path in (world.folder / "tmp").iterdir()
             if not path.name.startswith(PUBLIC_KEYS)]  # fmt: skip
    left += [f"upload {key}" for key in buckets.unfinished(world.buckets.client(), world.bucket)
             if "/pitr/" not in key]  # fmt: skip
    expected = {"postgres", *plan.DATABASES}
    left += [f"database {name}" for name in world.databases() if name not in expected]
    queries = {
        "session": "select application_name || ' ' || query from pg_stat_activity"
        " where application_name like 'pgkeep%' and application_name not like '%stream%'"
        " and backend_type = 'client backend'",
        "lock": "select distinct objid::text from pg_locks where locktype = 'advisory'",
        "slot": "select slot_name::text from pg_replication_slots where slot_name !~ '^pgkeep_'"
        " or temporary",
    }
    for kind, query in queries.items():
        left += [f"{kind} {row[0]}" for row in servers.sql(world.server, "postgres", query)]
    left += [f"process {command}" for command in processes(world)]
    return left


def processes(world: World) -> list[str]:
    """Return the commands that runs of this world have left."""
    found = []
    for proc in Path("/proc").glob("[0-9]*"):
        try:
            variables = (proc / "environ").read_bytes()
            command = (proc / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        mine = (
            f"TMPDIR={world.folder}/tmp".encode() in variables and f"{MARK}=".encode() in variables
        )
        if mine and "pitr stream" not in command and "gpg-agent" not in command:
            found.append(command[:200])
    return found


def orphans(world: World) -> list[str]:
    """Check that files without a manifest are named, and remove them."""
    problems = []
    listed = {entry["manifest"]["artifact"]["name"] for entry in world.listing()}
    for bucket in (False, True):
        names = world.names(bucket=bucket)
        files = [name for name in names if name.endswith((".age", ".gpg", ".gz", ".zst"))
                 and ".globals." not in name and name not in listed]  # fmt: skip
        if files and not bucket:
            done = world.call("list")
            if "has no manifest" not in done.err:
                problems.append(f"{files[0]} has no manifest, and list does not warn")
        for file in files:
            for name in names:
                if name.startswith(file.partition(".")[0] + "."):
                    world.store(name, None, bucket=bucket)
    return problems
