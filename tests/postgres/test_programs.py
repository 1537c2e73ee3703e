"""Which installation of the client programs is used with a server."""

from pathlib import Path

import pytest

from pgkeep import errors as e
from pgkeep.postgres.client_packages import commands_for
from pgkeep.postgres.programs import NEEDED, Installation, choose, installations
from tests.support import servers


def installed(*versions: tuple[int, int]) -> list[Installation]:
    return [Installation(version, Path(f"/{number}")) for number, version in enumerate(versions)]


@pytest.mark.parametrize(
    ("versions", "server", "chosen"),
    [
        ([(17, 2)], 17, "/0"),
        ([(18, 0), (17, 2), (16, 9)], 17, "/1"),  # the same major
        ([(18, 1), (17, 2)], 16, "/1"),  # else the lowest that is newer: A1.2
        ([(17, 2), (17, 9), (17, 4)], 17, "/1"),  # the newest minor
        ([(17, 2), (17, 2)], 17, "/0"),  # the first on PATH of equals
        ([(12, 22), (18, 0)], 17, "/1"),
    ],
)
def test_choice(versions: list[tuple[int, int]], server: int, chosen: str) -> None:
    assert choose(server, installed(*versions)).bin == Path(chosen)


@pytest.mark.parametrize(
    ("versions", "found"), [([], "none"), ([(16, 9), (15, 1)], r"15\.1 \(/1\), 16\.9 \(/0\)")]
)
def test_none_is_new_enough(versions: list[tuple[int, int]], found: str) -> None:
    """A1.1: pg_dump refuses servers that are newer than itself."""
    with pytest.raises(e.UsageError, match=found) as caught:
        choose(17, installed(*versions))
    assert "PostgreSQL 17" in str(caught.value)
    assert "\nsudo apt install -y postgresql-client-17" in str(caught.value.hint)


def test_where_path_leads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A1.1: Debian's wrapper decides itself what it runs, so its version may be of another run."""
    folder = servers.bin_folder(17)
    wrapped, first, second = (tmp_path / name for name in ("wrapped", "first", "second"))
    wrapped.mkdir()
    wrapper = tmp_path / "pg_wrapper"
    wrapper.write_text(f'#!/bin/sh\nexec {folder}/"${{0##*/}}" "$@"\n')
    wrapper.chmod(0o755)
    for name in NEEDED:
        (wrapped / name).symlink_to(wrapper)
    first.symlink_to(folder)
    second.symlink_to(first)
    monkeypatch.setenv("PATH", f"{wrapped}:{first}:{second}")
    bins = [found.bin for found in installations()]
    assert bins[0] == first
    assert not {wrapped, second, folder} & {*bins}


@pytest.mark.parametrize(
    ("system", "os_release", "expected"),
    [
        ("linux", "ID=debian", "sudo apt install -y postgresql-common"),
        ("linux", "ID=linuxmint ID_LIKE=ubuntu_debian", "pgdg/apt.postgresql.org.sh -y"),
        ("linux", "ID=rocky ID_LIKE=rhel_centos_fedora VERSION_ID=9.4",
         "yum/reporpms/EL-9-aarch64/pgdg-redhat-repo-latest.noarch.rpm"),
        ("linux", "ID=rhel VERSION_ID=8.10", "sudo dnf -qy module disable postgresql"),
        ("linux", "ID=fedora VERSION_ID=43", "F-43-aarch64/pgdg-fedora-repo-latest.noarch.rpm"),
        ("linux", "ID=alpine VERSION_ID=3.23.0", "apk add postgresql18-client"),
        ("darwin", "", "brew install postgresql@18"),
        ("linux", "ID=amzn ID_LIKE=fedora VERSION_ID=2023", "https://yum.postgresql.org"),
        ("linux", "", "Alpine: apk add postgresql18-client"),
    ],
)  # fmt: skip
def test_how_to_install_client_programs(system: str, os_release: str, expected: str) -> None:
    """A1.1: of the server's major, from the repositories of the PostgreSQL project."""
    given = dict(word.replace("_", " ").split("=") for word in os_release.split())
    given = {name.replace(" ", "_"): value for name, value in given.items()}
    found = commands_for(18, system, given, "aarch64")
    assert expected in "\n".join(found)
    assert "18" in found[-1]
    assert not any("{" in line for line in found)


def test_red_hat_10_has_no_modules() -> None:
    system = {"ID": "almalinux", "ID_LIKE": "rhel", "VERSION_ID": "10.1"}
    found = commands_for(18, "linux", system, "x86_64")
    assert "/EL-10-x86_64/" in found[0]
    assert not any("module" in line for line in found)
