"""The files in examples/ do what they say, each run as cron or systemd would run it."""

import configparser
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import pytest

from pgkeep import config, settings
from pgkeep.model.retention import Policy
from pgkeep.postgres.server import Server
from tests.support import faults, invoke, servers
from tests.support.servers import SETTINGS

EXAMPLES = Path(__file__).parents[1] / "examples"
DATABASES = ["events", "reports"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Server]:
    """A server with two small databases."""
    with Server(servers.bin_folder(17), settings=SETTINGS) as server:
        for name in DATABASES:
            servers.sql(server, "postgres", f"create database {name}")
            servers.sql(server, name, "create table t as select generate_series(1, 10)")
        yield server


class Machine:
    """A file tree of its own in place of /etc, /var and /usr/local; the examples speak of these."""

    def __init__(self, root: Path, server: Server) -> None:
        self.root = root
        self.server = server
        for folder in ("etc", "log", "backups"):
            (root / folder).mkdir()
        url = f"postgresql://{server.params['user']}@/postgres?host={server.params['host']}"
        (root / "etc" / "analytics.url").write_text(f"{url}&port={server.params['port']}\n")
        for name in ("password", "shop.password"):
            (root / "etc" / name).write_text("any\n")
        (root / "etc" / "backup.env").write_text(self.read("backup.env"))

    def read(self, name: str) -> str:
        """Return an example with our places, and our server instead of db.example.com."""
        text = (EXAMPLES / name).read_text()
        for place, ours in (
            ("/etc/pgkeep", self.root / "etc"),
            ("/var/log/pgkeep", self.root / "log"),
            ("/var/backups/pgkeep", self.root / "backups"),
            ("/usr/local/bin", Path(invoke.PGKEEP).parent),
        ):
            text = text.replace(place, str(ours))
        text = text.replace("POSTGRES_USER=backup", f"POSTGRES_USER={self.server.params['user']}")
        text = text.replace(
            "POSTGRES_HOST=db.example.com",
            f"POSTGRES_HOST={self.server.params['host']}\n"
            f"POSTGRES_PORT={self.server.params['port']}",
        )
        text = text.replace('"shop-db.example.com"', f'"{self.server.params["host"]}"')
        return text.replace(
            'postgres_user = "backup"',
            f'postgres_user = "{self.server.params["user"]}"\n'
            f"postgres_port = {self.server.params['port']}",
        )

    def backups(self, folder: str = "") -> list[str]:
        """Return database and type of the backups that are there."""
        names = faults.published(self.root / "backups" / folder)
        return sorted("_".join(name.split("_")[:-1]) for name in names)


@pytest.fixture
def machine(tmp_path: Path, cluster: Server) -> Machine:
    return Machine(tmp_path, cluster)


def settings_of(env_file: str) -> dict[str, str]:
    """Read NAME=value lines as systemd does."""
    lines = [line for line in env_file.splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def crontab(text: str) -> tuple[dict[str, str], str, str]:
    """Return the variables, the time and the command of a crontab with one job."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    variables = dict(line.split("=", 1) for line in lines if re.match(r"\w+=", line))
    (job,) = (line for line in lines if not re.match(r"\w+=", line))
    fields = job.split(None, 5)
    return variables, " ".join(fields[:5]), fields[5]


def as_cron(text: str) -> "subprocess.CompletedProcess[str]":
    """Run the job as cron does: no HOME that is of use, nothing on PATH but what it says."""
    variables, time, command = crontab(text)
    assert time == "30 4 * * *"
    assert "%" not in command  # would be a newline
    assert variables.pop("MAILTO") == "root"
    given = [f"{name}={value}" for name, value in variables.items()]
    return subprocess.run(
        ["/usr/bin/env", "-i", *given, "LOGNAME=backup", variables["SHELL"], "-c", command],
        cwd="/", capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def test_crontab(machine: Machine) -> None:
    """Every database, the month's first; nothing for cron to send. The next one is a daily."""
    for kind in ("monthly", "daily"):
        done = as_cron(machine.read("crontab"))
        log = (machine.root / "log" / "backup.log").read_text()
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), log
        assert "\ndone: 2 databases, 20 rows, " in log
        assert [f"{name}_{kind}" for name in DATABASES] == [
            backup for backup in machine.backups() if backup.endswith(kind)
        ]
    for manifest in (machine.root / "backups").glob("*.manifest.json"):
        assert json.loads(manifest.read_bytes())["verified"]


def test_crontab_of_a_night_that_fails(machine: Machine) -> None:
    """B24, F14: the mail says what is wrong, and the exit code is pgkeep's."""
    settings = machine.root / "etc" / "backup.env"
    settings.write_text(settings.read_text() + "BACKUP_DATABASES=events,missing\n")
    done = as_cron(machine.read("crontab"))
    assert (done.returncode, done.stderr) == (11, "")
    assert done.stdout.startswith("pgkeep: exit code 11\n")
    assert "error: 1 of 2 databases failed: missing" in done.stdout
    assert machine.backups() == ["events_monthly"]


def unit(text: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(text)
    return parser


def as_systemd(machine: Machine, name: str) -> dict[str, Any]:
    """Run the command of a service in its environment; return the last event that it logged."""
    service = unit(machine.read(name))["Service"]
    assert service["Type"] == "oneshot"
    assert service["ReadWritePaths"] == str(machine.root / "backups")
    settings = settings_of(Path(service["EnvironmentFile"]).read_text())
    done = subprocess.run(
        shlex.split(service["ExecStart"]),
        env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"} | settings,
        cwd="/", capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    last: dict[str, Any] = json.loads(done.stderr.splitlines()[-1])
    assert last["exit_code"] == done.returncode
    return last


def test_systemd_service(machine: Machine) -> None:
    """B22, F17: its command with its environment, and no more than systemd gives."""
    assert as_systemd(machine, "systemd/pgkeep-backup.service")["exit_code"] == 0
    assert machine.backups() == [f"{name}_monthly" for name in DATABASES]
    refused = as_systemd(machine, "systemd/pgkeep-drill-pitr.service")
    assert refused["exit_code"] == 9
    assert "no cluster has base backups or WAL here" in refused["message"]


def test_systemd_timer_and_service_are_valid(machine: Machine, tmp_path: Path) -> None:
    """Asked of systemd itself where it is installed."""
    timer = unit(machine.read("systemd/pgkeep-backup.timer"))
    assert timer["Timer"]["Persistent"] == "yes"
    assert timer["Timer"]["OnCalendar"] == "*-*-* 02:30:00 UTC"
    assert timer["Install"]["WantedBy"] == "timers.target"
    known = {"Unit", "Service", "Timer", "Install"}
    told = unit(machine.read("systemd/pgkeep-backup.service"))["Unit"]["OnFailure"]
    assert told == "pgkeep-failed@%n.service"
    report = unit(machine.read("systemd/pgkeep-failed@.service"))["Service"]["ExecStart"]
    words = shlex.split(report.replace("%i", "pgkeep-backup.service").replace("%H", "here"))
    subprocess.run(words, check=True, capture_output=True, timeout=60)
    paths = []
    drill = unit(machine.read("systemd/pgkeep-drill-pitr.timer"))
    assert drill["Timer"]["OnCalendar"] == "*-*-03 09:00:00 UTC"
    for name in (
        "pgkeep-backup.service", "pgkeep-backup.timer", "pgkeep-failed@.service",
        "pgkeep-drill-pitr.service", "pgkeep-drill-pitr.timer",
    ):  # fmt: skip
        assert set(unit(machine.read(f"systemd/{name}")).sections()) <= known
        paths.append(tmp_path / name)
        paths[-1].write_text(machine.read(f"systemd/{name}"))
    program = shutil.which("systemd-analyze")
    if program is not None:
        done = subprocess.run(
            [program, "verify", "--man=no", *paths],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        said = [line for line in done.stderr.splitlines() if "pgkeep-" in line]
        assert said == []


def test_settings_are_known(machine: Machine) -> None:
    """No variable that pgkeep would pass over."""
    variables = settings_of(machine.read("backup.env"))
    known = {setting.variable for setting in settings.SETTINGS}
    assert {name.removesuffix("_FILE") for name in variables} <= known
    (loaded,) = config.load(variables)
    assert loaded.settings.databases.patterns == ("*",)
    assert loaded.policy == Policy(min_keep=2)
    assert loaded.connection["password"] == "any"


def test_targets_of_the_file(machine: Machine) -> None:
    """Both, each its own way."""
    path = machine.root / "etc" / "pgkeep.toml"
    path.write_text(machine.read("pgkeep.toml"))
    shop, analytics = config.load({"PGKEEP_CONFIG": str(path)})
    assert (shop.target, shop.settings.databases.patterns) == ("shop", ("*",))
    assert shop.policy == Policy(min_keep=2)
    assert analytics.settings.databases.names == ("events", "reports")
    assert analytics.policy == Policy(daily=3, min_keep=2)
    assert (shop.settings.drift, analytics.settings.drift) == (0.5, 0.8)
    env = {"PATH": "/usr/bin:/bin", "PGKEEP_CONFIG": str(path)}
    invoke.run("backup", "--type=auto", env=env)
    assert machine.backups("shop") == [f"{name}_monthly" for name in DATABASES]
    assert machine.backups("analytics") == ["events_monthly", "reports_monthly"]
    invoke.run("backup", "--type=auto", "--target=analytics", env=env)
    assert len(machine.backups("shop")) == 2
    assert len(machine.backups("analytics")) == 4


def test_every_example_is_tried_here() -> None:
    text = Path(__file__).read_text()
    for path in EXAMPLES.rglob("*"):
        assert path.is_dir() or path.name in text


def test_the_time_of_the_jobs_exists_exactly_once_a_day() -> None:
    """F1: at 02:30 no backup is made in the night in which clocks are set forward."""
    minute, hour, *_ = crontab((EXAMPLES / "crontab").read_text())[1].split()
    first = datetime(2026, 1, 1, int(hour), int(minute))  # noqa: DTZ001 - of every zone
    days = [first + timedelta(days=n) for n in range(3 * 366)]

    def once(day: datetime, zone: ZoneInfo) -> bool:
        local = day.replace(tzinfo=zone)
        return local.utcoffset() == local.replace(fold=1).utcoffset()

    zones = [ZoneInfo(name) for name in sorted(available_timezones())]
    assert all(once(day, zone) for zone in zones for day in days)
    berlin = ZoneInfo("Europe/Berlin")
    assert sum(not once(day - timedelta(hours=2), berlin) for day in days) == 6
