"""Decisions of a plan that need neither a file nor a server."""

import pytest

from pgkeep import errors as e
from pgkeep.artifact.file import Object
from pgkeep.restore.failed_objects import FailedObjects
from pgkeep.restore.plan import Mode, RestoreOptions, mode_of, steps
from pgkeep.restore.planning import check_options_of_plain_dump, target_name
from pgkeep.restore.search_path import SearchPath
from pgkeep.restore.target import access_methods


def options(**chosen: object) -> RestoreOptions:
    return RestoreOptions(jobs=2, **chosen)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("chosen", "exists", "mode"),
    [
        ({}, False, Mode.NEW),
        ({}, True, Mode.NEW),  # a problem of the plan
        ({"drop_existing": True}, False, Mode.NEW),
        ({"drop_existing": True}, True, Mode.SWAP),
        ({"no_swap": True}, True, Mode.ASIDE),
        ({"no_swap": True, "drop_existing": True}, False, Mode.ASIDE),
        ({"in_place": True}, True, Mode.IN_PLACE),
        ({"data_only": True}, True, Mode.DATA_ONLY),
        ({"data_only": True, "in_place": True}, True, Mode.DATA_ONLY),
    ],
)
def test_mode(chosen: dict[str, bool], exists: bool, mode: Mode) -> None:
    assert mode_of(options(**chosen), exists=exists) == mode


CHECK = "check app.sql.gz to its end"
LOAD = "load schema and rows by 2 connections, build indexes"
COMPARE = "compare the number of rows of every table with the backup"
TEMPORARY = "create a database under a temporary name"


@pytest.mark.parametrize(
    ("chosen", "mode", "at_once", "expected"),
    [
        ({}, Mode.NEW, False, [CHECK, TEMPORARY, LOAD, COMPARE, "rename the new database to app"]),
        ({}, Mode.NEW, True, [CHECK, "create database app", LOAD, COMPARE]),
        (
            {"discard_old": True},
            Mode.SWAP,
            False,
            [
                CHECK,
                TEMPORARY,
                LOAD,
                COMPARE,
                "end the sessions of app and rename it out of the way",
                "rename the new database to app",
                "drop the old database",
            ],
        ),
        (
            {"no_swap": True},
            Mode.ASIDE,
            False,
            [
                CHECK,
                TEMPORARY,
                LOAD,
                COMPARE,
                "keep the new database as app__restored_TIME, for pgkeep swap",
            ],
        ),
        ({}, Mode.DATA_ONLY, False, [CHECK, "load rows into app in one transaction"]),
        (
            {"schema_only": True, "create_roles": True},
            Mode.IN_PLACE,
            False,
            [
                CHECK,
                "create roles without login: ann, bob",
                "load schema into app in one transaction",
            ],
        ),
    ],
)
def test_steps(chosen: dict[str, bool], mode: Mode, at_once: bool, expected: list[str]) -> None:
    found = steps(
        options(**chosen), mode, check=CHECK, target="app", at_once=at_once,
        missing_roles=("ann", "bob"),
    )  # fmt: skip
    assert found == expected


@pytest.mark.parametrize(
    ("target", "own", "expected"),
    [
        (None, "app", "app"), ("copy", "app", "copy"), ("copy", None, "copy"),
        ("é" * 31, "app", "é" * 31),
    ],
)  # fmt: skip
def test_target_name(target: str | None, own: str | None, expected: str) -> None:
    assert target_name("f", options(target=target), own) == expected


@pytest.mark.parametrize(
    ("target", "own", "message"),
    [
        (None, None, "f does not contain the name of its database"),
        ("é" * 32, "app", "the name of the target is 64 bytes long, PostgreSQL allows 63"),
    ],
)
def test_no_target_name(target: str | None, own: str | None, message: str) -> None:
    with pytest.raises(e.UsageError, match=message):
        target_name("f", options(target=target), own)


@pytest.mark.parametrize(
    "chosen",
    [
        {"schema_only": True}, {"data_only": True}, {"in_place": True}, {"skip": ("TABLE:t",)},
        {"keep_going": True}, {"create_roles": True}, {"owner": False}, {"privileges": False},
        {"search_path": SearchPath.DATABASE},
    ],
)  # fmt: skip
def test_what_needs_an_index(chosen: dict[str, object]) -> None:
    with pytest.raises(e.UsageError, match="f is a plain dump without an index"):
        check_options_of_plain_dump("f", options(**chosen))


def test_a_plain_dump_is_restored_whole() -> None:
    check_options_of_plain_dump("f", options(drop_existing=True, allow_statements=True))


def entry(kind: str, name: str, settings: str = "") -> Object:
    return Object(
        type=kind, schema="app", name=name, owner="", member=0, start=0, settings=settings
    )


SET = "SET default_tablespace = '';\nSET default_table_access_method = {};\n"


@pytest.mark.parametrize(
    ("settings", "text", "expected_settings", "expected_text"),
    [
        (SET.format('"heap 2"'), b"A;\n", SET.format("heap"), b"A;\n"),
        (SET.format("columnar"), b"A;\n", SET.format("columnar"), b"A;\n"),
        (
            "",
            b'A;\nALTER TABLE ONLY app.t SET ACCESS METHOD "heap 2";\nB;\n',
            "",
            b"A;\nB;\n",
        ),
        (
            "",
            b"ALTER TABLE app.t SET ACCESS METHOD columnar;\n",
            "",
            b"ALTER TABLE app.t SET ACCESS METHOD columnar;\n",
        ),
    ],
)
def test_access_methods_that_are_skipped(
    settings: str, text: bytes, expected_settings: str, expected_text: bytes
) -> None:
    found, left = access_methods.without(entry("TABLE", "t", settings), text, {"heap 2"}, "utf-8")
    assert (found.settings, left) == (expected_settings, expected_text)


def test_failed_tables_lack_their_rows() -> None:
    """A comment has a blank for a line end; another table may have that name."""
    failed = FailedObjects("utf-8")
    refused = e.RestoreFailed("table app.a b: no")
    failed.record(entry("TABLE", "a b"), b'CREATE TABLE app."a\nb" (\n);\n', refused)
    failed.record(entry("TABLE DATA", "c"), b"COPY app.c FROM stdin", refused)
    assert failed.lacks(("app", "a\nb"))
    assert failed.lacks(("app", "c"))
    assert not failed.lacks(("app", "a b"))
