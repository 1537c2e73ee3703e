"""The secrets that nothing may contain which leaves the process."""

import contextlib
import os
import urllib.parse
from collections.abc import Iterable

from .. import errors as e
from ..config import Config
from ..settings import SECRETS

_VARIABLES = ("PGPASSWORD", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


def secrets_of(configs: Iterable[Config]) -> set[str]:
    """Return the secrets of these configurations, and of the environment."""
    found = {os.environ.get(name, "") for name in _VARIABLES}
    for config in configs:
        found |= {value.text for name, value in config.values.items() if name in SECRETS}
        with contextlib.suppress(e.UsageError):  # the run itself reports it
            found.add(config.endpoint().params.get("password", ""))
    return found | {urllib.parse.quote(secret, safe="") for secret in found}
