"""The commands of logical backups, and what each of them must have done when it has ended."""

import gzip
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from tests.support import servers

from . import ledger
from .plan import Operation
from .world import Known, Result, World

MARKS = "create table marks as select 'old' as of"
PARTITIONED = ("parts", "table as")
RESTORED = re.compile(r" is (restored|published)|was swapped|swapped in")


class Task(ABC):
    """One operation of a step: its command, and what is checked when it has ended."""

    codes: ClassVar[tuple[int, ...]] = ()  # that are not a failure, besides 0
    beside: ClassVar[tuple[int, ...]] = ()  # besides 10, while another command changes the stores

    def __init__(self, world: World, operation: Operation, number: int) -> None:
        self.world, self.operation, self.number = world, operation, number
        self.args: tuple[str, ...] = ()
        self.env: dict[str, str] = {}
        self.alone = True

    @property
    def ledger(self) -> ledger.Ledger:
        return self.world.ledgers[self.operation.database]

    @abstractmethod
    def prepare(self) -> None:
        """Make what the command needs, and choose its arguments."""

    def judge(self, result: Result) -> list[str]:
        """Return what is wrong; clean up what the operation has made on purpose."""
        return []

    def expected(self, result: Result, *, calm: bool) -> list[str]:
        """Return what is wrong with an exit code where nothing disturbs."""
        allowed = {0, *self.codes} | (set() if self.alone else {10, *self.beside})
        if calm and result.code not in allowed:
            return [f"exit code {result.code} without a fault"]
        return []

    def pick(self, found: Sequence[Any]) -> Any:
        return found[min(int(self.operation.pick * len(found)), len(found) - 1)]

    def encrypting(self) -> dict[str, str]:
        """Return the environment of a run that encrypts as this operation does."""
        to = self.world.recipients(self.operation.cipher, self.operation.pick)
        return self.world.environment(self.operation) | to

    def clean(self, *args: str) -> Result:
        """Run a command that must succeed."""
        done = self.world.call(*args)
        assert done.code == 0, f"pgkeep {' '.join(args)}: exit code {done.code}\n{done.err}"
        return done

    def entries(self, *, database: bool = True) -> list[dict[str, Any]]:
        """Return the full backups that the stores of this operation have."""
        found = [
            entry
            for entry in self.world.listing()
            if entry["name"] in self.world.known
            and not self.world.known[entry["name"]].schema_only
            and reachable(self.world, self.operation.stores, entry)
        ]
        own = [
            entry for entry in found
            if self.world.known[entry["name"]].database == self.operation.database
        ]  # fmt: skip
        return own if database else found

    def choose(self) -> dict[str, Any]:
        """Return a full backup; make one if there is none."""
        if not self.entries():
            backup_of(self.world, self.operation)
        entry: dict[str, Any] = self.pick(self.entries())
        return entry


def reachable(world: World, stores: str, entry: Mapping[str, Any]) -> bool:
    """Whether a run that uses these stores has a complete backup."""
    complete = [url for url, missing in entry["stores"].items() if not missing]
    if stores == "bucket":
        return any(url.startswith("s3:") for url in complete)
    if stores == "directory":
        return any(not url.startswith("s3:") for url in complete)
    return bool(complete)


def backup_of(world: World, operation: Operation) -> Known:
    """Back up without any fault."""
    low = world.ledgers[operation.database].settle()
    env = world.environment(stores=operation.stores, direct=True) | {"BACKUP_ENCRYPT_TO": "none"}
    done = world.run(
        "backup", "--type=manual", "--verify", f"--database={operation.database}", "--json",
        env=env,
    )  # fmt: skip
    assert done.code == 0, done.err
    (made,) = json.loads(done.out)["backups"]
    name = made["artifact"]["name"].partition(".sql.")[0]
    known = Known(name, operation.database, low, world.ledgers[operation.database].settle(),
                  schema_only=False, verified=True)  # fmt: skip
    world.known[name] = known
    return known


class Backup(Task):
    """pgkeep backup."""

    codes = (7,)  # retention refuses if more than half would be removed

    def prepare(self) -> None:
        operation = self.operation
        kind, _, more = operation.variant.partition(" ")
        self.schema = kind == "schema"
        args = ["backup", "--json", f"--database={operation.database}", f"--jobs={operation.jobs}"]
        args.append(f"--type={'daily' if self.schema else kind}")
        if self.schema:
            args.append("--schema-only")
        elif kind == "manual":
            args.append("--no-verify" if more else "--verify")
        self.args = tuple(args)
        self.env = self.encrypting()
        self.env["BACKUP_COMPRESSION"] = operation.compression
        self.before = {entry["name"] for entry in self.world.listing()}
        self.low = self.ledger.settle()

    def expected(self, result: Result, *, calm: bool) -> list[str]:
        # Schemas that are renamed all the time: a backup gives up after some attempts.
        if calm and result.code == 4 and "renamed" in result.err:
            return []
        return super().expected(result, calm=calm)

    def judge(self, result: Result) -> list[str]:
        high = self.ledger.settle()
        new = [
            entry
            for entry in self.world.listing()
            if entry["name"] not in self.before
            and entry["manifest"]["database"]["name"] == self.operation.database
            and entry["name"] not in self.world.known
        ]
        problems = []
        for entry in new:
            if not [url for url, missing in entry["stores"].items() if not missing]:
                problems.append(f"{entry['name']} is new and its file is missing")
                continue
            self.world.known[entry["name"]] = Known(
                entry["name"], self.operation.database, self.low, high,
                schema_only=entry["manifest"].get("schema_only", False),
                verified="verified" in entry["manifest"], doubtful=result.code != 0,
            )  # fmt: skip
        return problems + self._truth(result, new)

    def _truth(self, result: Result, new: Sequence[Mapping[str, Any]]) -> list[str]:
        """Compare what was reported with what exists."""
        if result.code == 0:
            (made,) = json.loads(result.out)["backups"]
            name = made["artifact"]["name"].partition(".sql.")[0]
            entry = next((entry for entry in self.world.listing() if entry["name"] == name), None)
            if entry is None:
                return [f"exit code 0, but {name} is not listed"]
            stores = "bucket" if self.operation.stores == "required" else self.operation.stores
            if not reachable(self.world, stores, entry):
                return [f"exit code 0, but {name} is not in the {stores}: {entry['stores']}"]
            return []
        told = result.code in (6, 7) or result.code == -9 or RESTORED.search(result.err)
        if new and self.alone and not told:
            return [f"exit code {result.code}, but {new[0]['name']} is listed: {result.last}"]
        return []


class Prune(Task):
    """pgkeep prune."""

    codes = (7,)

    def prepare(self) -> None:
        self.args = ("prune", "--json")
        self.env = self.world.environment(self.operation)
        variant = self.operation.variant
        if variant in ("strict", "force"):
            kept = 1 + int(self.operation.pick * 3)
            self.env |= {
                "BACKUP_RETENTION_DAILY": "0", "BACKUP_RETENTION_WEEKLY": "0",
                "BACKUP_RETENTION_MONTHLY": "0", "BACKUP_MIN_KEEP": str(kept),
            }  # fmt: skip
        if variant in ("dry", "force"):
            self.args += ("--dry-run" if variant == "dry" else "--force",)


class Sync(Task):
    """pgkeep sync."""

    beside = (6,)  # copies of a database that is being backed up stay pending

    def prepare(self) -> None:
        stores = "required" if self.operation.stores == "required" else "both"
        self.env = self.world.environment(stores=stores)
        self.args = ("sync", *(["--all"] if self.operation.variant == "all" else []))

    def judge(self, result: Result) -> list[str]:
        if result.code or not self.alone:
            return []
        found = []
        for entry in self.world.listing():
            manifest, places = entry["manifest"], entry["stores"]
            missing = not any(url.startswith("s3:") and not gone for url, gone in places.items())
            if manifest.get("pending") or (missing and "all" in self.args[-1]):
                found.append(f"exit code 0, but {entry['name']} is not in the bucket: {places}")
        return found


class Verify(Task):
    """pgkeep verify."""

    beside = (5, 6, 9)  # retention removes what it was to read

    def prepare(self) -> None:
        self.env = self.world.environment(self.operation)
        variant = self.operation.variant
        name = self.choose()["name"]
        self.args = ("verify", "--json", name if variant == "name" else f"--{variant}")


class Drill(Task):
    """pgkeep drill."""

    beside = (5, 6, 9)

    def prepare(self) -> None:
        self.env = self.world.environment(self.operation)
        name = self.choose()["name"]
        chosen = f"--backup={name}"
        if self.operation.variant == "newest":
            if not any(self.world.known[entry["name"]].verified for entry in self.entries()):
                backup_of(self.world, self.operation)
            chosen = f"--database={self.operation.database}"
        self.args = ("drill", "--json", chosen)


class Rekey(Task):
    """pgkeep rekey."""

    beside = (5, 6, 9, 11)

    def prepare(self) -> None:
        name = self.choose()["name"]
        cipher = self.operation.cipher if self.operation.cipher != "none" else "age"
        to = self.world.recipients(cipher, self.operation.pick)
        self.env = self.world.environment(self.operation) | to
        variant = self.operation.variant
        self.args = (
            "rekey",
            name if variant == "name" else f"--database={self.operation.database}",
        )
        if variant == "dry":
            self.args += ("--dry-run",)


class Adopt(Task):
    """pgkeep adopt, of a backup whose manifest is lost."""

    def prepare(self) -> None:
        backups = self.world.folder / "backups" / "b"
        if not self._in_directory():
            backup_of(self.world, replace(self.operation, stores="directory"))
        entry = self.pick(self._in_directory())
        self.name = entry["name"]
        self.file = backups / entry["manifest"]["artifact"]["name"]
        self.manifest = backups / f"{self.name}.manifest.json"
        self.manifest.unlink(missing_ok=True)
        self.world.changed()
        self.env = self.world.environment(self.operation)
        if self.operation.stores == "bucket":
            self.env = self.world.environment(stores="both")
        self.args = ("adopt", str(self.file))

    def _in_directory(self) -> list[dict[str, Any]]:
        """Return the full backups in the directory, whatever this operation uses."""
        return [
            entry
            for entry in self.world.listing()
            if entry["name"] in self.world.known
            and not self.world.known[entry["name"]].schema_only
            and reachable(self.world, "directory", entry)
        ]

    def judge(self, result: Result) -> list[str]:
        self.world.changed()
        if not self.manifest.exists():
            if result.code == 0:
                return ["exit code 0, but no manifest was written"]
            self.clean("adopt", str(self.file))
        self.world.held.discard(self.name)  # a hold is recorded in the manifest
        return []


class Index(Task):
    """pgkeep index, of a dump that pg_dump has written."""

    def prepare(self) -> None:
        self.state = self.ledger.settle()
        folder = self.world.folder / "dumps" / str(self.number)
        folder.mkdir(parents=True)
        data = servers.dump(self.world.server, self.operation.database)
        packed = self.operation.variant != "plain"
        file = folder / ("backup.sql.gz" if packed else "backup.sql")
        file.write_bytes(gzip.compress(data) if packed else data)
        self.env = self.encrypting()
        command = (
            ["adopt", str(folder)] if self.operation.variant == "folder" else ["index", str(file)]
        )
        self.args = (*command, f"--database=indexed {self.number}")
        self.before = {entry["name"] for entry in self.world.listing()}

    def judge(self, result: Result) -> list[str]:
        new = [
            entry for entry in self.world.listing()
            if entry["manifest"]["database"]["name"] == f"indexed {self.number}"
        ]  # fmt: skip
        for entry in new:
            self.world.known[entry["name"]] = Known(
                entry["name"], self.operation.database, self.state, self.state,
                schema_only=False, verified=True, doubtful=result.code != 0,
            )  # fmt: skip
        if result.code == 0 and len(new) != 1:
            return [f"exit code 0, but {len(new)} backups are listed"]
        return []


class Read(Task):
    """Commands that change nothing."""

    codes = (4, 5)  # status and doctor report what they find

    def prepare(self) -> None:
        self.env = self.world.environment(self.operation)
        variant = self.operation.variant
        if variant in ("show", "cat"):
            self.args = (variant, self.choose()["name"])
        else:
            self.args = tuple(variant.split())


class Hold(Task):
    """pgkeep hold and pgkeep release."""

    beside = (2, 6, 9)

    def prepare(self) -> None:
        self.env = self.world.environment(self.operation)
        self.name = self.choose()["name"]
        self.args = (self.operation.variant, self.name)
        if self.operation.variant == "hold":
            self.args += ("--reason=torture",)

    def judge(self, result: Result) -> list[str]:
        entry = next((entry for entry in self.world.listing() if entry["name"] == self.name), None)
        if entry is None:
            return [f"{self.name} is not listed any more"]
        holds = "hold" in entry["manifest"]
        if result.code == 0 and self.alone and holds != (self.operation.variant == "hold"):
            return [f"exit code 0, but held is {holds}"]
        self.world.held.discard(self.name)
        return []


class Restore(Task):
    """pgkeep restore in all ways, pgkeep swap, pgkeep undo."""

    beside = (2, 5, 6, 9)

    def prepare(self) -> None:
        world, operation = self.world, self.operation
        self.target = f'copy {self.number} "{operation.variant}"'
        self.entry = self.choose()
        if operation.variant == "latest":
            own = [entry for entry in self.entries() if "indexed" not in entry["name"]]
            self.entry = max(own or [self.entry], key=lambda entry: str(entry["manifest"]["taken"]))
        self.env = world.environment(operation)
        self.before: dict[str, tuple[str, int, Any]] = {}
        self.table = ""
        into = f"--target-db={self.target}"
        source = f"--backup={self.entry['name']}"
        options = self._options(source, into)
        if operation.variant in ("swap later", "undo"):
            command = "swap" if operation.variant == "swap later" else "undo"
            self.args = (command, self.target, "--yes")
            return
        if operation.variant == "latest":
            source = "--latest"
            options = [f"--database={operation.database}"]
        self.args = ("restore", source, into, "--json", f"--jobs={operation.jobs}", *options)

    def _options(self, source: str, into: str) -> list[str]:
        """Make what has to exist before, and return the options."""
        variant = self.operation.variant
        clean = ["restore", source, into, "--no-analyze"]
        if variant in ("swap", "no swap", "swap later", "undo"):
            servers.create(self.world.server, self.target)
            servers.sql(self.world.server, self.target, MARKS)
        if variant == "swap later":
            self.clean(*clean, "--drop-existing", "--no-swap", "--yes")
        if variant == "undo":
            self.clean(*clean, "--drop-existing", "--yes")
        if variant == "data only":
            self.clean(*clean, "--schema-only")
            return ["--data-only", "--yes"]
        if variant == "in place":
            servers.create(self.world.server, self.target)
        if variant in ("table", "table as", "rows"):
            return self._table_options(clean)
        return {
            "swap": ["--drop-existing", "--yes"],
            "no swap": ["--drop-existing", "--no-swap", "--yes"],
            "schema only": ["--schema-only"],
            "in place": ["--in-place", "--yes"],
        }.get(variant, [])

    def _table_options(self, clean: Sequence[str]) -> list[str]:
        self.clean(*clean)
        with servers.connect(self.world.server, self.target) as connection:
            found = ledger.examine(connection)
            self.before = found.contents
            # --as does not take a partitioned table.
            names = [
                name for name in ledger.TABLES if (name, self.operation.variant) != PARTITIONED
            ]
            name = self.pick(names)
            self.table = self.before[name][0]
            self.name = name
            connection.execute(f"delete from {self.table} where id % 3 = 0".encode())
        if self.operation.variant == "rows":
            return [f"--table={self.table}", "--where=id > 0", "--yes"]
        if self.operation.variant == "table as":
            return [f"--table={self.table}", "--as=copied"]
        return [f"--table={self.table}", "--drop-existing", "--yes"]

    def judge(self, result: Result) -> list[str]:
        try:
            if self.table:
                return self._judge_table(result)
            return self._judge_database(result)
        finally:
            mine = [name for name in self.world.databases() if name.startswith(self.target)]
            self.world.drop(*mine)

    def _judge_table(self, result: Result) -> list[str]:
        schema, _, _ = self.table.rpartition(".")
        with servers.connect(self.world.server, self.target) as connection:
            found = ledger.sums(connection, self.name, self.table)
            _, count, total = self.before[self.name]
            as_before = found == (count, total)
            if self.operation.variant == "table as":
                exists = connection.execute(
                    "select to_regclass(%s)", [f"{schema}.copied"]
                ).fetchone() != (None,)
                if exists:
                    copied = ledger.sums(connection, self.name, f"{schema}.copied")
                    if copied != (count, total):
                        return [f"the new table has {copied}, expected {(count, total)}"]
                return [] if exists or result.code else ["exit code 0, but no new table"]
            if as_before or (result.code and found[0] < count):
                return []
            return [f"exit code {result.code}: {self.table} has {found}, {(count, total)} expected"]

    def _state(self, name: str) -> str:
        """Return what a database contains: old, new, empty, or what is wrong with it."""
        known = self.world.known[self.entry["name"]]
        with servers.connect(self.world.server, name) as connection:
            exists = (
                "select to_regclass('marks') is not null, to_regclass('ledger.state') is not null"
            )
            marks, new = ledger.fetch(connection, exists)
            if marks:
                return "old"
            if not new:
                return "empty"
            if self.operation.variant == "schema only":
                return "new"
            (rows,) = ledger.fetch(connection, "select count(*) from ledger.state")
            if self.operation.variant == "data only" and rows == 0:
                return "empty"
            problems = compare(ledger.examine(connection), known, self.ledger, exact=self.alone)
        return "; ".join(problems) or "new"

    def _judge_database(self, result: Result) -> list[str]:
        names = [name for name in self.world.databases() if name.startswith(self.target)]
        states = {
            name.removeprefix(self.target)[:11]: self._state(name)
            for name in names
            if "__restore_" not in name
        }
        target = states.get("", "missing")
        wanted, before = {
            "no swap": ("old", "old"),
            "undo": ("old", "new"),
            "swap": ("new", "old"),
            "swap later": ("new", "old"),
            "data only": ("new", "empty"),
            "in place": ("new", "empty"),
        }.get(self.operation.variant, ("new", "missing"))
        if self.operation.variant == "no swap" and result.code == 0:
            found = [state for suffix, state in states.items() if suffix.startswith("__restored")]
            if found != ["new"]:
                return [f"exit code 0, but the restored database is {found}"]
        if target == wanted and (result.code == 0 or wanted == before):
            return []
        if result.code and target == before:
            return []
        if result.code and target == wanted:
            told = result.code == -9 or RESTORED.search(result.err)
            return [] if told else [f"exit code {result.code}, but it is restored: {result.last}"]
        return [f"exit code {result.code}: {self.target} is {target}, {wanted} expected"]


def compare(
    found: ledger.Found, known: Known, source: ledger.Ledger, *, exact: bool = True
) -> list[str]:
    """Compare a restored database with what its backup must contain."""
    problems = list(found.problems)
    if exact and not known.low <= found.number <= known.high:
        problems.append(f"state {found.number}, expected {known.low} to {known.high}")
    allowed = source.states.get(found.number)
    if allowed is not None and found.fingerprint not in allowed:
        problems.append(f"state {found.number} is not one that the database had")
    if exact and known.number not in (None, found.number):
        problems.append(f"state {found.number}, but {known.number} at an earlier restore")
    if exact and not problems:
        known.number, known.contents = found.number, found.contents
    return problems


TASKS: Mapping[str, type[Task]] = {
    "backup": Backup, "prune": Prune, "sync": Sync, "verify": Verify, "restore": Restore,
    "drill": Drill, "rekey": Rekey, "adopt": Adopt, "index": Index, "read": Read, "hold": Hold,
}  # fmt: skip
