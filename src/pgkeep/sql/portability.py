"""What of a dump a server or a role cannot run, told by the types of its entries before it fails.

Managed services give nobody a superuser, and an older server does not know what a newer one had.
"""

import re
from dataclasses import dataclass, field

from . import statements

# Only superusers may create these (manual, the reference pages of their CREATE commands).
_SUPERUSER = frozenset({
    "ACCESS METHOD", "EVENT TRIGGER", "FOREIGN DATA WRAPPER", "OPERATOR CLASS", "OPERATOR FAMILY",
    "PROCEDURAL LANGUAGE", "PUBLICATION TABLES IN SCHEMA", "SHELL TYPE", "TEXT SEARCH PARSER",
    "TEXT SEARCH TEMPLATE", "TRANSFORM",
})  # fmt: skip
# What only some forms of a command need a superuser for.
_FORMS = {
    "AGGREGATE": re.compile(rb"^ +M?STYPE = internal\b", re.MULTILINE),
    "CAST": re.compile(rb" WITHOUT FUNCTION"),
    "FUNCTION": re.compile(rb"^ +LANGUAGE (?:c|internal)\b|^ +LANGUAGE .* LEAKPROOF\b", re.M),
    "PROCEDURE": re.compile(rb"^ +LANGUAGE (?:c|internal)\b", re.MULTILINE),
    "PUBLICATION": re.compile(rb" FOR ALL TABLES"),
    # With its functions, or a name alone that was never defined.
    "TYPE": re.compile(
        rb"^ +INPUT = |^CREATE TYPE %b\.%b;$" % (statements.IDENTIFIER, statements.IDENTIFIER), re.M
    ),
}
_SYSTEM_PRIVILEGES = re.compile(rb"^(?:GRANT|REVOKE) .*? ON (?:[A-Z]+ )+pg_catalog\.", re.MULTILINE)
_ROUTINES = frozenset({"FUNCTION", "PROCEDURE"})
# What comments and privileges call the kind of an object, where that is not its type.
_LABELS = {
    "AGGREGATE": "(?:AGGREGATE|FUNCTION)", "DOMAIN": "(?:DOMAIN|TYPE)",
    "PROCEDURAL LANGUAGE": "LANGUAGE", "SERVER": "(?:FOREIGN )?SERVER",
}  # fmt: skip
_KINDS_SINCE = {"PUBLICATION TABLES IN SCHEMA": 150000, "STATISTICS DATA": 180000}
_FOR_ROLE = re.compile(rb"^ALTER DEFAULT PRIVILEGES FOR ROLE (%b) " % statements.IDENTIFIER, re.M)
_EXTENSION = re.compile(
    rb"^(?:CREATE EXTENSION IF NOT EXISTS|COMMENT ON EXTENSION) (%b) " % statements.IDENTIFIER,
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Who restores, and where to."""

    version_num: int
    superuser: bool
    roles: frozenset[str] = field(default=frozenset())  # that the role may act as
    extensions: frozenset[str] = field(default=frozenset())  # that it may create


def obstacle(kind: str, text: bytes, target: Target, codec: str) -> str | None:
    """Say why an entry cannot be run; None if nothing is known against it."""
    since = _KINDS_SINCE.get(kind, 0)
    if target.version_num < since:
        return f"PostgreSQL {since // 10000} and newer have it"
    return None if target.superuser else _refusal(kind, text, target, codec)


def followers(kind: str, name: str) -> re.Pattern[str]:
    """Return how the entries about an object are called: its comment, privileges and labels."""
    if kind == "CAST":
        return re.compile(re.escape(name))  # which begins with the kind itself
    own, _, types = name.partition("(") if kind in _ROUTINES else (name, "", "")
    label = f"{_LABELS.get(kind, kind)} (?:{re.escape(own)}|{re.escape(statements.quoted(own))})"
    return re.compile(label + (_arguments(types) if kind in _ROUTINES else "(?: USING .*)?"))


def _arguments(types: str) -> str:
    """Return a pattern for arguments with their modes and names; a routine's own entry has none."""
    if types == ")":
        return r"\((?:OUT .*)?\)"
    inputs = ", ".join(
        f"(?:OUT [^,]*, )*(?!OUT )(?:[^,]* )?{re.escape(part)}" for part in types[:-1].split(", ")
    )
    return rf"\({inputs}(?:, OUT .*)?\)"


def _refusal(kind: str, text: bytes, target: Target, codec: str) -> str | None:
    """Say why an ordinary role cannot create this."""
    form = _FORMS.get(kind)
    if kind in _SUPERUSER or (form is not None and form.search(text)):
        return "only a superuser may create it"
    if kind == "ACL" and _SYSTEM_PRIVILEGES.search(text):
        return "only a superuser may change privileges of system objects"
    if kind == "SUBSCRIPTION" and "pg_create_subscription" not in target.roles:
        return "only a superuser or a member of pg_create_subscription may create it"
    if kind == "DEFAULT ACL" and (role := _found(_FOR_ROLE, text, codec)) not in target.roles:
        return f"the role is not a member of {role}"
    if kind in ("EXTENSION", "COMMENT"):
        extension = _found(_EXTENSION, text, codec)
        if extension is not None and extension not in target.extensions:
            return "only a superuser may create it"
    return None


def _found(pattern: re.Pattern[bytes], text: bytes, codec: str) -> str | None:
    match = pattern.search(text)
    return None if match is None else statements.unquoted(match[1], codec)
