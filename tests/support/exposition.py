"""Metrics in the text format of Prometheus: checked, and as values."""

import re
import subprocess
from pathlib import Path

from pgkeep.monitor import metrics

PROMTOOL = Path(__file__).parents[2] / "build/tools/prometheus/usr/bin/promtool"


def values(text: str) -> dict[tuple[str, ...], float]:
    """Return all values by the metric's short name and the labels' values in their order.

    The cluster is left out, because most tests have one; two of them must not hide each other.
    """
    found = {}
    for one in metrics.parse(text):
        labels = [value for name, value in sorted(one.labels) if name != "cluster"]
        key = (one.name.removeprefix("pgkeep_"), *labels)
        assert key not in found
        found[key] = one.value
    return found


def clusters(text: str) -> set[str]:
    """Return the names of the clusters; an empty one is a series without such a label."""
    return {one.label("cluster") for one in metrics.parse(text)}


def check(text: str) -> None:
    done = subprocess.run([PROMTOOL, "check", "metrics"], input=text, capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def steady(text: str) -> str:
    """Return metrics without the values that are others at each moment."""
    return re.sub("(?m)^pgkeep_(backup_age_seconds|store_free_bytes|pitr_rpo_seconds){.*", "", text)
