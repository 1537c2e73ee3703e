"""The parts of a base backup: tar reads them, and crafted ones write nothing outside."""

import gzip
import io
import random
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from pgkeep import errors as e
from pgkeep.pitr import parts

LIMIT = 3 << 20


def tree(root: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(root)): None if path.is_dir() else path.read_bytes()
        for path in sorted(root.rglob("*"))
    }


def packed(root: Path, size: int) -> list[bytes]:
    found = []
    for part in parts.divided(parts.entries(root), size):
        data = io.BytesIO()
        parts.pack(root, part, lambda block, data=data: data.write(block), lambda _: None)  # type: ignore[misc]
        found.append(data.getvalue())
    return found


def test_parts_are_one_directory(tmp_path: Path) -> None:
    source, elsewhere = tmp_path / "source", tmp_path / "elsewhere"
    (source / "base" / "5").mkdir(parents=True)
    (source / "pg_tblspc").mkdir()
    (source / "empty").mkdir()
    elsewhere.mkdir()
    (source / "pg_tblspc" / "16400").symlink_to(elsewhere)
    for number in range(20):
        (source / "base" / "5" / f"{number}").write_bytes(bytes([number]) * 3000 * number)
    (elsewhere / "table").write_bytes(b"spaced")
    (source / "na\u00efve 'name'\n").write_bytes(b"")
    expected = tree(source) | {"pg_tblspc/16400/table": b"spaced"}
    made = packed(source, 100_000)
    assert 3 < len(made) < 12
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours, theirs):
        folder.mkdir()
    for number, data in enumerate(reversed(made)):
        parts.unpack([data], f"part{number}", ours, LIMIT, lambda _: None)
        subprocess.run(["tar", "-xzf", "-", "-C", theirs], input=data, check=True)
    assert tree(ours) == tree(theirs) == expected


def member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, **more: Any) -> bytes:
    """Return the header of a member as a crafted archive has it, without its contents."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    for key, value in more.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.PAX_FORMAT if more or size < 1 << 33 else tarfile.GNU_FORMAT)


def unpacked(data: bytes, target: Path, limit: int = LIMIT) -> None:
    parts.unpack([gzip.compress(data, 1)], "part", target, limit, lambda _: None)


DEEP = "/".join("a" * 100)
CRAFTED = {
    "absolute": (member("/absolute"), "expected files and directories"),
    "above": (member("../outside"), "expected files and directories"),
    "above later": (member("a/../../outside"), "expected files and directories"),
    "link": (member("a", tarfile.SYMTYPE, linkname="/etc"), "expected files and directories"),
    "hard link": (member("a", tarfile.LNKTYPE, linkname="/x"), "expected files and directories"),
    "pipe": (member("a", tarfile.FIFOTYPE), "expected files and directories"),
    "device": (member("a", tarfile.CHRTYPE), "expected files and directories"),
    "no name": (member(""), "expected files and directories"),
    "process id": (member("./postmaster.pid"), "expected files and directories"),
    "deep": (member(DEEP), "expected files and directories"),
    "zero byte": (
        member("a", pax_headers={"path": "a\0b"}), "expected files and directories"
    ),
    "sparse": (
        member("a", pax_headers={
            "GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.name": "a",
            "GNU.sparse.map": "0,0", "GNU.sparse.size": str(1 << 60),
        }), "expected files and directories",
    ),
    "twice": (member("a") + member("./a"), "found 'a' twice"),
    "file and directory": (member("a") + member("a/b"), "is a file and a directory"),
    "directory and file": (member("a/b") + member("a"), "is a file and a directory"),
    "huge": (member("a", size=1 << 62), "damaged tar archive"),
    "huge header": (member("a", tarfile.XHDTYPE, size=1 << 40), "an extended header of"),
    "huge name": (member("a", tarfile.GNUTYPE_LONGNAME, size=1 << 40), "an extended header of"),
    "size in text": (member("a", pax_headers={"size": "-5"}), "damaged|expected files"),
    "zeros": (bytes(LIMIT + 1), "found more than"),
    "a million members": (bytes(0).join(member(f"{n}") for n in range(1000)), "found more than"),
}  # fmt: skip


@pytest.mark.parametrize("kind", CRAFTED)
def test_a_crafted_part_is_refused(kind: str, tmp_path: Path) -> None:
    """Nothing is written outside, nothing fills memory or disk, and no traceback."""
    data, expected = CRAFTED[kind]
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(e.VerificationFailed, match=expected):
        unpacked(data + bytes(1024), target, LIMIT if kind == "zeros" else 400_000)
    assert set(tmp_path.iterdir()) == {target}


def test_random_damage_is_no_traceback() -> None:
    """A5: whatever the bytes of an archive are, a part is read or refused."""
    chance = random.Random(1)  # noqa: S311
    whole = b"".join(
        [
            member("a", tarfile.DIRTYPE), member("a/b", size=3), b"xyz".ljust(512, b"\0"),
            member("n" * 300, size=1), b"x".ljust(512, b"\0"),
            member("c", pax_headers={"mtime": "1.5", "comment": "x"}), bytes(1024),
        ]
    )  # fmt: skip
    refused = 0
    for _ in range(800):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        for start in range(0, len(data) - 1024, 512):  # with valid checksums, so that all is read
            block = data[start : start + 512]
            if chance.random() < 0.8 and block[257:262] == b"ustar":
                block[148:156] = b" " * 8
                data[start + 148 : start + 156] = b"%06o\0 " % sum(block)
        try:
            packed = [gzip.compress(bytes(data), 1)]
            for _, _, read in parts.members(packed, "part", LIMIT, lambda _: None):
                while read(parts.BLOCK):
                    pass
        except e.VerificationFailed:
            refused += 1
    assert 80 < refused < 800


def test_damage_is_noticed(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(bytes(range(256)) * 1000)
    (whole,) = packed(source, 1 << 30)
    for number, data in enumerate(
        (whole[:-1], whole[: len(whole) // 2], whole + b"x", b"", whole[:1] + b"x" + whole[2:])
    ):
        target = tmp_path / f"target{number}"
        target.mkdir()
        with pytest.raises(e.VerificationFailed):
            parts.unpack([data], "part", target, LIMIT, lambda _: None)
    with pytest.raises(e.RestoreFailed, match="could not write"):
        parts.unpack([whole], "part", Path("/proc/none"), LIMIT, lambda _: None)


def test_what_a_data_directory_can_have(tmp_path: Path) -> None:
    """A14: holes, long and odd names, other links than those of tablespaces."""
    source, target = tmp_path / "source", tmp_path / "target"
    long = source.joinpath(*["d" * 200] * 10)
    long.mkdir(parents=True)
    target.mkdir()
    (long / "\udcff\n").write_bytes(b"not UTF-8")
    with (source / "hole").open("wb") as file:
        file.truncate(10 << 20)
        file.seek(5 << 20)
        file.write(b"x")
    (source / "pg_stat").symlink_to("/etc")
    made = packed(source, 1 << 30)
    assert sum(map(len, made)) < 1 << 20
    limit = parts.limit_of(10 << 20, len(parts.entries(source)))
    for data in made:
        parts.unpack([data], "part", target, limit, lambda _: None)
    (source / "pg_stat").unlink()
    assert tree(target) == tree(source)
