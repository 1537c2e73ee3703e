"""Signals: each ends a run, none is lost, none leaves a half done thing or a false exit code.

Struck here at chosen moments; `python -m tests.support.signals` strikes at random ones.
"""

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from pgkeep import interrupts
from pgkeep.postgres.server import Server
from pgkeep.task_group import TaskGroup
from tests.support import invoke
from tests.support.signals import Struck, Work, work

STRIKE = """
import os, signal, sys
def strike():
    os.kill(os.getpid(), {number})
"""
# At the import of a module, in the callback of a weak reference, as importlib has many.
AT_IMPORT = (
    STRIKE
    + """
import weakref
class Thing: pass
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            thing = Thing()
            keep = weakref.ref(thing, lambda _: strike())
            del thing
sys.meta_path.insert(0, Finder())
"""
)
# When a function has done its work, before anybody has its result.
AFTER = (
    STRIKE
    + """
import {module} as module
done = module.{function}
def function(*args, **more):
    result = done(*args, **more)
    if {condition}:
        strike()
    return result
module.{function} = function
"""
)


@pytest.fixture(scope="module")
def works(pg17: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Work]]:
    with contextlib.ExitStack() as stack:
        folder = tmp_path_factory.mktemp("signals")
        kinds = ("backup", "swap")
        yield {kind: stack.enter_context(work(pg17, folder / kind, kind)) for kind in kinds}


@pytest.fixture
def backup(works: dict[str, Work]) -> Work:
    works["backup"].prepare()
    return works["backup"]


@pytest.fixture
def swap(works: dict[str, Work]) -> Work:
    works["swap"].prepare()
    return works["swap"]


def struck(one: Work, prelude: str, **names: object) -> str:
    """Run with a prelude that strikes; return how it has ended."""
    number = signal.SIGTERM
    text = prelude.format(number=int(number), **names)
    return one.check(Struck(one.env, text, *one.args).ends(), number)


LOSSES = {
    "weak reference": "keep = weakref.ref(thing, lambda _: strike()); del thing",
    "__del__": "Thing.__del__ = lambda _: strike(); del thing",
    "gc": "gc.callbacks.append(lambda *_: gc.callbacks.clear() or strike()); gc.collect()",
    "C": "ctypes.CFUNCTYPE(None)(strike)()",
}


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("times", [1, 3])
def test_ignored_by_python(kind: str, times: int) -> None:
    """G5.1: an exception that Python ignores where it is raised is raised again elsewhere."""
    program = f"""
import ctypes, gc, sys, time, weakref
from pgkeep import interrupts
{STRIKE.format(number=int(signal.SIGTERM))}
interrupts.install()
class Thing: pass
try:
    for _ in range({times}):
        thing = Thing()
        {LOSSES[kind]}
    time.sleep(20)
except interrupts.Interrupted as error:
    print("caught", error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=10, check=True
    )
    assert (done.stdout, done.stderr) == ("caught SIGTERM\n", "")


def test_later_signals_are_ignored_once_the_first_was_caught() -> None:
    """G5.1: neither while cleaning up nor afterwards; but before that a lost one is repeated."""
    program = f"""
import signal, time
from pgkeep import interrupts
{STRIKE.format(number=int(signal.SIGTERM))}
interrupts.install()
try:
    try:
        strike()
    finally:
        try:
            raise ValueError("in cleaning up")
        except ValueError:
            strike()
        with interrupts.held():
            strike()
        time.sleep(0.1)
        print("cleaned up")
except interrupts.Interrupted as error:
    print(error.ended().message)
strike()
time.sleep(0.1)
print("end")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=10, check=True
    )
    assert done.stdout.splitlines() == ["cleaned up", "ended by SIGTERM", "end"], done


@pytest.mark.parametrize("module", ["pgkeep.backup.dump", "psycopg.pq"])
def test_lost_while_a_backup_imports(backup: Work, module: str) -> None:
    """G5.1: one backup passes hundreds of weak references' callbacks."""
    assert struck(backup, AT_IMPORT, module=module) == "ended"


@pytest.mark.parametrize("module", ["click", "pgkeep.interrupts"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_before_the_handlers(backup: Work, module: str, number: signal.Signals) -> None:
    """G5.2: SIGINT while the program is loaded: no traceback, and the status of a signal."""
    prelude = AT_IMPORT.format(number=int(number), module=module)
    outcome = Struck(backup.env, prelude, *backup.args).ends()
    assert (outcome.code, outcome.said) == (-number, "")
    assert backup.check(outcome, number) == "before the handlers"


@pytest.mark.parametrize(("method", "empty"), [("parse_args", ""), ("invoke", "\n")])
def test_around_the_arguments(method: str, empty: str) -> None:
    """Click itself forgets which signal it was, and writes an empty line."""
    prelude = STRIKE.format(number=int(signal.SIGTERM)) + (
        "from pgkeep.cli import program\n"
        f"program.Commands.{method} = lambda *args, **extra: strike()\n"
    )
    done = invoke.run_python(prelude, "list", env=invoke.environment())
    assert (done.returncode, done.stderr) == (143, f"{empty}error: ended by SIGTERM\n")


@pytest.mark.parametrize("name", ["sql.gz", "manifest.json"])
def test_when_a_file_was_opened(backup: Work, name: str) -> None:
    """G5.3: the partial file is removed by this run, not by the next one."""
    condition = f"'{name}.partial-' in str(args[0])"
    said = struck(backup, AFTER, module="os", function="open", condition=condition)
    assert said == "ended"


@pytest.mark.parametrize("name", ["sql.gz", "manifest.json"])
def test_when_a_file_was_published(backup: Work, name: str) -> None:
    """G5.4: the four renames are one; the last line says that the backup exists."""
    condition = f"str(args[1]).endswith('{name}')"
    said = struck(backup, AFTER, module="os", function="rename", condition=condition)
    assert said == "ended, done"


@pytest.mark.parametrize(
    ("message", "outcome"),
    [("swap it in with: pgkeep swap", "ended"), ("is restored", "ended, done")],
)
def test_when_databases_were_swapped(swap: Work, message: str, outcome: str) -> None:
    """G5.4: the last line says that the database is restored, or how it can be swapped in."""
    prelude = AFTER.replace("{module} as", "pgkeep.{module} as")
    condition = f"'{message}' in args[0]"
    said = struck(swap, prelude, module="interrupts", function="completed", condition=condition)
    assert said == outcome


@pytest.mark.parametrize("event", [150_000, 250_000, 300_000])
def test_at_an_event(backup: Work, swap: Work, event: int) -> None:
    """G5.1, G5.3, G5.4: nothing half done, no traceback, the documented exit status."""
    for one, number in ((backup, signal.SIGTERM), (swap, signal.SIGINT)):
        one.whole = 20.0
        assert one.strike(number, event=event) in ("ended", "ended, done", "before the handlers")


def test_an_action_that_fails_while_a_crew_stops() -> None:
    """B31: the others are done all the same, and the first failure is the one reported."""
    done: list[str] = []
    ended = threading.Event()

    def fails() -> None:
        raise OSError("could not kill")

    def waits() -> None:
        assert ended.wait(10)

    def divides() -> None:
        raise ZeroDivisionError

    threads = TaskGroup()
    with threads:
        threads.on_stop(fails)
        threads.on_stop(lambda: done.append("told"))
        threads.on_stop(ended.set)
        threads.start(waits, "waits")
        threads.start(divides, "fails")
        with pytest.raises(ZeroDivisionError):
            threads.wait()
    threads.on_stop(fails)  # at once, for it is stopped
    assert done == ["told"]


def test_a_signal_wins_over_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """G5.1: a run over several databases would go on with the next one otherwise."""
    monkeypatch.setattr(interrupts, "_state", interrupts._State())
    stopping, failed = threading.Event(), threading.Event()

    def fails_when_stopped() -> None:
        assert stopping.wait(10)
        failed.set()
        raise OSError("at the same time")

    def tick() -> None:
        raise interrupts.Interrupted(signal.SIGTERM)

    with TaskGroup() as threads:
        threads.on_stop(stopping.set)
        threads.start(fails_when_stopped, "fails")
        with pytest.raises(interrupts.Interrupted):
            threads.wait(tick, every=0.01)
    assert failed.is_set()
