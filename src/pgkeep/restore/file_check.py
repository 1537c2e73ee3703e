"""Read a file to its end before the server is changed.

From a bucket it would be fetched twice. Of such a file the end marker, the index and the length are
checked, and every member when it is loaded: into a database that gets its name, or in a transaction
that is committed, only after all members were complete.
"""

from .. import errors as e
from ..artifact import verify
from ..progress import Progress
from .plan import Plan


def check(plan: Plan, progress: Progress) -> str | None:
    """Check the file of a plan; return the SHA-256 of a plain dump.

    Raises:
        VerificationFailed: it is damaged, or another one than its side files describe.
        Refused: a plain dump holds what would reach beyond the target.

    """
    source, artifact, side = plan.source, plan.artifact, plan.side
    progress.step("checking the file")
    if side is not None and (artifact or not plan.options.allow_statements):
        # It may be complete, and yet another one than its side files describe.
        verify.check_digest(source, artifact, side)
    if artifact is None:
        progress.total(source.size)
        return _check_plain(plan, progress)
    verify.check_names(artifact, side.manifest if side else None)
    if not source.remote:
        progress.total(source.size)
        artifact.check_hashes(progress.advance)
    return None


def checks(plan: Plan) -> list[str]:
    """Return what `check` examines, for people."""
    if plan.artifact is None:
        return ["structure of the SQL", *(["SHA-256"] if plan.side and plan.side.sha256 else [])]
    known = plan.side is not None and (plan.side.sha256 or plan.side.manifest)
    if plan.source.remote:
        digest = "SHA-256 of the index" if plan.side and plan.side.index_sha256 else "SHA-256"
        return ["end marker", "index", *([digest] if known else [])]
    return ["end marker", "index", "hashes of all members", *(["SHA-256"] if known else [])]


def _check_plain(plan: Plan, progress: Progress) -> str | None:
    source, allow = plan.source, plan.options.allow_statements
    report = verify.verify_source(
        source, jobs=plan.options.jobs, progress=progress.advance, accept_edited=allow
    )
    if report.connects:
        # Made by pg_dump -C or pg_dumpall (trap A3.7).
        raise e.Refused(
            f"{source.name} holds \\connect or the cluster's roles: it would write into more than"
            f" {plan.target}",
            hint="Make a backup of it, without what reaches beyond a database: pgkeep index FILE.",
        )
    if not allow and report.statements:
        raise e.Refused(
            f"{source.name} holds statements that pg_dump does not write: "
            + "; ".join(report.statements[:5]),
            hint="pgkeep verify FILE lists them. Read them; --allow-statements executes them.",
        )
    return report.sha256
