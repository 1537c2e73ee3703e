"""python -m bench.torture: random operations and faults, one after the other."""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from . import faults, invariants, ledger, pitr, plan, report
from .operations import Task
from .world import Result, Running, World

DEADLINE = 150.0  # seconds for the commands of a step on an idle machine
FIRST = 2.0  # seconds that a command takes as far as is known
UNSHARED = "TORTURE_UNSHARED"


@dataclass
class Outcome:
    """What a step was, and what was found."""

    step: plan.Step
    results: list[Result] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    restored: int = 0
    left: bool = False  # whether it was checked that nothing is left
    what: str = ""
    seconds: float = 0.0


@dataclass
class Totals:
    """What a run has counted."""

    seed: int
    major: int
    steps: int = 0
    minutes: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)  # "operation|fault|exit code"
    writers: Counter[str] = field(default_factory=Counter)
    together: int = 0
    restored: int = 0
    left: int = 0
    failed: list[str] = field(default_factory=list)
    version: str = ""
    commit: str = ""
    date: str = ""
    cores: int = 0
    sample: float = 0.0
    began: float = 0.0

    def add(self, outcome: Outcome) -> None:
        self.steps += 1
        self.restored += outcome.restored
        self.left += outcome.left
        step = outcome.step
        self.together += len(step.operations) > 1
        self.writers[step.writer] += 1
        fault = step.fault.name if step.fault else "none"
        for operation, result in zip(step.operations, outcome.results, strict=False):
            name = f"{operation.name}: {operation.variant}"
            self.outcomes[f"{name}|{fault}|{result.code}"] += 1
            fault = "next to another one"


class Loop:
    """Steps in one world."""

    def __init__(self, world: World, seed: int, sample: float) -> None:
        self.world, self.seed, self.sample = world, seed, sample

    def step(self, number: int) -> Outcome:
        """Do a step and check everything."""
        chosen = plan.step(self.seed, number, pitr=self.world.pitr)
        outcome = Outcome(chosen)
        began = time.monotonic()
        try:
            self._step(chosen, outcome)
        except Exception:  # noqa: BLE001 - of the checks, which is a failure of the step too
            outcome.problems.append(traceback.format_exc())
        outcome.seconds = time.monotonic() - began
        return outcome

    def _step(self, chosen: plan.Step, outcome: Outcome) -> None:
        world = self.world
        tasks = [
            pitr.PITR_TASKS[operation.name](world, operation, chosen.number * 10 + place)
            for place, operation in enumerate(chosen.operations)
        ]
        for task in tasks:
            task.alone = len(tasks) == 1
            task.prepare()
        strike = faults.strike(world, chosen.fault, tasks, pitr.PITR_STRIKES)
        known = set(world.known)
        try:
            if strike is not None:
                outcome.problems += strike.before()
                outcome.what = strike.what
            self._run(chosen, tasks, strike, outcome)
        finally:
            if strike is not None:
                outcome.problems += strike.after()
        calm = strike is None
        for task, result in zip(tasks, outcome.results, strict=True):
            signalled = strike is not None and strike.signals
            outcome.problems += invariants.truth(result, chosen.fault, signalled=signalled)
            outcome.problems += task.expected(result, calm=calm)
            outcome.problems += task.judge(result)
        removing = any(operation.name in ("backup", "prune") for operation in chosen.operations)
        outcome.problems += invariants.nothing_lost(world, removing=removing)
        self._restore(chosen, outcome, known)
        if strike is not None:
            strike.afterwards()
        self._clean_up(chosen, outcome)

    def _restore(self, chosen: plan.Step, outcome: Outcome, known: set[str]) -> None:
        """Restore what a disturbed run has published, else a sample."""
        world = self.world
        chance = random.Random(chosen.sample)
        new = [name for name in world.known if name not in known]
        names = [name for name in new if chosen.fault is not None or chance.random() < self.sample]
        if chosen.sample < self.sample and world.known:
            names.append(chance.choice(sorted(world.known)))
        outcome.problems += invariants.restores(world, names, chosen.number)
        outcome.restored = len(names)

    def _clean_up(self, chosen: plan.Step, outcome: Outcome) -> None:
        """Check sometimes that a run without a fault leaves nothing; remove old backups."""
        world = self.world
        if chosen.sample < self.sample / 3:
            outcome.problems += invariants.nothing_left(world)
            if world.pitr:
                outcome.problems += pitr.of(world).gaps()
            outcome.left = True
            outcome.what += " (nothing left)"
        invariants.tidy(world)
        if world.pitr:
            outcome.problems += pitr.of(world).problems()

    def _run(
        self, chosen: plan.Step, tasks: Sequence[Task], strike: faults.Strike | None,
        outcome: Outcome,
    ) -> None:  # fmt: skip
        world = self.world
        load = max(1.0, os.getloadavg()[0] / 2)
        ledgers = list(world.ledgers.values())
        with ledger.writers(ledgers, chosen.writer, f"{self.seed}/{chosen.number}") as writers:
            running = [
                Running(
                    task.args, task.env, world.log / f"{chosen.number:05}-{place}",
                    fork=chosen.fork and "LD_PRELOAD" not in task.env,
                )
                for place, task in enumerate(tasks)
            ]  # fmt: skip
            if strike is not None and chosen.fault is not None:
                key = f"{chosen.operations[0].name} {chosen.operations[0].variant}"
                expected = world.seconds.get(key, FIRST)
                faults.wait(running, chosen.fault.moment * expected)
                strike.during(running)
            deadline = time.monotonic() + DEADLINE * load
            for each in running:
                result, hung = each.end(deadline)
                world.changed()
                outcome.results.append(result)
                if hung:
                    outcome.problems.append(f"hangs: {' '.join(result.args)}")
        outcome.problems += [writer.error for writer in writers if writer.error]
        if outcome.results[0].code == 0:
            key = f"{chosen.operations[0].name} {chosen.operations[0].variant}"
            world.seconds[key] = outcome.results[0].seconds


def shown(outcome: Outcome) -> str:
    """Return a line about a step."""
    step = outcome.step
    operations = " + ".join(
        f"{each.name} {each.variant} [{each.stores} {each.cipher}] {each.database}"
        for each in step.operations
    )
    codes = ",".join(str(result.code) for result in outcome.results)
    return (
        f"{step.number}: {operations} | {outcome.what or 'no fault'} | {step.writer} |"
        f" exit {codes} | {outcome.restored} restored | {outcome.seconds:.1f} s"
    )


def explained(outcome: Outcome, world: World, seed: int) -> str:
    """Return everything about a step that failed."""
    lines = [f"FAILED: seed {seed}, step {outcome.step.number}", f"  {outcome.step}"]
    for result in outcome.results:
        command = " ".join(result.args)
        lines.append(f"  pgkeep {command}: exit code {result.code}, {result.seconds:.1f} s")
        lines.append(result.tail(30))
    lines += [f"  PROBLEM: {problem}" for problem in outcome.problems]
    lines.append(f"  folder: {world.folder}")
    options = f"--seed {seed} --major {world.major} --steps {outcome.step.number + 1}"
    lines.append(f"  repeat: python -m bench.torture {options}")
    return "\n".join(lines)


def run(options: argparse.Namespace, totals: Totals, folder: Path, first: int) -> int:
    """Do the steps of a seed until one fails, or the time is over; return the next one."""
    with World(folder, totals.major, totals.seed) as world, contextlib.ExitStack() as stack:
        totals.version = world.version
        if world.pitr:
            world.point_in_time = stack.enter_context(contextlib.closing(pitr.PointInTime(world)))
        loop = Loop(world, totals.seed, options.sample)
        number, failed = first, False
        while not failed and not over(options, totals, number):
            outcome = loop.step(number)
            number += 1
            totals.add(outcome)
            print(shown(outcome), flush=True)
            if outcome.problems:
                failed = True
                totals.failed.append(explained(outcome, world, totals.seed))
        if not failed and (left := invariants.nothing_left(world)):
            failed = True
            totals.failed.append("after the last step:\n" + "\n".join(left))
        if failed:
            print(totals.failed[-1], flush=True)
            keep(world)
    return number


def over(options: argparse.Namespace, totals: Totals, number: int) -> bool:
    """Whether a seed has no further step."""
    totals.minutes = (time.monotonic() - totals.began) / 60
    return totals.minutes >= options.minutes or (
        options.steps is not None and number >= options.steps
    )


def keep(world: World) -> None:
    """Copy what is on file systems that end with the run."""
    for name in ("backups", "spool"):
        with contextlib.suppress(OSError, shutil.Error):
            shutil.copytree(world.folder / name, world.folder / f"kept-{name}")


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.torture", description=__doc__)
    parser.add_argument("--minutes", type=float,
                        default=float(os.environ.get("TORTURE_MINUTES", "30")),
                        help="for each seed (TORTURE_MINUTES)")  # fmt: skip
    parser.add_argument("--seed", type=int, action="append", help="can be repeated")
    parser.add_argument("--steps", type=int, help="end after this number of steps")
    parser.add_argument("--first", type=int, default=0, help="begin with this step")
    parser.add_argument("--majors", default="17,18,15", help="of the seeds, one after the other")
    parser.add_argument("--major", type=int, help="of all seeds")
    parser.add_argument("--keep-going", action="store_true",
                        help="continue in new databases after a step that failed")  # fmt: skip
    parser.add_argument("--sample", type=float, default=0.25,
                        help="share of the steps after which everything is checked")  # fmt: skip
    parser.add_argument("--results", type=Path, default=Path("build/torture"),
                        help="folder for one JSON file of each seed")  # fmt: skip
    parser.add_argument("--output", type=Path, help="write the page of all saved results")
    parser.add_argument("--report", action="store_true", help="only write the page")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all seeds; end with exit code 1 if a step failed."""
    options = parsed(arguments)
    if not options.report:
        failed = tortured(options)
        if failed:
            sys.exit(1)
    if options.output:
        options.output.write_text(report.page(report.load(options.results)))


def tortured(options: argparse.Namespace) -> bool:
    """Run all seeds; return whether a step failed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # stops the servers
    # A shell starts programs in the background with these ignored, and so would pgkeep be.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if os.geteuid() != 0:
        raise SystemExit("torture requires root: it mounts file systems, to fill them")
    if UNSHARED not in os.environ:  # our mounts end with us
        os.environ[UNSHARED] = "1"
        command = [sys.executable, "-m", "bench.torture", *sys.argv[1:]]
        os.execvp("unshare", ["unshare", "--mount", "--propagation=private", *command])
    majors = [int(major) for major in options.majors.split(",")]
    failed = False
    for place, seed in enumerate(options.seed or [int(time.time())]):
        major = options.major or majors[place % len(majors)]
        print(f"seed {seed}, PostgreSQL {major}", flush=True)
        totals = Totals(
            seed, major, commit=report.commit(), date=f"{datetime.now(UTC):%Y-%m-%d}",
            cores=os.cpu_count() or 0, sample=options.sample, began=time.monotonic(),
        )  # fmt: skip
        number = options.first
        while not over(options, totals, number) and (options.keep_going or not totals.failed):
            folder = Path(tempfile.mkdtemp(prefix=f"torture-{seed}-"))
            folder.chmod(0o755)
            before = len(totals.failed)
            number = run(options, totals, folder, number)
            if len(totals.failed) == before:
                shutil.rmtree(folder)
        failed |= bool(totals.failed)
        options.results.mkdir(parents=True, exist_ok=True)
        document: dict[str, Any] = vars(totals)
        (options.results / f"{seed}.json").write_text(json.dumps(document, indent=1) + "\n")
    return failed


if __name__ == "__main__":
    main()
