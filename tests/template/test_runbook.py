"""What the runbook says is run, case by case, in the situation that it is for."""

import ast
import os
import pty
import re
import select
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from pgkeep import config
from pgkeep.model import naming
from pgkeep.postgres.server import Server
from tests.support import baking, planted, private_keys, servers
from tests.support.baking import Block
from tests.support.buckets import Buckets
from tests.support.place import RUNBOOK, Place

CHECKLIST = "docs/operations/recovery-testing-checklist.md"
SOURCE = Path(config.__file__).parent
MAJORS = (15, 18)
# Docker and kubectl run the command that is to be run in a container: here.
CONTAINERS = """#!/bin/sh
until [ "$1" = db ] || [ "$1" = backup ] || [ "$1" = -- ]; do shift; done
[ "$1" = backup ] && shift && exec ./scripts/pgkeep.sh "$@"
shift
exec "$@"
"""


@pytest.fixture(scope="module", params=MAJORS, ids=lambda major: f"pg{major}")
def the_place(
    request: pytest.FixtureRequest,
) -> Iterator[Place]:
    # In memory where possible: cases of point in time copy the cluster, as the server's user.
    with tempfile.TemporaryDirectory(prefix="place-", dir=servers.data_folder()) as folder:
        Path(folder).chmod(0o755)
        made = Place(Path(folder), request.param, include_pitr="yes")
        with made.server:
            baking.with_roles(made.server)
            yield made


@pytest.fixture
def place(the_place: Place) -> Place:
    the_place.reset()
    return the_place


@pytest.fixture
def variables(place: Place) -> str:
    return place.exports()


@pytest.fixture
def bucket(place: Place, buckets: Buckets) -> str:
    """What the settings of a project with a bucket have; the bucket has a copy of each backup."""
    client, name = buckets.client(), "my-project-backups"
    if name not in [one["Name"] for one in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket=name)
    for one in client.list_objects_v2(Bucket=name).get("Contents", ()):
        client.delete_object(Bucket=name, Key=one["Key"])
    for path in (place.project / "backups").glob("app_*"):
        parsed = naming.parse(path.name)
        if parsed is not None:
            key = f"backups/{parsed.type}/{path.name}"
            client.put_object(Bucket=name, Key=key, Body=path.read_bytes())
    return "".join(
        f"export {name}='{value}'\n" for name, value in buckets.environment(name).items()
    )


SCENES: dict[str, Callable[[Place, str], None]] = {}


def scene(section: str) -> Callable[[Callable[[Place, str], None]], Callable[[Place, str], None]]:
    def remember(function: Callable[[Place, str], None]) -> Callable[[Place, str], None]:
        SCENES[section] = function
        return function

    return remember


@scene("First steps")
def first_steps(place: Place, variables: str) -> None:
    for _ in place.play("First steps"):
        pass
    assert "held" in place.shell("./scripts/pgkeep.sh list")
    del variables


@scene("Dropped table")
def dropped_table(place: Place, variables: str) -> None:
    place.spoil("drop table orders cascade")
    for _ in place.play("Dropped table", variables):
        pass
    assert place.contents() == place.good
    # The sequence goes on where it was.
    servers.sql(place.server, "app", "insert into orders (customer, total, placed) values"
          " ('e', 5, '2026-05-01')")  # fmt: skip
    assert place.databases() == ["app"]


@scene("Wrong values")
def wrong_values(place: Place, variables: str) -> None:
    """What was changed since, in other columns, other rows, or by a correction, stays."""
    place.spoil(
        "update orders set total = 0; update orders set customer = 'better' where id = 2;"
        "update orders set total = 7 where id = 3;"
        "insert into orders (customer, total, placed) values ('new', 0, '2026-09-01')"
    )
    for _ in place.play("Wrong values", variables):
        pass
    rows = servers.sql(
        place.server, "app", "select id, customer, total::int from orders order by id"
    )
    assert rows == [(1, "a", 1), (2, "better", 2), (3, "c", 7), (4, "d", 4), (5, "new", 0)]
    assert servers.sql(place.server, "app", "select to_regclass('orders_before')") == [(None,)]


@scene("Deleted rows")
def deleted_rows(place: Place, variables: str) -> None:
    place.spoil(
        "delete from items where order_id = 3; delete from orders where id < 3;"
        "update orders set total = 0 where id = 4;"
        "insert into orders (customer, total, placed) values ('new', 9, '2026-09-01')"
    )
    for _ in place.play("Deleted rows", variables):
        pass
    servers.sql(place.server, "app", "delete from orders where customer = 'new'")  # which was kept
    assert place.contents() == place.good
    assert place.databases() == ["app"]


@scene("Wrong migration")
def wrong_migration(place: Place, variables: str) -> None:
    *undo, before = place.blocks("Wrong migration")
    for number, _ in enumerate(place.run([before, *undo], variables)):
        if number == 1:
            place.spoil("alter table orders drop column total cascade")
        elif number == 2:
            assert place.contents() == place.good
        elif number == 3:
            assert place.contents_or_none() != place.good  # undone
    assert place.databases() == ["app"]


@scene("Lost database")
def lost_database(place: Place, variables: str) -> None:
    """A4: also where another server writes backups of a database of this name to the store."""
    servers.drop(place.server, "app")
    for number, _ in enumerate(place.play("Lost database", variables)):
        if number == 1:
            assert place.contents() == place.good
            servers.drop(place.server, "app")
            backups = place.project / "backups"
            planted.another(backups, "daily", "daily", days=1, cluster="7123456789012345678")
            said = place.shell("./scripts/db-restore.sh --latest", code=9)
            assert "has backups of 2 clusters that have a database app" in said
    assert place.contents() == place.good


@scene("Corrupt database")
def corrupt_database(place: Place, variables: str) -> None:
    place.spoil("delete from orders where id < 3")
    newer = "insert into orders (customer, total, placed) values ('n', 9, current_date)"
    servers.sql(place.server, "app", newer)
    for _ in place.play("Corrupt database", variables):
        pass
    assert place.contents() == place.good
    assert "n,9" in (place.project / "newer.csv").read_text()


@scene("Full disk")
def full_disk(place: Place, variables: str) -> None:
    servers.sql(
        place.server, "postgres", "select pg_create_physical_replication_slot('gone_replica', true)"
    )
    former = servers.quoted("app__old_20261101T020000Z")
    servers.sql(place.server, "postgres", f"create database {former} template app")
    expired = planted.another(place.project / "backups", "daily", "daily", days=20)
    for _ in place.play("Full disk", variables):
        assert (place.project / "backups" / f"{expired}.sql.gz").exists()
    assert servers.sql(place.server, "postgres", "select 1 from pg_replication_slots") == []
    assert place.databases() == ["app"]
    assert not (place.project / "backups" / f"{expired}.sql.gz").exists()


@scene("Without pgkeep")
def without_pgkeep(place: Place, variables: str) -> None:
    for _ in place.play("Without pgkeep", variables):
        pass
    assert place.contents("app_by_hand") == place.good


@scene("Encrypted backups")
def encrypted_backups(place: Place, variables: str) -> None:
    """With a key from elsewhere, by pgkeep and by age; then without this key."""
    key = private_keys.age_key(place.project)
    place.shell(f"BACKUP_ENCRYPT_TO={key.recipient} ./scripts/db-backup.sh")
    private = key.file.read_bytes()
    for _ in place.play("Encrypted backups", variables):
        pass
    assert place.contents("app_decrypted") == place.good
    assert place.contents("app_by_age") == place.good
    assert not key.file.exists()
    key.file.write_bytes(private)
    key.file.chmod(0o600)
    for _ in place.play("Lost or stolen key", variables):
        pass
    said = place.shell("./scripts/pgkeep.sh key check --identity=identity.txt", code=5)
    assert "other key" in said


@scene("How long it takes")
def how_long(place: Place, variables: str) -> None:
    planted.drill(place.project / "backups", "daily", seconds=83)
    for _ in place.play("How long it takes", variables):
        pass
    assert place.databases() == ["app"]


def containers(place: Place, variables: str, section: str, name: str) -> None:
    program = place.project.parent / name / name
    program.parent.mkdir(exist_ok=True)
    program.write_text(CONTAINERS)
    program.chmod(0o755)
    before = f"{variables}export PATH='{program.parent}':\"$PATH\" NS=x\n"
    for _ in place.play(section, before):
        pass
    assert place.contents("app_rescue") == place.good


@scene("Docker only")
def docker_only(place: Place, variables: str) -> None:
    containers(place, variables, "Docker only", "docker")


@scene("Kubernetes")
def kubernetes(place: Place, variables: str) -> None:
    containers(place, variables, "Kubernetes", "kubectl")


@pytest.mark.parametrize("section", SCENES)
def test_case(place: Place, variables: str, section: str) -> None:
    """Every command succeeds, shows what it should, and the damage is undone."""
    SCENES[section](place, variables)


@pytest.mark.parametrize("the_place", [18], ids=["pg18"], indirect=True)
def test_point_in_time(place: Place, variables: str) -> None:
    """A lost slot begins a window; the second before the mistake; a late receiver, and a gap."""
    limit = "alter system set max_slot_wal_keep_size = '1GB'"
    servers.sql(place.server, "postgres", limit)
    servers.sql(place.server, "postgres", "select pg_reload_conf()")
    try:
        for _ in place.play("Lost slot", variables):
            pass
        ((moment,),) = servers.sql(place.server, "app", "select clock_timestamp()::text")
        place.spoil("delete from items")
        ((position,),) = servers.sql(place.server, "app", "select pg_current_wal_lsn()::text")
        place.shell(f"./scripts/pgkeep.sh pitr stream --until={position}")
        blocks = [
            replace(block, text=block.text.replace("2026-11-22 14:07:12+01:00", moment))
            for block in place.blocks("Second before the mistake")
        ]
        for _ in place.run(blocks, variables):
            pass
        assert place.contents() == place.good
        assert not (place.project / "rescued").exists()
        for section in ("Receiver behind", "Gap in the WAL"):
            for _ in place.play(section, variables):
                pass
    finally:
        place.shell("./scripts/pgkeep.sh pitr disable")
        shutil.rmtree(place.project / "backups" / "pitr")


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


def test_lost_credentials(place: Place, variables: str, bucket: str) -> None:
    """A superuser sets another password; the bucket gets other keys."""
    first, *others = place.blocks("Lost credentials")
    hashes = "select rolpassword from pg_authid where rolname = 'app'"
    before = servers.sql(place.server, "postgres", hashes)
    asked = [line.strip().replace("...", '"app":') for line in first.expected]
    type_into(place, f"{variables}\n{first.text}", dict.fromkeys(asked, "n3w secret"))
    assert servers.sql(place.server, "postgres", hashes) != before
    with servers.connect(place.server, "app", user="app") as session:
        for _ in place.run(others, variables + bucket):
            pass
        with pytest.raises(psycopg.OperationalError):
            session.execute("select 1")


def test_damaged_backup(place: Place, variables: str, bucket: str) -> None:
    """A2: neither the newest backup nor its copy is taken on trust."""
    place.spoil("delete from items")
    (newest,) = (place.project / "backups").glob("app_daily_*Z.sql.gz")
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    damaged = place.contents()
    assert "error: " in place.shell("./scripts/db-restore.sh --latest --target-db=app_x", code=5)
    for number, _ in enumerate(place.play("Damaged backup", variables + bucket)):
        if number in (1, 2):
            assert place.contents("app_copy" if number == 1 else "app_older") == place.good
    assert place.contents() == place.good
    (old,) = [name for name in place.databases() if "__old_" in name]
    assert place.contents(old) == damaged


@pytest.fixture(scope="module")
def new_server(the_place: Place) -> Iterator[Server]:
    """A server with nothing but its superuser."""
    with ExitStack() as stack:
        yield stack.enter_context(baking.server(baking.free_port(), the_place.major))


@pytest.fixture
def other_server(the_place: Place, new_server: Server, place: Place) -> Iterator[str]:
    """Let the commands meet a new server in place of the old one; return its settings."""
    del place
    old, the_place.server = the_place.server, new_server
    port = new_server.params["port"]
    for (name,) in servers.sql(
        new_server, "postgres", "select datname from pg_database where datname like 'app%'"
    ):
        servers.drop(new_server, name)
    roles = "select rolname from pg_roles where rolname !~ '^pg_' and rolname <> current_user"
    for (name,) in servers.sql(new_server, "postgres", roles):
        servers.sql(new_server, "postgres", f"drop role {servers.quoted(name)}")
    yield f"export POSTGRES_PORT={port}\n"
    the_place.server = old


def on(server: Server, place: Place, section: str) -> list[Block]:
    """Return the commands of a section for another server, before the backups are lost."""
    old, new = f"PGPORT={place.port}", f"PGPORT={server.params['port']}"
    return [
        replace(block, text=place.as_here(block.text).replace(old, new))
        for block in place.blocks(section)
    ]


def test_lost_server(place: Place, other_server: str, bucket: str) -> None:
    """A3.1, A3.4: a new server, and nothing but the bucket and its keys."""
    blocks = on(place.server, place, "Lost server")
    empty(place.project / "backups")
    for _ in place.run(blocks, other_server + bucket):
        pass
    assert place.contents() == place.good
    assert not [*place.project.glob("*.sql")]


def test_ransomware(place: Place, other_server: str, bucket: str) -> None:
    """The backups of the machine are encrypted; an older one is in the bucket."""
    blocks = [
        *on(place.server, place, "Lost server")[:1], *on(place.server, place, "Ransomware")
    ]  # fmt: skip
    for path in (place.project / "backups").glob("app_*"):
        path.write_bytes(os.urandom(200))
        path.rename(f"{path}.locked")
    for _ in place.run(blocks, other_server + bucket):
        pass
    assert place.contents() == place.good
    known = "select rolname from pg_authid where rolpassword is not null"
    assert servers.sql(place.server, "postgres", known) == []


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()


ELSEWHERE = re.compile("(kubectl|sudo|aws|docker|syft|grype) |export NS=|PV=|  --query")


def test_no_command_of_the_documents_is_left_out(the_place: Place) -> None:
    """What is not run needs Docker, Kubernetes or the server's own machine."""
    ran = {
        *SCENES, "Lost or stolen key", "Lost credentials", "Damaged backup", "Lost server",
        "Ransomware", "Every month", "Interface", "Setup", "pgkeep", "Second before the mistake",
        "Receiver behind", "Lost slot", "Gap in the WAL",
    }  # fmt: skip
    for document in baking.files(the_place.project, "*.md"):
        for block in baking.blocks(document):
            if block.language == "sh":
                assert block.section in ran, block.section
            elif block.language == "shell":
                lines = [line for line in block.text.splitlines() if line]
                for line in lines:
                    if document.name != "README.md":
                        assert ELSEWHERE.match(line), line
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


def test_every_case_is_found(the_place: Place) -> None:
    """The chart names every section that is a case, and no other."""
    sections = baking.sections(the_place.project / RUNBOOK)
    (chart,) = [block for block in baking.blocks(the_place.project / RUNBOOK) if not block.expected
                and block.section == "Find your case"]  # fmt: skip
    named = re.findall(r"\.{2,} (.+)$", chart.text, re.MULTILINE)
    others = {
        "Database recovery", "Find your case", "First steps", "How long it takes",
        "Receiver and WAL archive",
        "Troubleshooting",
    }  # fmt: skip
    assert sorted(named) == sorted({*sections} - others)
    assert max(map(len, chart.text.splitlines())) < 80


DELETES = re.compile(
    r"^ *(rm |dropdb \"|psql .*(DROP TABLE|pg_drop)|\./\S+ prune$|kubectl .* delete )", re.MULTILINE
)


def test_what_deletes_says_so(the_place: Place) -> None:
    """A step with a command that removes something has the word in bold."""
    text = (the_place.project / RUNBOOK).read_text()
    steps = re.split(r"^(?=\d\. |\*\*|#)", text, flags=re.MULTILINE)
    deleting = [step for step in steps if DELETES.search(step)]
    assert len(deleting) == 11
    assert [step for step in deleting if "**Deletes**" not in step] == []
