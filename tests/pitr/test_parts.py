"""The parts of a base backup: tar reads them, and crafted ones write nothing outside."""

import gzip
import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from pgkeep import errors as e
from pgkeep.pitr import parts
from pgkeep.stores.memory import MemoryStore
from pgkeep.stores.store import write_file


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
        store = MemoryStore()
        write_file(store, f"part{number}", data)
        parts.unpack(store.open(f"part{number}"), ours, lambda _: None)
        subprocess.run(["tar", "-xzf", "-", "-C", theirs], input=data, check=True)
    assert tree(ours) == tree(theirs) == expected


@pytest.mark.parametrize(
    "kind", ["/absolute", "../outside", "a/../../outside", "link", "hard", "fifo"]
)
def test_a_crafted_part_writes_nothing_outside(kind: str, tmp_path: Path) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        info = tarfile.TarInfo("a" if kind in ("link", "hard", "fifo") else kind)
        if kind == "link":
            info.type, info.linkname = tarfile.SYMTYPE, "/etc"
        elif kind == "hard":
            info.type, info.linkname = tarfile.LNKTYPE, "/etc/passwd"
        elif kind == "fifo":
            info.type = tarfile.FIFOTYPE
        tar.addfile(info)
    store = MemoryStore()
    write_file(store, "part", gzip.compress(data.getvalue()))
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(e.VerificationFailed, match="expected files and directories"):
        parts.unpack(store.open("part"), target, lambda _: None)
    assert tree(tmp_path) == {"target": None}


def test_damage_is_noticed(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(bytes(range(256)) * 1000)
    (whole,) = packed(source, 1 << 30)
    for data in (
        whole[:-1],
        whole[: len(whole) // 2],
        whole + b"x",
        b"",
        whole[:1] + b"x" + whole[2:],
    ):
        store = MemoryStore()
        write_file(store, "part", data)
        target = tmp_path / f"target{len(data)}{data[1:2]!r}"
        target.mkdir()
        with pytest.raises(e.VerificationFailed):
            parts.unpack(store.open("part"), target, lambda _: None)
