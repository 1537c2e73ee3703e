"""Connect to a database other than the target, which can be missing or is renamed."""

import contextlib
from collections.abc import Iterator

from .. import errors as e
from ..postgres.connection import Connection, Endpoint


@contextlib.contextmanager
def connection(endpoint: Endpoint, target: str, *, stays: bool) -> Iterator[Connection]:
    """Connect to the server for statements about databases and roles.

    Where the target exists and `stays`, the connection may be to the target.
    """
    ways = [endpoint.to("postgres"), endpoint.to("template1"), endpoint]
    failure: e.PgkeepError = e.Refused(f"no database to connect to but {target} itself")
    for way in [*ways, endpoint.to(target)] if stays else ways:
        try:
            opened = way.connect()
        except e.ConnectionFailed as error:
            if "FATAL" not in error.message:
                raise  # no server answers; another database's name would not help
            failure = error
            continue
        if stays or opened.info.dbname != target:
            break
        opened.close()
    else:
        raise failure
    with opened:
        yield opened
