"""The rows of the documents' tables of settings, as the declarations say.

`python -m tests.support.setting_rows` writes them into the documents.
"""

import re
from pathlib import Path

from pgkeep.settings import SETTINGS, Setting

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference.md"
DECISION = ROOT / "template/{{cookiecutter.project_slug}}/docs/adr/023-database-backup-strategy.md"
# A project without a bucket reads nothing about buckets.
BUCKET_ONLY = ", or `s3://BUCKET/PREFIX` for backups in a bucket only"


def cells(setting: Setting) -> list[str]:
    """Return variable, default and meaning."""
    default = setting.shown_default or setting.default
    return [f"`{setting.variable}`", default, setting.description]


def row(setting: Setting) -> str:
    """Return a row of a Markdown table."""
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells(setting)) + "|"


def main() -> None:
    """Write the rows into the documents."""
    for path in (REFERENCE, DECISION):
        text = path.read_text()
        for setting in SETTINGS:
            line = row(setting)
            if path == DECISION:
                condition = "if cookiecutter.include_s3 == 'yes' else ''"
                line = line.replace(BUCKET_ONLY, f"{{{{ '{BUCKET_ONLY}' {condition} }}}}")
            pattern = rf"^\| `{setting.variable}` \|.*\|$"
            text = re.sub(pattern, line.replace("\\", r"\\"), text, flags=re.MULTILINE)
        path.write_text(text)


if __name__ == "__main__":
    main()
