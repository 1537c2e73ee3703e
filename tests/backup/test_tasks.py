"""How a dump is divided among the workers: decided from sizes alone."""

import pytest

from pgkeep.backup import tasks
from pgkeep.backup.tasks import MIB, CopyTask, plan_tasks
from pgkeep.postgres.snapshot import Table

BLOCK = 8192


def table(oid: int, *, heap: bool = True, name: bytes = b"public.t") -> Table:
    return Table(
        oid=oid, schema="public", name=f"t{oid}", owner="o", sql=name, target=name,
        columns=b"a", kind="r", heap=heap, logged=True, extension=False,
    )  # fmt: skip


def plan(sizes: dict[int, int], jobs: int = 2, block: int | None = None) -> list[int]:
    """Return the tables that workers copy; all of a table's size is its main fork."""
    tables = [table(oid) for oid in sizes]
    whole = {oid: (size * MIB, size * MIB) for oid, size in sizes.items()}
    return [task.table.oid for task in plan_tasks(tables, whole, jobs, block)]


@pytest.mark.parametrize(
    ("sizes", "jobs", "expected"),
    [
        ({}, 2, []),
        ({1: 0}, 2, []),
        ({1: 16}, 2, []),  # pg_dump's own connection is as quick
        ({1: 17}, 2, [1]),
        ({1: 20, 2: 40, 3: 30}, 2, [2, 3, 1]),  # largest first
        ({1: 100, 2: 10, 3: 6}, 1, [1]),  # what is left is a quarter of a worker's share
        ({1: 100, 2: 10, 3: 10}, 2, [1, 2]),
        (dict.fromkeys(range(40), 1), 2, [*range(24)]),  # 16 MiB stay
    ],
)
def test_which_tables(sizes: dict[int, int], jobs: int, expected: list[int]) -> None:
    assert plan(sizes, jobs) == expected


def test_tables_smaller_than_a_worker_is_worth_stay() -> None:
    tables = [table(oid) for oid in range(200)]
    sizes = dict.fromkeys(range(200), (MIB - 1, MIB - 1))
    assert plan_tasks(tables, sizes, 2, BLOCK) == []


@pytest.mark.parametrize(
    ("main", "whole", "bounds"),
    [
        (32, 32, [(None, None)]),
        (64, 64, [(0, 4096), (4096, None)]),
        (80, 80, [(0, 3413), (3413, 6826), (6826, None)]),
        # D13: a table whose rows are in its TOAST table is weighed with it.
        (8, 64, [(0, 512), (512, None)]),
        (0, 64, [(None, None)]),
    ],
)
def test_slices(main: int, whole: int, bounds: list[tuple[int | None, int | None]]) -> None:
    """Every page is in exactly one slice; the last one is open, as the table may have grown."""
    planned = plan_tasks([table(1)], {1: (main * MIB, whole * MIB)}, 2, BLOCK)
    assert [(task.first, task.last) for task in planned] == bounds
    assert {task.size for task in planned} == {whole * MIB // len(bounds)}


@pytest.mark.parametrize(
    ("one", "block", "may_be_queried"),
    [
        (table(1), None, None),  # the server does not say its block size
        (table(1, heap=False), BLOCK, None),
        (table(1), BLOCK, ()),
    ],
    ids=["no block size", "no heap", "may not be queried"],
)
def test_not_cut(one: Table, block: int | None, may_be_queried: tuple[int, ...] | None) -> None:
    sizes = {1: (64 * MIB, 64 * MIB)}
    assert plan_tasks([one], sizes, 2, block, may_be_queried) == [CopyTask(one, 64 * MIB)]


def test_arguments_have_a_limit() -> None:
    """Linux refuses a program whose arguments are too long; pg_dump copies the rest."""
    long = table(1, name=b"x" * (tasks.ARGUMENTS_LIMIT // 2 - len(tasks.exclusion(table(1)))))
    tables = [long, table(2, name=long.sql), table(3, name=long.sql)]
    sizes = dict.fromkeys((1, 2, 3), (100 * MIB, 100 * MIB))
    assert [task.table.oid for task in plan_tasks(tables, sizes, 2, None)] == [1, 2]
