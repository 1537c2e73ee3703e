"""Set the day of rendering, before any question: private variables are copied, not rendered."""

import json
from datetime import UTC, datetime
from pathlib import Path

path = Path("cookiecutter.json")  # of a copy of the template, which cookiecutter has made
context = json.loads(path.read_text("utf-8"))
context["_creation_date"] = f"{datetime.now(UTC):%Y-%m-%d}"
path.write_text(json.dumps(context), "utf-8")
