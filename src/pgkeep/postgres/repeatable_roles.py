"""pg_dumpall's SQL for roles in a form that other servers and other roles can execute.

- It tolerates existing roles (trap A3.4). They keep their attributes, passwords, settings and
  comments, which can have been changed since, and are not made members of each other.
- A role that is not a superuser creates the roles with everything that it is allowed to set, and
  the server warns of everything else. pg_dumpall's own statements set each attribute, also to its
  default, and only a superuser can do that (trap A4.6).
"""

import hashlib
import re

_NAME = rb'(?:"(?:[^"]|"")*+"|[^";\s]+)'
_REST = rb"(?:[^\n';]|'[^']*')*;"
# Quoted names and comments on roles can contain similar text, which is skipped.
_STATEMENT = re.compile(
    rb"^(?:(?P<create>CREATE ROLE (?P<role>%(name)b);)"
    rb"(?:\n(?P<alter>ALTER ROLE (?P=role) WITH (?P<attributes>%(rest)b)))?"
    rb"|(?P<label>(?:ALTER|COMMENT ON) ROLE (?P<about>%(name)b) (?:SET [^\s;]+|IS)) %(rest)b"
    rb"|(?P<grant>GRANT (?P<group>%(name)b) TO (?P<member>%(name)b)(?:[^\n;'\"]|%(name)b)*);)$"
    rb"""|--[^\n]*|'[^']*'|"[^"]*\"""" % {b"name": _NAME, b"rest": _REST},
    re.MULTILINE,
)
# The attributes that a new role does not have by default.
_ATTRIBUTE = re.compile(
    rb"\b(?:NOINHERIT|SUPERUSER|CREATEROLE|CREATEDB|LOGIN|REPLICATION|BYPASSRLS"
    rb"|CONNECTION LIMIT -?[0-9]+|(?:PASSWORD|VALID UNTIL) '(?:[^']|'')*+')(?=[ ;])"
    rb"|'(?:[^']|'')*+'"
)
_GRANTOR = re.compile(rb" GRANTED BY %b$" % _NAME)


def repeatable_roles(script: bytes) -> bytes:
    """Return the SQL for roles in the repeatable form."""
    return _STATEMENT.sub(_repeatable, script)


def _repeatable(match: re.Match[bytes]) -> bytes:
    if match["create"] is not None:
        return _block(_creation(match))
    names = [match[group] for group in ("about", "group", "member") if match[group] is not None]
    if not names:
        return match.group()
    otherwise = _warning(match["label"] or match["grant"])
    if match["grant"] is not None:
        # A role that is not the grantor, nor a member of it, cannot name it.
        own = b" %b;" % _GRANTOR.sub(b"", match["grant"])
        otherwise = _attempt(own, b"OTHERS", otherwise)
    body = _attempt(b"\n" + match.group(), b"insufficient_privilege", otherwise)
    made = b", ".join(b"pg_catalog.current_setting('%b', true)" % _mark(name) for name in names)
    return _block(b"IF 'made' IN (%b) THEN\n%b\nEND IF;" % (made, body))


def _creation(match: re.Match[bytes]) -> bytes:
    """Return the statements that create a role if it is missing, all in one transaction."""
    role, body = match["role"], match["create"]
    if match["alter"] is not None:
        found = (attribute.group() for attribute in _ATTRIBUTE.finditer(match["attributes"]))
        single = [
            _attempt(
                b" ALTER ROLE %b WITH %b;" % (role, attribute),
                b"OTHERS",
                _warning(b"ROLE %b %b" % (role, attribute.partition(b" '")[0])),
            )
            for attribute in found
            if not attribute.startswith(b"'")
        ]
        otherwise = b"\n".join(single) or b"NULL;"
        body += b"\n" + _attempt(b"\n" + match["alter"], b"insufficient_privilege", otherwise)
    return b"%b\nPERFORM pg_catalog.set_config('%b', 'made', false);\n%b" % (
        body, _mark(role), b"EXCEPTION WHEN duplicate_object THEN NULL;",
    )  # fmt: skip


def _attempt(statement: bytes, condition: bytes, otherwise: bytes) -> bytes:
    """Return a block that continues after an error.

    Only pg_dumpall's own statements begin a line: drills find attributes and memberships there.
    """
    return b"BEGIN%b\nEXCEPTION WHEN %b THEN\n%b\nEND;" % (statement, condition, otherwise)


def _warning(label: bytes) -> bytes:
    return b"RAISE WARNING '%%: %%', '%b', SQLERRM;" % label.replace(b"'", b"''")


def _mark(role: bytes) -> bytes:
    """Return the setting that records, until the session ends, that it created the role."""
    return b"pgkeep.role_" + hashlib.sha256(role).hexdigest()[:16].encode()


def _block(body: bytes) -> bytes:
    tag = b"$pgkeep$"
    while tag in body:
        tag = tag[:-1] + b"_$"
    return b"DO %b BEGIN %b END %b;" % (tag, body, tag)
