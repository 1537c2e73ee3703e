"""The records of decisions have one form, and ADR-023 says what its author asked for."""

import itertools
import os
import re
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


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A project for every combination of the template's options."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    return baking.combinations(shared / "projects")


def headings(record: Path) -> list[str]:
    """Return the headings with their level, as `## Status`."""
    tokens = MarkdownIt("commonmark").parse(record.read_text())
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
        assert [path.name[:3] for path in found] == ["017", "021", "022", "023"]
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
