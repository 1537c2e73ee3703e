"""Manual pages: generated from the commands, installed by the wheel."""

import zipfile
from pathlib import Path

from hatchling.builders.wheel import WheelBuilder

from tests.support import man_pages


def test_pages_follow_the_commands() -> None:
    """`python -m tests.support.man_pages` writes them."""
    written = {path.name: path.read_text() for path in man_pages.FOLDER.iterdir()}
    assert written == man_pages.pages()


def test_text_is_no_request_to_troff() -> None:
    assert man_pages.escaped(".sql.gz of 'a\\b'") == "\\&.sql.gz of \\(aqa\\eb\\(aq"
    assert man_pages.escaped("--no-owner") == "\\-\\-no\\-owner"


def test_the_wheel_installs_the_pages(tmp_path: Path) -> None:
    builder = WheelBuilder(str(man_pages.FOLDER.parent))
    (wheel,) = builder.build(directory=str(tmp_path), versions=["standard"])
    names = zipfile.ZipFile(wheel).namelist()
    for page in man_pages.pages():
        assert any(name.endswith(f".data/data/share/man/man1/{page}") for name in names), page
