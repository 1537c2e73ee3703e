"""A locale that no system has, in which money is written with a comma."""

import subprocess
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "fixtures" / "locale" / "eur"
NAME = "eur_TEST"


def compiled(folder: Path) -> Path:
    """Return a folder that LOCPATH can name; localedef warns of the categories that are missing."""
    folder.mkdir(mode=0o755)
    command = ["localedef", "-c", "--no-archive", "-i", str(SOURCE), "-f", "ANSI_X3.4-1968"]
    subprocess.run([*command, str(folder / NAME)], check=False, capture_output=True)
    assert (folder / NAME / "LC_MONETARY").is_file(), "the package locales is not installed"
    return folder
