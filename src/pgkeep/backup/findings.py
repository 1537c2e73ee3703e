"""What is found before a backup."""

from typing import Literal, NamedTuple


class Finding(NamedTuple):
    """A problem that stops a backup (`error`) or that the user should know (`warning`)."""

    level: Literal["error", "warning"]
    message: str
    remedy: str | None = None
