"""Hand out the slices of tables in order, so that the rest of a table can be copied in one piece.

A slice cannot be copied while an index of its table is locked exclusively, and not by a worker
while an ALTER waits for the table. COPY of the complete table is then still possible. It yields the
same rows in the same order, page by page, under the same snapshot. Therefore the rows of the slices
before are skipped, and their number and their size prove that the right ones are.
"""

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from .. import errors as e
from ..postgres.snapshot import Table
from ..task_group import TaskGroup
from .tasks import CopyTask

POLL = 0.05  # seconds between two looks whether earlier slices are complete


@dataclass(frozen=True, slots=True)
class CopiedSlice:
    """What a slice of a table has yielded."""

    rows: int
    size: int  # bytes of COPY data


class SliceQueue:
    """The tasks of all workers. The slices of a table are begun in the order of its pages."""

    def __init__(self, tasks: Iterable[CopyTask], threads: TaskGroup) -> None:
        self._tasks = deque(tasks)
        self._threads = threads
        self._begun: dict[int, int] = {}  # OID of a table -> number of slices that were taken
        self._copied: dict[tuple[int, int | None], CopiedSlice] = {}  # (OID, first page)
        self.taking = threading.Lock()  # hold it from `take` until it is known who copies the task

    def take(self) -> CopyTask | None:
        """Return the next task; None if there is none."""
        if not self._tasks:
            return None
        task = self._tasks.popleft()
        self._begun[task.table.oid] = self._begun.get(task.table.oid, 0) + 1
        return task

    def take_rest(self, task: CopyTask) -> CopyTask:
        """Return a task for the complete table, in place of a slice and of all later ones."""
        size = task.size
        while self._tasks and self._tasks[0].table.oid == task.table.oid:
            size += self._tasks.popleft().size
        self._begun[task.table.oid] -= 1
        return replace(task, first=None, last=None, size=size)

    def copied(self, task: CopyTask, found: CopiedSlice) -> None:
        """Record that a slice is complete."""
        self._copied[task.table.oid, task.first] = found

    def rest(self, task: CopyTask, blocks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the rows of a complete table that its earlier slices do not contain."""
        while len(found := self._of(task.table)) < self._begun[task.table.oid]:
            self._threads.check()
            time.sleep(POLL)
        return rows_after(blocks, found, f"{task.table.schema}.{task.table.name}")

    def _of(self, table: Table) -> list[CopiedSlice]:
        copied = [(key, found) for key, found in list(self._copied.items()) if key[0] == table.oid]
        return [found for _, found in sorted(copied, key=lambda item: item[0][1] or 0)]


def rows_after(
    blocks: Iterable[bytes], copied: Sequence[CopiedSlice], name: str
) -> Iterator[bytes]:
    """Yield COPY data without the rows at its beginning, which the slices contain.

    Raises:
        DumpFailed: the data does not begin with slices of these numbers of rows and bytes.

    """
    waiting = deque(found for found in copied if found.size)
    rows = size = 0  # of the current slice
    for block in blocks:
        rest = block
        while rest and waiting:
            part = rest[: waiting[0].size - size]
            rest = rest[len(part) :]
            rows, size = rows + part.count(b"\n"), size + len(part)
            if size == waiting[0].size:
                if rows != waiting[0].rows or not part.endswith(b"\n"):
                    raise _differs(name, rows, waiting[0].rows)
                waiting.popleft()
                rows = size = 0
        if rest:
            yield rest
    if waiting:
        raise _differs(name, rows, waiting[0].rows)


def _differs(name: str, found: int, expected: int) -> e.DumpFailed:
    return e.DumpFailed(
        f"COPY of table {name} differs from its slices: found {found} rows in the place of"
        f" {expected}"
    )
