"""Managed servers, which allow no replication connections: recognized by what no other server has.

The role that initdb created (OID 10) is that of the provider. Restoring a dump cannot create it.
"""

from typing import NamedTuple

from .. import errors as e
from ..postgres.connection import Connection


class Provider(NamedTuple):
    """A provider of managed servers."""

    name: str
    role: str | None  # that initdb created
    hosts: tuple[str, ...]  # how the names of its hosts end
    recovery: str  # what the provider has itself


_COPY = "restore to a point in time into a new server"
PROVIDERS = (
    Provider("Amazon RDS or Aurora", "rdsadmin", (".rds.amazonaws.com",), _COPY),
    Provider("Google Cloud SQL", "cloudsqladmin", (), "clone to a point in time"),
    Provider("Google AlloyDB", "alloydbadmin", (), _COPY),
    Provider("Azure Database for PostgreSQL", "azuresu", (".postgres.database.azure.com",), _COPY),
    Provider("Neon", "cloud_admin", (".neon.tech",), "restore a branch to a point in time"),
    Provider("Supabase", None, (".supabase.co", ".supabase.com"), "Point-in-Time Recovery"),
    Provider("DigitalOcean", None, (".db.ondigitalocean.com",), "fork from a point in time"),
    Provider("Aiven", None, (".aivencloud.com",), "fork from a point in time"),
    Provider("Render", None, ("-postgres.render.com",), "Point-in-Time Recovery"),
)


def provider_of(role: str, host: str) -> Provider | None:
    """Return the provider of a server by the role that initdb created and by the host's name."""
    for provider in PROVIDERS:
        if role == provider.role or host.lower().endswith(provider.hosts):
            return provider
    return None


def refuse(connection: Connection) -> None:
    """Refuse a managed server.

    Raises:
        Refused: with what is possible there.

    """
    row = connection.execute("SELECT rolname FROM pg_catalog.pg_roles WHERE oid = 10").fetchone()
    found = provider_of(str(row[0]) if row else "", connection.info.host)
    if found is not None:
        raise e.Refused(
            f"point-in-time recovery with pgkeep is not possible on {found.name}: it allows no"
            " replication connections",
            hint=f"Use what the provider has itself: {found.recovery}. Run pgkeep backup every hour"
            "\nas well, so that the backups are not in the provider's hands only.",
        )
