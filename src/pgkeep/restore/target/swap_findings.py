"""Query what prevents renaming a database, and which replication would be lost with its name."""

from collections.abc import Iterator, Sequence
from enum import StrEnum

import msgspec
from psycopg import sql

from ...postgres.connection import Connection
from ...postgres.database_swap import remaining_sessions
from ...postgres.facts import shared_rows

_WITHOUT_SESSIONS = ("pg_receivewal", "pg_basebackup")  # clients of replication, not servers


class Effect(StrEnum):
    """What a finding means for a swap."""

    PREVENTS = "prevents the swap"
    LOSES = "loses replication"  # refused without --accept-replication-loss
    NOTE = "note"


class Kind(StrEnum):
    """What was found."""

    PREPARED = "prepared transaction"
    SLOT = "logical replication slot"
    SUBSCRIPTION = "subscription"
    SESSION = "session"
    REPLICA = "replica"
    PRIVILEGE = "privilege"
    DATABASE = "database"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something that a swap has to respect, and what to do about it."""

    kind: Kind
    name: str
    database: str
    effect: Effect
    message: str
    remedy: str

    @property
    def may_end(self) -> bool:
        """Whether this can end by itself within seconds."""
        return self.kind in (Kind.PREPARED, Kind.SESSION)


def in_use(connection: Connection, databases: Sequence[str]) -> Iterator[Finding]:
    """Yield what nobody but its user can end: prepared transactions, sessions of other roles."""
    for gid, owner, database in shared_rows(
        connection,
        "SELECT gid, owner::pg_catalog.text, database::pg_catalog.text"
        " FROM pg_catalog.pg_prepared_xacts WHERE database = ANY (%s) ORDER BY prepared",
        list(databases),
    ):
        literal = sql.Literal(gid).as_string(None)
        yield Finding(
            kind=Kind.PREPARED,
            name=gid,
            database=database,
            effect=Effect.PREVENTS,
            message=f"prepared transaction {gid} of role {owner} is open in database {database}",
            remedy=f"Connect to database {database} as role {owner}, and run COMMIT PREPARED"
            f" {literal}; or ROLLBACK PREPARED {literal};",
        )
    for database in databases:
        for session in remaining_sessions(connection, [database], may_end=False):
            yield Finding(
                kind=Kind.SESSION,
                name=session,
                database=database,
                effect=Effect.PREVENTS,
                message=f"the role is not allowed to end a session of database {database}:"
                f" {session}",
                remedy="GRANT pg_signal_backend to the role (sessions of superusers require a"
                " superuser), or end the session yourself.",
            )


def replication(
    connection: Connection, database: str, incoming: str | None = None
) -> Iterator[Finding]:
    """Yield what replicates from or into a database by its OID, and so stays with the old one.

    A disabled subscription is not lost if it has no slot, or if the new database, where that is
    known, also has it.
    """
    others = subscriptions(connection, incoming) if incoming is not None else []
    also = {(name, slot) for name, _, slot, *_ in others}
    for slot, active in slots(connection, database):
        yield Finding(
            kind=Kind.SLOT,
            name=slot,
            database=database,
            effect=Effect.LOSES,
            message=f"logical replication slot {slot} stays with the old database"
            f" ({'active' if active else 'inactive'} now): its subscriber receives nothing"
            " more, and the slot retains WAL without limit",
            remedy="After the swap, create the slot again in the new database and let the"
            f" subscriber copy its tables again. Then drop the old one: {drop_slot(slot)}",
        )
    for name, enabled, publisher_slot, owner, may_alter in subscriptions(connection, database):
        if enabled or (publisher_slot is not None and (name, publisher_slot) not in also):
            yield _subscription(database, name, publisher_slot, enabled=enabled)
        else:
            yield Finding(
                kind=Kind.SUBSCRIPTION,
                name=name,
                database=database,
                effect=Effect.NOTE,
                message=f"subscription {name} of database {database} is disabled",
                remedy="If a swap that was killed has disabled it, run in that database: ALTER"
                f" SUBSCRIPTION {sql.Identifier(name).as_string(None)} ENABLE;",
            )
        if enabled and not may_alter:
            yield Finding(
                kind=Kind.PRIVILEGE,
                name=name,
                database=database,
                effect=Effect.PREVENTS,
                message=f"the role is not allowed to disable subscription {name} of role {owner}",
                remedy="Swap as the owner of the subscription, as a member of the owner, or as a"
                " superuser.",
            )
    yield from _replicas(connection, database)


def _replicas(connection: Connection, database: str) -> Iterator[Finding]:
    """Yield the replicas, whose sessions nobody ends."""
    replicas = shared_rows(
        connection,
        "SELECT r.pid, COALESCE(r.application_name, '') FROM pg_catalog.pg_stat_replication r"
        " WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots s"
        " WHERE s.active_pid = r.pid AND s.slot_type = 'logical')"
        " AND COALESCE(r.application_name, '') <> ALL (%s) ORDER BY r.pid",
        [*_WITHOUT_SESSIONS],
    )
    for pid, name in replicas:
        yield Finding(
            kind=Kind.REPLICA,
            name=name,
            database=database,
            effect=Effect.NOTE,
            message=f"replica {name or '(without a name)'} (WAL sender {pid}): sessions that it has"
            f" in database {database} go on reading the old database",
            remedy="After the swap, end them on the replica: SELECT"
            " pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity WHERE datname"
            " = the new name of the old database;",
        )


def _subscription(database: str, name: str, slot: str | None, *, enabled: bool) -> Finding:
    effect = "it would go on writing there" if enabled else "it is disabled"
    publisher = f", and its slot {slot} retains WAL on the publisher" if slot is not None else ""
    return Finding(
        kind=Kind.SUBSCRIPTION,
        name=name,
        database=database,
        effect=Effect.LOSES,
        message=f"subscription {name} stays with the old database: {effect}{publisher}",
        remedy="After the swap, enable the subscription in the new database, if the backup contains"
        " it, or create it again; let it copy its tables again. Then drop that of the old database:"
        f" {drop_subscription(name)}",
    )


def slots(connection: Connection, database: str) -> list[tuple[str, bool]]:
    """Return the logical replication slots of a database, and whether each is active."""
    return [
        (slot, active)
        for slot, active in shared_rows(
            connection,
            "SELECT slot_name::pg_catalog.text, active FROM pg_catalog.pg_replication_slots"
            " WHERE slot_type = 'logical' AND NOT temporary AND database = %s ORDER BY slot_name",
            database,
        )
    ]


def subscriptions(
    connection: Connection, database: str
) -> list[tuple[str, bool, str | None, str, bool]]:
    """Return the subscriptions in a database: name, enabled, slot, owner, may be altered."""
    return [
        (name, enabled, slot, owner, may_alter)
        for name, enabled, slot, owner, may_alter in shared_rows(
            connection,
            "SELECT s.subname::pg_catalog.text, s.subenabled, s.subslotname::pg_catalog.text,"
            " pg_catalog.pg_get_userbyid(s.subowner)::pg_catalog.text,"
            " pg_catalog.pg_has_role(s.subowner, 'USAGE')"
            " FROM pg_catalog.pg_subscription s JOIN pg_catalog.pg_database d ON d.oid = s.subdbid"
            " WHERE d.datname = %s ORDER BY s.subname",
            database,
        )
    ]


def drop_slot(slot: str) -> str:
    """Return the statement that drops a replication slot."""
    return f"SELECT pg_catalog.pg_drop_replication_slot({sql.Literal(slot).as_string(None)});"


def drop_subscription(name: str) -> str:
    """Return the statements that drop a subscription without its slot on the publisher."""
    identifier = sql.Identifier(name).as_string(None)
    return (
        f"ALTER SUBSCRIPTION {identifier} DISABLE; ALTER SUBSCRIPTION {identifier} SET (slot_name"
        f" = NONE); DROP SUBSCRIPTION {identifier};"
    )
