"""Errors of botocore and of the service as errors of pgkeep, with hints."""

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import botocore.exceptions
import botocore.parsers

from ... import errors as e
from .deadline import Deadline

# What a service answers when an identity is not allowed to do something.
DENIED = frozenset({"AccessDenied", "Forbidden", "403", "UnauthorizedAccess"})
EXISTS = frozenset({"PreconditionFailed", "412"})
NOT_SUPPORTED = frozenset({"NotImplemented", "501"})
ABSENT = frozenset({"NoSuchKey", "NotFound", "404", "NoSuchUpload"})

_KEYS = "Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the role."
_REGION = "Set BACKUP_S3_REGION to the region of the bucket."
_HINTS = {
    "AccessDenied": "A permission is missing: docs/guide/off-site.md lists the required ones.",
    "AuthorizationHeaderMalformed": _REGION,
    "ExpiredToken": "The session token has expired: get a new one.",
    "IllegalLocationConstraintException": _REGION,
    "InvalidAccessKeyId": _KEYS,
    "InvalidObjectState": "It is in an archive class: restore it there first (RestoreObject).",
    "NoSuchBucket": "Create the bucket, or correct BACKUP_S3_BUCKET.",
    "PermanentRedirect": _REGION,
    "RequestTimeTooSkewed": "The clock of this machine is wrong: set it.",
    "SignatureDoesNotMatch": _KEYS,
    "301": _REGION,
}


class Absent(e.Missing):
    """No such object or upload exists."""


class NotSupported(e.StoreError):
    """The service does not have this kind of request."""


class AnswerTruncated(e.StoreError):
    """The connection ended before the end of the answer."""


@contextlib.contextmanager
def translated(action: str, target: str, seconds: float | None = None) -> Iterator[None]:
    """Raise errors of botocore as ours; the answer must be complete within the seconds, if given.

    Raises:
        Absent, AccessDenied, AnswerTruncated, StoreError: by the kind of error.

    """
    deadline = Deadline(math.inf if seconds is None else seconds)
    failed = f"could not {action} {target}"
    try:
        with deadline:
            yield
    except Exception as error:
        if deadline.expired:
            raise e.StoreError(
                f"{failed}: no complete answer within {seconds:g} s",
                hint="Increase BACKUP_S3_TIMEOUT if the service is that slow.",
            ) from error
        if deadline.endless:
            raise e.StoreError(
                f"{failed}: the service redirects without end",
                hint="Check BACKUP_S3_ENDPOINT and BACKUP_S3_REGION.",
            ) from error
        known = _known(error, failed)
        if known is None:
            raise
        raise known from error


def required(answer: Mapping[str, Any], field: str, url: str) -> Any:
    """Return a field of an answer that the protocol requires.

    Raises:
        StoreError: it is missing: something else than the service answers.

    """
    try:
        return answer[field]
    except KeyError:
        raise e.StoreError(
            f"{url}: found an answer without {field}",
            hint="Check BACKUP_S3_ENDPOINT: a proxy or another service may answer there.",
        ) from None


def _known(error: Exception, failed: str) -> e.StoreError | None:
    match error:
        case botocore.exceptions.ClientError():
            return _refusal(error, failed)
        case botocore.parsers.ResponseParserError():  # followed by the whole answer
            return e.StoreError(f"{failed}: {str(error).splitlines()[0]}", hint=_hint(error))
        case (
            botocore.exceptions.IncompleteReadError()
            | botocore.exceptions.ReadTimeoutError()
            | botocore.exceptions.ResponseStreamingError()
            | botocore.exceptions.FlexibleChecksumError()
        ):
            return AnswerTruncated(f"{failed}: {error}")
        case botocore.exceptions.BotoCoreError() | OSError() | ValueError():
            return e.StoreError(f"{failed}: {error}", hint=_hint(error))
        case _:
            return None


def _refusal(error: botocore.exceptions.ClientError, failed: str) -> e.StoreError:
    answer = error.response.get("Error", {})
    code, message = str(answer.get("Code", "?")), str(answer.get("Message", ""))
    text = f"{failed}: {code}{': ' if message else ''}{message}"
    if code in ABSENT:
        return Absent(text)
    if code in DENIED:
        return e.AccessDenied(text, hint=_HINTS["AccessDenied"])
    if code in EXISTS:
        return e.Exists(text)
    if code in NOT_SUPPORTED:
        return NotSupported(text)
    return e.StoreError(text, hint=_HINTS.get(code))


def _hint(error: Exception) -> str | None:
    if str(error).startswith("Invalid endpoint"):
        return (
            "Check BACKUP_S3_ENDPOINT: a host name has letters, digits, hyphens and dots,"
            " no underscore; an IP address is allowed too."
        )
    match error:
        case botocore.exceptions.NoCredentialsError():
            return "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role."
        case botocore.exceptions.SSLError():
            return "If the server has a private certificate, name its CA file in AWS_CA_BUNDLE."
        case botocore.exceptions.HTTPClientError() | botocore.exceptions.ConnectionError():
            return "Check BACKUP_S3_ENDPOINT and the network, including proxies."
        case _:
            return None
