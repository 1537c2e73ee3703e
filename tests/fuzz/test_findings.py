"""What fuzzing has found, each as the smallest input; `findings.py` lists them for docs/fuzz.md."""

import json
import re
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pgkeep import config
from pgkeep import errors as e
from pgkeep.artifact import extract
from pgkeep.artifact.compression import gzip
from pgkeep.artifact.file import Artifact
from pgkeep.crypt import recipients
from pgkeep.drill import pitr_result, statement_kinds
from pgkeep.model import record
from pgkeep.model.database_patterns import DatabaseSelection
from pgkeep.pitr import base, base_manifest, location, parts, stream_state, verification, waldump
from pgkeep.postgres import database_names
from pgkeep.restore.load import entries
from pgkeep.sql import dialect, encodings, node_trees, script, selection, statements
from pgkeep.sql.outline import Outline
from pgkeep.stores.memory import MemorySource, MemoryStore
from pgkeep.stores.store import Item

from . import artifacts, seeds, surroundings
from .checks import Broken, Reader, StrictSource, run
from .physical import with_digest

DEEP = b"[" * 100_000
TEXT = b'"\xff"'  # JSON that is not UTF-8
CLUSTER = "7712692484203507928.cluster.json"


def changed(before: bytes, after: bytes) -> Artifact:
    """Open a backup file with correct hashes and another text in its index."""
    assert before in seeds.SMALL
    return Artifact(MemorySource("FILE", artifacts.assembled(seeds.SMALL.replace(before, after))))


@pytest.mark.parametrize("field", [b'{"section":' + TEXT, b'{"type":' + TEXT, b'{"other":' + DEEP])
@pytest.mark.parametrize("line", [b"-- meta ", b"-- member ", b"-- object "])
def test_an_index_that_cannot_be_decoded(line: bytes, field: bytes) -> None:
    with pytest.raises(e.VerificationFailed, match="FILE: unreadable index"):
        changed(line, line + field + b"}\n" + line)


@pytest.mark.parametrize("length", [-1, -(1 << 70), 1 << 70])
def test_a_member_of_impossible_length(length: int) -> None:
    """The lengths add up, so that only each of them shows it."""
    other = b"%d" % (seeds.assembled_length() - length)
    with pytest.raises(e.VerificationFailed, match=r"FILE: member [01] has"):
        changed(
            b'"length":@L0,"raw":@R0,"sha256":"@S0"}\n',
            b'"length":%d,"raw":@R0,"sha256":"@S0"}\n'
            b'-- member {"section":"pre","offset":%d,"length":%s,"raw":1,"sha256":""}\n'
            % (length, length, other),
        )


def test_a_member_without_sql_that_has_rows() -> None:
    text = seeds.SMALL.replace(b'"raw":@R1', b'"raw":0').replace(b'"length":@R1', b'"length":7')
    found = extract.inventory(Artifact(MemorySource("FILE", artifacts.assembled(text))))
    assert [(table.raw_bytes, table.bytes) for table in found.tables] == [(7, 0)]


@pytest.mark.parametrize(
    "encoding", ["hex", "zlib", "rot13", "undefined", "idna", "utf-16", "\udc80", "a\0b", "x" * 99]
)
def test_an_encoding_that_no_server_has(encoding: str) -> None:
    """Python has codecs that are no encodings; the encoding is in the index of a backup file."""
    codec = encodings.codec(encoding)
    assert b"a\xff".decode(codec, "backslashreplace") == "a\\xff"
    assert "a\u20ac".encode(codec, "backslashreplace") == b"a\\u20ac"


@pytest.mark.parametrize("comment", ['"\\x"', '"\\ud800"', '"a\nb"'])
def test_a_comment_that_only_looks_like_ours(comment: str) -> None:
    """The owner of a database writes any comment on it."""
    mark = database_names.parse_mark(f"pgkeep: replaced {comment}")
    assert mark is None or mark.of == "\ud800"


@pytest.mark.parametrize(
    "data", [b"[]", b'{"Files":[1],"WAL-Ranges":[1]}', b'{"Files":{"a":1},"WAL-Ranges":1}', DEEP,
             b'{"Files":[],"WAL-Ranges":[{"Timeline":1e999,"Start-LSN":"0/1","End-LSN":"0/1"}]}',
             b'{"Files":[{"Path":1}],"WAL-Ranges":[]}',
             b'{"Files":[{"Path":"a","Size":"1"}],"WAL-Ranges":[]}'],
)  # fmt: skip
def test_a_manifest_of_postgresql_that_is_something_else(data: bytes) -> None:
    with pytest.raises(e.VerificationFailed, match="unreadable backup_manifest"):
        base.wal_ranges(data)
    if b'"Files":[]' not in data:
        with pytest.raises(e.VerificationFailed, match="unreadable backup_manifest of b"):
            verification._listed(data, "b")


@pytest.mark.parametrize(
    "data", [TEXT, DEEP, b'{"system_identifier":' + TEXT + b"}", b'{"other":' + DEEP]
)
def test_states_and_results_that_cannot_be_decoded(data: bytes) -> None:
    store = MemoryStore()
    store.files[CLUSTER] = data
    with pytest.raises(e.VerificationFailed, match="does not describe a cluster"):
        location._read(store, CLUSTER)
    with pytest.raises(e.VerificationFailed, match="is not the state of a receiver"):
        stream_state.parse(data, Path("stream.json"))
    with pytest.raises(e.VerificationFailed, match="is not the result of a drill"):
        pitr_result.decode(data, "x")
    with pytest.raises(e.VerificationFailed, match="is not a manifest of a base backup"):
        base_manifest.decode(data, "x")


def base_with(**fields: object) -> tuple[bytes, str]:
    """Return a manifest of a base backup with other values and a correct hash, and its name."""
    path = next(iter(sorted(seeds.FIXTURES.rglob("*_full.base.json"))))
    text = json.dumps({**json.loads(path.read_bytes()), **fields}).encode()
    return with_digest(text), path.name


@pytest.mark.parametrize("name", ["../x", "a/../../../x", "a\0", "/x"])
def test_a_base_backup_with_files_elsewhere(name: str) -> None:
    """Retention removes the files that a manifest lists."""
    path = f"20261127T000000Z_full.{name}"
    data, file_name = base_with(parts=[{"name": path, "size": 1, "sha256": "x"}])
    with pytest.raises(e.VerificationFailed, match="lists a file of another backup"):
        base_manifest.decode(data, file_name)


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
def test_a_base_backup_of_an_impossible_time(time: str) -> None:
    for field in ("started", "stopped"):
        data, file_name = base_with(**{field: time})
        with pytest.raises(e.VerificationFailed, match="is not a manifest of a base backup"):
            base_manifest.decode(data, file_name)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_tar_archive_of_headers_of_headers(kind: bytes) -> None:
    """tarfile reads a header after a header by recursion."""
    info = tarfile.TarInfo("x")
    info.type = kind
    data = info.tobuf(tarfile.GNU_FORMAT) * 3000
    with pytest.raises(e.VerificationFailed, match="part: damaged tar archive"):
        list(parts.members([gzip(data)], "part", 1 << 30, lambda _: None))


@pytest.mark.parametrize(
    "text", ["a = " + "[" * 100_000, "a = " + "9" * 5000, 'database_url_file = "a\\u0000b"',
             'backup_dir = "a\\u0000b"', "backup_min_keep = " + "9" * 5000,
             "backup_min_keep = 0x" + "f" * 5000],
)  # fmt: skip
def test_a_configuration_file_that_python_cannot_read(text: str, tmp_path: Path) -> None:
    path = tmp_path / "pgkeep.toml"
    path.write_text(text)
    with pytest.raises(e.UsageError):
        config.load({config.CONFIG_FILE: str(path)})


def test_a_public_key_that_is_not_text() -> None:
    """A name of a file that is not UTF-8 can stand in its place."""
    for text in ("age1\udc80", "ssh-ed25519 \udc80"):
        with pytest.raises(e.UsageError, match="age1"):
            recipients.age_recipient(text)


def test_patterns_with_many_wildcards() -> None:
    """The time must not double with each wildcard."""
    began = time.process_time()
    stars = "*a" * 30
    assert not DatabaseSelection.parse(f"{stars}b").includes("a" * 62)
    assert DatabaseSelection.parse(f"{stars}?").includes("xa" * 30 + "b")
    assert DatabaseSelection.parse("a*b*c?").includes("a-b-b-c-cd")
    assert not selection.pattern(f"{stars}b").matches("public", "a" * 62)
    assert selection.pattern('"A*"*b?*').matches("public", "A*x.bbc")
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    "body", [b"", b"<a/>",
             b"<ListBucketResult><Contents><Size>1</Size></Contents></ListBucketResult>",
             b"<ListBucketResult><Contents><Key>backups/a</Key></Contents></ListBucketResult>"],
)  # fmt: skip
def test_an_answer_of_a_bucket_without_what_it_must_have(body: bytes) -> None:
    surroundings.ANSWER.status = 200
    surroundings.ANSWER.headers = {}
    surroundings.ANSWER.body = body
    bucket = surroundings.answered_bucket()
    with pytest.raises(e.StoreError, match="found an answer without ContentLength"):
        bucket.size("x")
    with pytest.raises(e.StoreError, match="found an answer without ContentLength"):
        bucket.load(Item("x", 1), 10)
    with pytest.raises(e.StoreError, match="found an answer without UploadId"):
        bucket.start_upload("x")
    if b"Contents" in body:
        with pytest.raises(e.StoreError, match=r"found an answer without (Key|Size)"):
            list(bucket.objects())


QUOTES = b'"' * 5001
CROOKED: dict[str, Callable[[], object]] = {
    "INSERT": lambda: dialect.is_known(b"INSERT INTO a.b (" + b"ap" * 5000 + b'"'),
    "COPY": lambda: _closed(b"COPY " + QUOTES + b" FROM stdin;\n"),
    "options": lambda: script.without_marks(b"ALTER TABLE " + QUOTES + b"pg_attver="),
    "trigger": lambda: statements.subject("TRIGGER", b"CREATE TRIGGER " + QUOTES, "utf-8"),
    "rule": lambda: statements.subject("RULE", b"CREATE RULE a ON a TO " + QUOTES, "utf-8"),
    "label": lambda: statements.subject("SECURITY LABEL", b"SECURITY LABEL " + QUOTES, "utf-8"),
    "grant": lambda: statements.subject("ACL", b"GRANT " + QUOTES, "utf-8"),
    "owner": lambda: entries.without_owner(b"ALTER A " + QUOTES),
    "drill": lambda: statement_kinds.ALTER_OWNER.search(b"ALTER AGGREGATE " + QUOTES),
}


def _closed(statement: bytes) -> None:
    outline = Outline()
    for piece in (script.Begin(b""), script.CopyBegin(statement), script.CopyEnd()):
        outline.add(piece)


@pytest.mark.parametrize("kind", CROOKED)
def test_quotes_that_can_be_read_in_many_ways(kind: str) -> None:
    """A dump of 1 kB must not keep a verification busy for years."""
    began = time.process_time()
    CROOKED[kind]()
    assert time.process_time() - began < 5


def test_patterns_read_quoted_text_in_one_way() -> None:
    """Without the possessive `*+`, a doubled quote also is an end and a new beginning."""
    ambiguous = re.compile(r"""\(\?:\[\^\\?(["'])\]\|\\?\1\\?\1\)[*+](?!\+)""")
    for path in (seeds.ROOT / "src" / "pgkeep").rglob("*.py"):
        assert not ambiguous.search(path.read_text()), path


@pytest.mark.parametrize(
    "record", ["lsn: 0/010000298, prev 0/0, desc: COMMIT 2026-11-27 00:00:00 UTC",
               "lsn: 0/1, prev 0/0, desc: COMMIT_PREPARED " + "9" * 5000 + ": 2026-11-27 UTC",
               "lsn: 0/1, prev 0/0, desc: COMMIT 2026-11-27 00:00:00432.156 UTC",
               "lsn: 0/1, prev 0/0, desc: COMMIT 2026-13-27 00:00:00 UTC"],
)  # fmt: skip
def test_a_record_of_the_wal_that_no_server_writes(record: str) -> None:
    """A user can write what looks like a record, see test_waldump.py."""
    text = f"rmgr: Transaction len (rec/tot): 34/34, tx: 742, {record}"
    try:
        found = waldump.contents_of(waldump._RECORD.finditer(text), "x")
    except e.VerificationFailed as error:
        assert "unreadable commit record" in error.message  # noqa: PT017 - either will do
    else:
        assert found == waldump.WalContents()


def test_times_without_a_zone() -> None:
    """They cannot be compared with the current time."""
    state = json.loads(next(data for data in seeds.seeds("physical") if b"receiving" in data)[1:])
    state["complete_until"] = "2026-11-27T00:00:00"
    with pytest.raises(e.VerificationFailed, match="is not the state of a receiver"):
        stream_state.parse(json.dumps(state).encode(), Path("stream.json"))
    result = json.loads(next(data for data in seeds.seeds("documents") if b"engine" in data)[1:])
    for began in ("2026-11-27T00:00:00", "0001-01-01T00:00:00+23:59"):
        result["began"] = began
        with pytest.raises(e.VerificationFailed, match="is not the result of a drill"):
            pitr_result.decode(json.dumps(result).encode(), "x")


def test_an_answer_of_a_bucket_that_is_not_xml() -> None:
    surroundings.ANSWER.status, surroundings.ANSWER.headers = 100, {}
    surroundings.ANSWER.body = b"`" * 100_000
    bucket = surroundings.answered_bucket()
    with pytest.raises(e.StoreError, match=r"could not list .*: Unable to parse") as found:
        list(bucket.objects())
    assert len(found.value.message) < 300
    assert bucket.retained_until("x") is None


def test_a_public_key_of_endless_length(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("age1" + "a1" * 100_000)
    with pytest.raises(e.UsageError) as found:
        recipients.parse(str(path))
    assert len(found.value.message) < 1000


@pytest.mark.parametrize(
    "tree", ['{JOINEXPR :usingClause ("a") :quals {', "{CASEEXPR :arg {VAR} :args ({",
             "{DISTINCTEXPR :opno " + "9" * 5000 + " :x}",
             "{ROWCOMPAREEXPR :a 1 :opnos (o " + "9" * 5000 + "x)}",
             '{JOINEXPR :usingClause ("a") :quals {OPEXPR :opno ' + "9" * 5000 + "}}"],
)  # fmt: skip
def test_a_parse_tree_that_no_server_writes(tree: str) -> None:
    assert node_trees.uses(tree) == []


@pytest.mark.parametrize("year", ["0026", "1969", "9001"])
def test_the_name_of_a_record_of_an_impossible_time(year: str) -> None:
    assert record.parse(f"records/{year}1122T000000Z_backup_0_00000000.json") is None


def test_the_rules_of_the_readers(tmp_path: Path) -> None:
    """What the harness must see: programs, files elsewhere, a long message, another exception."""

    def refused(_: bytes) -> None:
        raise e.UsageError("x" * 100_000)

    elsewhere = Path("/proc/none")  # the checkout can be below the directory for temporary files
    readers: list[Reader] = [
        lambda _: subprocess.run(["true"], check=True),
        lambda _: (elsewhere / "x").write_text(""),
        lambda _: (elsewhere / "x").mkdir(),
        lambda _: StrictSource("x", b"abc").read(0, -1),
        lambda data: {b"y": b""}[data],
        refused,
    ]
    for reader in readers:
        with pytest.raises((Broken, KeyError)):
            run([reader], b"a")
    run([lambda _: (tmp_path / "x").write_text("")], b"a")
