"""Report what shrank since the last verified backup: an emptied table is copied faithfully too."""

import re
from collections.abc import Iterator

from .manifest import Manifest

SMALLEST = 100  # rows; changes of smaller tables are normal


def drift(before: Manifest, after: Manifest, share: float) -> list[str]:
    """Return a warning for every figure that fell by more than `share`, from 0 to 1."""
    return list(_drift(before, after, share))


def _drift(before: Manifest, after: Manifest, share: float) -> Iterator[str]:
    if not (before.full and after.full):
        return
    since = f"since {before.name.stem}"
    if _fell(before.artifact.size, after.artifact.size, share):
        yield (
            f"the backup shrank from {before.artifact.size} to {after.artifact.size} bytes {since}"
        )
    if _fell(len(before.tables), len(after.tables), share):
        yield f"tables fell from {len(before.tables)} to {len(after.tables)} {since}"
    rows = {(table.schema, table.name): table.rows for table in after.tables}
    # Partitions are created and dropped: events_2026_02 replaces events_2026_01.
    shapes = {(table.schema, _shape(table.name)) for table in after.tables}
    for table in before.tables:
        now = rows.get((table.schema, table.name))
        if table.rows < SMALLEST:
            continue
        if now is None and (table.schema, _shape(table.name)) not in shapes:
            yield f"table {table.schema}.{table.name} with {table.rows} rows is missing {since}"
        elif now is not None and _fell(table.rows, now, share):
            yield f"rows of {table.schema}.{table.name} fell from {table.rows} to {now} {since}"


def _shape(name: str) -> str:
    return re.sub("[0-9]+", "0", name)


def _fell(before: int, after: int, share: float) -> bool:
    return after < before * (1 - share)
