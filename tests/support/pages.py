"""The page of `pgkeep serve`, and the browser that shows it."""

import contextlib
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.support import invoke

CHROMIUM = "/usr/bin/chromium-headless-shell"


@contextlib.contextmanager
def serving(
    *args: str, env: Mapping[str, str], command: str = "serve", cwd: Path | None = None
) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Run the command, on a port that is free; return its address."""
    process = invoke.start(command, *(args or ("--listen=0",)), env=env, cwd=cwd)
    assert process.stderr is not None
    line = process.stderr.readline()
    found = re.search(r"serving (http://\S+)/(metrics)?$", line)
    try:
        assert found is not None, line + process.stderr.read()
        yield found[1], process
    finally:
        process.terminate()
        _, err = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in err) == (128 + signal.SIGTERM, False), err
