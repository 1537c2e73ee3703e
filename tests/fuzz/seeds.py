"""Inputs to begin with, made of the real files in tests/fixtures."""

import gzip
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

from pgkeep.artifact.compression import zstd
from pgkeep.artifact.file import Artifact
from pgkeep.stores.memory import MemorySource

from . import artifacts
from .checks import FIRST
from .targets import TARGETS

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "tests" / "fixtures"
CORPUS = FIXTURES / "corpus"  # what earlier runs have found, by target
_BACKUPS = FIXTURES / "backups"
_PITR = FIXTURES / "pitr" / "1" / "pitr"
_WALDUMP = """\
rmgr: Transaction len (rec/tot): 34/34, tx: 742, lsn: 0/01000028, prev 0/0, desc: COMMIT \
2026-11-27 00:00:00.123456 UTC; subxacts: 743 744
rmgr: XLOG len (rec/tot): 98/98, tx: 0, lsn: 0/01000060, prev 0/01000028, desc: RESTORE_POINT x
rmgr: XLOG len (rec/tot): 50/50, tx: 0, lsn: 0/01000090, prev 0/01000060, desc: PARAMETER_CHANGE \
max_connections=100 max_worker_processes=8 max_prepared_xacts=0 max_locks_per_xact=64
rmgr: Tablespace len (rec/tot): 50/50, tx: 7, lsn: 0/010000C0, prev 0/0, desc: CREATE 16385 "/x"
Database system identifier:           7712692484203507928
Bytes per WAL segment:                16777216
max_connections setting:              100
Data page checksum version:           1
Total                                          4      ( 1%)
"""
_LISTING = b"""\
200\n\nContent-Type: application/xml\n\n<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name><Prefix>backups/\
</Prefix><KeyCount>1</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated><Contents>\
<Key>backups/daily/shop_daily_20261126T130700Z.sql.gz</Key><LastModified>2026-11-27T00:00:00.000Z\
</LastModified><ETag>"0123456789abcdef0123456789abcdef"</ETag><Size>100</Size></Contents>\
</ListBucketResult>"""
_ERROR = b"""\
403\n\nContent-Type: application/xml\n\n<?xml version="1.0"?><Error><Code>AccessDenied</Code>\
<Message>Access Denied</Message><RequestId>1</RequestId></Error>"""
_OBJECT = (
    b'200\n\nContent-Length: 5\nETag: "x"\nLast-Modified: Fri, 27 Nov 2026 00:00:00 GMT\n\nabcde'
)
_PGBACKREST = [{
    "archive": [{"database": {"id": 1, "repo-key": 1}, "id": "15-1",
                 "max": "00000001000000000000000B", "min": "000000010000000000000006"}],
    "backup": [{"archive": {"start": "000000010000000000000007", "stop": None},
                "database": {"id": 1, "repo-key": 1}, "error": False, "info": {"size": 23033612},
                "label": "20261127-032915F", "lsn": {"start": "0/700028", "stop": "0/700100"},
                "timestamp": {"start": 1795750155, "stop": 1795750160}, "type": "full"}],
    "db": [{"id": 1, "repo-key": 1, "system-id": 7712688177202823941, "version": "15"}],
    "name": "demo", "repo": [{"key": 1, "status": {"code": 0, "message": "ok"}}],
    "status": {"code": 0, "message": "ok"},
}]  # fmt: skip
_DRILL = {
    "passed": True, "engine": "pgkeep", "system_identifier": "1", "name": "a", "place": "x",
    "server": "17.2", "began": "2026-11-27T00:00:00Z", "pgkeep": "0.3", "seed": 1,
    "recovery_seconds": 1.5, "lost_seconds": None, "checks": [], "findings": [],
    "points": [{"target": "x", "reached": "2026-11-27T00:00:00Z", "seconds": {"fetch": 1.0}}],
}  # fmt: skip
_STATE = {
    "pid": 1, "written_at": "2026-11-27T00:00:00Z", "system_identifier": "1", "receiving": True,
    "stores": [{"url": "x", "position": "0/1"}], "slot": {"name": "s", "status": "reserved"},
    "broken": [{"since": "2026-11-27T00:00:00Z", "reason": "x"}], "problems": ["x"],
    "complete_until": "2026-11-27T00:00:00Z",
}  # fmt: skip
_FACTS = {"system_identifier": "7712692484203507928", "segment_size": 16777216,
          "version_num": 170002}  # fmt: skip
_BACKUP_MANIFEST = {
    "PostgreSQL-Backup-Manifest-Version": 1,
    "Files": [{"Path": "a", "Size": 1, "Checksum-Algorithm": "SHA256", "Checksum": "ab"},
              {"Encoded-Path": "ff", "Size": 1}],
    "WAL-Ranges": [{"Timeline": 1, "Start-LSN": "0/1", "End-LSN": "0/2"}],
}  # fmt: skip


SMALL = b"""\
--
-- PostgreSQL database dump
--

--
-- Name: t; Type: TABLE; Schema: s; Owner: o
--

CREATE TABLE s.t (
    a integer
);

%member
--
-- Data for Name: t; Type: TABLE DATA; Schema: s; Owner: o
--

COPY s.t (a) FROM stdin;
1
2
\\.


%member
--
-- PostgreSQL database dump complete
--


%index
-- meta {"pgkeep":"1","database":{"name":"shop","owner":"o","encoding":"UTF8","collate":"C",\
"ctype":"C"},"server":{"version":"17.2","version_num":170002,"system_identifier":"1"},\
"client_version":"17.2","snapshot":"2026-11-22T02:00:00Z","computed":[["a","b",1,"c"]]}
-- member {"section":"pre","offset":@O0,"length":@L0,"raw":@R0,"sha256":"@S0"}
-- member {"section":"data","offset":@O1,"length":@L1,"raw":@R1,"sha256":"@S1"}
-- member {"section":"post","offset":@O2,"length":@L2,"raw":@R2,"sha256":"@S2"}
-- object {"type":"TABLE","schema":"s","name":"t","owner":"o","member":0,"start":35,"length":88}
-- object {"type":"TABLE DATA","schema":"s","name":"t","owner":"o","member":1,"start":0,\
"length":@R1,"rows":2}
"""


def assembled_length() -> int:
    """Return the length of the first member of the small backup file."""
    return Artifact(MemorySource("x", artifacts.assembled(SMALL))).index.members[0].length


def seeds(target: str) -> Iterator[bytes]:
    """Yield the inputs of a target."""
    for reader, contents in _SEEDS[target]().items():
        number = [each.__name__ for each in TARGETS[target]].index(reader)
        for data in contents:
            yield bytes([FIRST + number]) + data


def _artifact() -> dict[str, list[bytes]]:
    files = [path.read_bytes() for path in sorted(_BACKUPS.glob("*daily*.sql.gz"))]
    whole = [artifacts.described(MemorySource("x", data)) for data in files if b"pgkeep\0" in data]
    whole.append(SMALL)
    raw = [b"--\n-- PostgreSQL database dump\n--\n\n", b"SET a = b;\n"]
    return {
        "read_assembled": whole, "print_assembled": whole, "divide_assembled": whole,
        "read_bytes": [*files, *(gzip.compress(text, mtime=0) for text in raw),
                       b"\x28\xb5\x2f\xfd\x04\x00\x09\x00\x00x\x99\xe9\xd8\x51"],
        "read_index": [gzip.compress(text.partition(artifacts.INDEX)[2]) for text in whole],
        "read_zstd": [SMALL],
        "read_zstd_index": [zstd.compress(SMALL.partition(artifacts.INDEX)[2])],
        "read_members": [gzip.compress(b"SET a = b;\n", mtime=0)],
    }  # fmt: skip


def _sql() -> dict[str, list[bytes]]:
    dumps = [gzip.decompress(path.read_bytes()) for path in sorted(_BACKUPS.glob("*daily*sql.gz"))]
    foreign = [dump.partition(b"\n-- pgkeep index")[0] for dump in dumps]
    foreign = [b"--\n-- PostgreSQL database dump\n" + dump.partition(b"database dump\n")[2]
               for dump in foreign if b"database dump\n" in dump]  # fmt: skip
    cluster = [(b"--\n-- PostgreSQL database cluster dump\n--\n\nCREATE ROLE a;\n\n"
               b"--\n-- PostgreSQL database dump\n--\n\n-- Dumped from database version 17.2\n"
               b"-- Dumped by pg_dump version 17.2\n\n-- Started on 2026-11-27 00:00:00 UTC\n\n"
               b"\\restrict abc\n\nCREATE DATABASE a WITH TEMPLATE = template0 ENCODING = 'UTF8'"
               b" LOCALE_PROVIDER = libc LOCALE = 'C';\n\nALTER DATABASE a OWNER TO b;\n\n"
               b"\\connect a\n\n--\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict abc\n"
               b"--\n-- PostgreSQL database cluster dump complete\n--\n\n")]  # fmt: skip
    objects = [path.read_bytes() for path in sorted((FIXTURES / "objects").glob("*.sql"))]
    texts = [text.strip() + b";\n" for data in objects for text in data.split(b";\n")[:40]]
    statements = [bytes([number % 64]) + text for number, text in enumerate(texts)][::2]
    return {
        "read_dump": foreign + cluster, "index_dump": foreign + cluster,
        "scan_in_pieces": [b"\7" + text for text in foreign + cluster + objects
                           if len(text) < 6000],
        "read_statement": statements,
        "read_repeated": [statement[:60].replace(b" ", b"\0", 2) for statement in statements[::5]],
        "read_names": [b"public.*\n\"A b\".c?", b"f(integer, text)\nFUNCTION f(a integer, b text)",
                       (b"{CASEEXPR :arg {VAR :varno 1} :args ({CASEWHEN :expr {OPEXPR :opno 96"
                       b" :args ({CASETESTEXPR :typeId 23})}})}"),
                       b"{JOINEXPR :usingClause (a) :quals {BOOLEXPR :args ({OPEXPR :opno 9})}}",
                       b"{SUBLINK :testexpr {BOOLEXPR :args ({OPEXPR :opno 96})}}",
                       b"{DISTINCTEXPR :opno 96 :x}{ROWCOMPAREEXPR :a 1 :opnos (o 1 2 3)}"],
    }  # fmt: skip


def _encrypted() -> dict[str, list[bytes]]:
    vectors = [
        path.read_bytes().partition(b"\n\n")[2]
        for path in sorted((FIXTURES / "age").glob("[a-z]*"))
    ]
    headers = [data.partition(b"\n--- ")[0] for data in vectors]
    identity = (FIXTURES / "pitr" / "1" / "identity.txt").read_bytes()
    packets = [b"\x07\xc1\x0c\x03" + bytes(range(1, 12)) + b"\xd2\xe1" + bytes(2) + b"\x03abc",
               b"\x01\x84\x0c\x03" + bytes(11) + b"\xd4\x05abcde"]  # fmt: skip
    return {
        "read_age": [head + b"\n---\n%payload\n\0\5\1\0" for head in headers],
        "read_age_bytes": [data[:2000] for data in vectors] + [packet[1:] for packet in packets],
        "read_stanzas": [head.partition(b"\n")[2] for head in headers],
        "read_openpgp": packets,
        "read_identity": [identity, b"# comment\n" + identity],
        "read_recipients": [b"age1xmwwc06ly3ee5rytxm9mflaz2u56jjj36s0mypdrwsvlul66mv4q47ryef\n",
                            (b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPQ6Zk7Zr4xQq1k0bN1y7m5WQ0dQ6oSg"
                            b"3JkS2kq0Q5vF a@b\n"), b"age1a, age1b"],
    }  # fmt: skip


def _tar(*names: str, **more: bytes) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            info.size = 0 if name.endswith("/") else 5
            info.pax_headers = {key: value.decode() for key, value in more.items()}
            tar.addfile(info, io.BytesIO(b"abcde"))
    return data.getvalue()


def _physical() -> dict[str, list[bytes]]:
    archives = [_tar("base/", "base/1", "PG_VERSION"), _tar("x" * 200, mtime=b"1.5")]
    manifests = [path.read_bytes() for path in sorted(_PITR.rglob("*.base.json"))]
    return {
        "read_base_manifest": manifests, "read_tar": archives, "unpack_tar": archives,
        "unpack_configuration": archives, "inflate": [gzip.compress(b"abc", mtime=0)],
        "read_backup_manifest": [json.dumps(_BACKUP_MANIFEST).encode()],
        "read_wal_names": [b"00000003.history\n1\t0/6000000\tno\n2\t0/9000028\tbefore # why\n",
                           b"000000010000000000000002\n", b"000000010000000000000002.partial\n",
                           *(path.name.encode() + b"\n" for path in sorted(_PITR.rglob("*.age")))],
        "read_wal_header": [b"000000010000000000000002\n" + bytes.fromhex(
            "10d1060001000000000000020000000000000000") + bytes(30)],
        "read_program_output": [_WALDUMP.encode()],
        "read_states": [json.dumps(_STATE).encode(), json.dumps(_FACTS).encode()],
    }  # fmt: skip


def _documents() -> dict[str, list[bytes]]:
    manifests = [path.read_bytes() for path in sorted(_BACKUPS.glob("*.manifest.json"))]
    records = [path.read_bytes() for path in sorted((_BACKUPS / "records").glob("*.json"))]
    name = b"records/20261126T175453Z_backup_0_c60b2fb9.json\n"
    copy = {"name": "a", "version": "900150983cd24fb0d6963f7d28e17f72", "text": "abc", "sha256":
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}  # fmt: skip
    summary = json.dumps({"store": "memory:", "format": 1, "files": [copy]}).encode()
    checksums = [path.read_bytes() for path in sorted(_BACKUPS.glob("*.sha256"))]
    return {
        "read_manifest": manifests, "list_manifest": manifests,
        "read_record": records + [name + record for record in records],
        "read_summary": [summary, gzip.compress(summary, mtime=0)],
        "read_checksum": [line + b"\0" + manifests[0] for line in checksums],
        "read_pgbackrest": [json.dumps(_PGBACKREST).encode()],
        "read_drill_result": [json.dumps(_DRILL).encode()],
        "read_comment": [b'pgkeep: complete restore of "app"\nmine', b'["a", "b"]', b"a*, !b?, c",
                         b"app__old_20261122T020000Z\napp",
                         b"pgkeep: complete restore of a, which could not be renamed"],
    }  # fmt: skip


def _surroundings() -> dict[str, list[bytes]]:
    names = [path.name.encode() for path in sorted(_BACKUPS.rglob("*")) if path.is_file()]
    return {
        "read_file_name": [*names, b"a%2F_weekly_20261126T130700Z_schema_key2.sql.gz.age",
                           b"x.sql.gz.7712692484203507928"],
        "guess_name": [b"last/app-20240506-070809.sql.gz", b"weekly/app-202419.sql.gz",
                       b"x/backup_2024_05_06T07_08_09.sql.gz", b"monthly/app-202405.dump.gpg"],
        "read_config": [(ROOT / "examples" / "pgkeep.toml").read_bytes(),
                        b'backup_dir = "x"\n[targets.a]\nbackup_keep_daily = 3\n'],
        "read_answer": [_LISTING, _ERROR, _OBJECT],
    }  # fmt: skip


_SEEDS = {
    "backup-files": _artifact, "sql": _sql, "encrypted": _encrypted, "physical": _physical,
    "documents": _documents, "surroundings": _surroundings,
}  # fmt: skip


def kept(target: str) -> Iterator[bytes]:
    """Yield the inputs that earlier runs have found."""
    for path in sorted((CORPUS / target).glob("*")):
        yield path.read_bytes()
