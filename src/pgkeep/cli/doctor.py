"""pgkeep doctor."""

import msgspec

from .. import errors as e
from ..doctor import encryption, examine, point_in_time
from ..doctor.examine import Diagnosis
from ..model.database_patterns import CONNECTED
from ..terminal import printable
from . import output
from .command import pgkeep_command
from .common import (
    configured_stores,
    connection_options,
    dir_option,
    jobs_option,
    json_option,
    load_config,
    plural,
    print_json,
    target_option,
)


@pgkeep_command(
    "doctor",
    examples=(
        "pgkeep doctor",
        "pgkeep doctor --dsn=postgresql://backup@db.example/app --json",
    ),
)
@connection_options
@target_option
@dir_option
@jobs_option
@json_option
def command(
    *,
    dsn: str | None,
    database: str | None,
    target: str | None,
    directory: str | None,
    jobs: str | None,
    as_json: bool,
) -> None:
    """Find problems that would make a backup fail, with the statement that fixes each.

    Every database of BACKUP_DATABASES is checked, or the one that --database names. Excluded
    databases are listed. Nothing is changed. In a bucket, a file is written, read and removed
    again. Exit code 4 if a backup would fail.
    """
    config = load_config(target=target, dsn=dsn, directory=directory, jobs=jobs)
    wanted = CONNECTED if database is not None else config.settings.databases
    report = examine.examine(
        config.endpoint(database),
        configured_stores(config),
        config.settings.jobs,
        wanted,
        chosen=database is not None,
        named=config.connected() is not None,
    )
    state, found = encryption.examine(
        config.settings.encrypt_to if config.encrypts else None,
        config.settings.identity_files,
        configured_stores(config),
        plain=config.settings.encrypt_to is not None,
    )
    found += point_in_time.examine(config, config.endpoint(database), configured_stores(config))
    report = msgspec.structs.replace(report, encryption=state, findings=[*report.findings, *found])
    if as_json:
        print_json(report)
    else:
        _print(report)
    errors = sum(finding.level == "error" for finding in report.findings)
    if errors:
        which = f" of {', '.join(report.databases)}" if len(report.databases) == 1 else ""
        raise e.DumpFailed(f"a backup{which} would fail: {plural(errors, 'finding')} above")


def _print(report: Diagnosis) -> None:
    output.say(f"server     PostgreSQL {report.server} at {report.address}, role {report.role}")
    for name, tables in report.databases.items():
        output.say(f"database   {printable(name)}, {plural(tables, 'table')}")
    for excluded in report.excluded:
        output.say(f"excluded   {printable(excluded.database)}, {excluded.reason}")
    output.say(f"programs   {report.client}")
    for url, state in report.stores.items():
        output.say(f"store      {url}, {state}")
    if report.encryption is not None:
        output.say(f"encryption {report.encryption}")
    for finding in report.findings:
        output.say(f"{finding.level}: {finding.message}")
        for line in (finding.remedy or "").splitlines():
            output.say(f"    {line}")
    if not report.findings:
        output.say("no problems found")
