"""What a plain dump says of itself, read without a server."""

import pytest

from pgkeep import errors as e
from pgkeep.foreign import plain
from pgkeep.model.manifest import UNKNOWN_CLUSTER, DatabaseFacts, ServerFacts
from pgkeep.sql import script


def survey(*parts: plain.Part) -> plain.Survey:
    return plain.Survey(0, 0, set(), len(parts) > 1, b"", list(parts), "")


APP = plain.Part(name="app", entries=3)
SHOP = plain.Part(name="shop", entries=1)
EMPTY = plain.Part(name="postgres")
NAMELESS = plain.Part(entries=1)


@pytest.mark.parametrize(
    ("parts", "database", "number"),
    [
        ([APP], None, 0),
        ([APP], "app", 0),
        ([NAMELESS], "app", 0),  # pg_dump without -C does not say it
        ([EMPTY, APP], None, 1),
        ([APP, SHOP], "shop", 1),
        ([EMPTY], None, 0),
    ],
)
def test_chosen_part(parts: list[plain.Part], database: str | None, number: int) -> None:
    assert plain.choose_part(survey(*parts), database, "f") == number


@pytest.mark.parametrize(
    ("parts", "database", "message"),
    [
        ([APP, SHOP], None, "f holds several databases: app, shop"),
        ([APP, SHOP], "other", "f holds several databases: app, shop"),
        ([APP], "shop", "f holds database app, not shop"),
        ([EMPTY, EMPTY], None, "f holds no database with anything in it"),
        ([], None, "f holds no database with anything in it"),
    ],
)
def test_no_part(parts: list[plain.Part], database: str | None, message: str) -> None:
    with pytest.raises(e.Refused, match=message):
        plain.choose_part(survey(*parts), database, "f")


@pytest.mark.parametrize(
    ("head", "server", "client"),
    [
        (
            b"-- Dumped from database version 17.2\n-- Dumped by pg_dump version 18.0\n",
            ServerFacts("17.2", 170002, UNKNOWN_CLUSTER),
            "18.0",
        ),
        (
            b"-- Dumped from database version 19beta1\n",
            ServerFacts("19beta1", 190000, UNKNOWN_CLUSTER),
            "",
        ),
        (b"SELECT 1;\n", ServerFacts("", 0, UNKNOWN_CLUSTER), ""),
    ],
)
def test_versions(head: bytes, server: ServerFacts, client: str) -> None:
    assert plain.server_facts(head) == server
    assert plain.client_version(head) == client


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (plain.Part(encoding="LATIN1"), DatabaseFacts("app", "", "LATIN1", "", "")),
        (
            plain.Part(
                creation=b"CREATE DATABASE app WITH TEMPLATE = template0 ENCODING = 'UTF8'"
                b" LOCALE_PROVIDER = libc LOCALE = 'de_DE.UTF-8';\n"
                b'ALTER DATABASE app OWNER TO "the ""owner""";\n',
                properties=b"ALTER DATABASE app IS_TEMPLATE = true;\n",
            ),
            DatabaseFacts(
                "app", 'the "owner"', "UTF8", "de_DE.UTF-8", "de_DE.UTF-8", is_template=True
            ),
        ),
        (
            plain.Part(
                creation=b"CREATE DATABASE app WITH TEMPLATE = template0 ENCODING = 'UTF8'"
                b" LOCALE_PROVIDER = icu LC_COLLATE = 'C' LC_CTYPE = 'C.UTF-8'"
                b" ICU_LOCALE = 'de' ICU_RULES = '&a < ''b''';\n"
            ),
            DatabaseFacts(
                "app", "", "UTF8", "C", "C.UTF-8", provider="i", locale="de", icu_rules="&a < 'b'"
            ),
        ),
    ],
)
def test_database_facts(part: plain.Part, expected: DatabaseFacts) -> None:
    assert plain.database_facts(part, "app") == expected


BEGIN = script.Begin(b"-- PostgreSQL database dump\n")
CLUSTER = script.Begin(b"-- PostgreSQL database cluster dump\n")
COMPLETE = script.Complete(b"-- PostgreSQL database dump complete\n")


def text(data: bytes) -> script.Text:
    return script.Text(data)


@pytest.mark.parametrize(
    ("pieces", "numbers"),
    [
        ([text(b"--\n"), BEGIN, text(b"a"), COMPLETE, text(b"b")], [0, 0, 0, 0, 0]),
        (
            [CLUSTER, text(b"roles"), BEGIN, text(b"a"), COMPLETE, text(b"connect"), BEGIN],
            [-1, -1, 0, 0, 0, -1, 1],
        ),
        ([text(b"a"), text(b"b")], [-1, -1]),  # damaged
    ],
)
def test_pieces_belong_to_databases(pieces: list[script.Piece], numbers: list[int]) -> None:
    found = list(plain.numbered(iter(pieces)))
    assert [number for number, _ in found] == numbers
    assert [piece for _, piece in found] == pieces
