"""A plugin of pytest that writes down which test failed first, and why."""

import json
import os
from pathlib import Path

import hypothesis
import pytest

VARIABLE = "MUTANTS_RECORD"  # the path of the file to write

# The first example that fails is enough; to make it small takes most of the time.
hypothesis.settings.register_profile(
    "mutants", phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate)
)
hypothesis.settings.load_profile("mutants")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Record the first failure, also that of a fixture."""
    path = Path(os.environ[VARIABLE])
    if not report.failed or path.exists():
        return
    crash = getattr(report.longrepr, "reprcrash", None)
    message = str(report.longrepr if crash is None else crash.message)
    path.write_text(json.dumps({"test": report.nodeid, "message": message}), encoding="utf-8")
