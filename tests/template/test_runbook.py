"""What the runbook says is run, case by case, in the situation that it is for."""

import ast
import os
import pty
import re
import select
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pgkeep import config
from tests.support import baking, servers
from tests.support.place import Place

RUNBOOK = "docs/operations/database-recovery.md"
SOURCE = Path(config.__file__).parent
MAJORS = (15, 18)


@pytest.fixture(scope="module", params=MAJORS, ids=lambda major: f"pg{major}")
def the_place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    made = Place(tmp_path_factory.mktemp("place"), request.param)
    with made.server:
        baking.with_roles(made.server)
        yield made


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


def test_no_command_of_the_documents_is_left_out(the_place: Place) -> None:
    """What is not run needs Docker, Kubernetes or the server's own machine."""
    ran = {*SCENES, "Lost server", "Every month", "Interface", "Setup", "pgkeep"}
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
