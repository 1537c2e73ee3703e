"""python -m tests.regression: try every way back, write docs/regression.md.

Exit code 1 if something differs without a known reason.
"""

import argparse
import sys
import tempfile
import traceback
from pathlib import Path

from tests.support.servers import Servers

from . import facts, report, source
from .lab import Lab, Step
from .steps import STEPS


def main() -> int:
    """Run all steps, or those that are named."""
    parser = argparse.ArgumentParser(prog="python -m tests.regression", description=__doc__)
    parser.add_argument("--only", help="steps whose name has this; the document stays as it is")
    parser.add_argument("--all", action="store_true", help="print every difference")
    options = parser.parse_args()
    servers = Servers()
    # Not where other users cannot enter: the servers are run by another one.
    with tempfile.TemporaryDirectory(prefix="pgkeep-regression-") as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)
        try:
            with source.server(folder) as (server, tests):
                return _run(Lab(server, folder, servers), tests, options)
        finally:
            servers.close()


def _run(lab: Lab, tests: str, options: argparse.Namespace) -> int:
    only: str | None = options.only
    print(f"PostgreSQL {source.version()}, pg_regress: {tests}", flush=True)
    counts = facts.counts(lab.server, source.DATABASE)
    steps: list[Step] = []
    for run in STEPS:
        name = str(getattr(run, "__name__", run))
        if only and run not in STEPS[:2] and only not in name:
            continue
        try:
            step = run(lab)
        except Exception:  # noqa: BLE001 - the others are tried all the same
            traceback.print_exc()
            continue
        steps.append(step)
        print(report.line(step), flush=True)
        known = set() if options.all else set(step.differences) - set(report.unexplained(step))
        for difference in step.differences:
            if difference not in known:
                print(
                    f"    {difference}: {difference.before[:400]!r} -> {difference.after[:600]!r}",
                    flush=True,
                )
    open_ = sum(len([*report.unexplained(step)]) for step in steps)
    if not only:
        report.write(tests, steps, counts, facts.counts(lab.server, "restored"))
        for reason in report.unused(steps):
            print(f"reason without a difference: {reason.pattern}")
    return int(bool(open_))


if __name__ == "__main__":
    sys.exit(main())
