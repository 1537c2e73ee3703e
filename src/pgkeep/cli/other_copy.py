"""Another copy of a damaged backup, and the command that uses it."""

import shlex
from contextlib import suppress
from pathlib import Path

from .. import errors as e
from ..catalog import files, manifests
from ..config import Config
from ..model import naming
from ..stores.local import LocalStore
from ..stores.store import Store
from .common import configured_stores


def find(store: Store, name: str, config: Config) -> Store | None:
    """Return another store of the target that has the same backup; its file is not read."""
    parsed = naming.parse(name)
    if parsed is None:
        return None
    sha256 = None
    with suppress(e.StoreError, e.VerificationFailed):
        sha256 = manifests.read(store, parsed.manifest).artifact.sha256
    others = [other for other in configured_stores(config) if _place(other) != _place(store)]
    return files.same_backup(others, parsed, sha256)


def _place(store: Store) -> str | Path:
    return store.directory.resolve() if isinstance(store, LocalStore) else store.url


def add_hint(error: e.PgkeepError, store: Store, name: str, config: Config, *commands: str) -> None:
    """Add commands for another copy of a damaged backup to the hint, if a copy exists."""
    copy = find(store, name, config)
    if copy is None:
        return
    url = copy.url_of(name)
    target = "" if config.target is None else f" --target={shlex.quote(config.target)}"
    lines = [f"{url} is another copy of this backup. Use it with:"]
    lines += [f"pgkeep {command}{shlex.quote(url)}{target}" for command in commands]
    error.hint = "\n".join([*([error.hint] if error.hint else []), *lines])
