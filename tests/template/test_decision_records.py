"""The records of decisions have one form, and ADR-023 says what its author asked for."""

import itertools
import os
import re
from functools import cache
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from tests.support import baking

# What every record has, in this order; a record may add headings below these.
FORM = [
    "## Status", "## Date", "## Context", "### Requirements", "### Constraints", "## Decision",
    "## Alternatives Considered", "## Consequences", "### Positive", "### Negative",
    "### Risks and Mitigations", "## Implementation", "## Related Decisions", "## References",
]  # fmt: skip


# What the author of ADR-023 asked for: the headings in order, and below each a regular expression
# for every statement. What the product does beyond it, and what it answers otherwise, is marked.
OUTLINE = r"""
# ADR-023: Database Backup Strategy
## Status
^Accepted$
## Date
^\d{4}-\d\d-\d\d$
## Context
requires a reliable database backup strategy
protect against data loss, enable disaster recovery
database migrations and environment cloning
### Requirements
Recovery Point Objective \(RPO\): Maximum acceptable data loss
Development: 24 hours \(daily backups are sufficient\)
Production: near zero, with the PITR option
Recovery Time Objective \(RTO\): Maximum acceptable downtime
< 1 hour for a full database restore
< 10 minutes for selective data recovery
Operational Needs:
Regular automated backups
Multiple retention tiers \(daily, weekly, monthly\)
Remote storage for disaster recovery
restore to a specific point in time \(future enhancement\)
### Constraints
PostgreSQL as the database \(version \d\d\)
various deployment environments \(Docker, Kubernetes, VMs\)
Minimal external dependencies for core backup functionality
Optional cloud storage integration \(S3-compatible\)
## Decision
We will implement a logical backup strategy using pg_dump with the following characteristics
### 1. Backup Method: pg_dump (Logical Backups)
Choice: Use pg_dump for all regular backups
Cross-version compatibility: .*newer major version.* An older version is not guaranteed
Selective restore capability \(individual tables and rows\)
Human-readable SQL output for debugging and auditing
Smaller backup size for typical application databases
No need for PostgreSQL superuser privileges
Works identically across all deployment environments
### 2. Backup Format: Plain-Text SQL with Compression
Choice: Generate plain-text SQL dumps compressed with gzip
Format: \{database\}_\{type\}_\{timestamp\}\.sql\.gz
Can be inspected and modified if needed
Works with standard Unix tools \(zcat, grep, etc\.\)
No special restore tools required beyond psql
Good compression ratio \(~10:1 typical; measured: 1\.9 GB of database in 143 MB
Can be piped directly for streaming operations
### 3. Retention Policy: Tiered Retention
Choice: Implement three retention tiers
\| Daily \| 7 days \| Recent recovery, development \|
\| Weekly \| 4 weeks \| One point in time a week
\| Monthly \| 12 months \| Compliance, long-term archive \|
Balances storage costs with recovery options
Provides multiple recovery points at different granularities
Meets common compliance requirements \(1-year retention\)
Configurable via environment variables for different needs
### 4. Storage: Local with Optional S3
Choice: Primary storage local, optional sync to S3-compatible storage
Local storage ensures fast backup and restore operations
S3 integration provides off-site disaster recovery
S3 lifecycle policies can manage long-term retention
Works with any S3-compatible storage \(AWS, MinIO, etc\.\)
Optional dependency: core functionality works without cloud access
### 5. Verification: Checksum and Structure Validation
Choice: Generate SHA256 checksums, and validate the SQL structure .*on restore
Detects corruption before attempting restore
Quick validation without full restore
Standard checksum format compatible with verification tools
Structure validation catches truncated or incomplete dumps
### 6. Scheduling: External Scheduler
Choice: Provide scripts, rely on external scheduling \(cron, .*Kubernetes CronJob\)
Flexibility to use platform-native scheduling
No additional daemon required
Works with existing monitoring and alerting
Clear separation of concerns
### 7. Fail-Open Pattern
Fail closed until a backup is complete, and fail open afterwards
(?:\|[^|]+\|[^|]+\| [\d a-z,]+ \| ?){4}
### 8. Encryption: Public Keys
Choice: Optional encryption with age or GPG
Private keys are kept elsewhere
Fails closed
## Alternatives Considered
### Alternative 1: pg_basebackup (Physical Backups)
fastest backup and restore for large databases
Required for true point-in-time recovery \(PITR\)
Captures entire cluster state
Requires same PostgreSQL major version for restore
Larger backup size \(entire data directory\)
More complex setup \(WAL archiving configuration\)
Requires superuser or replication privileges
Decision: Rejected for default implementation\. .*\(>100GB\) and are documented as a future
### Alternative 2: pg_dump Custom Format
Supports parallel restore
Selective restore built-in
Slightly smaller than SQL
Requires pg_restore tool
Not human-readable
Version-specific format
Decision: Rejected\. Plain SQL provides better portability and debuggability
Custom format can be used for large databases
### Alternative 3: Third-Party Backup Tools (Barman, pgBackRest)
Full-featured backup management
Built-in PITR support
Incremental backups
Better for enterprise scale
Additional infrastructure \(Barman server
More complex setup
Larger dependency footprint
Overkill for template scope
Decision: Rejected for template inclusion\. .*recommended for production deployments
### Alternative 4: Database-as-a-Service Managed Backups
Zero configuration
Automatic PITR
Managed by provider
Not portable across providers
Not available for self-hosted
Cost implications
Decision: Out of scope\. .*self-hosted deployments\. .*should use provider backup features
### Alternative 5: Plain pg_dump Scripts
Decision: Rejected\. pgkeep does all of this
## Consequences
### Positive
1\. Simple to understand: .*shell scripts with clear logic
2\. Portable: Works across Docker, Kubernetes, VMs, bare metal
3\. Low dependencies: .*only requires PostgreSQL client tools
4\. Debuggable: Plain SQL backups can be inspected
5\. Flexible: Environment variables for all configuration
6\. Testable: Easy to validate in CI/CD pipelines
### Negative
1\. No built-in PITR: Requires additional configuration .*for point-in-time recovery
2\. Full backups only: No incremental backup support
3\. Scaling limits: pg_dump may be slow for very large databases \(>100GB\)\. .*200 GB
4\. Manual scheduling: Requires external cron/scheduler setup
5\. Dependence on Python and pgkeep:
6\. Key management:
### Risks and Mitigations
\| Backup job failure \| Exit codes enable monitoring; recommend alerting
\| Storage exhaustion \| Retention policy auto-cleans; monitor disk space \|
\| Restore takes too long \| Document RTO expectations; .*scale resources \|
\| Backup corruption \| Checksum verification; S3 versioning \|
## Implementation
### File Structure
scripts/ +db-backup\.sh +# Main backup script +db-restore\.sh +# Main restore script
backup-config\.env\.example +# Configuration template
backups/ +# Default backup location +\.gitkeep
docs/ +operations/ +database-recovery\.md +# Recovery procedures
### Interface
\./scripts/db-backup\.sh +# Daily backup
\./scripts/db-backup\.sh --type=weekly +# Weekly backup
\./scripts/db-backup\.sh --verify +# With verification
\./scripts/db-backup\.sh --schema-only +# Schema only
\./scripts/db-restore\.sh --backup=FILE +# Restore from file
\./scripts/db-restore\.sh --verify-only +# Verify without restore
\./scripts/db-restore\.sh --drop-existing +# Replace existing database
### Environment Variables
\| BACKUP_DIR \| \./backups \| Backup storage directory \|
\| BACKUP_RETENTION_DAILY \| 7 \| Days to keep daily backups \|
\| BACKUP_RETENTION_WEEKLY \| 4 \| Weeks to keep weekly backups \|
\| BACKUP_RETENTION_MONTHLY \| 12 \| Months to keep monthly backups \|
\| BACKUP_S3_BUCKET \| \(none\) \| S3 bucket for remote storage \|
\| BACKUP_S3_PREFIX \| backups/ \| S3 prefix for backups \|
## Future Enhancements
The following are documented as potential future improvements
1\. Point-in-Time Recovery \(PITR\) - Done: Configure WAL archiving
Add pg_basebackup for base snapshots
Document recovery_target_time usage
2\. Incremental Backups - Investigate pgBackRest for incremental support
Reduce storage requirements for large databases
3\. Backup Encryption - Done: GPG or age encryption for backups at rest
Done: Key management documentation
4\. Parallel Backup/Restore - Done: .*pg_dump --jobs .*pg_restore --jobs .*custom
5\. Monitoring Integration - Done: Prometheus metrics for backup status
Grafana dashboard for backup health
## Related Decisions
ADR-017: Optional Observability Stack - Follows optional feature pattern
ADR-021: Kubernetes Deployment - CronJob scheduling
ADR-022: Container Security Scanning - Security scanning
## References
PostgreSQL Backup Documentation
pg_dump Manual
Continuous Archiving and PITR
pgkeep
"""
STRATEGY = "docs/adr/023-database-backup-strategy.md"
WORDS = 1800
# Pages of PostgreSQL's manual on which the statements of a section were looked up.
SOURCES = {
    "1. Backup Method: pg_dump (Logical Backups)": {
        "app-pgdump.html#PG-DUMP-NOTES", "backup-file.html", "predefined-roles.html",
        "mvcc-caveats.html",
    },
    "2. Backup Format: Plain-Text SQL with Compression": {"app-pg-dumpall.html"},
    "Alternative 1: pg_basebackup (Physical Backups)": {
        "backup-file.html", "continuous-archiving.html", "app-pgbasebackup.html",
        "backup-dump.html",
    },
    "Alternative 2: pg_dump Custom Format": {"app-pgrestore.html"},
    "Negative": {"routine-vacuuming.html#VACUUM-FOR-SPACE-RECOVERY", "explicit-locking.html"},
    "Future Enhancements": {"runtime-config-wal.html#GUC-RECOVERY-TARGET-TIME"},
    "References": {"backup.html", "app-pgdump.html", "continuous-archiving.html"},
}  # fmt: skip


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A project for every combination of the template's options."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    return baking.combinations(shared / "projects")


def headings(record: Path) -> list[str]:
    """Return the headings with their level, as `## Status`."""
    return _headings(record.read_text())


@cache
def _headings(text: str) -> list[str]:
    tokens = MarkdownIt("commonmark").parse(text)
    return [
        f"{opening.markup} {inline.content}"
        for opening, inline in itertools.pairwise(tokens)
        if opening.type == "heading_open"
    ]


def records(project: Path) -> list[Path]:
    return sorted((project / "docs" / "adr").glob("0*.md"))


def test_every_record_has_the_same_form(projects: dict[str, Path]) -> None:
    """Also without the option that it decides about."""
    for project in projects.values():
        found = records(project)
        assert [path.name[:3] for path in found] == ["017", "021", "022", "023", "025"]
        for record in found:
            title, *rest = headings(record)
            assert re.fullmatch(rf"# ADR-{record.name[:3]}: \S.*", title), record
            assert [heading for heading in rest if heading in FORM] == FORM, record
            levels = {heading for heading in rest if heading.startswith("## ")}
            assert levels - set(FORM) <= {"## Future Enhancements"}, record
            for heading in rest:
                section = baking.section_text(record, heading.lstrip("# "))
                words: tuple[str, ...] = ()
                if re.match(r"### \d\. ", heading):
                    words = ("Choice", "Rationale")
                elif heading.startswith("### Alternative "):
                    words = ("Pros", "Cons", "Decision")
                for word in words:
                    assert re.search(rf"^\*\*{word}:\*\*\s+\S", section, re.MULTILINE), heading


def outline() -> dict[str, list[str]]:
    """Return the statements of every heading."""
    found: dict[str, list[str]] = {}
    for line in OUTLINE.strip().splitlines():
        if re.match("#+ ", line):
            found[line] = []
        else:
            found[[*found][-1]].append(line)
    return found


def read(record: Path, heading: str) -> str:
    """Return a section as a reader sees it: no links, no emphasis, and on one line."""
    _, _, below = record.read_text().partition(f"\n{heading}\n")
    section = re.split(r"^##+ ", below, maxsplit=1, flags=re.MULTILINE)[0]  # `# ` also is a comment
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", section)
    return " ".join(re.sub(r"\*\*|`", "", text).split())


def test_adr_023_is_what_its_author_asked_for(projects: dict[str, Path]) -> None:
    """Every heading in every project; every statement in the one with all options."""
    wanted = outline()
    for project in projects.values():
        assert headings(project / STRATEGY) == [*wanted]
    record = projects["yes-yes-yes-yes-yes"] / STRATEGY
    missing = [
        (heading, statement)
        for heading, statements in wanted.items()
        for statement in statements
        if not re.search(statement, read(record, heading))
    ]
    assert missing == []


def test_adr_023_is_concise(projects: dict[str, Path]) -> None:
    """Counted as `wc -w` counts the rendered file."""
    counts = {name: len((project / STRATEGY).read_text().split())
              for name, project in projects.items()}  # fmt: skip
    assert max(counts.values()) <= WORDS


def test_statements_about_postgresql_have_a_source(projects: dict[str, Path]) -> None:
    """A link to the page of the manual, in the section of the statement."""
    manual = r"https://www\.postgresql\.org/docs/[^/)]+/([^)]+)\)"
    for project in projects.values():
        record = project / STRATEGY
        found = {
            heading: pages
            for heading in baking.sections(record)
            if (pages := set(re.findall(manual, baking.section_text(record, heading))))
        }
        assert found == SOURCES


def test_the_link_to_pgkeep_leads_to_it(projects: dict[str, Path]) -> None:
    """The project has no page on the web; what the link names is in every generated project."""
    for project in projects.values():
        targets = re.findall(r"\[pgkeep\]\(([^)]+)\)", (project / STRATEGY).read_text())
        assert len(targets) == 2
        for target in targets:
            path, _, anchor = target.partition("#")
            page = (project / STRATEGY).parent / path
            assert anchor in {"", *baking.anchors(page)}
            assert "./scripts/pgkeep.sh --help" in baking.section_text(page, "pgkeep")
