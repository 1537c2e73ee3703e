"""pgkeep rekey."""

import textwrap
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import click

from .. import errors as e
from .. import progress
from ..catalog import rekey_run
from ..catalog.catalog import Catalog
from ..catalog.rekey import RekeyOptions
from ..catalog.rekey_plan import Action, Planned, plan
from ..catalog.rekey_run import Outcome
from ..config import Config
from ..crypt.options import Encryption
from ..model.manifest import Manifest
from ..model.naming import BackupName
from ..model.record import DatabaseResult
from ..terminal import printable
from . import output, run_log
from .command import pgkeep_command
from .common import (
    backup_name,
    complete_files,
    dir_option,
    identity_option,
    jobs_option,
    json_option,
    keys,
    load_configs,
    no_backups,
    plural,
    print_json,
    stores,
    target_option,
)
from .run_log import TargetOutcome

_RECORDED = 1000  # results in a record
_PLANS = {
    Action.ENCRYPT: "would be encrypted",
    Action.COPY: "copy would be replaced",
    Action.KEEP: "unchanged",
    Action.MISSING: "missing",
}


@pgkeep_command(
    "rekey",
    examples=(
        "pgkeep rekey --dry-run",
        "pgkeep rekey --identity=/media/usb/backup-key.txt",
        "GNUPGHOME=/media/usb/gnupg pgkeep rekey app_weekly_20261122T020000Z",
    ),
    recorded=True,
)
@click.argument("names", metavar="[NAME]...", nargs=-1, shell_complete=complete_files)
@click.option("--database", metavar="NAME", help="Only backups of this database.")
@click.option("--dry-run", is_flag=True, help="Print what would be done, and change nothing.")
@identity_option
@target_option
@dir_option
@jobs_option
@json_option
def command(
    *, names: tuple[str, ...], database: str | None, dry_run: bool, as_json: bool,
    **common: str | None,
) -> None:  # fmt: skip
    """Encrypt existing backups to the recipients of BACKUP_ENCRYPT_TO, and remove the former files.

    Without NAME, all backups in the directory and in the bucket, also those that are held and those
    that are not encrypted. NAME is the id or name of a backup. Backups that are encrypted exactly
    to these recipients stay as they are. Reading encrypted backups requires their private key:
    --identity, or for GPG the keyring. No plain text is written to a disk.

    The new files are verified before the former ones are removed. An interrupted run can be
    repeated. A damaged backup stays as it is, and the others are encrypted. Exit code 11 if some of
    several backups failed; the code of the failure if all failed.
    """
    configs = load_configs(**common)
    if names and len(configs) > 1:
        raise e.UsageError("NAME requires one target", hint="Choose a target with --target=NAME.")
    wanted = [(config, _encryption(config)) for config in configs]
    documents: list[dict[str, Any]] = []
    outcomes: list[Outcome] = []
    for config, encryption in wanted:
        found = [Catalog(store).read() for store in stores(config)]
        assert encryption.recipients is not None  # noqa: S101 - `_encryption` checks it
        chosen = [backup_name(name, config) for name in names]
        planned = plan(found, encryption.recipients, database=database, names=chosen)
        _check_found(chosen, planned, config)
        lost = [] if names else list(rekey_run.unlisted(found, database))
        if dry_run:
            documents += [_plan_document(each) for each in planned]
            if not as_json:
                _print_plan(planned, lost)
            outcomes += [rekey_run.expected(each) for each in planned] + lost
            continue
        done = _run(config, encryption, planned, silent=as_json) + lost
        run_log.current().ended(config, _recorded(done))
        documents += [_document(outcome) for outcome in done]
        if not as_json:
            _print(done)
        outcomes += done
    if database is not None and not outcomes:
        raise no_backups(store.url for config in configs for store in stores(config))
    if as_json:
        print_json(documents)
    _conclude(outcomes)
    if dry_run:
        count = sum(document["action"] in (Action.ENCRYPT, Action.COPY) for document in documents)
        text = f"would encrypt {plural(count, 'backup')} of {len(documents)}"
        output.current().done(text, as_json=as_json)
        return
    count = sum(bool(outcome.written) for outcome in outcomes)
    text = f"encrypted {plural(count, 'backup')}, {len(outcomes) - count} unchanged"
    output.current().done(text, as_json=as_json)


def _encryption(config: Config) -> Encryption:
    """Return the recipients and the private keys of a target."""
    encryption = config.encryption()
    if encryption.recipients is None:
        raise e.UsageError(
            "rekey requires public keys: BACKUP_ENCRYPT_TO is"
            f" {'none' if encryption.plain else 'not set'}",
            hint="Set BACKUP_ENCRYPT_TO to the recipients that backups are to have.",
        )
    return replace(encryption, keys=keys(config))


def _check_found(wanted: Sequence[BackupName], planned: Sequence[Planned], config: Config) -> None:
    known = {each.name for each in planned}
    for name in wanted:
        if name not in known:
            places = " or ".join(store.url for store in stores(config))
            raise e.Refused(
                f"no backup {name.stem} in {places}",
                hint="List existing backups with: pgkeep list.",
            )


def _run(
    config: Config, encryption: Encryption, planned: Sequence[Planned], *, silent: bool
) -> list[Outcome]:
    with output.current().progress(silent=silent) as bar:
        options = RekeyOptions(encryption=encryption, jobs=config.settings.jobs, progress=bar)
        return list(rekey_run.run(config.store(), planned, options))


def _recorded(outcomes: Sequence[Outcome]) -> TargetOutcome:
    """Return what the record of the run has: the backups that were changed, and failures."""
    results = [
        DatabaseResult(
            database=outcome.name.database,
            backup=outcome.name.stem,
            exit_code=0 if outcome.error is None else outcome.error.exit_code,
            error=None if outcome.error is None else outcome.error.message,
        )
        for outcome in outcomes
        if outcome.written or outcome.error is not None
    ]
    return TargetOutcome(results=results[:_RECORDED], error=_error(outcomes))


def _error(outcomes: Sequence[Outcome]) -> e.PgkeepError | None:
    """Return how a run failed: as its backups did, or, if some are done, with exit code 11."""
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    if not errors:
        return None
    if len(outcomes) == 1:
        return errors[0]
    same = len(errors) == len(outcomes) and len({error.exit_code for error in errors}) == 1
    return e.SomeFailed(
        f"{len(errors)} of {plural(len(outcomes), 'backup')} cannot be encrypted to the new"
        f" recipients: {errors[0].message}",
        hint=errors[0].hint,
        exit_code=errors[0].exit_code if same else None,
    )


def _conclude(outcomes: Sequence[Outcome]) -> None:
    if (error := _error(outcomes)) is not None:
        raise error


def _facts(name: BackupName, manifest: Manifest | None) -> dict[str, Any]:
    """Return what both documents have of a backup."""
    encryption = None if manifest is None else manifest.encryption
    return {
        "id": name.id,
        "backup": name.stem,
        "database": name.database,
        "cipher": None if encryption is None else encryption.cipher,
        "recipients": [] if encryption is None else encryption.recipients,
    }


def _document(outcome: Outcome) -> dict[str, Any]:
    error = outcome.error
    return {
        **_facts(outcome.name, outcome.manifest),
        "written": outcome.written,
        "removed": outcome.removed,
        "retained": outcome.retained,
        "error": None if error is None else error.message,
        "hint": None if error is None else error.hint,
        "exit_code": 0 if error is None else error.exit_code,
    }


def _plan_document(planned: Planned) -> dict[str, Any]:
    return {
        **_facts(planned.name, planned.manifest),
        "size": planned.manifest.artifact.size,
        "action": planned.action,
        "stores": {step.store.url: step.action for step in planned.steps},
    }


def _print(outcomes: Sequence[Outcome]) -> None:
    rows = []
    for outcome in outcomes:
        text = "encrypted" if outcome.written else "unchanged"
        if outcome.error is not None:
            text = f"failed: {outcome.error.message}"
        for message in outcome.retained:
            text += f"; {message}"
        rows.append((outcome.name, outcome.manifest, text))
    _show(rows)


def _print_plan(planned: Sequence[Planned], lost: Sequence[Outcome]) -> None:
    rows: list[tuple[BackupName, Manifest | None, str]] = [
        (each.name, each.manifest, _PLANS[each.action]) for each in planned
    ]
    rows += [(each.name, None, f"failed: {each.error}") for each in lost]
    _show(rows)


def _show(rows: Sequence[tuple[BackupName, Manifest | None, str]]) -> None:
    """Print a table, with a heading for each database."""
    before = None
    for name, manifest, text in rows:
        if name.database != before:
            before = name.database
            output.note(f"database {printable(before)}")
        size = "-" if manifest is None else progress.size(manifest.artifact.size)
        line = f"  {name.id} {name.taken:%Y-%m-%d %H:%M} {name.type:8}{size:>9} "
        wrapped = textwrap.wrap(text, output.WIDTH - len(line))
        output.note(line + wrapped[0])
        for more in wrapped[1:]:
            output.note(" " * len(line) + more)
