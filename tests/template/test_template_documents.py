"""What ADR-023 and the runbook say is run, command by command, and compared with the code."""

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pgkeep import errors
from pgkeep.model.retention import Policy
from pgkeep.settings import SETTINGS
from tests.support import baking, servers, setting_rows
from tests.support.baking import TIMESTAMP
from tests.support.place import RUNBOOK, Place

ADR = "docs/adr/023-database-backup-strategy.md"
REFERENCE = "docs/operations/backup-reference.md"
CHECKLIST = "docs/operations/recovery-testing-checklist.md"
WATCHING = "docs/adr/017-optional-observability-stack.md"
VARIABLES = "Environment Variables"


@pytest.fixture(scope="module")
def the_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    one = Place(tmp_path_factory.mktemp("place"), include_pitr="yes")
    with one.server:
        baking.with_roles(one.server)
        yield one


@pytest.fixture
def place(the_place: Place) -> Place:
    the_place.reset()
    return the_place


# -- ADR-023


def test_interface_of_the_adr(place: Place) -> None:
    """Each command of the interface block does what the decision says."""
    folder = place.project / "backups"
    before = set(folder.iterdir())
    (block,) = [one for one in baking.blocks(place.project / ADR) if one.section == "Interface"]
    lines = [line.split("#")[0].strip() for line in block.text.splitlines()]
    backups, restores = [
        [line for line in lines if script in line] for script in ("db-backup.sh", "db-restore.sh")
    ]
    made = []
    for line in backups:
        place.shell(line)
        now = set(folder.glob("*Z*.sql.gz")) - before
        made += [path.name for path in now if ".globals." not in path.name]
        before |= now
    daily, _, newest, _ = made
    stems = [re.sub(TIMESTAMP, "TIME", name) for name in made]
    assert stems == [
        "app_daily_TIME.sql.gz", "app_weekly_TIME.sql.gz", "app_daily_TIME.sql.gz",
        "app_daily_TIME_schema.sql.gz",
    ]  # fmt: skip
    for name in made:
        assert (folder / f"{name}.sha256").is_file()
        manifest = folder / f"{name.removesuffix('.sql.gz')}.manifest.json"
        assert json.loads(manifest.read_text())["verified"]
    from_file, verify, replace = restores
    said = place.shell(from_file.replace("FILE", f"backups/{daily}"), code=9)
    assert "database app exists" in said
    servers.drop(place.server, "app")
    place.shell(from_file.replace("FILE", f"backups/{daily}"))
    assert place.contents() == place.good
    said = place.shell(verify)  # the newest with rows
    assert said == f"ok: {folder / newest} is complete\n"
    place.spoil("delete from orders where id = 1")
    assert "app exists and would be changed" in place.shell(replace, code=9)
    assert place.contents() != place.good
    place.shell(f"{replace} --yes")
    assert place.contents() == place.good
    script = place.project / from_file.split()[0]
    place.shell(f"cd / && {script} --backup=backups/{newest} --target-db=app_copy")
    assert place.contents("app_copy") == place.good
    assert [name for name in place.databases() if "__old_" in name]


def test_the_reference_prints_what_it_says(place: Place) -> None:
    """Its commands, and where pgkeep's own manual is."""
    (block,) = [one for one in baking.blocks(place.project / REFERENCE) if one.section == "pgkeep"]
    shown = place.shell(block.text)
    for word in ("Usage: pgkeep ", "--schema-only", "BACKUP_RETENTION_DAILY"):
        assert word in shown


def test_what_the_adr_says_of_other_tools(place: Place) -> None:
    """The manual does not: of the exit code of a pipe, and of a newer format."""
    connection = f"-h localhost -p {place.port} -U app"
    place.shell(f"pg_dump {connection} missing | gzip > {place.project.parent}/dump.gz")
    archive = place.project.parent / "archive"
    place.shell(f"pg_dump {connection} -Fc -f {archive} app")
    said = place.shell(f"{servers.bin_folder(15) / 'pg_restore'} -l {archive}", code=1)
    assert "unsupported version" in said


DEAD = (
    "BACKUP_S3_BUCKET=nowhere BACKUP_S3_ENDPOINT=http://127.0.0.1:1"
    " AWS_ACCESS_KEY_ID=a AWS_SECRET_ACCESS_KEY=b"
)
# The row of the table, what makes the case, and how many backups are published.
CASES = [
    ("the bucket cannot be reached", DEAD, 1),
    ("the upload fails with `BACKUP_S3_REQUIRED=true`", f"{DEAD} BACKUP_S3_REQUIRED=true", 1),
    ("the upload fails with `BACKUP_DIR=s3://...`",
     f"{DEAD} BACKUP_S3_BUCKET= BACKUP_DIR=s3://nowhere/app", 0),
    ("the role cannot read password hashes", "POSTGRES_USER=reader", 1),
    ("a setting or an argument is invalid", "BACKUP_JOBS=none", 0),
    ("a public key in `BACKUP_ENCRYPT_TO` is wrong", "BACKUP_ENCRYPT_TO=age1", 0),
    ("`BACKUP_ENCRYPT_TO` is not set", "touch backups/app_daily_20200101T020000Z.sql.gz.age;", 0),
    ("the server cannot be reached", "POSTGRES_PORT=1", 0),
    ("a client program fails", "POSTGRES_USER=stranger", 0),
    ("the disk is full", "ulimit -f 1;", 0),
    ("one of several databases fails", "BACKUP_DATABASES=app,missing", 1),
]  # fmt: skip


def exit_code_of(place: Place, case: str) -> int:
    """Return what the fail-open section promises."""
    rows = baking.table(place.project / REFERENCE, "Fail-open cases")
    (code,) = [int(code) for name, _, code in rows if name.startswith(case)]
    return code


@pytest.mark.parametrize(("case", "cause", "published"), CASES, ids=[one[0] for one in CASES])
def test_fail_open_of_the_adr(place: Place, case: str, cause: str, published: int) -> None:
    """The exit code of the table's row, and what is published: whole, or nothing at all."""
    backups = place.project / "backups"
    before = {*backups.glob("*.manifest.json")}
    said = place.shell(f"{cause} ./scripts/db-backup.sh", code=exit_code_of(place, case))
    assert ("warning: " in said) == bool(published)
    made = [*{*backups.glob("*.manifest.json")} - before]
    assert len(made) == published
    if case.startswith("the bucket"):
        assert " pending " in place.shell(f"{cause} ./scripts/pgkeep.sh list")
    assert [*backups.glob("*.partial-*")] == []
    for manifest in made:
        name = manifest.name.replace(".manifest.json", ".sql.gz")
        place.shell(f"./scripts/db-restore.sh --backup=backups/{name} --verify-only")


def test_fail_open_when_rows_have_gone(place: Place) -> None:
    servers.sql(place.server, "app", "create table many as select generate_series(1, 1000)")
    place.shell("./scripts/db-backup.sh --verify")
    servers.sql(place.server, "app", "truncate many")
    code = exit_code_of(place, "the size, tables or rows fell")
    said = place.shell("./scripts/db-backup.sh --verify", code=code)
    assert "warning: app: rows of public.many fell from 1000 to 0" in said


def test_fail_open_when_retention_refuses(place: Place) -> None:
    """A backup from the future; the new one is there all the same."""
    backups = place.project / "backups"
    taken, future = baking.newest(place.project, "daily"), "29991231T000000Z"
    for path in [*backups.glob(f"app_daily_{taken}.*")]:
        text = path.read_bytes()
        if path.name.endswith(".manifest.json"):
            text = re.sub(rb'("taken": ?)"[^"]*"', rb'\1"2999-12-31T00:00:00Z"', text)
            text = re.sub(rb',\s*"manifest_sha256": ?"[^"]*"', b"", text)  # as edited by hand
        (backups / path.name.replace(taken, future)).write_bytes(
            text.replace(taken.encode(), future.encode()) if b"{" in text[:1] else text
        )
    code = exit_code_of(place, "old backups cannot be removed")
    assert "is from the future" in place.shell("./scripts/db-backup.sh --type=weekly", code=code)
    assert [*backups.glob("app_weekly_*.manifest.json")]


def test_exit_codes_of_the_fail_open_section(the_place: Place) -> None:
    rows = baking.table(the_place.project / REFERENCE, "Fail-open cases")
    signals = {128 + signal.SIGTERM, 128 + signal.SIGKILL}
    assert {int(row[2]) for row in rows} == {0, 2, 3, 4, 5, 6, 7, 9, 10, 11} | signals


def exit_codes() -> set[int]:
    return {0} | {
        var.exit_code
        for var in vars(errors).values()
        if isinstance(var, type) and issubclass(var, errors.PgkeepError)
    }


def test_tables_agree_with_the_code(the_place: Place) -> None:
    """Variables with their defaults, exit codes, the lengths of the tiers."""
    adr, page = the_place.project / ADR, the_place.project / REFERENCE
    documented = baking.table(page, "Variables")
    assert documented == [setting_rows.cells(setting) for setting in SETTINGS]
    codes = {row[0] for row in baking.table(page, "Exit codes")}
    assert codes == {*map(str, exit_codes()), "128 + n"}
    written = setting_rows.TEMPLATE.read_text()
    assert setting_rows.template_page(written, setting_rows.REFERENCE.read_text()) == written
    defaults = {setting.variable: setting.default for setting in SETTINGS}
    named = {row[0]: row[1].replace("(none)", "") for row in baking.table(adr, VARIABLES)}
    assert len(named) == 6
    assert named.items() <= defaults.items()
    tiers = {row[0]: row[1] for row in baking.table(adr, "3. Retention Policy: Tiered Retention")}
    policy = Policy()
    assert tiers == {
        "Daily": f"{policy.daily} days",
        "Weekly": f"{policy.weekly} weeks",
        "Monthly": f"{policy.monthly} months",
    }
    assert f"{policy.daily + policy.weekly + policy.monthly} files cover a year" in adr.read_text()


def test_the_pattern_summarizes_the_cases(the_place: Place) -> None:
    """Four rows; each exit code of theirs is that of a case with the same outcome."""
    pattern = baking.table(the_place.project / ADR, "7. Fail-Open Pattern")
    assert [row[2] for row in pattern] == ["2 to 6, 9, 10", "0, or 6 if required", "7", "0"]
    cases = baking.table(the_place.project / REFERENCE, "Fail-open cases")
    closed = {int(code) for _, result, code in cases if result.startswith("nothing is")}
    assert closed - {143, 137} == {2, 3, 4, 5, 6, 9, 10}
    stays = {int(code) for _, result, code in cases if not result.startswith("nothing is")}
    assert stays == {0, 6, 7, 11}


def test_files_are_described(the_place: Place) -> None:
    """Everything that is named is there, and nothing that is there is left out."""
    (block,) = [
        block for block in baking.blocks(the_place.project / REFERENCE) if block.section == "Files"
    ]
    named = {
        name.rstrip(",")
        for line in block.text.splitlines()
        for name in re.split(r"\s{2,}", line)[0].split()
    }
    for name in named:
        assert (the_place.project / name).exists(), name
    for path in baking.files(the_place.project):
        inside = path.relative_to(the_place.project)
        if inside.name in ("README.md", "backup-config.env") or inside.name.startswith(
            (".gitignore", ".gitattributes", ".markdownlint")
        ):
            continue
        known = [inside.as_posix(), *(f"{parent.as_posix()}/" for parent in inside.parents)]
        assert set(known) & named or inside.parts[:2] == ("docs", "adr"), inside


def test_file_structure_of_the_adr(the_place: Place) -> None:
    """Each line of the tree is there."""
    (block,) = [one for one in baking.blocks(the_place.project / ADR)
                if one.section == "File Structure"]  # fmt: skip
    folders: list[str] = []
    for line in filter(None, block.text.splitlines()):
        name = line.split("#")[0].rstrip()
        depth = (len(name) - len(name.lstrip())) // 2
        folders = [*folders[:depth], name.strip()]
        assert the_place.project.joinpath(*folders).exists(), line


def test_figures_are_those_of_the_benchmarks(the_place: Place) -> None:
    """No number that was not measured."""
    page = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text()
    measured = set(re.findall(r"[\d.]+ (?:s|MiB|[MG]B)\b", page))
    rows = baking.table(the_place.project / REFERENCE, "Measured")
    assert rows
    for row in rows:
        figures = re.findall(r"[\d.]+ (?:s|MiB|GB)\b", " ".join(row))
        assert len(figures) >= 3, row
        assert [figure for figure in figures if figure not in measured] == [], row
    text = baking.section_text(the_place.project / REFERENCE, "Measured")
    rate = re.search(r"an hour restores (\d+) GB", text)
    assert rate is not None
    slowest = min(size / seconds for size, seconds in restored(page))
    assert 0.75 * slowest * 3600 < int(rate[1]) < slowest * 3600
    assert f"{baking.peak(page)} MiB" in (the_place.project / REFERENCE).read_text()
    adr = (the_place.project / ADR).read_text()
    rate = re.search(r"an hour restores (\d+ GB)", adr)
    assert rate is not None
    assert rate[0] in (the_place.project / REFERENCE).read_text()
    figures = re.findall(r"[\d.]+ (?:s|[MG]B)\b", adr)
    assert [figure for figure in figures if figure not in measured] == [rate[1]]


def restored(page: str) -> list[tuple[float, float]]:
    """Return size in GB and seconds of every measured restore."""
    row = r"^\| ([\d.]+) GB \| `pgkeep restore` \| ([\d.]+) s \|"
    found = [(float(size), float(time)) for size, time in re.findall(row, page, re.MULTILINE)]
    assert len(found) == 2
    return found


# -- ADR-017


def test_links_of_alerts_lead_into_the_runbook(the_place: Place) -> None:
    """After the command that puts in where the repository can be read."""
    (block,) = [
        block for block in baking.blocks(the_place.project / WATCHING) if block.language == "sh"
    ]
    the_place.shell(block.text)
    base = "https://github.com/example/my-project/blob/main/"
    assert f"|{base[:-1]}|" in block.text
    rules = the_place.project / "deploy" / "monitoring" / "alerts.yml"
    (group,) = yaml.safe_load(rules.read_text())["groups"]
    for rule in group["rules"]:
        url = rule["annotations"]["runbook_url"]
        assert url.startswith(base), url
        path, _, anchor = url.removeprefix(base).partition("#")
        assert path == RUNBOOK
        assert anchor in baking.anchors(the_place.project / path), url


def test_files_of_monitoring_are_described(the_place: Place) -> None:
    """Each once, and no other; so are the ways out, by settings that there are."""
    text = baking.section_text(the_place.project / WATCHING, "Metrics")
    named = re.findall(r"^\| `(.+?)` \|", text.split("`deploy/monitoring/`:")[1], re.MULTILINE)
    there = (the_place.project / "deploy" / "monitoring").iterdir()
    assert sorted(named) == sorted(path.name for path in there)
    ways = [row[1].strip("`") for row in baking.table(the_place.project / WATCHING, "Metrics")]
    assert len(ways) == 3
    assert set(ways) <= {one.variable for one in SETTINGS}


def test_checklist(place: Place) -> None:
    for _ in place.play("Every month", document=CHECKLIST):
        pass
    assert place.databases() == ["app"]
