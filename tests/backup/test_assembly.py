"""Members in the order that psql needs, whichever of pg_dump and the workers is ready first."""

import secrets
import threading

import pytest

from pgkeep.artifact.file import ArtifactWriter, MemberBuilder, Object
from pgkeep.backup import assembly
from pgkeep.backup.assembly import MemberOrder
from pgkeep.stores.memory import MemoryStore
from pgkeep.task_group import Stopped, TaskGroup


def member(section: str, name: str) -> MemberBuilder:
    built = MemberBuilder(section)
    built.begin(Object(type="TABLE", schema="s", name=name, owner="o", member=0, start=0))
    built.write(secrets.token_bytes(1 << 17))  # so that some is compressed at once
    return built


class Written:
    """An order whose members can be looked at."""

    def __init__(self, threads: TaskGroup, workers: int) -> None:
        self.writer = ArtifactWriter(MemoryStore().create("file"))
        self.order = MemberOrder(self.writer, threads, workers)

    @property
    def names(self) -> list[str]:
        return [one.name for one in self.writer._objects]


def test_rows_wait_for_the_pre_data() -> None:
    """And come after it in the order in which they were ready; later ones do not wait."""
    written = Written(TaskGroup(), 1)
    written.order.write_rows(member("data", "rows 1"))
    written.order.write(member("pre-data", "table 1"))
    written.order.write_rows(member("data", "rows 2"))
    written.order.write(member("pre-data", "table 2"))
    assert written.names == ["table 1", "table 2"]
    written.order.pre_data_is_complete()
    assert written.names == ["table 1", "table 2", "rows 1", "rows 2"]
    written.order.write_rows(member("data", "rows 3"))
    assert written.names[-1] == "rows 3"


def test_post_data_wait_for_every_worker() -> None:
    written = Written(TaskGroup(), 2)
    passed = threading.Event()

    def wait() -> None:
        written.order.wait_for_rows()
        passed.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    written.order.worker_is_done()
    assert not passed.wait(0.05)
    written.order.worker_is_done()
    waiting.join(5)
    assert passed.is_set()


@pytest.mark.parametrize("stopped", [False, True])
def test_rows_that_wait_are_few(monkeypatch: pytest.MonkeyPatch, stopped: bool) -> None:
    """A worker is held up by too many of them, until the pre-data are there or all is stopped."""
    monkeypatch.setattr(assembly, "PENDING_LIMIT", 0)
    threads = TaskGroup()
    written = Written(threads, 1)
    written.order.write_rows(member("data", "rows 1"))
    outcome: list[str] = []

    def write() -> None:
        try:
            written.order.write_rows(member("data", "rows 2"))
            outcome.append("written")
        except Stopped:
            outcome.append("stopped")

    waiting = threading.Thread(target=write)
    waiting.start()
    waiting.join(0.05)
    assert outcome == []
    if stopped:
        threads.stop()
    else:
        written.order.pre_data_is_complete()
    waiting.join(5)
    assert outcome == ["stopped" if stopped else "written"]
    assert written.names == ([] if stopped else ["rows 1", "rows 2"])
