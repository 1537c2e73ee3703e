"""Decide which code of a dump a statement could run if a superuser executed it."""

import re
from typing import NamedTuple

_NAME = rb'(?:"(?:[^"]|"")*+"|[^\s"().;,\']+)'

# ALTER of these takes a single action; of relations it takes a list of them.
_KINDS = (
    rb"AGGREGATE|COLLATION|CONVERSION|DOMAIN|EVENT TRIGGER|FOREIGN DATA WRAPPER|FUNCTION"
    rb"|LARGE OBJECT|(?:PROCEDURAL )?LANGUAGE|OPERATOR(?: CLASS| FAMILY)?|PROCEDURE|PUBLICATION"
    rb"|SCHEMA|SERVER|STATISTICS|SUBSCRIPTION|TEXT SEARCH (?:CONFIGURATION|DICTIONARY)|TYPE"
)
ALTER_OWNER = re.compile(
    rb"ALTER (?:(?:FOREIGN TABLE|TABLE|VIEW|MATERIALIZED VIEW|SEQUENCE) (?:ONLY )?%b\.%b"
    rb"|(?:%b) (?:\"(?:[^\"]|\"\")*+\"|[^;'\"$])+?) OWNER TO (?P<owner>%b);\s*"
    % (_NAME, _NAME, _KINDS, _NAME)
)
SCHEMA = re.compile(
    rb"(?:CREATE SCHEMA %b|ALTER SCHEMA %b OWNER TO %b);\s*" % (_NAME, _NAME, _NAME)
)
CREATE_EXTENSION = re.compile(
    rb"CREATE EXTENSION (?:IF NOT EXISTS )?%b(?: WITH SCHEMA %b)?;\s*" % (_NAME, _NAME)
)
EVENT_TRIGGER = re.compile(rb"CREATE EVENT TRIGGER (?P<name>%b) ON [^;]*;\s*" % _NAME)
# A function's parameters may have defaults, whose literals are read; so no literal and no sign of
# a default is allowed before the body, and nothing after it. Of C only what is installed.
_FUNCTION = re.compile(
    rb"CREATE (?:FUNCTION|PROCEDURE) (?P<head>[^'$=]*?)\n    AS "
    rb"(?P<body>'(?:[^']|'')*+'(?:, '[^']*')?|(?P<tag>\$\w*\$).*?(?P=tag));\s*",
    re.DOTALL,
)
_LANGUAGE = re.compile(rb"\n    LANGUAGE (?P<name>\w+)\b")

# What is harmless in the superuser's session as a single statement: names, options and comments,
# but no expressions, and no call of a function that the dump has defined.
_HARMLESS = re.compile(
    rb"COMMENT ON |SECURITY LABEL |CREATE TYPE |CREATE CAST |CREATE OPERATOR (?:CLASS|FAMILY) "
    rb"|ALTER OPERATOR FAMILY |CREATE ACCESS METHOD |CREATE TRANSFORM "
    rb"|CREATE (?:OR REPLACE )?(?:TRUSTED )?(?:PROCEDURAL )?LANGUAGE "
    rb"|CREATE TEXT SEARCH (?:PARSER|TEMPLATE) "
    rb"|CREATE FOREIGN DATA WRAPPER (?!.*VALIDATOR)|CREATE AGGREGATE (?!.*INITCOND)"
    rb"|(?:CREATE|ALTER) PUBLICATION (?!.*WHERE)"
    rb"|CREATE SUBSCRIPTION %b CONNECTION '(?:[^']|'')*+' PUBLICATION [^'();]*"
    rb" WITH \(connect = false\b" % _NAME,
    re.DOTALL | re.IGNORECASE,
)
_ESCAPED = re.compile(rb"(?i)u&[\"']")  # may spell anything
_SESSION_OF = re.compile(rb"SET SESSION AUTHORIZATION (?P<role>%b);\s*" % _NAME)
_SESSION_END = re.compile(rb"RESET SESSION AUTHORIZATION;\s*")


def is_harmless(statement: bytes) -> bool:
    """Return whether a single statement runs no code of the dump, in any role."""
    return _HARMLESS.match(statement) is not None and not _ESCAPED.search(statement)


class Function(NamedTuple):
    """A function whose creation runs nothing but the validator of its language."""

    language: str
    body: bytes

    @classmethod
    def of(cls, statement: bytes) -> "Function | None":
        """Return the function that a statement creates, if that is all it does."""
        match = _FUNCTION.fullmatch(statement)
        if match is None or re.search(rb"(?i)\bDEFAULT\b", match["head"]):
            return None
        language = _LANGUAGE.search(match["head"])
        return None if language is None else cls(language["name"].decode(), match["body"])


def as_role(statement: bytes) -> bytes:
    """Have a grant of another role be given by a session that may be this one, too."""
    if match := _SESSION_OF.fullmatch(statement):
        return b"SET ROLE %b;" % match["role"]
    return b"RESET ROLE;" if _SESSION_END.fullmatch(statement) else statement
