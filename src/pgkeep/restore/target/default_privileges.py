"""Suspend default privileges of the restoring role (manual, ALTER DEFAULT PRIVILEGES).

pg_dump writes the privileges of an object as what differs from the built-in ones, and writes none
where nothing differs. Where the target has default privileges, each object would get them as well.
So they are suspended, in the transaction that creates the objects.
"""

from typing import NamedTuple

from ...postgres.connection import Connection

_NOUNS = {
    "r": "TABLES", "S": "SEQUENCES", "f": "FUNCTIONS", "T": "TYPES", "n": "SCHEMAS",
    "L": "LARGE OBJECTS",
}  # fmt: skip

# What an entry of pg_default_acl adds to the privileges without it, and what it takes from them:
# an entry of a schema only adds, a global one replaces the built-in privileges.
_DIFFERENCES = """
WITH entry AS (
    SELECT d.defaclobjtype AS kind, n.nspname AS schema, d.defaclacl AS acl,
           CASE WHEN d.defaclnamespace = 0 THEN pg_catalog.acldefault(
               CASE d.defaclobjtype WHEN 'S' THEN 's'::"char" ELSE d.defaclobjtype END,
               d.defaclrole) END AS builtin
    FROM pg_catalog.pg_default_acl d
    LEFT JOIN pg_catalog.pg_namespace n ON n.oid = d.defaclnamespace
    WHERE d.defaclrole = (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = current_user)
), present AS (
    SELECT kind, schema, a.grantee, a.privilege_type, a.is_grantable
    FROM entry, pg_catalog.aclexplode(acl) a
), builtin AS (
    SELECT kind, schema, a.grantee, a.privilege_type, a.is_grantable
    FROM entry, pg_catalog.aclexplode(builtin) a
), different AS (
    SELECT true AS added, extra.* FROM (TABLE present EXCEPT TABLE builtin) extra
    UNION ALL
    SELECT false, missing.* FROM (TABLE builtin EXCEPT TABLE present) missing
)
SELECT added, kind::pg_catalog.text, pg_catalog.quote_ident(schema), privilege_type, is_grantable,
       CASE grantee WHEN 0 THEN 'PUBLIC'
            ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(grantee)) END
FROM different ORDER BY added, 2, 3, 4, 6
"""


class Difference(NamedTuple):
    """One privilege that the target's default privileges add (or take away)."""

    added: bool
    kind: str
    schema: str | None  # in double quotes where it needs them, as the grantee
    privilege: str
    grantable: bool
    grantee: str

    def __str__(self) -> str:
        place = f" in schema {self.schema}" if self.schema is not None else ""
        what = f"{self.privilege} on {_NOUNS[self.kind].lower()}{place}"
        return f"{what} to {self.grantee}" if self.added else f"no {what} to {self.grantee}"

    def apply(self, *, added: bool) -> str:
        """Return the statement that adds this privilege, or takes it away."""
        place = f"IN SCHEMA {self.schema} " if self.schema is not None else ""
        what = f"{self.privilege} ON {_NOUNS[self.kind]}"
        if not added:
            return f"ALTER DEFAULT PRIVILEGES {place}REVOKE {what} FROM {self.grantee}"
        option = " WITH GRANT OPTION" if self.grantable else ""
        return f"ALTER DEFAULT PRIVILEGES {place}GRANT {what} TO {self.grantee}{option}"


def differences(connection: Connection) -> list[Difference]:
    """Return what the default privileges of the role change, those taken away first."""
    return [Difference(*row) for row in connection.execute(_DIFFERENCES)]


def suspend(connection: Connection, *, kinds: str | None = None) -> list[Difference]:
    """Make new objects get the built-in privileges; return what `resume` needs.

    The caller has a transaction open, in which it calls `resume`: no other session notices it.
    """
    found = [
        difference
        for difference in differences(connection)
        if kinds is None or difference.kind in kinds
    ]
    # A privilege that is revoked takes its grant option along: first revoke, then grant.
    for difference in sorted(found, key=lambda difference: not difference.added):
        connection.execute(difference.apply(added=not difference.added).encode())
    return found


def resume(connection: Connection, suspended: list[Difference]) -> None:
    """Give the role its default privileges back, on top of those that were restored."""
    for difference in suspended:
        connection.execute(difference.apply(added=difference.added).encode())


def warnings(connection: Connection, target: str, kinds: str | None = None) -> list[str]:
    """Say which default privileges apply where a restore leaves privileges out."""
    found = [
        str(difference)
        for difference in differences(connection)
        if kinds is None or difference.kind in kinds
    ]
    if not found:
        return []
    more = f" and {len(found) - 7} more" if len(found) > 7 else ""
    return [f"default privileges of {target} apply to new objects: {', '.join(found[:7])}{more}"]
