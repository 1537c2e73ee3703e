"""python -m tests.mutants: plant each bug in a copy of the code, and see which test notices it.

Exit code 1 if no test notices a bug, or its text does not occur exactly once.
"""

import argparse
import os
import queue
import re
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import kept, report
from .bug import Bug
from .bugs import KINDS
from .tree import ROOT, Outcome, RunFailed, Tree


def main() -> int:
    """Try all bugs, or those that are named."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--only", help="regular expression for `kind: name`; writes no document")
    parser.add_argument("--tests", nargs="+", help="run these tests instead of those of the bugs")
    parser.add_argument("--again", action="store_true", help="also try what has not changed")
    parser.add_argument("--write", action="store_true", help="only write what earlier runs found")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="bugs at the same time")
    options = parser.parse_args()
    kinds = {
        kind: [bug for bug in bugs if re.search(options.only or "", f"{kind}: {bug.name}")]
        for kind, bugs in KINDS.items()
    }
    # Where other users can enter, as which the tests run servers, and not in /tmp, which tests hide.
    with tempfile.TemporaryDirectory(prefix="pgkeep-mutants-", dir="/var/tmp") as temporary:
        Path(temporary).chmod(0o755)
        bugs = [bug for found in kinds.values() for bug in found]
        results = [] if options.again or options.tests else _kept(bugs)
        known = {result.bug for result in results}
        new = [bug for bug in bugs if bug not in known]
        if options.write:
            results += [report.Result(bug, Outcome(None, "", 0), report.NOT_TRIED) for bug in new]
            new = []
        results += _run(Path(temporary), new, options.tests, min(options.jobs, len(new)))
    if not options.only and not options.tests:
        report.write(kinds, results)
    bad = [result for result in results if result.problem]
    print(f"{len(results)} bugs, {len(bad)} of them not noticed by a test that passes without")
    return int(bool(bad) or not results)


def _kept(bugs: Sequence[Bug]) -> list[report.Result]:
    """Return the results of earlier runs that are still valid."""
    found = [(bug, kept.find(bug)) for bug in bugs]
    return [report.Result(bug, outcome) for bug, outcome in found if outcome is not None]


def _run(
    folder: Path, bugs: Sequence[Bug], tests: Sequence[str] | None, jobs: int
) -> list[report.Result]:
    """Try each bug; then run the tests that noticed one without any bug."""
    trees: queue.SimpleQueue[Tree] = queue.SimpleQueue()
    for number in range(jobs):
        (folder / str(number)).mkdir()
        trees.put(Tree(folder / str(number)))

    def attempt(bug: Bug) -> report.Result:
        tree = trees.get()
        try:
            with tree.planted(bug):
                result = report.Result(bug, tree.run(tests or bug.tests))
        except (RunFailed, ValueError) as error:
            result = report.Result(bug, Outcome(None, "", 0), str(error))
        finally:
            trees.put(tree)
        print(report.line(result), flush=True)
        return result

    with ThreadPoolExecutor(max(1, jobs)) as pool:
        results = list(pool.map(attempt, bugs))
    noticed = sorted({result.outcome.test for result in results if result.outcome.test})
    without = trees.get().run(noticed) if noticed else Outcome(None, "", 0)
    if without.test is not None:
        print(f"{without.test} also fails without a bug:\n{without.message}")
        results = [report.failing(result, without.test) for result in results]
    else:
        found = [(result.bug, result.outcome) for result in results if not result.problem]
        kept.keep(found, folder / "0")
    return results


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
