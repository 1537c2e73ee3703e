"""Settings: from everywhere, in order, with their origin; every mistake told, at once."""

import ctypes
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import pytest

from pgkeep import config, errors
from pgkeep import errors as e
from pgkeep.cli.program import COMMANDS, group, imported
from pgkeep.model import naming
from pgkeep.postgres.server import Server
from pgkeep.settings import SETTINGS, Settings
from tests.conftest import DatabaseFactory
from tests.support import faults, invoke, setting_rows

# Of each variable a value that is not its default, what a library user would see of it, and values
# that it must not have.
VALUES: dict[str, tuple[str, Callable[[Settings], object], object, list[str]]] = {
    "BACKUP_DIR": ("/b", lambda s: s.directory, "/b", ["  "]),
    "BACKUP_DATABASES": ("a, b*,!c,", lambda s: (s.databases.names, s.databases.patterns),
                         (("a",), ("b*",)), [",", " , ", "!c", "*,!", "[1]"]),
    "BACKUP_RETENTION_DAILY": ("0", lambda s: s.daily, 0, ["seven", "-1", "7.5", "=7", " "]),
    "BACKUP_RETENTION_WEEKLY": ("52", lambda s: s.weekly, 52, ["=seven", "-1", "4 w", "٤"]),
    "BACKUP_RETENTION_MONTHLY": ("9", lambda s: s.monthly, 9, ["+1", "1e3", "twelve"]),
    "BACKUP_MIN_KEEP": ("3", lambda s: s.min_keep, 3, ["0", "-1", "all"]),
    "BACKUP_TIMEZONE": ("Europe/Berlin", lambda s: s.zone.key, "Europe/Berlin",
                        ["Berlin", "+01:00", "../UTC", "/etc/passwd", "Europe", "Mars/Phobos"]),
    "BACKUP_JOBS": ("12", lambda s: s.jobs, 12, ["0", "two", "4.0"]),
    "BACKUP_COMPRESSION": ("ZSTD", lambda s: s.compression, naming.Compression.ZSTD, ["lz4", " "]),
    "BACKUP_DRIFT": ("25", lambda s: s.drift, 0.25, ["0", "101", "50%", "0.5"]),
    "BACKUP_LOCK_TIMEOUT": ("0.5", lambda s: s.lock_timeout, 0.5,
                            ["0", "-1", "1 min", "inf", "2147484", "9" * 400]),
    "BACKUP_YIELD_AFTER": ("5", lambda s: s.yield_after, 5.0, ["0", "soon", "-1"]),
    "BACKUP_COMPUTED_VALUES": ("no", lambda s: s.computed, False, ["perhaps", "2"]),
    "BACKUP_STALL_TIMEOUT": ("90s", lambda s: s.stall_timeout, 90, ["5", "forever", "-1s"]),
    "BACKUP_MAX_SNAPSHOT_AGE": ("2h", lambda s: s.max_snapshot_age, 7200, ["0", "2"]),
    "BACKUP_RETRIES": ("0", lambda s: s.retries, 0, ["-1", "once"]),
    "BACKUP_RATE_LIMIT": ("1.5MB", lambda s: s.rate_limit, 1572864,
                          ["0MB", "50", "50M", "50mb", "1B"]),
    "BACKUP_S3_BUCKET": ("b-1", lambda s: s.s3_bucket, "b-1", ["b/c", "-b", "b c"]),
    "BACKUP_S3_PREFIX": ("/a/b", lambda s: s.s3_prefix, "a/b/", []),
    "BACKUP_S3_ENDPOINT": ("https://s3:9000/", lambda s: s.s3_endpoint, "https://s3:9000",
                           ["s3:9000", "ftp://s3", "https://s3/bucket"]),
    "BACKUP_S3_REGION": ("eu-central-1", lambda s: s.s3_region, "eu-central-1", []),
    "BACKUP_S3_REQUIRED": ("true", lambda s: s.require_copy, True, ["perhaps", "2"]),
    "BACKUP_S3_TIMEOUT": ("5", lambda s: s.s3_timeout, 5.0, ["0", "-1", "1 min"]),
    "BACKUP_S3_LIMIT": ("60", lambda s: s.s3_limit, 60.0, ["0", "never", "9" * 400]),
    "BACKUP_S3_MAX_PARTS": ("1000", lambda s: s.s3_max_parts, 1000, ["9", "10001", "many"]),
    "BACKUP_S3_PART_SIZE": ("64", lambda s: s.s3_part_size, 64 << 20, ["4", "5121", "64M"]),
    "BACKUP_ENCRYPT_TO": ("age1x,/k.asc", lambda s: s.encrypt_to, "age1x,/k.asc", ["", " "]),
    "BACKUP_IDENTITY_FILE": ("/a, /b", lambda s: s.identity_files, (Path("/a"), Path("/b")), []),
    "BACKUP_WAL_MAX_LAG": ("0", lambda s: s.wal_max_lag, 0.0, ["10", "-1s", "often"]),
    "BACKUP_WINDOW": ("14d", lambda s: s.window, 14 * 86400.0, ["0", "7", "a week"]),
    "BACKUP_SPOOL_DIR": ("/spool", lambda s: s.spool, Path("/spool"), []),
    "BACKUP_METRICS_FILE": ("/m/x.prom", lambda s: str(s.metrics_file), "/m/x.prom",
                            ["/m/x.txt", "x"]),
    "BACKUP_PUSHGATEWAY": ("http://push:9091/", lambda s: s.pushgateway, "http://push:9091",
                           ["push:9091", "http://push/path"]),
    "BACKUP_CLUSTER": ("prod-1", lambda s: s.cluster, "prod-1", ["a b", "-a", "a" * 64, '"']),
    "BACKUP_MAX_AGE": ("2d", lambda s: s.max_age, 2 * 86400.0, ["0h", "26", "1 d", "-1h", "1y"]),
    "BACKUP_BASE_MAX_AGE": ("2d", lambda s: s.base_max_age, 2 * 86400.0, ["0h", "26", "1 d"]),
    "BACKUP_DRILL_MAX_AGE": ("5w", lambda s: s.drill_max_age, 35 * 86400.0, ["5", "0d", "weekly"]),
    "BACKUP_RTO": ("90min", lambda s: s.rto, 5400.0, ["90m", "1h30", "0s"]),
    "BACKUP_PGBACKREST_STANZA": ("a, b.c,a", lambda s: s.pgbackrest_stanzas, ("a", "b.c"),
                                 ["-x", "a b", "../x"]),
    "BACKUP_PING_URL": ("https://hc/u?create=1", lambda s: s.ping_url, "https://hc/u?create=1", []),
    "BACKUP_WEBHOOK": ("http://h:1/x", lambda s: s.webhook, "http://h:1/x", []),
    "BACKUP_SERVE_TOKEN": ("x" * 16, lambda s: s.serve_token, "x" * 16, []),
    "DATABASE_URL": ("postgresql://u@h/d", lambda s: s.dsn, "postgresql://u@h/d", []),
    "POSTGRES_HOST": ("db", lambda s: s.postgres_host, "db", []),
    "POSTGRES_PORT": ("5433", lambda s: s.postgres_port, "5433", []),
    "POSTGRES_DB": ("app", lambda s: s.postgres_db, "app", []),
    "POSTGRES_USER": ("backup", lambda s: s.postgres_user, "backup", []),
    "POSTGRES_PASSWORD": ("s3cret", lambda s: s.postgres_password, "s3cret", []),
}  # fmt: skip
VARIABLES = [one.variable for one in SETTINGS]
SECRET = "s3cret and long"


def toml(path: Path, text: str) -> dict[str, str]:
    path.write_text(text)
    return {"PGKEEP_CONFIG": str(path)}


def load(environ: Mapping[str, str], target: str | None = None, **options: str) -> config.Config:
    (one,) = config.load(environ, options, target)
    return one


def problems(environ: Mapping[str, str], target: str | None = None) -> str:
    with pytest.raises(e.UsageError) as caught:
        config.load(environ, {}, target)
    assert caught.value.exit_code == 2
    return caught.value.message


def test_all_variables_are_tried_here() -> None:
    assert list(VALUES) == VARIABLES


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_setting_comes_from_everywhere(variable: str, tmp_path: Path) -> None:
    """Environment, mounted file, top of the file, target; the nearer one wins and is named."""
    text, read, expected, _ = VALUES[variable]
    key = variable.lower()
    other = {"BACKUP_DIR": "/c", "BACKUP_TIMEZONE": "UTC", "DATABASE_URL": "postgresql://x@y/z",
             "BACKUP_METRICS_FILE": "/o.prom", "BACKUP_PUSHGATEWAY": "http://o",
             "BACKUP_MAX_AGE": "7h", "BACKUP_DRILL_MAX_AGE": "7d", "BACKUP_RTO": "7s",
             "BACKUP_PING_URL": "http://o", "BACKUP_WEBHOOK": "http://o",
             "BACKUP_SERVE_TOKEN": "o" * 16}  # fmt: skip
    weaker = other.get(variable, "7")
    mounted = tmp_path / "mounted"
    mounted.write_text(text + "\n")
    path = tmp_path / "pgkeep.toml"
    top = toml(path, f"{key} = '{text}'\n")
    found = [
        ({variable: text}, None, "the environment"),
        ({f"{variable}_FILE": str(mounted)}, None, str(mounted)),
        (top, None, str(path)),
        (toml(tmp_path / "2", f"{key}_file = '{mounted}'\n"), None, str(mounted)),
        (toml(tmp_path / "3", f"[targets.t]\n{key} = '{text}'\n"), "t",
         f"{tmp_path / '3'} [targets.t]"),
        (toml(tmp_path / "4", f"{key} = '{weaker}'\n") | {variable: text}, None, "the environment"),
        (toml(tmp_path / "5", f"[targets.t]\n{key} = '{text}'\n") | {variable: weaker}, "t",
         f"{tmp_path / '5'} [targets.t]"),
    ]  # fmt: skip
    for environ, target, origin in found:
        one = load(environ, target)
        assert read(one.settings) == expected
        assert one.values[variable] == (text, origin)
    one = load({variable: weaker}, **{variable: text})
    assert (read(one.settings), one.values[variable].origin) == (expected, "the command line")


@pytest.mark.parametrize("variable", [name for name in VARIABLES if name != "BACKUP_ENCRYPT_TO"])
def test_an_empty_variable_is_none(variable: str, tmp_path: Path) -> None:
    """As Compose and Kubernetes pass on what is not set."""
    assert load({variable: "", f"{variable}_FILE": "", "PGKEEP_CONFIG": ""}).values == {}
    mounted = tmp_path / "m"
    mounted.write_text(VALUES[variable][0])
    environ = {variable: "", f"{variable}_FILE": str(mounted)}
    assert load(environ).values[variable].origin == str(mounted)


@pytest.mark.parametrize(
    ("variable", "text"), [(name, text) for name in VARIABLES for text in VALUES[name][3]]
)
def test_what_makes_no_sense_is_refused(variable: str, text: str, tmp_path: Path) -> None:
    """Told with the variable, the value, what was expected and where it comes from."""
    said = problems({variable: text})
    assert re.fullmatch(
        rf"{variable}: expected [^;]+, got {re.escape(repr(text))} from the environment", said
    )
    path = tmp_path / "p"
    said = problems(toml(path, f"[targets.x]\n{variable.lower()} = '{text}'\n"))
    assert said.endswith(f" from {path} [targets.x]")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("backup_dirs = '/b'", "unknown key backup_dirs, did you mean backup_dir?"),
        ("BACKUP_DIR = '/b'", "unknown key BACKUP_DIR, did you mean backup_dir?"),
        ("retention = 7", "unknown key retention"),
        ("[target.a]\nbackup_dir = '/b'", "unknown key target"),
        ("[targets.a]\nbackup_dirr = '/b'", "[targets.a]: unknown key backup_dirr, did you mean"),
        ("[targets.a.b]\nbackup_dir = '/b'", "[targets.a]: unknown key b"),
        ("targets = 1", "targets: expected tables such as [targets.app]"),
        ("[targets]\nbackup_dir = '/b'", "targets: expected tables such as [targets.app]"),
        ("backup_jobs = true", "backup_jobs: expected a string or a number, got True"),
        ("backup_jobs = 2.5", "BACKUP_JOBS: expected a whole number from 1, got '2.5'"),
        ("backup_retention_daily = -1", "expected a whole number from 0, got '-1'"),
        ("backup_dir = ['/b']", "backup_dir: expected a string or a number, got ['/b']"),
        ("backup_dir = ''", "BACKUP_DIR: expected a directory, got ''"),
        ("backup_databases = ['a', 'b,c']", "expected names without commas, got ['a', 'b,c']"),
        ("backup_databases = ['a', 1]", "expected names without commas, got ['a', 1]"),
        ("backup_jobs = 2026-01-01", "expected a string or a number"),
        ("backup_dir = 7 = 8", "PGKEEP_CONFIG: could not read"),
        ("backup_dir = '/b'\nbackup_dir = '/c'", "PGKEEP_CONFIG: could not read"),
        (
            "postgres_password_file = '/proc/none'",
            "POSTGRES_PASSWORD_FILE: could not read /proc/none: No su",
        ),
        ("backup_dir = '/b'\nbackup_dir_file = '/c'", "are both set in"),
    ],
)
def test_mistakes_in_the_file(text: str, said: str, tmp_path: Path) -> None:
    """Each with the file's name."""
    path = tmp_path / "pgkeep.toml"
    message = problems(toml(path, text + "\n"))
    assert said in message
    assert str(path) in message or "/proc/none" in message


def test_no_secret_is_told(tmp_path: Path) -> None:
    """A7.2: not even where it has the wrong type."""
    for text in (f"['{SECRET}']", f"{{value = '{SECRET}'}}"):
        for key in ("postgres_password", "database_url"):
            said = problems(toml(tmp_path / "p", f"{key} = {text}\n"))
            assert SECRET not in said
            assert f"{key}: expected a string or a number" in said
    for variable in ("BACKUP_PING_URL", "BACKUP_WEBHOOK"):
        said = problems({variable: f"https://{SECRET}@host"})
        assert said.startswith(f"{variable}: expected a URL")
        assert "s3cret" not in said
    for short in (SECRET[:15], "with a blank in it", "größer als sechzehn"):
        said = problems({"BACKUP_SERVE_TOKEN": short})
        assert said.startswith("BACKUP_SERVE_TOKEN: expected 16 letters")
        assert short not in said


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """Never is a default taken because a file is not there."""
    assert "PGKEEP_CONFIG: could not read /proc/none" in problems({"PGKEEP_CONFIG": "/proc/none"})
    assert "could not read" in problems({"PGKEEP_CONFIG": str(tmp_path)})
    (tmp_path / "latin").write_bytes(b"backup_dir = '\xe4'\n")
    assert "could not read" in problems({"PGKEEP_CONFIG": str(tmp_path / "latin")})
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    said = problems({"BACKUP_DIR_FILE": str(tmp_path / "binary")})
    assert said == f"BACKUP_DIR_FILE: could not read {tmp_path / 'binary'}: not text"
    said = problems({"POSTGRES_PASSWORD_FILE": "/proc/none"})
    assert said == "POSTGRES_PASSWORD_FILE: could not read /proc/none: No such file or directory"
    said = problems({"POSTGRES_PASSWORD": "x", "POSTGRES_PASSWORD_FILE": "/proc/none"})
    assert "POSTGRES_PASSWORD and POSTGRES_PASSWORD_FILE are both set in the environment" in said


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("BACKUP_RETENTION_DAYLY", ", did you mean BACKUP_RETENTION_DAILY?"),
        ("BACKUP_DATABASE", ", did you mean BACKUP_DATABASES?"),
        ("BACKUP_MIN_KEEPS", ", did you mean BACKUP_MIN_KEEP?"),
        ("BACKUP_TIMEZONE_FLIE", None),
        ("BACKUP_S3_BUKET", "unknown variable, did you mean BACKUP_S3_BUCKET?"),
        ("BACKUP_METRICS_FIEL", "unknown variable, did you mean BACKUP_METRICS_FILE?"),
        ("BACKUP_STORAGE_CLASS", None),
    ],
)
def test_variables_that_are_not_ours(variable: str, said: str | None) -> None:
    """A typing error would go unnoticed for years; others have variables of that beginning too."""
    if said is None:
        assert load({variable: "x"}).values == {}
    else:
        message = problems({variable: "x"})
        assert message.startswith(variable)
        assert said in message
    assert load({variable: ""}).values == {}


def test_the_environment_must_not_lead_a_target_elsewhere(tmp_path: Path) -> None:
    """DATABASE_URL wins over POSTGRES_...: a target's own host would be of no effect."""
    environ = toml(tmp_path / "p", "[targets.shop]\npostgres_host = 'other'\n")
    assert load(environ).connection == {"host": "other"}
    said = problems(environ | {"DATABASE_URL": "postgresql://first/app"})
    assert said == (
        "[targets.shop]: postgres_host has no effect: DATABASE_URL from the environment takes"
        " precedence; set database_url for the target"
    )


def test_targets(tmp_path: Path) -> None:
    """All, or the one that is named."""
    environ = toml(
        tmp_path / "p",
        "backup_dir = '/all'\nbackup_databases = ['a', 'b']\n"
        "[targets.one]\npostgres_port = 5433\n[targets.two]\nbackup_dir = '/two'\n",
    )
    one, two = config.load(environ)
    assert (one.target, one.settings.directory, one.settings.databases.names) == (
        "one",
        "/all",
        ("a", "b"),
    )
    assert (two.target, two.settings.directory, two.connection) == ("two", "/two", {})
    assert load(environ, "two") == two
    assert load(environ, "one", BACKUP_DIR="/here").settings.directory == "/here"
    assert "no target three in the configuration (targets: one, two)" in problems(environ, "three")
    assert "no target one in the configuration (targets: none)" in problems({}, "one")


def test_all_problems_at_once(tmp_path: Path) -> None:
    """One attempt is enough to mend all of them."""
    environ = toml(tmp_path / "p", "nonsense = 1\n[targets.a]\nbackup_jobs = 0\n[targets.b]\nx = 1")
    environ |= {
        "BACKUP_RETENTION_DAILY": "=seven", "BACKUP_MIN_KEEP": "-1", "BACKUP_S3_BUCKET": "b",
        "POSTGRES_PASSWORD_FILE": "/proc/none", "BACKUP_DATABASE": "app",
        "BACKUP_DIR": str(tmp_path / "nowhere"),
    }  # fmt: skip
    said = invoke.run("backup", env=invoke.environment() | environ, code=2)
    message, hint = said.splitlines()
    assert hint == "hint: pgkeep config --help lists every variable."
    told = message.removeprefix("error: ").split("; ")
    assert len(told) == 8, told
    for part in ("nonsense", "[targets.a]", "[targets.b]", "'=seven'", "'-1'", "BACKUP_S3_BUCKET",
                 "POSTGRES_PASSWORD_FILE", "BACKUP_DATABASE:"):  # fmt: skip
        assert sum(part in one for one in told) == 1, part
    assert not (tmp_path / "nowhere").exists()


def test_config_shows_origins_and_hides_secrets(tmp_path: Path) -> None:
    """A7.2: effective values of every variable, for people and as JSON."""
    mounted = tmp_path / "password"
    mounted.write_text(SECRET)
    path = tmp_path / "pgkeep.toml"
    environ = toml(path, "backup_drift = 20\n[targets.app]\nbackup_min_keep = 3\n")
    environ |= {
        "POSTGRES_PASSWORD_FILE": str(mounted),
        "DATABASE_URL": f"postgresql://u:{SECRET.replace(' ', '%20')}@h/d",
        "BACKUP_TIMEZONE": "Europe/Berlin",
    }
    env = invoke.environment() | environ
    text = invoke.run("config", "--dir=/b", env=env)
    document = json.loads(invoke.run("config", "--dir=/b", "--json", env=env))
    (one,) = document
    assert one["target"] == "app"
    assert list(one["settings"]) == VARIABLES
    expected = {
        "BACKUP_DIR": ["/b", "the command line"],
        "BACKUP_DRIFT": ["20", str(path)],
        "BACKUP_MIN_KEEP": ["3", f"{path} [targets.app]"],
        "BACKUP_TIMEZONE": ["Europe/Berlin", "the environment"],
        "BACKUP_RETENTION_DAILY": ["7", "the default"],
        "DATABASE_URL": ["********", "the environment"],
        "POSTGRES_PASSWORD": ["********", str(mounted)],
        "POSTGRES_HOST": ["", "the default"],
    }
    assert {name: one["settings"][name] for name in expected} == expected
    lines = text.splitlines()
    assert lines[0] == "target app"
    for variable, (value, origin) in one["settings"].items():
        shown = [line.split(None, 2) for line in lines if line.startswith(f"{variable} ")]
        assert shown == [[variable, value or "-", origin]]
    for output in (text, json.dumps(document)):
        assert "s3cret" not in output


def without_override() -> None:
    """Take root's right to go and write everywhere; others do not have it."""
    drop_from_bounding_set = 24  # of prctl(2)
    for right in (1, 2):  # to write and to search everywhere: capabilities(7)
        ctypes.CDLL(None).prctl(drop_from_bounding_set, right, 0, 0, 0)


def test_a_directory_that_cannot_be_written_to(tmp_path: Path, pg17: Server) -> None:
    """Told before anything is done, with the setting to change."""
    (tmp_path / "file").touch()
    (tmp_path / "closed").mkdir(mode=0o555)
    (tmp_path / "locked").mkdir(mode=0)
    for place, reason in (
        ("file", "Not a directory"), ("file/below", "Not a directory"),
        ("closed", "Permission denied"), ("closed/below", "Permission denied"),
        ("locked/below", "Permission denied"), ("x" * 300, "File name too long"),
    ):  # fmt: skip
        env = invoke.environment(pg17, "postgres", BACKUP_DIR=str(tmp_path / place))
        process = invoke.start("backup", env=env, preexec_fn=without_override)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 2, said
        assert said.startswith("error: BACKUP_DIR, from the environment: could not ")
        assert reason in said
        assert str(tmp_path / place) in said
    assert [*(tmp_path / "closed").iterdir()] == []
    code = (
        "import sys; from pathlib import Path; from pgkeep.doctor import examine; "
        "from pgkeep.stores.local import LocalStore; "
        "print(examine._directory(LocalStore(Path(sys.argv[1]))))"
    )
    found = subprocess.run([sys.executable, "-c", code, tmp_path / "locked" / "below"],
                           preexec_fn=without_override, capture_output=True, text=True,
                           check=True)  # fmt: skip
    assert f"directory {tmp_path / 'locked'} is not writable" in found.stdout
    env = invoke.environment(pg17, "postgres")
    said = invoke.run("backup", "--dir=", env=env, code=2)
    assert "BACKUP_DIR: expected a directory, got '' from the command line" in said


def test_of_several_targets_one_is_out_of_reach(
    pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """B25: the others are backed up, and the exit code says that one is not."""
    name = database(pg17)
    (tmp_path / "file").touch()
    environ = toml(
        tmp_path / "pgkeep.toml",
        f"""
        backup_dir = '{tmp_path}/backups'
        [targets.down]
        database_url = 'postgresql://u:{SECRET.replace(" ", "%20")}@127.0.0.1:1/x'
        [targets.up]
        postgres_db = '{name}'
        [targets.full]
        backup_dir = '{tmp_path}/file'
        [targets.also]
        backup_databases = ['{name}', 'postgres']
        backup_dir = '{tmp_path}/also'
        """,
    )
    env = invoke.environment(pg17, "postgres", **environ)
    status, out, err = invoke.complete("backup", "--json", env=env)
    assert status == 11, err
    assert "Traceback" not in err
    document: dict[str, Any] = json.loads(out)
    assert [one["database"]["name"] for one in document["backups"]] == [name, name, "postgres"]
    failed = {one["database"]: one["exit_code"] for one in document["failed"]}
    assert set(failed.values()) == {3, 2}
    assert failed["full"] == 2
    assert "error: 2 of 5 databases failed: " in err
    assert SECRET not in out + err
    assert len(faults.published(tmp_path / "backups")) == 1
    assert len(faults.published(tmp_path / "also")) == 2
    said = invoke.run("backup", env=env, code=11)
    assert "warning: full: BACKUP_DIR, from " in said
    assert "Connection refused" in said
    invoke.run("backup", "--target=up", env=env)
    assert len(faults.published(tmp_path / "backups")) == 3
    said = invoke.run("list", env=env, code=2)
    assert "the configuration has several targets: down, up, full, also" in said
    assert "--target=NAME" in said
    assert invoke.run("list", "--target=up", env=env).count("manual") == 3


@pytest.mark.parametrize(("strict", "code"), [("other", 0), ("copied", 6)])
def test_each_target_says_whether_its_own_copies_are_required(
    pg17: Server, app: str, tmp_path: Path, strict: str, code: int
) -> None:
    """D: one that requires them does not make another's the run's failure."""
    environ = toml(
        tmp_path / "pgkeep.toml",
        f"""
        [targets.other]
        backup_dir = '{tmp_path}/other'
        backup_s3_required = {str(strict == "other").lower()}
        [targets.copied]
        backup_dir = '{tmp_path}/copied'
        backup_s3_bucket = 'gone'
        backup_s3_endpoint = 'http://127.0.0.1:1'
        backup_s3_required = {str(strict == "copied").lower()}
        """,
    )
    environ |= {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
    status, out, err = invoke.complete(
        "backup", "--json", env=invoke.environment(pg17, app, **environ)
    )
    assert status == code, err
    document = json.loads(out)
    assert (len(document["backups"]), len(document["copies"])) == (2, 1)
    assert document["copies_missed"] == (document["copies"] if code else [])


def documentation() -> str:
    return (Path(__file__).parents[1] / "docs" / "reference.md").read_text()


def section(heading: str) -> str:
    """Return a section of the reference, without those below it."""
    found = re.findall(rf"^#+ {heading}\b[^\n]*\n(.*?)(?=^#|\Z)", documentation(), re.M | re.S)
    assert len(found) == 1, heading
    return str(found[0])


def test_the_table_of_settings_follows_the_declarations() -> None:
    """`python -m tests.support.setting_rows` writes it."""
    rows = [line for line in section("Variables").splitlines() if line.startswith("| `")]
    expected = [setting_rows.row(setting) for setting in SETTINGS]
    assert rows[: len(expected)] == expected
    assert [row.split("`")[1] for row in rows[len(expected) :]] == [config.CONFIG_FILE]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_documented(name: str) -> None:
    text = section("Commands") + section(f"pgkeep {name}")
    command = imported(name)
    for parameter in (*command.params, *group.params):
        if isinstance(parameter, click.Option):
            for option in (*parameter.opts, *parameter.secondary_opts):
                assert re.search(rf"`(pgkeep )?{option}`", text), option


def exit_codes() -> list[int]:
    found = [
        var.exit_code
        for var in vars(errors).values()
        if isinstance(var, type) and issubclass(var, errors.PgkeepError)
    ]
    return sorted({0, *found})


def test_every_exit_code_is_documented() -> None:
    """In the reference and in `pgkeep --help`."""
    codes = exit_codes()
    assert codes == list(range(12))
    shown = re.sub(r"\s+", " ", invoke.run("--help", env=invoke.environment()))
    for code in codes:
        assert len(re.findall(rf"^\| {code} \| \w", section("Exit codes"), re.MULTILINE)) == 1
        assert re.search(rf"[ :,] {code} [a-z]+", shown), code
