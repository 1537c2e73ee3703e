"""The benchmark: when pgkeep has become slower, and which documents show its figures."""

import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from bench import __main__ as program
from bench import gate, parts, point_in_time, publish, record, report, rounds, tools
from bench.measure import Measured
from bench.record import Compared, Database, Part, Record

from tests.support import baking
from tests.support.prose import ROOT

JOBS = 3
BACKUP = Compared("backup", "many", "pgkeep backup", "pg_dump | gzip")


def took(*times: float) -> list[Measured]:
    return [Measured(seconds=each, size=143_000_000, memory=70 << 20) for each in times]


def database(times: Mapping[str, Iterable[float]]) -> Database:
    """Return a database with the times of each row; pgkeep's rows are compared with all others."""
    others = tuple(name for name in times if not name.startswith("pgkeep"))
    return Database(
        size=1_900_000_000,
        runs={name: took(*each) for name, each in times.items()},
        peers={name: others for name in times if name.startswith("pgkeep")},
    )


def a_record(found: Mapping[str, Mapping[str, Database]], **other: object) -> Record:
    values = {
        "date": "2026-11-27", "commit": "abc", "scale": 1.0, "rounds": 3, "jobs": JOBS, "cores": 2,
        "memory": 24 << 30, "postgresql": "17.10", "python": "3.11.7", "tools": ("gzip 1.12",),
        "parts": {name: Part(seconds=60, databases=each) for name, each in found.items()},
    }  # fmt: skip
    return Record(**{**values, **other})  # type: ignore[arg-type]


def backups(ours: Iterable[float], theirs: Iterable[float]) -> Record:
    return a_record(
        {"backup": {"many": database({"pg_dump | gzip": theirs, "pgkeep backup": ours})}}
    )


def complete() -> Record:
    """Return a record with every row that is measured."""

    def rows(steps: Iterable[tools.Step]) -> Database:
        return database({step.name: (4, 5, 6) for step in steps})

    def flat(groups: Iterable[list[tools.Step]]) -> list[tools.Step]:
        return [step for group in groups for step in group]

    both = ("many", "one")
    floor = tools.Step(name=tools.FLOOR, command="")
    restores = flat(tools.restores(JOBS).values())
    encryption = rows(flat(tools.encrypted(JOBS)))
    encryption = msgspec.structs.replace(encryption, peers=dict(tools.encrypted_peers()))
    names = [*point_in_time.BASE, point_in_time.ENABLE, *point_in_time.SHIP, point_in_time.RESTORED]
    pitr = {name: took(4, 5, 6) for name in names}
    found = {
        "backup": {name: rows([floor, *tools.backups(JOBS)]) for name in both},
        "restore": {name: rows(restores) for name in both},
        "verify": {"many": rows(flat(tools.verifications().values()))},
        "encryption": {"some": encryption},
        "bucket": {"some": rows(flat(tools.buckets(JOBS)))},
        "pitr": {"pitr": Database(size=10**9, runs=pitr, peers=point_in_time.PEERS)},
        "tables": {"tables": rows(tools.small_backups(JOBS))},
        "start": {"start": rows(tools.starts())},
        "large": {
            "large": msgspec.structs.replace(rows([*tools.backups(JOBS), *restores]), peers={})
        },
    }
    assert list(found) == list(parts.PARTS)
    return a_record(found)


# -- the gate


def test_a_slow_minute_of_the_machine_is_not_a_slower_program() -> None:
    """The median of the times would be 10 s and 20 s: half. Each round says a quarter."""
    found = backups(ours=(5, 10, 10), theirs=(20, 40, 20)).shares()
    assert found == {BACKUP: 0.25}


@pytest.mark.parametrize(("now", "failed"), [(0.4, False), (0.439, False), (0.441, True)])
def test_more_than_a_tenth_worse_fails(now: float, failed: bool) -> None:
    (change,) = gate.changes({BACKUP: 0.4}, {BACKUP: now})
    assert change.failed == failed


def test_only_what_both_runs_measured_is_compared() -> None:
    other = BACKUP._replace(database="one")
    assert gate.changes({BACKUP: 0.4}, {other: 9.0}) == []


@pytest.mark.parametrize("name", ["scale", "cores", "jobs"])
def test_runs_under_other_conditions_are_not_compared(name: str) -> None:
    recorded = backups((4,), (10,))
    now = msgspec.structs.replace(recorded, **{name: 8})
    assert gate.not_comparable(recorded, recorded) == ""
    assert gate.not_comparable(recorded, now).startswith(f"{name}: the record has ")


def test_a_slower_program_fails_with_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    recorded, now = backups((4, 4, 4), (10, 10, 10)), backups((5, 5, 5), (10, 10, 10))
    assert program.compared(recorded, now) == 1
    assert capsys.readouterr().out.splitlines() == [
        "compared with the record of 2026-11-27, commit abc:",
        "share of the time                             recorded    now  limit",
        "backup, many: pgkeep backup / pg_dump | gzip       40%    50%    44%  SLOWER",
        "1 shares compared, 1 more than 10% worse",
    ]
    assert program.compared(recorded, recorded) == 0
    assert "SLOWER" not in capsys.readouterr().out


def test_a_first_run_reports_that_it_has_no_record(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.compared(None, backups((4,), (10,))) == 0
    assert capsys.readouterr().out.startswith("no record to compare with: docs/benchmarks.json ")


def test_what_seems_slower_is_measured_again() -> None:
    recorded, now = backups((4, 4, 4), (10, 10, 10)), backups((5, 5, 4), (10, 10, 10))
    assert program.slower(recorded, now) == ["backup"]
    again = backups((4, 4, 4), (10, 10, 10)).parts["backup"]
    now.parts["backup"] = record.merged(now.parts["backup"], again)
    assert now.shares() == {BACKUP: 0.4}  # of six rounds
    assert now.parts["backup"].seconds == 120
    assert program.slower(recorded, now) == []
    assert program.slower(None, now) == []


def test_each_row_of_pgkeep_is_compared_unless_it_only_shows_memory() -> None:
    found = complete()
    compared = {(each.part, each.ours) for each in found.shares()}
    rows = {
        (name, row)
        for name, part in found.parts.items()
        for each in part.databases.values()
        for row in each.runs
        if row.startswith("pgkeep") and "not encrypted" not in row
    }
    assert {name for name, _ in rows - compared} == {"large"}


# -- results are checked


def test_rows_of_a_dump_are_counted() -> None:
    """Rows can look like the statement, and a table can be in several COPY."""
    dump = (
        "-- \nCOPY public.a (t) FROM stdin;\nCOPY public.b (t) FROM stdin;\n\\\\.\n\\.\n\n"
        "COPY public.empty (t) FROM stdin;\n\\.\nCOPY public.a (t) FROM stdin;\n\n\\.\n"
    )
    counts = subprocess.check_output(["awk", rounds.COUNT], input=dump, text=True)
    assert sorted(counts.splitlines()) == ["a|3", "empty|0"]


# -- the record and the documents


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "benchmarks.json"
    found = complete()
    record.save(path, found)
    assert record.load(path) == found
    assert '"gzip -t": [ [ 4, 143000000, 73400320 ], ' in path.read_text()
    assert record.load(tmp_path / "missing") is None


def test_documents_show_the_figures_of_the_record() -> None:
    """Empty until a run is recorded."""
    found = record.load(publish.RECORD)
    for path, text in (publish.documents(found) if found else {}).items():
        assert path.read_text() == text, f"{path.name}: make bench BENCH_ARGS=--record"


def test_every_document_has_its_figures() -> None:
    found = complete()
    texts = publish.documents(found)
    page = texts[publish.PAGE]
    for name in found.parts.keys() - {"large"}:
        assert f"\n## {report.SECTIONS[name][0]}\n" in page
    assert page.count(" at commit abc, ") == 1
    section = re.search(r"^## Figures\n[\s\S]*?^## ", texts[publish.README], re.MULTILINE)
    assert section is not None
    shown = re.findall(r"\d+ (?:%|MiB)", section[0])
    assert len(shown) > 10
    assert [figure for figure in shown if figure not in page] == ["80 MiB"]  # above the others
    assert f"{baking.peak(page)} MiB" in texts[publish.REFERENCE]
    assert [len(row.split("|")) for row in texts[publish.REFERENCE].splitlines()
            if " GB" in row and row.startswith("| ")] == [8, 8, 8]  # fmt: skip
    assert "an hour restores 1360 GB" in texts[publish.ADR]
    shown = re.findall(r"[\d.]+ (?:s|[MG]B)\b", texts[publish.ADR])
    assert [figure for figure in shown if figure not in page] == ["1360 GB"]
    assert "children: 70 MiB, and 70 MiB with" in texts[publish.CRONJOBS]
    assert "files are at most 0 % larger than those of `pg_dump | gzip`" in texts[publish.DESIGN]
    unchanged = publish.README.read_text().partition("## Figures\n")[0]
    assert texts[publish.README].startswith(unchanged)


def test_a_part_of_a_run_is_not_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program, "BUILD", tmp_path)
    monkeypatch.setattr("sys.argv", ["bench", "--record"])
    record.save(tmp_path / "benchmarks.json", backups((4,), (10,)))
    before = publish.README.read_text()
    assert program.main() == 2
    assert capsys.readouterr().err.startswith("no complete run to record: run make bench ")
    assert publish.README.read_text() == before


@pytest.mark.parametrize(
    ("other", "whole"),
    [
        ({}, True),
        ({"only": ("start",)}, False),
        ({"scale": 0.1}, False),
        ({"without": ("pigz",)}, False),
    ],
)
def test_only_a_whole_run_writes_where_it_can_be_recorded(
    other: dict[str, object], whole: bool
) -> None:
    options = program.Options(only=(), without=(), rounds=3, jobs=3, scale=1.0, record=False)
    options = replace(options, **other)  # type: ignore[arg-type]
    figures, page = options.files
    name = "benchmarks" if whole else "benchmarks-part"
    assert (figures, page) == (
        ROOT / "build" / f"{name}.json",
        ROOT / "build" / f"{name}.md",
    )
