"""What each step does: nothing here depends on anything but the seed and the step's number."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

DATABASES = ("app", 'Shop "2" é;')
# Where a run stores. required: both, and a failed copy fails the run.
STORES = ("directory", "both", "both", "required", "bucket")
CIPHERS = ("none", "none", "age", "gpg")
COMPRESSIONS = ("gzip", "zstd")

# How often, and in which variants. Those of point in time need PostgreSQL 15.
OPERATIONS: Mapping[str, tuple[int, Sequence[str]]] = {
    "backup": (26, ("daily", "weekly", "monthly", "manual", "manual unverified", "schema", "auto")),
    "prune": (5, ("strict", "loose", "dry", "force")),
    "sync": (5, ("pending", "all")),
    "verify": (5, ("name", "all", "latest")),
    "restore": (
        18,
        ("new", "swap", "latest", "no swap", "swap later", "undo", "schema only", "data only",
         "in place", "table", "table as", "rows"),
    ),
    "drill": (4, ("newest", "name")),
    "rekey": (5, ("name", "database", "dry")),
    "adopt": (4, ("manifest lost",)),
    "index": (3, ("plain", "gzip", "folder")),
    "read": (8, ("list", "status", "show", "cat", "doctor", "history", "key check", "metrics")),
    "hold": (2, ("hold", "release")),
    "pitr base": (5, ("auto", "full")),
    "pitr restore": (6, ("time", "latest", "dump", "preview")),
    "pitr read": (4, ("windows", "verify", "drill")),
    "pitr prune": (2, ("short", "long")),
}  # fmt: skip

_LOGICAL = tuple(name for name in OPERATIONS if not name.startswith("pitr"))
_WRITING = ("backup", "sync", "rekey", "adopt", "index", "prune")
_PITR = tuple(name for name in OPERATIONS if name.startswith("pitr"))
_ALL = tuple(OPERATIONS)

# How often, and in which operations.
FAULTS: Mapping[str, tuple[int, Sequence[str]]] = {
    "SIGKILL": (8, _ALL),
    "SIGTERM": (5, _ALL),
    "SIGINT": (5, _ALL),
    "SIGSTOP, SIGCONT": (2, _ALL),
    "SIGSTOP, SIGKILL": (2, _ALL),
    "child: SIGKILL": (5, _ALL),
    "child: SIGTERM": (2, _ALL),
    "child: SIGSTOP, SIGCONT": (2, _ALL),
    "child: SIGSTOP, SIGKILL": (2, _ALL),
    "server crash": (5, _ALL),
    "sessions terminated": (4, _ALL),
    "disk full: backups": (5, (*_WRITING, "pitr base")),
    "disk full: TMPDIR": (3, ("backup", "drill", "rekey", "restore", "pitr restore")),
    "disk full: spool": (4, ("pitr base",)),
    "read-only: backups": (2, _ALL),
    "bucket: killed": (3, _ALL),
    "bucket: stopped": (3, _ALL),
    "bucket: status 500": (2, _ALL),
    "bucket: status 503": (2, _ALL),
    "bucket: status 403": (2, _ALL),
    "bucket: answers truncated": (2, _ALL),
    "bucket: answers lost": (2, _ALL),
    "bucket: connections reset": (2, _ALL),
    "bucket: requests stall": (1, _ALL),
    "clock: behind": (2, ("backup", "prune", "pitr base", "index")),
    "clock: ahead": (1, ("backup", "prune", "restore")),
    "clock: jumps": (2, ("backup", "prune", "sync", "pitr base")),
    "damage: truncated": (3, _LOGICAL),
    "damage: bit flipped": (4, _LOGICAL),
    "damage: removed": (3, _LOGICAL),
    "damage of point in time": (5, _PITR),
    "receiver: SIGKILL": (4, _PITR),
    "receiver: SIGTERM": (2, _PITR),
    "receiver: child SIGKILL": (2, _PITR),
    "spool full": (2, _PITR),
}
QUIET = 0.3  # share of the steps without a fault

# What other sessions do meanwhile.
WRITERS = (
    "idle", "rows", "rows", "truncate", "renamed tables", "renamed schemas", "drop and create",
    "vacuum full", "new columns",
)  # fmt: skip
# The second of two operations at once.
BESIDE = ("backup", "restore", "read", "verify", "prune", "sync", "drill", "pitr base")
TOGETHER = 0.15
FORKS = 0.75  # share of the steps that do not start Python again


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One command, as far as it does not depend on what exists; `pick` chooses among that."""

    name: str
    variant: str
    database: str
    stores: str
    cipher: str
    compression: str
    jobs: int
    pick: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What goes wrong, and when: a share of the time that the operation usually takes."""

    name: str
    moment: float
    amount: float  # how much: bytes that are free, the place of a flipped bit, seconds
    pick: float  # which file, which child


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a run."""

    number: int
    operations: tuple[Operation, ...]
    fork: bool  # of a process that has imported pgkeep: signals meet more of what it does
    fault: Fault | None
    writer: str
    sample: float  # the expensive checks are done where it is below their rate


def choose(chance: random.Random, weighted: Mapping[str, tuple[int, Sequence[str]]]) -> str:
    """Return a key by its weight."""
    (name,) = chance.choices(list(weighted), [weight for weight, _ in weighted.values()])
    return name


def operation(chance: random.Random, name: str) -> Operation:
    """Choose how an operation is called."""
    return Operation(
        name=name,
        variant=chance.choice(OPERATIONS[name][1]),
        database=chance.choice(DATABASES),
        stores=chance.choice(STORES),
        cipher=chance.choice(CIPHERS),
        compression=chance.choice(COMPRESSIONS),
        jobs=chance.randint(1, 4),
        pick=chance.random(),
    )


def step(seed: int, number: int, *, pitr: bool = True) -> Step:
    """Return a step of a seed."""
    chance = random.Random(f"{seed}/{number}")
    offered = {name: row for name, row in OPERATIONS.items() if pitr or name not in _PITR}
    operations = [operation(chance, choose(chance, offered))]
    if chance.random() < TOGETHER:
        beside = [name for name in BESIDE if pitr or name not in _PITR]
        operations.append(operation(chance, chance.choice(beside)))
    fault = None
    if chance.random() >= QUIET:
        fitting = {name: row for name, row in FAULTS.items() if operations[0].name in row[1]}
        fault = Fault(
            name=choose(chance, fitting),
            moment=chance.uniform(0.1, 1.1),
            amount=chance.random(),
            pick=chance.random(),
        )
    return Step(
        number=number,
        operations=tuple(operations),
        fork=chance.random() < FORKS,
        fault=fault,
        writer=chance.choice(WRITERS),
        sample=chance.random(),
    )
