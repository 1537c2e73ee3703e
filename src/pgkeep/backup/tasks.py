"""Divide a dump among the workers: which tables they copy, and in which slices."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

from ..postgres.snapshot import Table

MIB = 1 << 20
SMALLEST_FOR_WORKER = 1 * MIB  # smaller tables are faster in pg_dump's own connection
SLICE = 32 * MIB  # of table size; small enough that workers finish at about the same time
ARGUMENTS_LIMIT = 1 * MIB  # for --exclude-table-data; Linux allows 2 MiB in total


@dataclass(frozen=True, slots=True)
class CopyTask:
    """Rows for a worker: a complete table, or the pages from `first` to before `last`."""

    table: Table
    size: int  # approximate bytes on the server's disk
    first: int | None = None
    last: int | None = None


def plan_tasks(
    tables: Sequence[Table],
    sizes: Mapping[int, tuple[int, int]],
    jobs: int,
    block_size: int | None,
    may_be_queried: Container[int] | None = None,
) -> list[CopyTask]:
    """Decide which tables the workers copy, and in which slices, largest tables first.

    pg_dump's own connection keeps the small ones, at most a quarter of one worker's share in total.
    Tables are divided into slices if a block size is given, except tables outside `may_be_queried`
    (None: all tables can be queried).
    """
    ranked = sorted(tables, key=lambda table: sizes.get(table.oid, (0, 0))[1], reverse=True)
    rest = sum(sizes.get(table.oid, (0, 0))[1] for table in ranked)
    enough = max(rest // (4 * jobs), 16 * MIB)
    arguments = 0
    tasks: list[CopyTask] = []
    for table in ranked:
        main, total = sizes.get(table.oid, (0, 0))
        arguments += len(exclusion(table))
        if rest <= enough or total < SMALLEST_FOR_WORKER or arguments > ARGUMENTS_LIMIT:
            break
        rest -= total
        queried = may_be_queried is None or table.oid in may_be_queried
        pages = main // block_size if block_size and table.heap and queried else 0
        tasks += _slices(table, total, pages)
    return tasks


def _slices(table: Table, size: int, pages: int) -> list[CopyTask]:
    """Divide a table by pages, weighted with its TOAST (trap D13); the last slice is open-ended."""
    count = min(-(-size // SLICE), pages)
    if count <= 1:
        return [CopyTask(table, size)]
    bounds = [pages * number // count for number in range(count)]
    ends: list[int | None] = [*bounds[1:], None]
    return [CopyTask(table, size // count, *pair) for pair in zip(bounds, ends, strict=True)]


def exclusion(table: Table) -> bytes:
    """Return pg_dump's option; quoted names are matched literally (manual, psql, "Patterns")."""
    return b"--exclude-table-data=" + table.sql
