"""Find entries of a dump that a server or a role does not support, before they fail.

Managed services grant no superuser, and an older server does not support newer features.
"""

import re
from dataclasses import dataclass, field

from . import statements

# Only superusers can create these (manual, the reference pages of their CREATE commands).
_SUPERUSER = frozenset({
    "ACCESS METHOD", "EVENT TRIGGER", "FOREIGN DATA WRAPPER", "OPERATOR CLASS", "OPERATOR FAMILY",
    "PROCEDURAL LANGUAGE", "PUBLICATION TABLES IN SCHEMA", "SHELL TYPE", "TEXT SEARCH PARSER",
    "TEXT SEARCH TEMPLATE", "TRANSFORM",
})  # fmt: skip
# Only some forms of these commands require a superuser.
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
# The object kind in comments and privileges, if it differs from the entry type.
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
class TargetServer:
    """The role and the server of a restore."""

    version_num: int
    superuser: bool
    # Roles that the role can give objects to and go on working with these objects, roles that it
    # is a member of in any way, and roles whose privileges it has.
    roles: frozenset[str] = field(default=frozenset())
    memberships: frozenset[str] = field(default=frozenset())
    privileges: frozenset[str] = field(default=frozenset())
    extensions: frozenset[str] = field(default=frozenset())  # extensions that the role can create


def obstacle(kind: str, text: bytes, target: TargetServer, codec: str) -> str | None:
    """Return why an entry cannot be run; None if no reason is known."""
    since = _KINDS_SINCE.get(kind, 0)
    if target.version_num < since:
        return f"it requires PostgreSQL {since // 10000} or newer"
    return None if target.superuser else _refusal(kind, text, target, codec)


def followers(kind: str, name: str) -> re.Pattern[str]:
    """Return a pattern for entries that depend on an object: comment, privileges, labels."""
    if kind == "CAST":
        return re.compile(re.escape(name))  # the name already includes the kind
    own, _, types = name.partition("(") if kind in _ROUTINES else (name, "", "")
    label = f"{_LABELS.get(kind, kind)} (?:{re.escape(own)}|{re.escape(statements.quoted(own))})"
    return re.compile(label + (_arguments(types) if kind in _ROUTINES else "(?: USING .*)?"))


def _arguments(types: str) -> str:
    """Return a pattern for arguments with modes and names, which a routine's entry omits."""
    if types == ")":
        return r"\((?:OUT .*)?\)"
    inputs = ", ".join(
        f"(?:OUT [^,]*, )*(?!OUT )(?:[^,]* )?{re.escape(part)}" for part in types[:-1].split(", ")
    )
    return rf"\({inputs}(?:, OUT .*)?\)"


def _refusal(kind: str, text: bytes, target: TargetServer, codec: str) -> str | None:
    """Return why an ordinary role cannot create this object."""
    form = _FORMS.get(kind)
    if kind in _SUPERUSER or (form is not None and form.search(text)):
        return "only a superuser can create it"
    if kind == "ACL" and _SYSTEM_PRIVILEGES.search(text):
        return "only a superuser can change privileges of system objects"
    if kind == "SUBSCRIPTION" and "pg_create_subscription" not in target.privileges:
        return "only a superuser or a member of pg_create_subscription can create it"
    if kind == "DEFAULT ACL" and (role := _found(_FOR_ROLE, text, codec)) not in target.privileges:
        return f"the role is not a member of {role}"
    if kind in ("EXTENSION", "COMMENT"):
        extension = _found(_EXTENSION, text, codec)
        if extension is not None and extension not in target.extensions:
            return "only a superuser can create it"
    return None


def _found(pattern: re.Pattern[bytes], text: bytes, codec: str) -> str | None:
    match = pattern.search(text)
    return None if match is None else statements.unquoted(match[1], codec)
