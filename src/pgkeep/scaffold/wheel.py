"""A wheel of the pgkeep that runs, so that a project can install exactly this one.

The files are those of the package, of a working copy as well as of an installation. So neither a
build backend nor a network is required. Nothing in the wheel depends on time or place: the same
pgkeep always gives the same bytes. Its members are stored, because compression differs between
versions of zlib, and because Git stores the differences between two versions of such a file.
"""

import csv
import hashlib
import io
import zipfile
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from .. import __version__
from .. import errors as e
from . import places

PACKAGE = "pgkeep"
TAG = "py3-none-any"
MAN = "share/man/man1"
TIME = (2020, 2, 2, 0, 0, 0)  # the one that hatchling uses
HINT = (
    "Install pgkeep with pip, or use --set pgkeep_source=FILE, where FILE is the path of a wheel."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A file in a wheel."""

    contents: bytes
    executable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """A wheel, as bytes."""

    name: str
    contents: bytes


def own_wheel() -> Wheel:
    """Return a wheel of the pgkeep that runs.

    Raises:
        UsageError: it is not installed, or its installation is of another version.

    """
    try:
        installed = metadata.distribution(PACKAGE)
    except metadata.PackageNotFoundError as error:
        raise e.UsageError(
            "pgkeep runs without being installed, so it cannot make a wheel of itself", hint=HINT
        ) from error
    if installed.version != __version__:
        raise e.UsageError(
            f"the metadata of pgkeep has version {installed.version}, expected {__version__}",
            hint=HINT,
        )
    base = f"{PACKAGE}-{__version__}"
    members = {
        **_package(),
        **{f"{base}.data/data/{MAN}/{path.name}": _member(path) for path in _manuals(installed)},
        **{f"{base}.dist-info/{name}": member for name, member in _metadata(installed).items()},
    }
    return Wheel(name=f"{base}-{TAG}.whl", contents=_archive(members, f"{base}.dist-info/RECORD"))


def wheel_file(path: Path) -> Wheel:
    """Read a wheel of pgkeep.

    Raises:
        UsageError: the file cannot be read, or is not a wheel of pgkeep.

    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        contents = path.read_bytes()
    except (OSError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or error
        raise e.UsageError(f"pgkeep_source: cannot read {path}: {reason}") from error
    parts = path.name.split("-")
    if not path.name.endswith(f"-{TAG}.whl") or len(parts) != 5:
        raise e.UsageError(
            f"pgkeep_source: expected a file named pgkeep-VERSION-{TAG}.whl, found {path.name}"
        )
    if f"{PACKAGE}-{parts[1]}.dist-info/METADATA" not in names:
        raise e.UsageError(f"pgkeep_source: {path} is not a wheel of pgkeep {parts[1]}")
    return Wheel(name=path.name, contents=contents)


def _package() -> dict[str, Member]:
    """Return the modules and the template, which is elsewhere in a working copy."""
    modules = _below(places.PACKAGE, PACKAGE)
    return modules | _below(places.template(), f"{PACKAGE}/template")


def _below(folder: Path, name: str) -> dict[str, Member]:
    return {
        f"{name}/{path.relative_to(folder).as_posix()}": _member(path)
        for path in folder.rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }


def _member(path: Path) -> Member:
    executable = bool(path.stat().st_mode & 0o100)
    return Member(contents=path.read_bytes(), executable=executable)


def _manuals(installed: metadata.Distribution) -> list[Path]:
    """Return the manual pages; only RECORD knows where an installation has put them."""
    source = places.working_copy()
    if source is not None:
        return [*(source / "man").glob("*.1")]
    listed = (file for file in installed.files or () if file.parent.as_posix().endswith(MAN))
    paths = (Path(str(file.locate())) for file in listed)
    return [path for path in paths if path.is_file()]


def _metadata(installed: metadata.Distribution) -> dict[str, Member]:
    names = ["METADATA", "entry_points.txt"]
    names += [f"licenses/{name}" for name in installed.metadata.get_all("License-File") or ()]
    texts = {name: installed.read_text(name) for name in names}
    # Without the README, which a working copy may have changed since it was installed.
    texts["METADATA"] = (texts["METADATA"] or "").partition("\n\n")[0].strip() + "\n"
    texts["WHEEL"] = (
        f"Wheel-Version: 1.0\nGenerator: pgkeep {__version__}\nRoot-Is-Purelib: true\nTag: {TAG}\n"
    )
    return {name: Member(contents=text.encode()) for name, text in texts.items() if text}


def _archive(members: dict[str, Member], record: str) -> bytes:
    lines = io.StringIO()
    rows = csv.writer(lines, lineterminator="\n")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, member in sorted(members.items()):
            digest = urlsafe_b64encode(hashlib.sha256(member.contents).digest()).decode()
            rows.writerow((name, f"sha256={digest.rstrip('=')}", len(member.contents)))
            archive.writestr(_info(name, executable=member.executable), member.contents)
        rows.writerow((record, "", ""))
        archive.writestr(_info(record, executable=False), lines.getvalue())
    return buffer.getvalue()


def _info(name: str, *, executable: bool) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, TIME)
    info.create_system = 3  # Unix, so that pip reads the mode
    info.external_attr = (0o100755 if executable else 0o100644) << 16
    return info
