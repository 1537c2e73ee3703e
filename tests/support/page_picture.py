"""Write docs/page.png, the picture of the page of `pgkeep serve`.

    python -m tests.support.page_picture [FILE.png [WIDTH [light|dark [PATH]]]]

The backups are planted: four databases, with runs that failed, drills, and a night without a run.
"""

import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from playwright.sync_api import sync_playwright

from pgkeep.catalog import records
from pgkeep.model import record
from pgkeep.model.manifest import Drill, FileFacts, Manifest, TableRows, encode
from pgkeep.model.record import DatabaseResult, Record
from pgkeep.stores.local import LocalStore
from tests.support import invoke, planted
from tests.support.pages import CHROMIUM, serving

PICTURE = Path(__file__).parents[2] / "docs" / "page.png"
NOW = datetime.now(UTC).replace(microsecond=0)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
NO_RUN = 20  # days ago
PHASES = {"download": 4.0, "start": 3.0, "load": 95.0, "index": 41.0, "analyze": 9.0, "check": 60.0}


def backup(database: str, days: int, kind: str, size: int, **more: Any) -> Manifest:
    """Return the backup of a night, which takes longer as the database grows."""
    taken = NOW - days * DAY - 5 * HOUR
    made = msgspec.structs.replace(
        planted.manifest(taken, kind, database=database),
        snapshot=taken,
        finished=taken + timedelta(seconds=size / 4_000_000),
        tables=[TableRows("public", "t", size // 70)],
        cluster="prod-1",
        **more,
    )
    name = made.name.artifact
    return msgspec.structs.replace(made, artifact=FileFacts(name, size, "0"))


def plant(directory: Path, made: Manifest) -> None:
    """Write the manifest, and a file of its size that takes no space."""
    directory.mkdir(exist_ok=True)
    with (directory / made.name.artifact).open("wb") as file:
        file.truncate(made.artifact.size)
    (directory / made.name.manifest).write_bytes(encode(made))


def tier(days: int) -> str | None:
    """Return what retention has kept of a night."""
    day = (NOW - days * DAY).date()
    if day.day == 1:
        return "monthly"
    if day.weekday() == 6 and days < 60:
        return "weekly"
    return "daily" if days < 8 else None


def night(days: int, results: list[DatabaseResult]) -> Record:
    """Return the record of a nightly run."""
    code = max(result.exit_code for result in results)
    error = next((result.error for result in results if result.exit_code), None)
    return Record(
        command="backup", options=["--type=auto"], pgkeep="0.1.0", user="pgkeep", host="db1",
        cluster="prod-1", type="auto", started=NOW - days * DAY - 5 * HOUR,
        finished=NOW - days * DAY - 5 * HOUR + timedelta(minutes=6), exit_code=code, error=error,
        results=results,
    )  # fmt: skip


def databases(directory: Path) -> Iterator[Record]:
    """Plant the backups of half a year; yield the records of the runs that made them."""
    sizes = {
        "app": 840_000_000,
        "billing": 310_000_000,
        "reports": 1_900_000_000,
        "auth": 9_000_000,
    }
    failing = {("reports", days) for days in range(2)} | {("billing", 3)}
    refused = 'could not connect to database "reports": connection refused'
    for days in reversed(range(160)):
        results = []
        for database, size in sizes.items():
            kind = tier(days)
            made = backup(database, days, kind or "daily", round(size * (1 - days / 400)))
            if (database, days) in failing:
                code, error = (3, refused) if database == "reports" else (4, "pg_dump failed")
                results.append(DatabaseResult(database=database, exit_code=code, error=error))
                continue
            results.append(DatabaseResult(database=database, backup=made.name.stem))
            if kind is not None and days != NO_RUN:
                drilled = days == 2 and database != "auth"
                drill = Drill(NOW - DAY, True, PHASES, 0)
                plant(directory, msgspec.structs.replace(made, drills=[drill] if drilled else []))
        if days != NO_RUN:
            yield night(days, results)


def write(path: Path, width: int, scheme: str, page_path: str) -> None:
    """Serve the page from planted backups, and write what a browser shows."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "backups"
        removed = {
            made.name.stem
            for days in range(160)
            for database in ("app", "billing", "reports", "auth")
            if tier(days) is None and days != NO_RUN
            for made in [backup(database, days, "daily", 0)]
        }
        directory.mkdir()
        for number, made in enumerate(databases(directory)):
            own = msgspec.structs.replace(made, removed=[] if number else sorted(removed))
            records.write(LocalStore(directory), record.name_of(own, number), own)
        env = invoke.environment(
            BACKUP_DIR=str(directory), BACKUP_DATABASES="app,billing,reports,auth"
        )
        with serving(env=env) as (url, _), sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
            )
            context = browser.new_context(
                viewport={"width": width, "height": 780},
                color_scheme="dark" if scheme == "dark" else "light",
            )
            page = context.new_page()
            page.goto(url + page_path)
            box = page.locator("main > section").first.bounding_box()
            assert box is not None
            size = {"x": 0, "y": 0, "width": width, "height": box["y"] + box["height"] + 10}
            if path == PICTURE:  # without the stores, which are in a temporary directory
                page.screenshot(path=path, full_page=True, clip=size)  # type: ignore[arg-type]
            else:
                page.screenshot(path=path, full_page=True)
            browser.close()


def main(
    path: str = str(PICTURE), width: str = "1000", scheme: str = "light", at: str = "/"
) -> None:
    """Write the picture."""
    write(Path(path), int(width), scheme, at)


if __name__ == "__main__":
    main(*sys.argv[1:])
