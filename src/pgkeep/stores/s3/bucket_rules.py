"""What a bucket does with objects by itself: lifecycle rules, and the default of Object Lock."""

from typing import Any

import botocore.exceptions

from .bucket import Bucket

_ERRORS = (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError)


def lifecycle_rules(bucket: Bucket) -> list[dict[str, Any]]:
    """Return the lifecycle rules; none where they may not be read, or the service has none."""
    try:
        found = bucket.client.get_bucket_lifecycle_configuration(Bucket=bucket.settings.bucket)
    except _ERRORS:
        return []
    return list(found.get("Rules", ()))


def default_retention(bucket: Bucket) -> str | None:
    """Return how long Object Lock keeps a new object by default; None if it does not."""
    try:
        found = bucket.client.get_object_lock_configuration(Bucket=bucket.settings.bucket)
    except _ERRORS:
        return None
    rule = found.get("ObjectLockConfiguration", {}).get("Rule", {}).get("DefaultRetention", {})
    for unit in ("Days", "Years"):
        if rule.get(unit):
            return f"{rule[unit]} {unit.lower()}"
    return None
