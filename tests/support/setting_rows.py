"""The tables of settings and exit codes in the documents, as the declarations say.

`python -m tests.support.setting_rows` writes them into the documents.
"""

import itertools
import re
from pathlib import Path

from pgkeep.settings import SETTINGS, Group, Setting

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference.md"
TEMPLATE = ROOT / "template/{{cookiecutter.project_slug}}/docs/operations/backup-reference.md"
# A project without a bucket or without monitoring reads nothing about them.
OPTIONS = {
    Group.BUCKET: "include_s3",
    Group.MONITORING: "include_observability",
    Group.ENCRYPTION: "include_encryption",
    Group.PITR: "include_pitr",
}
BUCKET_ONLY = ", or `s3://BUCKET/PREFIX` for backups in a bucket only"


def cells(setting: Setting) -> list[str]:
    """Return variable, default and meaning."""
    default = setting.shown_default or setting.default
    return [f"`{setting.variable}`", default, setting.description]


def row(setting: Setting) -> str:
    """Return a row of a Markdown table."""
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells(setting)) + "|"


def exit_code_rows(reference: str) -> list[str]:
    """Return the rows of the reference's table of exit codes."""
    section = reference.partition("## Exit codes\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| \d.*\|$", section, re.MULTILINE)


def _template_rows() -> list[str]:
    condition = "if cookiecutter.include_s3 == 'yes' else ''"
    rows = []
    for group, settings in itertools.groupby(SETTINGS, lambda setting: setting.group):
        written = [
            row(setting).replace(BUCKET_ONLY, f"{{{{ '{BUCKET_ONLY}' {condition} }}}}")
            for setting in settings
        ]
        if group in OPTIONS:
            start = f"{{% if cookiecutter.{OPTIONS[group]} == 'yes' %}}"
            written = [start, *written, "{% endif %}"]
        rows += written
    return rows


def _with_rows(text: str, heading: str, rows: list[str]) -> str:
    """Put rows for those of the first table below a heading."""
    rule = rf"(^## {heading}\n[\s\S]*?^\|[-|]+\|\n)(?:(?:\||\{{%).*\n)+"
    found = re.search(rule, text, re.MULTILINE)
    assert found is not None, heading
    lines = "".join(f"{line}\n" for line in rows)
    return text[: found.start()] + found[1] + lines + text[found.end() :]


def template_page(page: str, reference: str) -> str:
    """Return the template's page with the rows of today."""
    # 255 is only for restore_command, which nothing of the template uses.
    rows = [line for line in exit_code_rows(reference) if not line.startswith("| 255 ")]
    page = _with_rows(page, "Exit codes", rows)
    return _with_rows(page, "Variables", _template_rows())


def main() -> None:
    """Write the rows into the documents."""
    text = REFERENCE.read_text()
    for setting in SETTINGS:
        pattern = rf"^\| `{setting.variable}` \|.*\|$"
        text = re.sub(pattern, row(setting).replace("\\", r"\\"), text, flags=re.MULTILINE)
    REFERENCE.write_text(text)
    TEMPLATE.write_text(template_page(TEMPLATE.read_text(), text))


if __name__ == "__main__":
    main()
