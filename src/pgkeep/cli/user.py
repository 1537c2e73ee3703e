"""The user who runs a command."""

import contextlib
import os
import pwd
import socket


def user_name() -> str:
    """Return the name of the user of the operating system, or the number of one without a name."""
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(os.geteuid()).pw_name
    return str(os.geteuid())


def login_name() -> str | None:
    """Return the user who became this user with sudo."""
    return os.environ.get("SUDO_USER") or None


def user_and_host() -> str:
    """Return who runs the command, and where."""
    return f"{login_name() or user_name()}@{socket.gethostname()}"
