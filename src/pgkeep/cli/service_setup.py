"""The service files of pgkeep pitr enable: what is in them, and writing them."""

import getpass
import os
import shlex
import shutil
import sys
from pathlib import Path

from ..config import COMMAND_LINE, CONFIG_FILE, Config
from ..pitr.service_files import Manager, ServiceFacts, files
from ..settings import BUCKET, SECRETS

_PATHS = ("BACKUP_DIR", "BACKUP_SPOOL_DIR", "BACKUP_IDENTITY_FILE")
_SECRETS = {"PGPASSWORD", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "DATABASE_URL", *SECRETS}


def default_manager() -> Manager:
    """Return what starts services on this host."""
    return Manager.SYSTEMD if Path("/run/systemd/system").is_dir() else Manager.NONE


def service_facts(config: Config, spool: Path, folder: Path) -> ServiceFacts:
    """Return how the service runs: as this command does."""
    settings: dict[str, str] = {}
    secrets: list[str] = []
    given = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("PG", "AWS_", "BACKUP_", "POSTGRES_")) and value
    }
    if "DATABASE_URL" in os.environ:
        given["DATABASE_URL"] = ""
    for variable, (text, origin) in config.values.items():
        if origin == COMMAND_LINE:
            given[variable] = text
    if not config.settings.directory.startswith(BUCKET):
        given["BACKUP_DIR"] = config.settings.directory
    for name, value in sorted(given.items()):
        if name in _SECRETS:
            secrets.append(name)
        elif name in (CONFIG_FILE, *_PATHS) or name.endswith("_FILE"):
            settings[name] = value if value.startswith(BUCKET) else str(Path(value).absolute())
        else:
            settings[name] = value
    places = [] if config.settings.directory.startswith(BUCKET) else [config.settings.directory]
    writable = [str(Path(place).absolute()) for place in places]
    if not any(spool.absolute().is_relative_to(place) for place in writable):
        writable.append(str(spool.absolute()))
    return ServiceFacts(
        program=str(Path(shutil.which("pgkeep") or sys.argv[0]).absolute()),
        user=getpass.getuser(),
        target=config.target,
        settings=settings,
        secrets=secrets,
        writable=writable,
        folder=shlex.quote(str(folder)),
    )


def write(manager: Manager, facts: ServiceFacts, folder: Path) -> dict[Path, bool | None]:
    """Write the files; return whether each was written, None if another one exists and stays."""
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[Path, bool | None] = {}
    for name, text in files(manager, facts).items():
        path = folder / name
        if path.exists():
            found[path] = False if path.read_text() == text else None
            continue
        mode = 0o600 if name.endswith(".env") else 0o644
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(handle, "w") as file:
            file.write(text)
        found[path] = True
    return found
