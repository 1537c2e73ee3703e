"""Report the result of a run: a dead man's switch, and a webhook.

A missing ping shows that nothing runs any more. Therefore success is sent only after all steps that
it includes, such as verification (trap F13).
"""

import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping
from datetime import datetime

import msgspec

from .. import errors as e

LONGEST = 10_000  # characters of a log that are sent at most
_HIDDEN = "********"
_PASSWORD = re.compile(
    r"(://[^\s:/@]*:)[^\s@]+(?=@)|(\bpassword=)('(?:[^'\\]|\\.)*+'|[^\s&]+)", re.I
)


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """The result for one database."""

    database: str
    cluster: str | None  # its name; None if unknown
    target: str | None
    ok: bool
    exit_code: int
    error: str | None = None
    backup: str | None = None  # its name
    size: int | None = None
    rows: int | None = None
    verified: bool | None = None
    copy_pending: bool | None = None
    warnings: list[str] = []


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What the webhook gets about a run."""

    event: str
    run: str
    type: str
    ok: bool
    exit_code: int
    error: str | None
    hint: str | None
    started: datetime
    finished: datetime
    databases: list[Ended]


def redact(text: str, secrets: Iterable[str]) -> str:
    """Return a text without these secrets and without anything that looks like a password."""
    for secret in sorted({secret for secret in secrets if secret}, key=len, reverse=True):
        text = text.replace(secret, _HIDDEN)
    return _PASSWORD.sub(lambda found: f"{found[1] or found[2]}{_HIDDEN}", text)


def ping(url: str, event: str, run: str, timeout: float, body: str = "") -> None:
    """Send a ping in the format of healthchecks.io: event is empty, `start` or `fail`.

    Raises:
        StoreError: the ping was not accepted.

    """
    parts = urllib.parse.urlsplit(url)
    path = parts.path.rstrip("/") + (f"/{event}" if event else "")
    query = "&".join(filter(None, (parts.query, f"rid={run}")))
    data = body[-LONGEST:].encode("utf-8", "replace")
    _post(parts._replace(path=path, query=query).geturl(), data, {}, timeout)


def post(url: str, message: Message, timeout: float) -> None:
    """Send a message as JSON.

    Raises:
        StoreError: the message was not accepted.

    """
    _post(url, msgspec.json.encode(message), {"Content-Type": "application/json"}, timeout)


def _post(url: str, data: bytes, headers: Mapping[str, str], timeout: float) -> None:
    request = urllib.request.Request(  # noqa: S310 - config takes http and https only
        url, data, {"User-Agent": "pgkeep", **headers}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout):  # noqa: S310
            pass
    except urllib.error.HTTPError as error:
        # Never include the URL: it is a secret that allows sending notifications.
        raise e.StoreError(str(error)) from error
    except OSError as error:
        raise e.StoreError(str(getattr(error, "reason", error))) from error
