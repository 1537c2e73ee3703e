"""Set the current date before the prompts. cookiecutter does not render private variables."""

import json
from datetime import UTC, datetime
from pathlib import Path

path = Path("cookiecutter.json")  # cookiecutter runs this hook in a copy of the template
context = json.loads(path.read_text("utf-8"))
context["_creation_date"] = f"{datetime.now(UTC):%Y-%m-%d}"
path.write_text(json.dumps(context), "utf-8")
