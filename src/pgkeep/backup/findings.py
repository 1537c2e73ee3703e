"""What is found before a backup."""

from typing import Literal, NamedTuple


class Finding(NamedTuple):
    """A problem that stops a backup (`error`), what the user should know, or a remark (`note`)."""

    level: Literal["error", "warning", "note"]
    message: str
    remedy: str | None = None
