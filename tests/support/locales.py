"""A locale that no system has, in which money is written with a comma; and one with messages."""

import subprocess
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "fixtures" / "locale" / "eur"
NAME = "eur_TEST"


GERMAN = "de_DE.UTF-8"


def german(folder: Path) -> Path:
    """Return a folder for LOCPATH with a locale in which the server has translated messages."""
    folder.mkdir(mode=0o755)
    command = ["localedef", "--no-archive", "-i", "de_DE", "-f", "UTF-8", str(folder / GERMAN)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def compiled(folder: Path) -> Path:
    """Return a folder that LOCPATH can name; localedef warns of the categories that are missing."""
    folder.mkdir(mode=0o755)
    command = ["localedef", "-c", "--no-archive", "-i", str(SOURCE), "-f", "ANSI_X3.4-1968"]
    subprocess.run([*command, str(folder / NAME)], check=False, capture_output=True)
    assert (folder / NAME / "LC_MONETARY").is_file(), "the package locales is not installed"
    return folder
