"""Lifecycle rules of a bucket that would remove WAL or base backups, or make them unreadable.

Pure decisions from the rules as the service returns them.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..backup.findings import Finding

DAY = 86400.0
ARCHIVES = frozenset({"GLACIER", "DEEP_ARCHIVE"})  # an object has to be restored before it is read
_REMEDY = (
    "Give the rule a prefix or a tag that does not include {folder}. pgkeep pitr base removes what"
    " BACKUP_WINDOW no longer needs."
)


def findings(
    rules: Sequence[Mapping[str, Any]], url: str, folder: str, window: float
) -> Iterator[Finding]:
    """Yield the rules that concern the objects whose keys begin with a folder."""
    for rule in rules:
        if rule.get("Status") != "Enabled" or not _concerns(rule, folder):
            continue
        name = f"lifecycle rule {rule.get('ID') or 'without a name'} of {url}"
        remedy = _REMEDY.format(folder=folder)
        expiration = rule.get("Expiration", {})
        if (days := expiration.get("Days")) is not None:
            what = "WAL and base backups, also the last ones and the parents of others"
            if days * DAY < window:
                what = f"WAL and base backups before the {window / DAY:g} days of BACKUP_WINDOW"
            yield Finding("warning", f"{name} removes after {days} days: {what}", remedy)
        elif expiration.get("Date") is not None:
            yield Finding("warning", f"{name} removes all WAL and base backups at a date", remedy)
        for transition in rule.get("Transitions", ()):
            if transition.get("StorageClass") in ARCHIVES:
                yield Finding(
                    "warning",
                    f"{name} moves WAL and base backups to {transition['StorageClass']} after"
                    f" {transition.get('Days', 0)} days, and a restore cannot read them there",
                    f"{remedy} GLACIER_IR can be read at once.",
                )


def _concerns(rule: Mapping[str, Any], folder: str) -> bool:
    """Whether a rule can apply to an object below a folder; pgkeep's objects have no tags."""
    selected = rule.get("Filter", {})
    both = selected.get("And", {})
    if selected.get("Tag") or both.get("Tags"):
        return False
    prefix = str(rule.get("Prefix") or selected.get("Prefix") or both.get("Prefix") or "")
    return folder.startswith(prefix) or prefix.startswith(folder)
