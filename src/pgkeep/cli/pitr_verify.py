"""pgkeep pitr verify."""

from collections.abc import Iterator

import click

from .. import errors as e
from ..crypt.options import Encryption
from ..pitr import location, verification
from ..pitr.verification import Verified
from ..progress import size
from . import output
from .command import pgkeep_command
from .common import (
    dir_option,
    identity_option,
    jobs_option,
    json_option,
    keys,
    load_config,
    plural,
    print_json,
    target_option,
)


@pgkeep_command("verify", examples=("pgkeep pitr verify", "pgkeep pitr verify --json"))
@click.option("--cluster", metavar="IDENTIFIER", help="Only this system identifier.")
@identity_option
@target_option
@dir_option
@jobs_option
@json_option
def command(*, cluster: str | None, as_json: bool, **common: str | None) -> None:
    """Read all base backups and WAL, and name what is damaged or missing. No server is required.

    The SHA-256 of each file, the structure of its contents, the checksums of PostgreSQL and the
    header of each WAL segment are checked. Exit code 5 if a file is damaged or WAL is missing in a
    window, else 6 if a file cannot be read.

    Of an encrypted base backup without a private key, the stored bytes are compared with their
    SHA-256. Of encrypted WAL without a private key, only the form of the file is checked.
    """
    config = load_config(**common)
    encryption = Encryption(keys=keys(config))
    found: list[Verified] = []
    for place in location.only(list(location.known(config)), cluster):
        with output.current().progress(silent=as_json) as bar:
            found.append(verification.verify(place, encryption, config.settings.jobs, bar))
    if as_json:
        print_json(found)
    else:
        output.show(line for verified in found for line in _lines(verified))
    _conclude(found)


def _lines(found: Verified) -> Iterator[str]:
    for problem in found.problems:
        named = problem.file in problem.error
        yield f"failed: {'' if named else f'{problem.file}: '}{problem.error}"
    for gap in found.gaps:
        yield f"missing: WAL from {gap.first} to {gap.last}"
    keyless = f", {found.by_hash} of them without their contents" if found.by_hash else ""
    good = "checked" if found.problems or found.gaps else "ok"
    count = f"{plural(found.bases, 'base backup')}, {plural(found.files, 'file')}"
    yield (
        f"{good}: cluster {found.system_identifier} in {found.store}: {count} of"
        f" {size(found.bytes)}{keyless}"
    )


def _conclude(found: list[Verified]) -> None:
    """Fail if something is wrong; damage counts more than a file that is not read.

    Raises:
        VerificationFailed: a file is damaged, or WAL is missing.
        StoreError: a file could not be read.

    """
    problems = [problem for verified in found for problem in verified.problems]
    gaps = sum(len(verified.gaps) for verified in found)
    damaged = [problem for problem in problems if problem.exit_code != e.StoreError.exit_code]
    if damaged or gaps:
        raise e.VerificationFailed(
            f"{plural(len(damaged), 'file')} damaged, WAL missing in {plural(gaps, 'place')}",
            hint="Use the copy in the other store, and take a full base backup:"
            " pgkeep pitr base --full.",
        )
    if problems:
        raise e.StoreError(f"{plural(len(problems), 'file')} could not be read")
