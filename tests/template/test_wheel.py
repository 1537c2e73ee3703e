"""A project installs the pgkeep that made it, from a wheel that it contains."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import pgkeep
from pgkeep.scaffold.wheel import own_wheel
from tests.support import baking, invoke

ROOT = Path(__file__).parents[2]
NAME = f"pgkeep-{pgkeep.__version__}-py3-none-any.whl"
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
NAMED = "--set=project_name=My Project"


def contents(project: Path) -> dict[str, tuple[bytes, int]]:
    return {
        path.relative_to(project).as_posix(): (path.read_bytes(), path.stat().st_mode)
        for path in project.rglob("*")
        if path.is_file() and path.relative_to(project).parts[0] != ".venv"
    }


def members(wheel: Path) -> dict[str, tuple[bytes, bool]]:
    """Return the contents of each file in a wheel, and whether it is executable."""
    with zipfile.ZipFile(wheel) as archive:
        return {
            info.filename: (archive.read(info), bool(info.external_attr >> 16 & 0o100))
            for info in archive.infolist()
        }


def test_the_wheel_is_that_of_the_build_backend(tmp_path: Path) -> None:
    """File by file: nothing is missing, and nothing of the working copy gets in."""
    baking.run([*PIP, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(ROOT)])
    built = members(tmp_path / NAME)
    (tmp_path / NAME).write_bytes(own_wheel().contents)
    made = members(tmp_path / NAME)
    assert made.keys() == built.keys()
    info = f"pgkeep-{pgkeep.__version__}.dist-info"
    own = {f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD")}
    assert {name for name in made if made[name] != built[name]} == own
    headers = [found[f"{info}/METADATA"][0].strip().split(b"\n\n")[0] for found in (made, built)]
    assert headers[0] == headers[1], "dependencies have changed: make setup"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with an empty environment."""
    project = tmp_path / "it's a project"
    invoke.run("init", str(project), NAMED, env=invoke.environment())
    venv.create(project / ".venv", symlinks=True)
    return project


def dependencies(project: Path) -> Path:
    """Let the project import what this environment has, except pgkeep."""
    packages = next((project / ".venv").glob("lib/*/site-packages"))
    path = packages / "dependencies.pth"
    path.write_text(f"{sysconfig.get_path('purelib')}\n")
    return path


def test_a_project_installs_the_pgkeep_that_made_it(project: Path, tmp_path: Path) -> None:
    """Checked by its hash, and without an index; that pgkeep makes the same project again.

    The dependencies are those of this environment.
    """
    made = contents(project)
    python = str(project / ".venv" / "bin" / "python")
    found = dependencies(project)
    # cookiecutter alone has no pgkeep of which it could make a wheel.
    script = "import cookiecutter.main as m, sys; m.cookiecutter(sys.argv[1], no_input=True)"
    env = {**invoke.environment(), "HOME": str(tmp_path)}
    done = subprocess.run(
        [python, "-c", script, str(ROOT / "template")],
        cwd=tmp_path, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "wheel requires pgkeep in the environment of cookiecutter" in done.stderr
    assert not (tmp_path / "my-project").exists()

    found.unlink()  # pip would take pgkeep for installed
    (project / "scripts" / "requirements.lock").write_text("")
    requirements = str(project / "scripts" / "requirements.txt")
    install = [*PIP, "--python", python, "install", "--no-index", "--no-deps", "--require-hashes"]
    install += ["-r", requirements]
    wheel = project / "scripts" / "vendor" / NAME
    wheel.write_bytes(wheel.read_bytes() + b"x")
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in done.stderr
    wheel.write_bytes(made[f"scripts/vendor/{NAME}"][0])
    baking.run(install, cwd=tmp_path)

    dependencies(project)
    (project / "scripts" / "requirements.lock").write_bytes(made["scripts/requirements.lock"][0])
    env = {"PATH": "/usr/bin:/bin"}
    where = "import pgkeep, sys; sys.stdout.write(pgkeep.__file__)"
    assert baking.run([python, "-c", where]).startswith(str(project))
    shown = subprocess.run(
        [project / "scripts" / "pgkeep.sh", "--version"],
        env=env, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert shown == baking.run([invoke.PGKEEP, "--version"])
    assert (project / ".venv" / "share" / "man" / "man1" / "pgkeep.1").is_file()
    again = tmp_path / "again"
    subprocess.run(
        [project / "scripts" / "pgkeep.sh", "init", "--quiet", again, NAMED], env=env, check=True
    )
    assert contents(again) == made


def requirement(project: Path) -> str:
    return (project / "scripts" / "requirements.txt").read_text().splitlines()[-1]


def test_a_newer_pgkeep_replaces_the_wheel(tmp_path: Path) -> None:
    """The requirements and the wheel with the hash in them change together, or stay."""
    project = tmp_path / "p"

    def init(*args: str) -> str:
        return invoke.run("init", str(project), NAMED, *args, env=invoke.environment())

    init()
    new = contents(project)
    vendor, requirements = project / "scripts" / "vendor", project / "scripts" / "requirements.txt"
    (vendor / NAME).rename(vendor / "pgkeep-0.0.9-py3-none-any.whl")
    requirements.write_text(requirements.read_text().replace(pgkeep.__version__, "0.0.9"))
    old = contents(project)
    said = init("--dry-run")
    assert "obsolete   scripts/vendor/pgkeep-0.0.9-py3-none-any.whl" in said
    assert f"skipped    scripts/vendor/{NAME}" in init("--keep")
    assert contents(project) == old
    assert "removed    scripts/vendor/pgkeep-0.0.9-py3-none-any.whl" in init("--overwrite")
    assert contents(project) == new
    # The same version with other contents, as during development.
    (vendor / NAME).write_bytes(b"other")
    assert f"replaced   scripts/vendor/{NAME}" in init("--overwrite")
    assert contents(project) == new


def test_other_sources_of_pgkeep(tmp_path: Path) -> None:
    """A wheel file by a relative path, a commit, and a version of an index."""
    commit = "git+https://example.com/pgkeep.git@" + "0" * 40
    wheel = tmp_path / "pgkeep-0.0.9-py3-none-any.whl"
    wheel.write_bytes(
        own_wheel().contents.replace(b"pgkeep-0.1.0.dist-info", b"pgkeep-0.0.9.dist-info")
    )
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    extras = "pgkeep[drill,age,metrics,serve,s3]"
    expected = {
        os.path.relpath(wheel): f"{extras}==0.0.9 --hash=sha256:{digest}",
        commit: f"{extras} @ {commit}",
        "1.2.3": f"{extras}==1.2.3",
    }
    for number, (source, line) in enumerate(expected.items()):
        project = tmp_path / str(number)
        invoke.run("init", str(project), f"--set=pgkeep_source={source}", env=invoke.environment())
        assert requirement(project) == line
        dockerfile = (project / "Dockerfile.backup").read_text()
        vendored = source.endswith(".whl")
        assert ("scripts/vendor" in dockerfile) == vendored
        assert (project / "scripts" / "vendor").exists() == vendored
        assert bool(re.search(r"ca-certificates git\b", dockerfile)) == source.startswith("git")
        ignored = (project / "Dockerfile.backup.dockerignore").read_text()
        assert ("vendor" in ignored) == vendored
    assert (tmp_path / "0" / "scripts" / "vendor" / wheel.name).read_bytes() == wheel.read_bytes()
    other = shutil.copy(wheel, tmp_path / "pgkeep-0.0.8-py3-none-any.whl")
    said = invoke.run(
        "init",
        str(tmp_path / "3"),
        f"--set=pgkeep_source={other}",
        env=invoke.environment(),
        code=2,
    )
    assert "is not a wheel of pgkeep 0.0.8" in said
