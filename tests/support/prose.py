"""The documents as a reader gets them: sentences and their length, without code."""

import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
TOPS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")


def documents() -> list[Path]:
    """Return the documents of pgkeep itself, without those of the template."""
    return [*(ROOT / name for name in TOPS), *sorted((ROOT / "docs").rglob("*.md"))]


def words(text: str) -> str:
    """Return all words of a Markdown text, also those of tables, with CODE for code."""
    return "\n".join(paragraph for paragraph, _ in _paragraphs(text))


def lengths(texts: list[str]) -> list[int]:
    """Return the number of words of every sentence, without headings, labels and tables."""
    found = (
        len(sentence.split())
        for text in texts
        for paragraph, is_prose in _paragraphs(text)
        if is_prose
        for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z`(\"*]|pgkeep |psql |botocore )", paragraph)
    )
    return sorted(count for count in found if count > 3)


def _paragraphs(text: str) -> Iterator[tuple[str, bool]]:
    """Yield the text of paragraphs, headings and cells; and whether it is a paragraph."""
    outside = True
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type in ("table_open", "heading_open", "table_close", "heading_close"):
            outside = token.type.endswith("_close")
        elif token.type == "inline":
            parts = (
                "CODE" if child.type == "code_inline" else " " if "break" in child.type
                else child.content for child in token.children or []
            )  # fmt: skip
            yield "".join(parts), outside


def main() -> None:
    """Print median and 95th percentile of the words of a sentence, now and at commits."""
    groups = {"now": [path.read_text() for path in documents()]}
    for commit in sys.argv[1:]:
        listed = ["git", "ls-tree", "-r", "--name-only", commit, *TOPS, "docs"]
        names = subprocess.check_output(listed, cwd=ROOT, text=True).split()
        groups[commit] = [
            subprocess.check_output(["git", "show", f"{commit}:{name}"], cwd=ROOT, text=True)
            for name in names if name.endswith(".md")
        ]  # fmt: skip
    for name, texts in groups.items():
        found = lengths(texts)
        high = statistics.quantiles(found, n=20)[18]
        line = f"{name}: {len(found)} sentences, median {statistics.median(found)}, 95th {high}\n"
        sys.stdout.write(line)


if __name__ == "__main__":
    main()
