"""Divide a dump among the workers: which tables they copy, and in which slices."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

from ..postgres.snapshot import Table

MIB = 1 << 20
SMALLEST_FOR_WORKER = 1 * MIB  # smaller tables are quicker in pg_dump's own connection
SLICE = 32 * MIB  # of table size; small enough that workers finish together
ARGUMENTS_LIMIT = 1 * MIB  # of --exclude-table-data; Linux takes 2 MiB in all


@dataclass(frozen=True, slots=True)
class Task:
    """Rows for a worker: a whole table, or the pages from `first` up to before `last`."""

    table: Table
    size: int  # bytes on the server's disk, about
    first: int | None = None
    last: int | None = None


def plan_tasks(
    tables: Sequence[Table],
    sizes: Mapping[int, tuple[int, int]],
    jobs: int,
    block_size: int | None,
    may_be_queried: Container[int] | None = None,
) -> list[Task]:
    """Decide which tables the workers copy, and in which pieces, largest tables first.

    pg_dump's own connection keeps the small ones, at most a quarter of one worker's share in all.
    Without a block size tables are not cut into slices; otherwise those are not that may not be
    queried, and by default all may.
    """
    ranked = sorted(tables, key=lambda table: sizes.get(table.oid, (0, 0))[1], reverse=True)
    rest = sum(sizes.get(one.oid, (0, 0))[1] for one in ranked)
    enough = max(rest // (4 * jobs), 16 * MIB)
    arguments = 0
    tasks: list[Task] = []
    for table in ranked:
        main, whole = sizes.get(table.oid, (0, 0))
        arguments += len(exclusion(table))
        if rest <= enough or whole < SMALLEST_FOR_WORKER or arguments > ARGUMENTS_LIMIT:
            break
        rest -= whole
        queried = may_be_queried is None or table.oid in may_be_queried
        pages = main // block_size if block_size and table.heap and queried else 0
        tasks += _slices(table, whole, pages)
    return tasks


def _slices(table: Table, size: int, pages: int) -> list[Task]:
    """Cut a table by its pages, weighed with its TOAST (trap D13); the last slice is open."""
    count = min(-(-size // SLICE), pages)
    if count <= 1:
        return [Task(table, size)]
    bounds = [pages * number // count for number in range(count)]
    ends: list[int | None] = [*bounds[1:], None]
    return [Task(table, size // count, *pair) for pair in zip(bounds, ends, strict=True)]


def exclusion(table: Table) -> bytes:
    """Return pg_dump's option; quoted names are taken literally (manual, psql, "Patterns")."""
    return b"--exclude-table-data=" + table.sql
