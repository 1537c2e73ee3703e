"""The scripts of a generated project, and what schedules them: cron, systemd, CI, Kubernetes."""

import configparser
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pgkeep.postgres.server import Server
from tests.support import baking, faults, invoke, servers
from tests.support.baking import ORDERS
from tests.support.concurrency import Gate

# Stands where pgkeep would, and tells what it was given.
TELLER = """#!/bin/sh
printf '<%s>' "$@"
printf '\\n'
env | grep -E '^(BACKUP|POSTGRES|AWS|DATABASE)_' | sort
exit 7
"""
SYSTEM = "/usr/bin:/bin"


@pytest.fixture(scope="module")
def baked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return baking.bake(tmp_path_factory.mktemp("baked"))


@pytest.fixture
def project(baked: Path, tmp_path: Path) -> Path:
    """A project whose virtual environment has a pgkeep that only tells what it was given."""
    copy = tmp_path / "my project"
    shutil.copytree(baked, copy)
    teller(copy / ".venv" / "bin" / "pgkeep")
    return copy


def teller(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(TELLER)
    path.chmod(0o755)


def call(script: Path | str, *args: str, cwd: Path | str = "/", **env: str) -> tuple[int, str, str]:
    """Run a script with nothing in its environment but this; return code, output, errors."""
    done = subprocess.run(
        [str(script), *args],
        env={"PATH": SYSTEM, **env}, cwd=cwd, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def given(out: str) -> dict[str, str]:
    """Return the variables that arrived."""
    return dict(line.split("=", 1) for line in out.splitlines()[1:])


def words(out: str) -> list[str]:
    """Return the arguments that arrived."""
    return re.findall("<(.*?)>", out.splitlines()[0])


@pytest.mark.parametrize(("name", "verb"), [("db-backup", "backup"), ("db-restore", "restore")])
def test_arguments_and_exit_code_go_through(project: Path, tmp_path: Path, name: str,
                                            verb: str) -> None:  # fmt: skip
    """B24: whatever is in them, from whatever directory, through symlinks, in two shells."""
    odd = ["--type=weekly", "two words", "*", "", "$HOME", "`id`", "'\"", "-", "a\\b"]
    script = project / "scripts" / f"{name}.sh"
    direct, folder, relative = tmp_path / "a link", tmp_path / "folder", tmp_path / "relative"
    direct.symlink_to(script)
    folder.symlink_to(script.parent)
    relative.symlink_to(Path("a link"))
    ways: list[tuple[str | Path, ...]] = [
        (script,), (Path("..") / script.parent.name / script.name,), (direct,), (relative,),
        (folder / script.name,), ("dash", script), ("bash", "--posix", direct),
    ]  # fmt: skip
    for way in ways:
        for cwd in ("/", project / "scripts"):
            if cwd == "/" and not Path(way[-1]).is_absolute():
                continue
            code, out, err = call(way[0], *map(str, way[1:]), *odd, cwd=cwd)
            assert (code, err) == (7, ""), way
            assert words(out) == [verb, *odd]
            assert given(out) == {"BACKUP_DIR": f"{project}/backups"}


@pytest.mark.parametrize(
    ("line", "arguments"),
    [
        ("db-backup", "backup --type=daily"),
        ("db-backup --verify", "backup --type=daily --verify"),
        ("db-backup --schema-only", "backup --type=daily --schema-only"),
        ("db-backup --type=weekly", "backup --type=weekly"),
        ("db-backup --verify --type manual", "backup --verify --type manual"),
        ("db-restore", "restore"),
        ("db-restore --verify-only", "restore --latest --verify-only"),
        ("db-restore --drop-existing --yes", "restore --latest --drop-existing --yes"),
        ("db-restore --drop-existing --backup=x", "restore --drop-existing --backup=x"),
        ("db-restore --backup x --verify-only", "restore --backup x --verify-only"),
        ("db-restore --latest --drop-existing", "restore --latest --drop-existing"),
        ("db-restore --target-db=x --dry-run", "restore --target-db=x --dry-run"),
    ],
)
def test_what_the_scripts_add(project: Path, line: str, arguments: str) -> None:
    """A daily backup, and the newest backup, unless others are named."""
    name, *options = line.split()
    _, out, _ = call(project / "scripts" / f"{name}.sh", *options)
    assert words(out) == arguments.split()


def test_a_backup_is_found_from_another_directory(project: Path, tmp_path: Path) -> None:
    """backups/FILE, as all documents write it; a file of the current directory comes first."""
    script = project / "scripts" / "db-restore.sh"
    (project / "backups" / "a b.sql.gz").touch()
    cases = {
        "--backup=backups/a b.sql.gz": f"--backup={project}/backups/a b.sql.gz",
        "--backup=backups/a b": f"--backup={project}/backups/a b",
        "backups/a b.sql.gz": f"{project}/backups/a b.sql.gz",
        "--backup=a b.sql.gz": "--backup=a b.sql.gz",
        "--backup=/backups/x": "--backup=/backups/x",
        "--as=backups/x": "--as=backups/x",
    }
    _, out, _ = call(script, *cases)
    assert words(out) == ["restore", *cases.values()]
    own = tmp_path / "own"
    (own / "backups").mkdir(parents=True)
    (own / "backups" / "a b.sql.gz").touch()
    for cwd in (own, project):
        _, out, _ = call(script, *cases, cwd=cwd)
        assert words(out) == ["restore", *cases]


VALUES = {
    "POSTGRES_PASSWORD=p$(touch pwned)`touch pwned`;touch pwned": "p$(touch pwned)`touch pwned`;touch pwned",  # noqa: E501
    "POSTGRES_PASSWORD=a b  c": "a b  c",
    "POSTGRES_PASSWORD=a=b#c": "a=b#c",
    "POSTGRES_PASSWORD=\\n\\t$HOME ~ *": "\\n\\t$HOME ~ *",
    "POSTGRES_PASSWORD='quo'ted'": "quo'ted",
    "POSTGRES_PASSWORD=\"a 'b'\"": "a 'b'",
    "POSTGRES_PASSWORD='": "'",
    "POSTGRES_PASSWORD=  padded ": "  padded ",
    "POSTGRES_PASSWORD=": "",
    "POSTGRES_PASSWORD=crlf\r": "crlf",
    "POSTGRES_PASSWORD=Grüße": "Grüße",
}


@pytest.mark.parametrize(("line", "value"), VALUES.items())
def test_settings_are_read_and_not_executed(project: Path, line: str, value: str) -> None:
    """A7.1: a password may be anything that fits on a line."""
    settings = project / "scripts" / "backup-config.env"
    for text in (f"# comment\n\n{line}\nPOSTGRES_DB=x\n", f"POSTGRES_DB=x\n{line}"):
        settings.write_bytes(text.encode())
        code, out, err = call(project / "scripts" / "db-backup.sh", cwd=project)
        assert (code, err) == (7, "")
        assert given(out)["POSTGRES_PASSWORD"] == value
        assert given(out)["POSTGRES_DB"] == "x"
        assert not [*project.rglob("pwned")]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("export POSTGRES_DB=x", "line 2: expected NAME=value"),
        ("POSTGRES_DB", "line 2: expected NAME=value"),
        ("POSTGRES_DB = x", "line 2: expected NAME=value"),
        ("touch pwned", "line 2: expected NAME=value"),
        ("$(touch pwned)=x", "line 2: expected NAME=value"),
        ("PATH=/tmp", "line 2: PATH is not a setting of pgkeep"),
        ("LD_PRELOAD=/tmp/x.so", "line 2: LD_PRELOAD is not a setting of pgkeep"),
        ("=x", "line 2:  is not a setting of pgkeep"),
    ],
)
def test_lines_that_are_no_settings_are_refused(project: Path, line: str, said: str) -> None:
    """With the place; nothing is run with half of the settings."""
    settings = project / "scripts" / "backup-config.env"
    settings.write_text(f"POSTGRES_HOST=h\n{line}\n")
    code, out, err = call(project / "scripts" / "db-backup.sh", cwd=project)
    assert (code, out) == (2, "")
    assert err == f"error: {settings}, {said}\n"
    assert not [*project.rglob("pwned")]


def test_the_environment_wins(project: Path) -> None:
    """Also a file over a value and a value over a file: pgkeep refuses both at once."""
    settings = project / "scripts" / "backup-config.env"
    settings.write_text("POSTGRES_PASSWORD_FILE=/file\nPOSTGRES_USER=u\nPOSTGRES_DB=d\n")
    script = project / "scripts" / "db-restore.sh"
    _, out, _ = call(script, POSTGRES_PASSWORD="mine", POSTGRES_USER_FILE="/mine")
    got = given(out)
    assert (got["POSTGRES_PASSWORD"], got["POSTGRES_USER_FILE"]) == ("mine", "/mine")
    assert got["POSTGRES_DB"] == "d"
    assert not {"POSTGRES_PASSWORD_FILE", "POSTGRES_USER"} & got.keys()
    other = project / "other.env"
    other.write_text("POSTGRES_DB=other\n")
    _, out, _ = call(script, DB_BACKUP_ENV=str(other))
    assert given(out) == {"POSTGRES_DB": "other", "BACKUP_DIR": f"{project}/backups"}
    code, _, err = call(script, DB_BACKUP_ENV="/proc/none")
    assert (code, err) == (2, "error: DB_BACKUP_ENV: file /proc/none does not exist\n")


@pytest.mark.parametrize(
    ("directory", "expected"),
    [("/b", "/b"), ("s3://bucket/x", "s3://bucket/x"), ("./kept", "{}/kept"), ("k/l", "{}/k/l")],
)
def test_a_relative_backup_directory_is_below_the_project(
    project: Path, directory: str, expected: str
) -> None:
    """Whatever directory the command is started from."""
    (project / "scripts" / "backup-config.env").write_text(f"BACKUP_DIR={directory}\n")
    _, out, _ = call(project / "scripts" / "db-backup.sh")
    assert given(out)["BACKUP_DIR"] == expected.format(project)
    (project / "scripts" / "backup-config.env").write_text("BACKUP_DIR_FILE=/file\n")
    _, out, _ = call(project / "scripts" / "db-backup.sh")
    assert "BACKUP_DIR" not in given(out)


def test_pgkeep_is_found_on_path_in_the_environment_or_in_docker(
    project: Path, tmp_path: Path
) -> None:
    """In this order; where there is none of them, that is said."""
    script = project / "scripts" / "db-backup.sh"
    on_path = tmp_path / "bin" / "pgkeep"
    teller(on_path)
    on_path.write_text(TELLER.replace("7", "8"))
    assert call(script, PATH=f"{tmp_path / 'bin'}:{SYSTEM}")[0] == 8
    assert call(script)[0] == 7
    (project / ".venv").rename(project / "venv")
    assert call(script)[0] == 7
    shutil.rmtree(project / "venv")
    on_path.rename(on_path.with_name("docker"))
    code, out, _ = call(script, "--type=weekly", PATH=f"{tmp_path / 'bin'}:{SYSTEM}")
    assert code == 8
    started = words(out)
    file = ["-f", "compose.backup.yml"]
    assert started == ["compose", *file, "run", "--rm", "-T", "backup", "backup", "--type=weekly"]
    compose = yaml.safe_load((project / "compose.backup.yml").read_text())
    assert started[6] in compose["services"]
    (project / "identity.txt").write_text("private")
    script = project / "scripts" / "pgkeep.sh"
    for command in ("list", "backup"):
        _, out, _ = call(script, command, PATH=f"{tmp_path / 'bin'}:{SYSTEM}")
        service = "backup" if command == "backup" else "restore"  # which has the private key
        assert words(out)[6:] == [service, command]
        assert service in compose["services"]
    (tmp_path / "bin" / "docker").unlink()
    bare = tmp_path / "bare"  # what the script itself needs, and no docker
    bare.mkdir()
    for name in ("sh", "dirname", "env", "readlink", "sed", "tr"):
        (bare / name).symlink_to(str(shutil.which(name, path=SYSTEM)))
    code, out, err = call(script, PATH=str(bare))
    assert (code, out) == (2, "")
    assert err.startswith("error: pgkeep was not found on PATH or in ")


# -- schedulers


@pytest.fixture(scope="module")
def cluster() -> Iterator[Server]:
    with baking.server(baking.free_port()) as running:
        baking.with_roles(running)
        yield running


@pytest.fixture
def live(tmp_path: Path, cluster: Server) -> Iterator[Path]:
    """A project as generated for this server's port, with its sample settings and a database."""
    project = baking.bake(tmp_path, postgres_port=str(cluster.port))
    example = project / "scripts" / "backup-config.env.example"
    example.with_suffix("").write_text(example.read_text())
    servers.sql(cluster, "postgres", "create database app owner app")
    yield project
    servers.drop(cluster, "app")
    servers.drop(cluster, "app_restored")


def types(project: Path) -> list[str]:
    return sorted(path.name.split("_")[1] for path in (project / "backups").glob("*.manifest.json"))


def test_crontab(live: Path, cluster: Server, tmp_path: Path) -> None:
    """F14: nothing for cron to send after a good night; the reason after a bad one."""
    servers.sql(cluster, "app", ORDERS)
    text = (live / "deploy" / "crontab").read_text().replace("/srv/my-project", str(live))
    log = tmp_path / "backup.log"
    text = text.replace("/var/log/my-project/backup.log", str(log))
    text = text.replace("PATH=/usr/local/bin", f"PATH={Path(invoke.PGKEEP).parent}")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    variables = dict(line.split("=", 1) for line in lines[:-2])
    assert variables["MAILTO"] == "root"
    words = [line.split(None, 5) for line in lines[-2:]]
    assert [" ".join(word[:5]) for word in words] == ["30 4 * * *", "0 6 2 * *"]
    backup, drill = (word[5] for word in words)
    assert "%" not in backup + drill  # would be a newline

    def run(command: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [variables["SHELL"], "-c", command],
            env=variables, cwd="/", capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    assert run(drill).stdout.startswith("drill: exit code 9\n")  # there is no backup yet
    done = run(backup)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), log.read_text()
    assert types(live) == ["monthly"]
    done = run(drill)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), log.read_text()
    assert re.search(r"^done: drill of .*/app_monthly_.*: passed", log.read_text(), re.MULTILINE)
    servers.drop(cluster, "app")
    done = run(backup)
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout.startswith("backup: exit code 3\n")
    assert 'database "app" does not exist' in done.stdout


def unit(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(path.read_text())
    return parser


# What systemd gives a service.
BARE = {"PATH": f"{Path(invoke.PGKEEP).parent}:{SYSTEM}"}


@pytest.mark.parametrize("observability", ["yes", "no"])
def test_systemd(live: Path, cluster: Server, tmp_path: Path, observability: str) -> None:
    """B22, F11: the command with no more than systemd gives it; metrics where it may write."""
    (tmp_path / "units").mkdir()
    options = {"include_observability": observability, "include_pitr": observability}
    baked = baking.bake(tmp_path / "units", **options)
    units = {path.name: unit(path) for path in (baked / "deploy" / "systemd").iterdir()}
    assert len(units) == (10 if observability == "yes" else 5)
    times = {"backup": "*-*-* 02:30:00 UTC", "drill": "*-*-02 06:00:00 UTC"}
    if observability == "yes":
        receiver = units["my-project-pitr-stream.service"]["Service"]
        assert (receiver["Type"], receiver["Restart"]) == ("notify", "always")
        assert receiver["WatchdogSec"] == "300"
        pitr = {"pitr-base": "*-*-* 01:15:00 UTC", "pitr-drill": "*-*-03 06:00:00 UTC"}
        times = {**pitr, **times}
    for name, when in times.items():
        service = units[f"my-project-{name}.service"]["Service"]
        timer = units[f"my-project-{name}.timer"]["Timer"]
        assert (timer["OnCalendar"], timer["Persistent"]) == (when, "yes")
        assert (service["Type"], service["ProtectSystem"]) == ("oneshot", "strict")
        collected = ["-/var/lib/prometheus/node-exporter"] * (observability == "yes")
        assert service["ReadWritePaths"].split() == ["/srv/my-project/backups", *collected]
        assert (
            units[f"my-project-{name}.service"]["Unit"]["OnFailure"]
            == "my-project-failed@%n.service"
        )
    told = units["my-project-failed@.service"]["Service"]["ExecStart"]
    baking.shell(
        live, told.replace("%i", "my-project-backup.service").replace("%H", "here"), env=BARE
    )
    if (program := shutil.which("systemd-analyze")) is not None:
        paths = [path for path in (baked / "deploy" / "systemd").iterdir() if "@" not in path.name]
        done = subprocess.run(
            [program, "verify", "--man=no", *paths],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        said = [line for line in done.stderr.splitlines() if "my-project" in line]
        assert [line for line in said if "/srv/my-project" not in line] == []
    assert service["ExecStart"].split()[-1] == "drill"
    # Of the drill; a missing file is no error, as without encryption.
    name, _, file = service["LoadCredential"].partition(":")
    assert (file, service["SetCredential"]) == ("/etc/my-project/identity.txt", f"{name}:#")
    assert f"BACKUP_IDENTITY_FILE=%d/{name}" in service["Environment"].split()
    assert "LoadCredential" not in units["my-project-backup.service"]["Service"]
    service = units["my-project-backup.service"]["Service"]
    node = tmp_path / "node"
    node.mkdir()
    if observability == "yes":
        # Without the dash a machine that has no such directory could not start the service.
        directory = collected[0].removeprefix("-")
        allowed = (baked / "deploy" / "monitoring" / "tmpfiles.conf").read_text().splitlines()[-1]
        assert allowed == f"a+ {directory} - - - - u:{service['User']}:rwx"
        settings = live / "scripts" / "backup-config.env"
        text = settings.read_text()
        settings.write_text(text.replace(f"#BACKUP_METRICS_FILE={directory}",
                                         f"BACKUP_METRICS_FILE={node}"))  # fmt: skip
    words = service["ExecStart"].replace("/srv/my-project", str(live)).split()
    done = subprocess.run(
        words, env=BARE, cwd="/", capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert types(live) == ["monthly"]
    assert ('"exit_code": 0' in done.stderr) == (observability == "yes")
    written = ["my-project.prom"] if observability == "yes" else []
    assert [path.name for path in node.iterdir()] == written


def test_the_page(live: Path) -> None:
    """As its unit starts it; Compose's check finds it; without a password none gets out."""
    port = baking.free_port()
    compose = yaml.safe_load((live / "compose.backup.yml").read_text())["services"]["backup-page"]

    def here(text: str) -> str:
        return text.replace("/srv/my-project", str(live)).replace("9648", str(port))

    done = subprocess.run(
        [invoke.PGKEEP, *map(here, compose["command"])],
        env={**BARE, "BACKUP_SERVE_TOKEN": ""}, capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    service = unit(live / "deploy" / "monitoring" / "my-project-backup-page.service")["Service"]
    assert str(done.returncode) == service["RestartPreventExitStatus"]
    _, *check = map(here, compose["healthcheck"]["test"])
    check[0] = sys.executable  # the image's python is pgkeep's

    def is_well() -> bool:
        done = subprocess.run(check, env=BARE, capture_output=True, check=False, timeout=60)
        return done.returncode == 0

    assert not is_well()
    process = subprocess.Popen(here(service["ExecStart"]).split(), env=BARE, cwd="/",
                               stderr=subprocess.PIPE, text=True)  # fmt: skip
    try:
        faults.eventually(is_well, "the page", seconds=90)
        process.terminate()
        _, err = process.communicate(timeout=30)
        assert str(process.returncode) == service["SuccessExitStatus"], err
    finally:
        process.kill()


def test_workflow(live: Path) -> None:
    """Its steps, one after the other, on a server like that of its service."""
    path = live / ".github" / "workflows" / "database-backup.yml"
    jobs = yaml.safe_load(path.read_text())["jobs"]
    job = jobs["backup-and-restore"]
    steps = {step["name"]: step["run"] for step in job["steps"] if "run" in step}
    assert [*steps] == [
        "Install", "Settings", "Sample", "Back up", "Restore", "Drill", "Compare",
    ]  # fmt: skip
    env = baking.shell_environment(live, **job["env"])
    for name in [*steps][1:]:
        baking.shell(live, steps[name], env=env)
    assert types(live) == ["daily"]
    assert job["services"]["db"]["ports"] == [f"{job['env']['PGPORT']}:5432"]


# -- the Kubernetes job

# Makes every mount read-only but one folder, as readOnlyRootFilesystem does, then gives up all
# rights and becomes the command. See mount_setattr(2).
ENTER = """
import ctypes, os, struct, sys
writable, command = sys.argv[1], sys.argv[2:]
libc = ctypes.CDLL(None, use_errno=True)
MOUNT_SETATTR, HERE, RECURSIVE, RDONLY, BIND, PRIVATE = 442, -100, 0x8000, 1, 4096, 1 << 18
def check(result):
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
def set_attributes(path, flags, add, remove):
    attributes = struct.pack("QQQQ", add, remove, 0, 0)
    check(libc.syscall(MOUNT_SETATTR, HERE, path.encode(), flags, attributes, 32))
check(libc.mount(b"none", b"/", None, 16384 | PRIVATE, None))
check(libc.mount(writable.encode(), writable.encode(), None, BIND, None))
set_attributes("/", RECURSIVE, RDONLY, 0)
set_attributes(writable, 0, 0, RDONLY)
os.execvp("setpriv", ["setpriv", "--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all",
                      "--no-new-privs", *command])
"""
ANY_UID = "1234567"


class Pod:
    """The container of a baked CronJob, as far as processes go: uid, mounts, PID 1, environment."""

    def __init__(self, project: Path, volume: Path, kind: str, **extra: str) -> None:
        documents = yaml.safe_load_all((project / "k8s" / "base" / "cronjobs.yaml").read_text())
        (job,) = [document for document in documents if document["metadata"]["name"].endswith(kind)]
        spec = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        (self.container,) = spec["containers"]
        self.grace = spec["terminationGracePeriodSeconds"]
        config_map = yaml.safe_load((project / "k8s" / "base" / "configmap.yaml").read_text())
        env = dict(config_map["data"]) | {
            one["name"]: one["value"] for one in self.container["env"]
        }
        # What the volumes are mounted to does not exist on this machine.
        self.backups = volume / "backups"
        self.backups.mkdir(exist_ok=True)
        secret = volume.parent / "secret"
        mounted = {"/backups": self.backups, "/run/secrets/database": secret}
        for place, ours in mounted.items():
            env = {name: value.replace(place, str(ours)) for name, value in env.items()}
        # As kubelet does: the file is a link to a link, readable by everybody.
        if not secret.exists():
            (secret / "..data").mkdir(parents=True)
            (secret / "..data" / "password").write_text("change-me")
            (secret / "..data" / "password").chmod(0o644)
            (secret / "password").symlink_to("..data/password")
        path = os.pathsep.join([str(servers.bin_folder(17)), SYSTEM])
        self.env = {"PATH": path, "HOSTNAME": "pod", **env, **extra}
        self.volume = volume

    def start(self, *command: str) -> "subprocess.Popen[str]":
        """Start it, as PID 1 of a namespace of its own; without a HOME."""
        isolated = [
            "unshare", "--user", f"--map-user={ANY_UID}", "--keep-caps", "--mount", "--pid",
            "--fork", "--kill-child", sys.executable, "-c", ENTER, str(self.volume),
        ]  # fmt: skip
        return subprocess.Popen(
            [*isolated, *(command or (invoke.PGKEEP, *self.container["args"]))],
            env=self.env, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, *command: str) -> tuple[int, str]:
        process = self.start(*command)
        out, err = process.communicate(timeout=60)
        return process.returncode, out + err


@pytest.fixture
def job(live: Path, cluster: Server, tmp_path: Path) -> Any:
    servers.sql(cluster, "app", ORDERS)
    volume = tmp_path / "volume"
    volume.mkdir()

    def make(kind: str, **extra: str) -> Pod:
        return Pod(live, volume, kind, POSTGRES_HOST="localhost", **extra)

    return make


def test_the_jobs_of_kubernetes(job: Any, cluster: Server) -> None:
    """A7.4, A7.5, A7.6: any uid, no HOME, a read-only root, a secret that everybody may read."""
    for kind in ("daily", "weekly", "monthly"):
        code, said = job(kind).run()
        assert code == 0, said
        assert '"exit_code": 0' in said.splitlines()[-1]
    pod = job("daily")
    assert sorted(path.name.split("_")[1] for path in pod.backups.glob("*.manifest.json")) == [
        "daily", "monthly", "weekly",
    ]  # fmt: skip
    # The walls are real: nothing but the volume can be written to, and the process is nobody's.
    code, said = pod.run("/bin/sh", "-c", "id -u; echo $$; touch /tmp/x /var/tmp/x /dev/shm/x")
    assert code == 1
    assert said.splitlines()[:2] == [ANY_UID, "1"]
    assert said.count("Read-only file system") == 3
    assert "HOME" not in pod.env
    restored = invoke.environment(cluster, PGUSER="app", BACKUP_DIR=str(pod.backups))
    invoke.run("restore", "--latest", "--target-db=app_restored", env=restored)
    assert servers.sql(cluster, "app_restored", "select count(*) from orders") == [(4,)]


def child_of(pid: int) -> int:
    """Return the process that is PID 1 inside."""
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return int(faults.eventually(lambda: listed.read_text().split(), "the child")[0])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_job_of_kubernetes_is_stopped(job: Any, cluster: Server, number: signal.Signals) -> None:
    """B11, B20, B21: PID 1 in the middle of a dump; another job meanwhile is refused."""
    folder = job("daily").volume
    gate = Gate(folder, cluster, "pg_dump")
    pod = job("daily", PATH=f"{folder / 'gate-pg_dump'}:{SYSTEM}")
    process = pod.start()
    try:
        gate.wait()
        faults.eventually(lambda: [*pod.backups.glob(".*.partial-*")], "a partial file")
        code, said = job("weekly").run()
        assert code == 10, said
        started = time.monotonic()
        os.kill(child_of(process.pid), number)
        _, err = process.communicate(timeout=30)
        assert time.monotonic() - started < pod.grace / 4
    finally:
        process.kill()
    if number == signal.SIGTERM:
        assert process.returncode == 128 + number
        assert "ended by SIGTERM" in err.splitlines()[-1]
        assert invoke.left_over(pod.backups) == []
    faults.leaves_no_session(cluster, "app")
    code, said = job("daily").run()
    assert code == 0, said
    left = invoke.left_over(pod.backups)
    assert [name for name in left if not name.startswith("app_daily_")] == []
    assert len(left) == 4
