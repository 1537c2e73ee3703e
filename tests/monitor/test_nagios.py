"""pgkeep status --nagios: one line, performance data, exit codes 0 to 3."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from pgkeep.model.manifest import Drill
from pgkeep.monitor import nagios
from tests.support import invoke, planted
from tests.support.invoke import run_python

DAY = timedelta(days=1)
LINE = re.compile(r"PGKEEP (OK|WARNING|CRITICAL|UNKNOWN): [^|\n]+( \| [^|\n]+)?\n")


def plugin(*arguments: str, env: dict[str, str]) -> tuple[int, str]:
    """Return exit code and line; nothing else is printed."""
    code, out, err = invoke.complete("status", "--nagios", *arguments, env=env)
    assert LINE.fullmatch(out), out
    assert err == ""
    return code, out.rstrip("\n")


def test_a_plugin_says_ok_warning_critical_or_unknown(tmp_path: Path) -> None:
    """F1, F17: of one database, or of all; what endangers a restore now is critical."""
    now = datetime.now(UTC).replace(microsecond=0)
    good = planted.manifest(now - timedelta(hours=1))
    drills = [Drill(now, True, {"load": 7.0}, 0)]
    planted.plant(tmp_path / "b", msgspec.structs.replace(good, drills=drills))
    env = invoke.environment(BACKUP_DIR=str(tmp_path / "b"), BACKUP_RTO="1h")
    code, line = plugin(env=env)
    assert code == 0
    assert re.fullmatch(
        r"PGKEEP OK: 1 database is within the goals \| 'app age'=36\d\ds;;93600;0"
        r" 'app size'=1B;;;0 'app recovery'=7\.0s;;3600;0",
        line,
    )
    code, line = plugin(env=env | {"BACKUP_RTO": "5s"})
    assert (code, line.startswith("PGKEEP WARNING: app: its recovery took 7 s")) == (1, True)
    planted.plant(tmp_path / "b", planted.manifest(now - 3 * DAY, database="it's=old|\n"))
    env.pop("BACKUP_RTO")
    code, line = plugin(env=env)
    assert (code, "its newest backup is 3 d old" in line) == (2, True)
    assert "'it''s_old/\\n age'=" in line
    assert plugin("--database=app", env=env)[0] == 0
    code, line = plugin("--database=other", env=env)
    assert (code, line) == (
        2, "PGKEEP CRITICAL: database other is not among those that are backed up",
    )  # fmt: skip
    assert plugin(env=env | {"BACKUP_DATABASES": "none"})[0] == 2


@pytest.mark.parametrize("arguments", [["--none"], ["--target=none"], ["--json"]])
def test_what_cannot_be_found_out_is_unknown(arguments: list[str], tmp_path: Path) -> None:
    """F1: an error of usage has exit code 2, which would mean critical."""
    env = invoke.environment(BACKUP_DIR=str(tmp_path))
    code, out, _ = invoke.complete("status", "--nagios", *arguments, env=env)
    assert (code, LINE.fullmatch(out) is not None) == (3, True)


def test_a_store_that_cannot_be_read_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    env = invoke.environment(BACKUP_DIR=str(tmp_path / "file"))
    code, line = plugin(env=env)
    assert (code, line.startswith("PGKEEP UNKNOWN: ")) == (3, True)
    broken = "import pgkeep.cli.status as m; m.state_of = None"
    done = run_python(broken, "status", "--nagios", env=env)
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout.startswith("PGKEEP UNKNOWN: TypeError: ")


def test_a_long_text_leaves_room_for_the_data() -> None:
    line = nagios.line(nagios.WARNING, "x" * 5000, ["'a'=1s"])
    assert line.endswith("x... | 'a'=1s")
    assert len(line) < nagios.LONGEST + 40
