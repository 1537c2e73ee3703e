"""What ADR-023 and the runbook say is run, command by command, and compared with the code."""

import ast
import os
import pty
import re
import select
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import yaml

from pgkeep import config, errors
from pgkeep.model.retention import Policy
from pgkeep.settings import SETTINGS
from tests.support import baking, servers, setting_rows
from tests.support.baking import ORDERS, TIMESTAMP, Block

ADR = "docs/adr/023-database-backup-strategy.md"
RUNBOOK = "docs/operations/database-recovery.md"
CHECKLIST = "docs/operations/recovery-testing-checklist.md"
WATCHING = "docs/adr/017-optional-observability-stack.md"
SOURCE = Path(config.__file__).parent


class Place:
    """A project as generated, set up as its README says, and the server that it speaks of."""

    def __init__(self, folder: Path, **values: str) -> None:
        self.port = baking.free_port()
        self.project = baking.bake(folder, postgres_port=str(self.port), **values)
        settings = self.project / "scripts" / "backup-config.env"
        settings.write_text(settings.with_suffix(".env.example").read_text())
        self.server = baking.server(self.port)

    def reset(self) -> None:
        """Have the database as it was in the last night's backup, and no other."""
        query = "select datname from pg_database where datname like 'app%'"
        for (name,) in servers.sql(self.server, "postgres", query):
            servers.drop(self.server, name)
        backups, kept = self.project / "backups", self.project.parent / "kept"
        if not kept.exists():
            self._begin()
            shutil.copytree(backups, kept)
        shutil.rmtree(backups)
        shutil.copytree(kept, backups)
        servers.sql(self.server, "postgres", "create database app template pristine owner app")
        self.good = self.contents()

    def _begin(self) -> None:
        servers.sql(self.server, "postgres", "create database app owner app")
        with servers.connect(self.server, "app") as connection:
            connection.execute("set role app")
            connection.execute(ORDERS)
            connection.execute("grant select on all tables in schema public to reader")
            connection.execute("grant select on all sequences in schema public to reader")
        self.shell("./scripts/db-backup.sh --type=daily")
        servers.sql(self.server, "postgres", "alter database app rename to pristine")

    def contents(self, database: str = "app") -> list[object]:
        """Everything that a reader of the tables sees, and their constraints and indexes."""
        return [
            servers.sql(self.server, database, query)
            for query in (
                "select * from orders order by id",
                "select * from items order by what",
                "select pg_get_constraintdef(oid) from pg_constraint where conname ~ '^(ord|item)'",
                "select indexdef from pg_indexes where schemaname = 'public' order by 1",
                "select pg_get_userbyid(relowner) from pg_class where relname = 'orders'",
            )
        ]

    def spoil(self, statement: str) -> None:
        servers.sql(self.server, "app", statement)
        assert self.contents_or_none() != self.good

    def contents_or_none(self) -> list[object] | None:
        try:
            return self.contents()
        except (psycopg.errors.UndefinedTable, psycopg.OperationalError):  # table or database
            return None

    def shell(self, script: str, code: int = 0) -> str:
        return baking.shell(self.project, script, code=code)

    def play(self, document: str, section: str, before: str = "") -> Iterator[Block]:
        found = [
            block
            for block in baking.blocks(self.project / document)
            if block.section == section and block.language == "sh"
        ]
        assert found, section
        return baking.play(self.project, self.server, found, before)

    def databases(self) -> list[str]:
        query = "select datname from pg_database where datname like 'app%' order by 1"
        return [name for (name,) in servers.sql(self.server, "postgres", query)]


@pytest.fixture(scope="module")
def the_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    one = Place(tmp_path_factory.mktemp("place"))
    with one.server:
        baking.with_roles(one.server)
        yield one


@pytest.fixture
def place(the_place: Place) -> Place:
    the_place.reset()
    return the_place


@pytest.fixture
def variables(place: Place) -> str:
    """What the runbook has one export before anything else."""
    first = baking.blocks(place.project / RUNBOOK)[0]
    assert first.section == "First steps"
    assert first.text.startswith("export PGHOST=localhost PGPORT=")
    return first.text


# -- ADR-023


def test_interface_of_the_adr(place: Place, variables: str) -> None:
    """Each command of the interface block does what the decision says."""
    before = set((place.project / "backups").iterdir())
    blocks = [block for block in baking.blocks(place.project / ADR) if block.section == "Interface"]
    lines = [line.split("#")[0].strip() for line in blocks[0].text.splitlines()]
    made = []
    for line in lines:
        place.shell(line)
        now = set((place.project / "backups").glob("*Z*.sql.gz")) - before
        made += [path.name for path in now if ".globals." not in path.name]
        before |= now
    stems = [re.sub(TIMESTAMP, "TIME", name) for name in made]
    assert stems == [
        "app_manual_TIME.sql.gz", "app_daily_TIME.sql.gz", "app_weekly_TIME.sql.gz",
        "app_monthly_TIME.sql.gz", "app_daily_TIME.sql.gz", "app_manual_TIME.sql.gz",
        "app_manual_TIME_schema.sql.gz",
    ]  # fmt: skip
    for name in made:
        assert (place.project / "backups" / f"{name}.sha256").is_file()
        stem = name.removesuffix(".sql.gz")
        assert (place.project / "backups" / f"{stem}.manifest.json").is_file()
    for block in baking.play(place.project, place.server, blocks[1:3], variables):
        assert block.section == "Interface"
    for name in ("app", "app_copy", "app_by_hand"):
        assert place.contents(name) == place.good
    (old,) = [name for name in place.databases() if "__old_" in name]
    assert place.contents(old) == place.good
    said = place.shell(f"./scripts/db-restore.sh --backup=backups/{made[1]}", code=9)
    assert "database app exists" in said
    servers.drop(place.server, "app")
    place.shell(f"./scripts/db-restore.sh --backup=backups/{made[1]}")
    assert place.contents() == place.good


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
    ("the server cannot be reached", "POSTGRES_PORT=1", 0),
    ("a client program fails", "POSTGRES_USER=stranger", 0),
    ("the disk is full", "ulimit -f 1;", 0),
    ("one of several databases fails", "BACKUP_DATABASES=app,missing", 1),
]  # fmt: skip


def exit_code_of(place: Place, case: str) -> int:
    """Return what the fail-open section promises."""
    rows = baking.table(place.project / ADR, "7. Fail-Open Pattern")
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
    rows = baking.table(the_place.project / ADR, "7. Fail-Open Pattern")
    signals = {128 + signal.SIGTERM, 128 + signal.SIGKILL}
    assert {int(row[2]) for row in rows} == {0, 2, 3, 4, 5, 6, 7, 10, 11} | signals


def exit_codes() -> set[int]:
    return {0} | {
        var.exit_code
        for var in vars(errors).values()
        if isinstance(var, type) and issubclass(var, errors.PgkeepError)
    }


def test_tables_of_the_adr_agree_with_the_code(the_place: Place) -> None:
    """Variables with their defaults, exit codes, the lengths of the tiers."""
    adr = the_place.project / ADR
    documented = baking.table(adr, "Environment Variables")
    assert documented == [setting_rows.cells(setting) for setting in SETTINGS]
    codes = {row[0] for row in baking.table(adr, "Exit Codes")}
    assert codes == {*map(str, exit_codes()), "128 + n"}
    reference = Path(__file__).parents[2] / "docs" / "reference.md"
    meanings = {row[0]: row[1] for row in baking.table(reference, "Exit codes")}
    for code, meaning in baking.table(adr, "Exit Codes"):
        assert meaning.startswith(meanings[code].partition(";")[0]), code
    tiers = {
        row[0]: (row[1], row[2].strip("`"))
        for row in baking.table(adr, "3. Retention Policy: Tiered Retention")
    }
    policy = Policy()
    assert tiers == {
        "daily": (f"{policy.daily} days", "BACKUP_RETENTION_DAILY"),
        "weekly": (f"{policy.weekly} weeks", "BACKUP_RETENTION_WEEKLY"),
        "monthly": (f"{policy.monthly} months", "BACKUP_RETENTION_MONTHLY"),
    }
    assert f"{policy.daily + policy.weekly + policy.monthly} files cover a year" in adr.read_text()


def test_file_structure_of_the_adr(the_place: Place) -> None:
    """Everything that it names is there, and nothing that is there is left out."""
    (block,) = [
        block
        for block in baking.blocks(the_place.project / ADR)
        if block.section == "File Structure"
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
        if inside.name in ("README.md", ".gitignore", ".markdownlint.yaml", "backup-config.env"):
            continue
        known = [inside.as_posix(), *(f"{parent.as_posix()}/" for parent in inside.parents)]
        assert set(known) & named or inside.parts[:2] == ("docs", "adr"), inside


CHOICES = [
    "1. Backup Method: pg_dump (Logical Backups)",
    "2. Backup Format: Plain-Text SQL with Compression",
    "3. Retention Policy: Tiered Retention", "4. Storage: Local with Optional S3",
    "5. Verification: Checksum and Structure Validation", "6. Scheduling: External Scheduler",
    "7. Fail-Open Pattern",
]  # fmt: skip
ALTERNATIVES = [
    "Alternative 1: pg_basebackup (Physical Backups)", "Alternative 2: pg_dump Custom Format",
    "Alternative 3: Third-Party Backup Tools (Barman, pgBackRest)",
    "Alternative 4: Database-as-a-Service Managed Backups",
]  # fmt: skip
SECTIONS = [
    "ADR-023: Database Backup Strategy", "Status", "Date", "Context", "Requirements", "Constraints",
    "Decision", *CHOICES, "Alternatives Considered", *ALTERNATIVES, "Consequences", "Positive",
    "Measured", "Negative", "Risks and Mitigations", "Implementation", "File Structure",
    "Interface", "Exit Codes", "Environment Variables", "Future Enhancements", "Related Decisions",
    "References",
]  # fmt: skip


def test_sections_of_the_adr(the_place: Place) -> None:
    """Each decision has choice and rationale, each alternative pros, cons and the decision."""
    adr = the_place.project / ADR
    assert baking.sections(adr) == SECTIONS
    assert baking.section_text(adr, "Status").strip() == "Accepted"
    required: dict[str, tuple[str, ...]] = dict.fromkeys(CHOICES, ("Choice", "Rationale"))
    required |= dict.fromkeys(ALTERNATIVES, ("Pros", "Cons", "Decision"))
    for heading, words in required.items():
        text = baking.section_text(adr, heading)
        for word in words:
            assert re.search(rf"^\*\*{word}:\*\*\s+\S", text, re.MULTILINE), heading
    enhancements = baking.section_text(adr, "Future Enhancements")
    for number, enhancement in enumerate(re.split(r"^\d\. ", enhancements, flags=re.MULTILINE)[1:]):
        for word in ("Today", "Planned"):
            assert f"   - {word}: " in enhancement, number + 1
    targets = baking.links(adr)
    assert {"017-optional-observability-stack.md", "021-kubernetes-deployment.md"} <= set(targets)


def test_figures_are_those_of_the_benchmarks(the_place: Place) -> None:
    """No number that was not measured."""
    page = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text()
    measured = set(re.findall(r"[\d.]+ (?:s|MiB|GB)\b", page))
    for document, section in ((ADR, "Measured"), (RUNBOOK, "How long it takes")):
        rows = baking.table(the_place.project / document, section)
        assert rows
        for row in rows:
            figures = re.findall(r"[\d.]+ (?:s|MiB|GB)\b", " ".join(row))
            assert len(figures) >= 3, row
            assert [figure for figure in figures if figure not in measured] == [], row
        text = baking.section_text(the_place.project / document, section)
        rate = re.search(r"an hour restores (\d+) GB", text)
        assert rate is not None
        slowest = min(size / seconds for size, seconds in restored(page))
        assert 0.75 * slowest * 3600 < int(rate[1]) < slowest * 3600
    assert f"{peak(page)} MiB" in (the_place.project / ADR).read_text()


def restored(page: str) -> list[tuple[float, float]]:
    """Return size in GB and seconds of every measured restore."""
    row = r"^\| ([\d.]+) GB \| `pgkeep restore` \| ([\d.]+) s \|"
    found = [(float(size), float(time)) for size, time in re.findall(row, page, re.MULTILINE)]
    assert len(found) == 2
    return found


def peak(page: str) -> int:
    """Return the most memory of all that was measured of pgkeep."""
    ours = [line for line in page.splitlines() if "`pgkeep " in line]
    return max(int(mib) for line in ours for mib in re.findall(r"(\d+) MiB", line))


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


# -- the runbook

SCENES: dict[str, Callable[[Place, str], None]] = {}


def scene(section: str) -> Callable[[Callable[[Place, str], None]], Callable[[Place, str], None]]:
    def remember(function: Callable[[Place, str], None]) -> Callable[[Place, str], None]:
        SCENES[section] = function
        return function

    return remember


@scene("First steps")
def first_steps(place: Place, variables: str) -> None:
    for _ in place.play(RUNBOOK, "First steps"):
        pass
    del variables


@scene("Dropped table")
def dropped_table(place: Place, variables: str) -> None:
    place.spoil("drop table orders cascade")
    for _ in place.play(RUNBOOK, "Dropped table", variables):
        pass
    assert place.contents() == place.good
    # The sequence goes on where it was.
    servers.sql(place.server, "app", "insert into orders (customer, total, placed) values"
          " ('e', 5, '2026-05-01')")  # fmt: skip
    assert place.databases() == ["app"]


@scene("Deleted or changed rows")
def deleted_rows(place: Place, variables: str) -> None:
    place.spoil(
        "delete from orders where id < 3; update orders set total = 0 where id = 4;"
        "insert into orders (customer, total, placed) values ('new', 9, '2026-09-01')"
    )
    for _ in place.play(RUNBOOK, "Deleted or changed rows", variables):
        pass
    servers.sql(place.server, "app", "delete from orders where customer = 'new'")  # which was kept
    assert place.contents() == place.good
    assert place.databases() == ["app"]


@scene("Wrong migration")
def wrong_migration(place: Place, variables: str) -> None:
    for number, _ in enumerate(place.play(RUNBOOK, "Wrong migration", variables)):
        if number == 1:
            place.spoil("alter table orders drop column total")
        elif number == 2:
            assert place.contents() == place.good
        elif number == 3:
            assert place.contents_or_none() != place.good  # undone
    assert place.databases() == ["app"]


@scene("Corrupt database")
def corrupt_database(place: Place, variables: str) -> None:
    servers.sql(place.server, "app", "delete from orders where id < 3")
    for _ in place.play(RUNBOOK, "Corrupt database", variables):
        pass
    assert place.contents() == place.good


@scene("Lost database")
def lost_database(place: Place, variables: str) -> None:
    servers.drop(place.server, "app")
    for _ in place.play(RUNBOOK, "Lost database", variables):
        pass
    assert place.contents() == place.good


@scene("Without pgkeep")
def without_pgkeep(place: Place, variables: str) -> None:
    for _ in place.play(RUNBOOK, "Without pgkeep", variables):
        pass
    assert place.contents("app_by_hand") == place.good


def type_into(place: Place, script: str, answers: dict[str, str]) -> str:
    """Run a script on a terminal of its own, and answer what is asked."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(place.project)
        words = ["sh", "-eu", "-c", script]
        os.execve("/bin/sh", words, baking.shell_environment(place.project))  # noqa: S606
    shown, questions = "", dict(answers)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], 1)[0]:
            continue
        try:
            shown += os.read(terminal, 65536).decode()
        except OSError:  # nobody has the terminal open any more
            break
        for question in [question for question in questions if question in shown]:
            os.write(terminal, f"{questions.pop(question)}\n".encode())
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 0, shown
    assert not questions, shown
    return shown


@scene("Lost credentials")
def lost_credentials(place: Place, variables: str) -> None:
    blocks = [block for block in baking.blocks(place.project / RUNBOOK)
              if (block.section, block.language) == ("Lost credentials", "sh")]  # fmt: skip
    hashes = "select rolpassword from pg_authid where rolname = 'app'"
    before = servers.sql(place.server, "postgres", hashes)
    questions = dict.fromkeys((line.strip() for line in blocks[0].expected), "n3w secret")
    type_into(place, f"{variables}\n{blocks[0].text}", questions)
    assert servers.sql(place.server, "postgres", hashes) != before
    for _ in baking.play(place.project, place.server, blocks[1:], variables):
        pass


@pytest.mark.parametrize("section", SCENES)
def test_runbook(place: Place, variables: str, section: str) -> None:
    """Every command succeeds, shows what it should, and the damage is undone."""
    SCENES[section](place, variables)


def test_runbook_after_the_loss_of_the_server(tmp_path: Path) -> None:
    """A3.1, A3.4: a new server on the same port, with nothing but its superuser."""
    place = Place(tmp_path)
    with place.server:
        baking.with_roles(place.server)
        place.reset()
    with baking.server(place.port) as new:
        place.server = new
        for _ in place.play(RUNBOOK, "Lost server"):
            pass
        assert place.contents() == place.good


def test_checklist(place: Place) -> None:
    for _ in place.play(CHECKLIST, "Every month"):
        pass
    assert place.databases() == ["app"]


def test_no_command_of_the_documents_is_left_out(the_place: Place) -> None:
    """What is not run needs Docker, Kubernetes or the server's own machine."""
    ran = {*SCENES, "Lost server", "Every month", "Interface", "Setup"}
    for document in baking.files(the_place.project, "*.md"):
        for block in baking.blocks(document):
            if block.language == "sh":
                assert block.section in ran, block.section
            elif block.language == "shell":
                lines = [line for line in block.text.splitlines() if line]
                for line in lines:
                    if document.name != "README.md":
                        assert re.match("(kubectl|sudo) |export NS=", line), line
            else:
                assert block.language == "text", block.language


def constants() -> list[str]:
    """Every string of the source; parts of formatted ones are joined by a wildcard."""
    found = []
    for path in [*SOURCE.rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = [
                    value.value if isinstance(value, ast.Constant) else "\0"
                    for value in node.values
                ]
                found.append("".join(map(str, parts)))
    return found


def test_messages_of_the_troubleshooting_are_those_of_the_code(the_place: Place) -> None:
    """A message that was rephrased would be looked up in vain."""
    script = (the_place.project / "scripts" / "pgkeep.sh").read_text()
    sources = [*constants(), script]
    for row in baking.table(the_place.project / RUNBOOK, "Troubleshooting"):
        message = row[0].strip("`")
        if message == os.strerror(28):  # ENOSPC, in the system's words
            continue
        parts = [re.escape(part) for part in message.split("...")]
        rule = re.compile("[^\\n]*".join(parts))
        assert any(rule.search(source) for source in sources), message


def test_the_server_is_that_of_the_documents(the_place: Place) -> None:
    """Otherwise the tests above would prove less than they seem to."""
    text = (the_place.project / RUNBOOK).read_text()
    assert f"export PGHOST=localhost PGPORT={the_place.port} PGUSER=app" in text
    headings = baking.sections(the_place.project / RUNBOOK)
    (chart,) = [
        block.text
        for block in baking.blocks(the_place.project / RUNBOOK)
        if block.section == "Find your case"
    ]
    named = re.findall(r"\.{3,} (.+)$", chart, re.MULTILINE)
    assert len(named) == 8
    assert set(named) <= set(headings)
