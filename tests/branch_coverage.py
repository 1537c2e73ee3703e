"""Measure which branches the tests execute, also in child processes: `make coverage`.

    python -m tests.branch_coverage                  run all tests, write docs/coverage.md
    python -m tests.branch_coverage --report         write it from the data of the last run
    python -m tests.branch_coverage --missing -- -k names tests/restore
                                                     run some tests, print what they do not execute

Exit code 1 if less than 95 % of the branches are executed, if a function is not and
tests/uncovered.toml has no reason for it, or if a reason there is about a function that is.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support import coverage_page
from tests.support.coverage_page import Report

ROOT = Path(__file__).parents[1]
DATA = ROOT / "build" / "coverage"
SUMMARY = DATA / "summary.txt"  # the last line of pytest
DOCUMENT = ROOT / "docs" / "coverage.md"
LEAST = 95.0  # percent of the branches

# `patch` measures the processes that tests start, and forks that end without Python's cleanup.
CONFIGURATION = """
[run]
branch = true
parallel = true
source_pkgs = pgkeep
data_file = {data}/data
patch =
    subprocess
    fork
    _exit
[report]
exclude_also =
    if TYPE_CHECKING:
    \\.\\.\\.$
"""


def _run(configuration: Path, args: list[str]) -> None:
    """Run the tests; a failed one does not end the measurement, as some measure time."""
    workers = [] if "-n" in args else ["-n", str((os.cpu_count() or 1) + 1), "--dist=worksteal"]
    command = _coverage(configuration, "run", "-m", "pytest", "-q", "--timeout=900", *workers)
    last = ""
    with subprocess.Popen([*command, *args], cwd=ROOT, stdout=subprocess.PIPE, text=True) as tests:
        assert tests.stdout is not None
        for line in tests.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
    SUMMARY.write_text(last)


def _report(configuration: Path) -> Report:
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "coverage.json"
        if any(DATA.glob("data.*")):
            combine = _coverage(configuration, "combine", "--quiet", str(DATA))
            subprocess.run(combine, cwd=ROOT, check=True)
        report = _coverage(configuration, "json", "--quiet", "-o", str(written))
        subprocess.run(report, cwd=ROOT, check=True)
        return coverage_page.read(json.loads(written.read_text()))


def _coverage(configuration: Path, command: str, *args: str) -> list[str]:
    return [sys.executable, "-m", "coverage", command, f"--rcfile={configuration}", *args]


def main() -> int:
    """Run the tests and report; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.branch_coverage")
    parser.add_argument("--report", action="store_true", help="use the data of the last run")
    parser.add_argument("--missing", action="store_true", help="print, and write no document")
    parser.add_argument("args", nargs="*", metavar="-- ARGUMENTS", help="of pytest")
    options = parser.parse_args()
    if not options.report:
        shutil.rmtree(DATA, ignore_errors=True)
        DATA.mkdir(parents=True)
        DATA.chmod(0o777)  # some programs run as another user
    configuration = DATA / "coveragerc"
    configuration.write_text(CONFIGURATION.format(data=DATA))
    if not options.report:
        _run(configuration, options.args)
    report = _report(configuration)
    if options.missing:
        print(*report.missing(), sep="\n")
        return 0
    DOCUMENT.write_text(coverage_page.page(report, SUMMARY.read_text()))
    wrong = [*report.stale(), *report.unexplained()]
    if report.percent < LEAST:
        wrong.append(f"{report.percent:.1f} % of the branches, expected {LEAST:g} %")
    print(f"{report.percent:.1f} % of {report.branches} branches", *wrong, sep="\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
