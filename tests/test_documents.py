"""The documents: their links, terms and sentences, and every command that they show."""

import json
import re
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from pgkeep.cli.program import COMMANDS, group, imported
from pgkeep.postgres.server import Server
from tests.support import baking, buckets, messages, private_keys, prose, servers, terms
from tests.support.prose import ROOT

DOCUMENTS = prose.documents()
TEMPLATE = sorted((ROOT / "template").rglob("*.md"))
IDS = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
BY_HAND = ROOT / "docs" / "guide" / "point-in-time-by-hand.md"  # run by tests/pitr/test_by_hand.py
GUIDE = [ROOT / "README.md", *sorted({*(ROOT / "docs" / "guide").glob("*.md")} - {BY_HAND})]
# sh: executed here; text: what it prints; console: cannot be executed in a test.
LANGUAGES = {"sh", "text", "console", "json", "ini", "cron", "mermaid", "yaml"}

# Which still have such terms. Remove a name when its last term is gone; add none.


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_every_link_leads_somewhere(document: Path) -> None:
    for link in baking.links(document):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        if anchor:
            assert anchor in baking.anchors(target), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_every_page_links_the_glossary(document: Path) -> None:
    if document.name not in ("CHANGELOG.md", "glossary.md"):
        targets = {(document.parent / link).resolve() for link in baking.links(document)}
        assert ROOT / "docs" / "glossary.md" in targets


def test_every_page_is_linked() -> None:
    linked = {
        (document.parent / link.partition("#")[0]).resolve()
        for document in DOCUMENTS
        for link in baking.links(document)
    }
    assert {*DOCUMENTS} - linked <= {ROOT / "README.md"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_modules_that_a_page_names_exist(document: Path) -> None:
    for name in re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.py)`", document.read_text()):
        folders = (ROOT, ROOT / "src" / "pgkeep")
        assert any((folder / name).is_file() for folder in folders), name


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_blocks_have_a_language(document: Path) -> None:
    assert {block.language for block in baking.blocks(document)} <= LANGUAGES


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_terms_of_documents(document: Path) -> None:
    if document.name != "traps.md":
        assert terms.found(prose.words(document.read_text())) == []


@pytest.mark.parametrize("document", TEMPLATE, ids=[path.name for path in TEMPLATE])
def test_terms_of_the_documents_of_the_template(document: Path) -> None:
    found = terms.found(prose.words(document.read_text()))
    assert found == []


def help_texts(command: click.Command) -> Iterator[str]:
    """Yield what a command's help shows, without the examples."""
    yield from filter(None, (command.help, command.short_help))
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.help:
            yield parameter.help


@pytest.mark.parametrize("name", [*COMMANDS, "pgkeep"])
def test_terms_of_help_texts(name: str) -> None:
    command = group if name == "pgkeep" else imported(name)
    texts = [*help_texts(command), COMMANDS.get(name, "")]
    found = [term for text in texts for term in terms.found(text)]
    assert found == []


def test_terms_of_messages() -> None:
    found = {
        path: bad
        for path, tree in messages.sources()
        if (bad := [term for text in messages.printed(tree) for term in terms.found(text)])
    }
    assert found == {}


def test_sentences_are_short() -> None:
    """A median of 16 words at most, as in the manual of PostgreSQL."""
    for document in DOCUMENTS:
        found = prose.lengths([document.read_text()])
        if len(found) > 5:
            assert statistics.median(found) <= 16, document


# -- the commands


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with baking.server(baking.free_port()) as running:
        baking.with_roles(running)
        yield running


@pytest.fixture
def exports(server: Server) -> str:
    """What the first page of the guide exports, with the port of the test's own server."""
    for (name,) in servers.sql(
        server, "postgres", "select datname from pg_database where datname like 'app%'"
    ):
        servers.drop(server, name)
    servers.sql(server, "postgres", "create database app owner app")
    with servers.connect(server, "app") as connection:
        connection.execute("set role app")
        connection.execute(baking.ORDERS)
    first = baking.blocks(ROOT / "docs" / "guide" / "first-backup.md")[0].text
    assert first.startswith("export PGHOST=localhost PGUSER=app PGDATABASE=app\n")
    return f"{first}export PGPORT={server.params['port']}\n"


@pytest.fixture
def keyring() -> Iterator[Path]:
    """A GPG keyring without keys; its agent asks for passphrases as on a desktop."""
    with private_keys.empty_keyring("correct horse") as home:
        yield home


@pytest.fixture
def project(document: Path) -> Iterator[Path]:
    """The directory of a reader, in memory for the page that copies the whole cluster."""
    memory = servers.data_folder() if document.name == "point-in-time.md" else None
    with tempfile.TemporaryDirectory(prefix="reader-", dir=memory) as folder:
        Path(folder).chmod(0o755)  # the user of a temporary server enters it
        project = Path(folder) / "project"
        project.mkdir()
        yield project


@pytest.mark.parametrize("document", GUIDE, ids=[path.name for path in GUIDE])
def test_commands(
    document: Path, exports: str, server: Server, project: Path,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    """Every sh block of a page succeeds, one after the other, where backups exist already."""
    if document.name == "off-site.md":
        s3: buckets.Buckets = request.getfixturevalue("buckets")
        s3.client().create_bucket(Bucket="my-backups")
        for name, value in s3.environment("my-backups").items():
            if name != "BACKUP_S3_BUCKET":
                exports += f"export {name}={value}\n"
    elif document.name == "encrypt.md":
        exports += f"export GNUPGHOME={request.getfixturevalue('keyring')}\n"
    elif document.name != "first-backup.md":
        baking.shell(project, f"{exports}pgkeep backup --type=auto")
    blocks = [block for block in baking.blocks(document) if block.language == "sh"]
    assert blocks
    for _ in baking.play(project, server, blocks, exports):
        pass


def test_the_schedule_is_that_of_the_examples() -> None:
    """The examples are run by tests/test_examples.py."""
    by_language = {
        block.language: block.text.splitlines()
        for block in baking.blocks(ROOT / "docs" / "guide" / "schedule.md")
    }
    for language, name in (("cron", "crontab"), ("ini", "backup.env")):
        example = (ROOT / "examples" / name).read_text().splitlines()
        assert {*by_language[language]} <= {*example, ""}, name


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_json_is_json(document: Path) -> None:
    for block in baking.blocks(document):
        if block.language == "json":
            json.loads(block.text)
