"""Make PostgreSQL's own regression database on a temporary server, by its own pg_regress."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pgkeep import processes
from pgkeep.postgres.server import Server
from tests.support import servers
from tests.support.servers import SETTINGS

MAJOR = 15
DATABASE = "regression"

# Where tests/setup.sh unpacks Debian's source package and builds regress.so and pg_regress.
BUILD = Path(__file__).parents[2] / "build" / "regression"
TESTS = BUILD / "src" / "test" / "regress"

# A library that is named without a folder is looked for in these; the one of 18 is built from the
# same source.
LIBRARIES = {MAJOR: TESTS, 18: BUILD / "18"}

SCHEDULE_SECONDS = 900


def version() -> str:
    """Return the version of the source package."""
    return (BUILD / "VERSION").read_text().strip()


def settings(major: int) -> dict[str, str]:
    """Return the settings of a server that finds the tests' library."""
    return {**SETTINGS, "dynamic_library_path": f"{LIBRARIES[major]}:$libdir"}


@contextmanager
def server(folder: Path) -> Iterator[tuple[Server, str]]:
    """Run a server that has the regression database; give it, and what pg_regress said."""
    with Server(servers.bin_folder(MAJOR), settings=settings(MAJOR)) as running:
        yield running, _run_tests(running, folder / "pg_regress")


def _run_tests(server: Server, folder: Path) -> str:
    results = folder / "results"
    results.mkdir(parents=True)
    for path in (folder, results):
        path.chmod(0o777)  # the server writes files there, and runs as another user
    command = [
        str(TESTS / "pg_regress"),
        f"--bindir={servers.bin_folder(MAJOR)}",
        f"--host={server.host}",
        f"--port={server.port}",
        f"--user={server.user}",
        f"--dbname={DATABASE}",
        f"--dlpath={TESTS}",
        f"--inputdir={TESTS}",
        f"--outputdir={folder}",
        f"--schedule={TESTS / 'parallel_schedule'}",
        "--max-connections=20",
    ]
    done = subprocess.run(
        command,
        cwd=folder,
        env=processes.environment({}),
        capture_output=True,
        text=True,
        timeout=SCHEDULE_SECONDS,
        check=False,
    )
    summary = re.search(r"^ ?(All .*|\d+ of .*?)\.? *$", done.stdout, re.MULTILINE)
    if summary is None:
        raise AssertionError(f"pg_regress did not finish:\n{done.stdout[-4000:]}{done.stderr}")
    if done.returncode:
        diffs = folder / "regression.diffs"
        shutil.copy(diffs, BUILD / "regression.diffs")
    return summary[1].strip()
