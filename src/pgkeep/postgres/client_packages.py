"""How to install the client programs of a PostgreSQL version, by the system that runs pgkeep."""

import platform
import sys
from collections.abc import Mapping

APT = (
    "sudo apt install -y postgresql-common",
    "sudo /usr/share/postgresql-common/pgdg/apt.postgresql.org.sh -y",
    "sudo apt install -y postgresql-client-{major}",
)
_INSTALL = "sudo dnf install -y https://download.postgresql.org/pub/repos/yum/reporpms"
# Until Red Hat Enterprise Linux 9, a module of the system hides the packages of the repository.
YUM = (
    f"{_INSTALL}/EL-{{release}}-{{machine}}/pgdg-redhat-repo-latest.noarch.rpm",
    "sudo dnf -qy module disable postgresql",
    "sudo dnf install -y postgresql{major}",
)
FEDORA = (
    f"{_INSTALL}/F-{{release}}-{{machine}}/pgdg-fedora-repo-latest.noarch.rpm",
    "sudo dnf install -y postgresql{major}",
)
ALPINE = ("apk add postgresql{major}-client",)
HOMEBREW = ("brew install postgresql@{major}",)
NO_MODULES = 10  # the first release of Red Hat Enterprise Linux without them


def commands(major: int) -> list[str]:
    """Return the commands for this system, or the package of each system if it is unknown."""
    return commands_for(major, sys.platform, _os_release(), platform.machine())


def commands_for(major: int, system: str, os_release: Mapping[str, str], machine: str) -> list[str]:
    """Return the commands for a system, given its sys.platform and its os-release."""
    names = {os_release.get("ID", ""), *os_release.get("ID_LIKE", "").split()}
    release = os_release.get("VERSION_ID", "").partition(".")[0]
    if system == "darwin":
        lines: tuple[str, ...] = HOMEBREW
    elif names & {"debian", "ubuntu"}:
        lines = APT
    elif "alpine" in names:
        lines = ALPINE
    elif os_release.get("ID") == "fedora":
        lines = FEDORA
    elif names & {"rhel", "centos"} and release.isdigit():
        modules = int(release) < NO_MODULES
        lines = tuple(line for line in YUM if modules or "module" not in line)
    else:
        lines = (
            "Debian, Ubuntu: postgresql-client-{major} from https://apt.postgresql.org",
            "RHEL, Rocky Linux, Fedora: postgresql{major} from https://yum.postgresql.org",
            f"Alpine: {ALPINE[0]}",
            f"macOS: {HOMEBREW[0]}",
        )
    return [line.format(major=major, release=release, machine=machine) for line in lines]


def _os_release() -> Mapping[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}
