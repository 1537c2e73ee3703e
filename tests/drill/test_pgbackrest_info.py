"""The JSON of pgBackRest is read strictly: nothing in it reaches a command line unchecked."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgkeep import errors as e
from pgkeep.drill import pgbackrest, pgbackrest_info
from pgkeep.drill.pgbackrest_info import Stanza, parse
from pgkeep.monitor.pgbackrest import Goals, _backup_problems

FULL, INCREMENTAL = "20261127-032915F", "20261127-032915F_20261127-032920I"


def backup(label: str, kind: str, segment: str, lsn: tuple[str, str], time: int) -> dict[str, Any]:
    return {
        "archive": {"start": segment, "stop": segment},
        "backrest": {"format": 5, "version": "2.45"},
        "database": {"id": 1, "repo-key": 1}, "error": False,
        "info": {"delta": 1, "repository": {"delta": 1, "size": 1}, "size": 23033612},
        "label": label, "lsn": {"start": lsn[0], "stop": lsn[1]}, "prior": None, "reference": None,
        "timestamp": {"start": time, "stop": time + 5}, "type": kind,
    }  # fmt: skip


# As Debian's 2.45 prints it.
REAL: list[dict[str, Any]] = [{
    "archive": [{"database": {"id": 1, "repo-key": 1}, "id": "15-1",
                 "max": "00000001000000000000000B", "min": "000000010000000000000006"}],
    "backup": [
        backup(FULL, "full", "000000010000000000000007", ("0/700028", "0/700100"), 1795750155),
        backup(INCREMENTAL, "incr", "000000010000000000000009", ("0/900028", "0/A00050"),
               1795750160),
    ],
    "cipher": "none",
    "db": [{"id": 1, "repo-key": 1, "system-id": 7712688177202823941, "version": "15"}],
    "name": "demo", "repo": [{"cipher": "none", "key": 1, "status": {"code": 0, "message": "ok"}}],
    "status": {"code": 0, "lock": {"backup": {"held": False}}, "message": "ok"},
}]  # fmt: skip


def read(document: object) -> Stanza:
    return parse(json.dumps(document).encode(), "demo")


def test_a_real_document() -> None:
    found = read(REAL)
    assert (found.system_identifier, found.version, found.code) == ("7712688177202823941", "15", 0)
    assert [one.label for one in found.backups] == [FULL, INCREMENTAL]
    assert found.newest("full") == found.backups[0]
    assert found.newest() == found.backups[1]
    assert found.archive_max == found.backups[1].archive_max == "00000001000000000000000B"
    upgraded = json.loads(json.dumps(REAL))
    upgraded[0]["db"].append({"id": 2, "repo-key": 1, "system-id": 5, "version": "17"})
    assert (read(upgraded).backups, read(upgraded).system_identifier) == ((), "5")


def paths(value: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(
        value if isinstance(value, list) else ()
    )  # fmt: skip
    return [path] + [found for key, each in items for found in paths(each, (*path, key))]


OTHER = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=30)
    | st.sampled_from(["../x", "--config=/x", "0/0\n", f"{FULL}\n", "F" * 25, -1, 1 << 63, 1e300]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(paths(REAL)), OTHER)
def test_any_change_is_refused_or_harmless(path: tuple[Any, ...], other: object) -> None:
    """Whatever is in its place, the result has only values of the expected forms."""
    document = json.loads(json.dumps(REAL))
    if path:
        place = document
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = other
    else:
        document = other
    try:
        found = read(document)
    except e.VerificationFailed:
        return
    for one in found.backups:
        assert all(character in "0123456789-FDI_" for character in one.label)
        assert len(one.first_segment) == 24
        assert one.stop >= 0
        assert one.stopped.year < 2300
    assert "\n" not in found.message


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    with pytest.raises(e.VerificationFailed, match="has an unknown form"):
        parse(data, "demo")


def test_limits() -> None:
    with pytest.raises(e.VerificationFailed, match="found more than"):
        parse(b" " * (pgbackrest_info.LARGEST + 1), "demo")
    changed = json.loads(json.dumps(REAL))
    changed[0]["backup"][0]["label"] += "\n"
    with pytest.raises(e.VerificationFailed, match="label"):
        read(changed)
    for name in ("-x", "", "a b", "../x", "x" * 200):
        with pytest.raises(e.UsageError, match="expected the name of a stanza"):
            pgbackrest.info(name)


def test_problems_of_the_backups_of_a_stanza() -> None:
    found = read(REAL)
    newest = found.newest()
    assert newest is not None
    now = newest.stopped + timedelta(hours=1)
    assert list(_backup_problems(found, Goals(max_age=3600), now)) == []
    (old,) = _backup_problems(found, Goals(max_age=3600), now + timedelta(minutes=5))
    assert "is 1 h 5 min old, BACKUP_MAX_AGE is 1 h" in old
    failed = replace(found, code=2, message="no valid backups")
    assert list(_backup_problems(failed, Goals(max_age=3600), now)) == [
        "pgBackRest reports: no valid backups"
    ]
    empty = replace(found, backups=())
    assert list(_backup_problems(empty, Goals(max_age=3600), datetime.now(UTC))) == ["no backup"]
    damaged = replace(newest, damaged=True, archive_max=None)
    wrong, missing = _backup_problems(replace(found, backups=(damaged,)), Goals(max_age=3600), now)
    assert wrong.endswith("has pages with wrong checksums")
    assert "the archive has no WAL of its newest backup" in missing
