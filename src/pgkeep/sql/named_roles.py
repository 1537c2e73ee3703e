"""Roles in statements, other than owners and grantees: policies and user mappings."""

import re
from collections.abc import Container

from . import statements
from .statements import IDENTIFIER, QUALIFIED, unquoted

_POLICY = re.compile(
    rb"^(?P<begin>CREATE POLICY %b ON (?:ONLY )?%b(?: AS RESTRICTIVE)?(?: FOR [A-Z]+)?)"
    rb" TO (?P<roles>%b(?:, %b)*)(?P<rest> USING \(| WITH CHECK \(|;)"
    % (IDENTIFIER, QUALIFIED, IDENTIFIER, IDENTIFIER),
    re.MULTILINE,
)
_USER_MAPPING = re.compile(
    rb"^CREATE USER MAPPING FOR (?P<roles>%b) SERVER " % IDENTIFIER, re.MULTILINE
)
_NAMING = {"POLICY": _POLICY, "USER MAPPING": _USER_MAPPING}
TYPES = frozenset(_NAMING)
_NO_ROLE = frozenset({b"public", b"PUBLIC"})  # without double quotes it means all roles


def named(kind: str, text: bytes, codec: str) -> list[str]:
    """Return the roles to which an entry of these types applies."""
    match = _NAMING[kind].search(text) if kind in _NAMING else None
    if match is None:
        return []
    found = re.findall(IDENTIFIER, match["roles"])
    return [unquoted(role, codec) for role in found if role not in _NO_ROLE]


def without(kind: str, text: bytes, missing: Container[str], codec: str) -> bytes | None:
    """Return an entry without the missing roles; None if no role remains and it must be skipped.

    A policy without roles would apply to all roles.
    """
    left = [role for role in named(kind, text, codec) if role not in missing]
    if not left:
        return None
    match = _POLICY.search(text)
    if kind != "POLICY" or match is None:
        return text
    roles = b", ".join(statements.quoted(role).encode(codec) for role in left)
    new = match["begin"] + b" TO " + roles + match["rest"]
    return text[: match.start()] + new + text[match.end() :]
