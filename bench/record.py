"""The figures of a run, as docs/benchmarks.json keeps those that were published."""

import re
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from .measure import Measured

Runs = dict[str, list[Measured]]  # each row has one figure for each round


class Compared(NamedTuple):
    """Two rows that do the same work."""

    part: str
    database: str
    ours: str
    peer: str

    def __str__(self) -> str:
        return f"{self.part}, {self.database}: {self.ours} / {self.peer}"


class Database(msgspec.Struct, frozen=True):
    """What was measured on one database."""

    size: int  # bytes on the server; 0: it does not matter
    runs: Runs
    # A row of pgkeep, and the rows of other tools that do the same work.
    peers: Mapping[str, tuple[str, ...]] = {}


class Part(msgspec.Struct, frozen=True):
    """What one part of the benchmark measured."""

    seconds: float  # of the whole part, with the creation of its databases
    databases: Mapping[str, Database]


class Record(msgspec.Struct, frozen=True):
    """One run on one commit."""

    date: str
    commit: str
    scale: float
    rounds: int
    jobs: int
    cores: int
    memory: int
    postgresql: str
    python: str
    tools: tuple[str, ...]
    parts: dict[str, Part]

    def shares(self) -> dict[Compared, float]:
        """Return pgkeep's share of the time of each other tool."""
        return {
            Compared(part, name, ours, peer): share(database.runs, ours, peer)
            for part, measured in self.parts.items()
            for name, database in measured.databases.items()
            for ours, peers in database.peers.items()
            for peer in peers
        }


def share(runs: Runs, ours: str, peer: str) -> float:
    """Return the median of the shares of all rounds.

    The two runs of a round are a few seconds apart, so a slow minute of the machine hits both.
    """
    pairs = zip(runs[ours], runs[peer], strict=True)
    return statistics.median(own.seconds / other.seconds for own, other in pairs)


def seconds(found: list[Measured]) -> float:
    """Return the median of the times."""
    return statistics.median(run.seconds for run in found)


def memory(found: list[Measured]) -> float:
    """Return the highest memory use in MiB."""
    return max(run.memory for run in found) / 2**20


def merged(before: Part, again: Part) -> Part:
    """Return the figures of a part with the rounds of a second measurement."""
    databases = {
        name: Database(
            size=database.size,
            runs={
                row: before.databases[name].runs[row] + found
                for row, found in database.runs.items()
            },
            peers=database.peers,
        )
        for name, database in again.databases.items()
    }
    return Part(seconds=before.seconds + again.seconds, databases=databases)


def load(path: Path) -> Record | None:
    """Return the record in a file, or None if the file does not exist."""
    return msgspec.json.decode(path.read_bytes(), type=Record) if path.exists() else None


def save(path: Path, record: Record) -> None:
    """Write a record, with the runs of a row on one line, so that its changes can be read."""
    path.parent.mkdir(exist_ok=True)
    text = msgspec.json.format(msgspec.json.encode(record), indent=1).decode()
    lists = r"\[(?:\s*\[[^][]*\],?)+\s*\]|\[[^][{]*\]"
    path.write_text(re.sub(lists, lambda found: " ".join(found[0].split()), text) + "\n")
