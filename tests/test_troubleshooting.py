"""docs/troubleshooting.md has every message of the source, and no other."""

import re

from tests.support import messages
from tests.support.prose import ROOT

PAGE = ROOT / "docs" / "troubleshooting.md"


def documented() -> list[str]:
    """Return the messages in the first cells of the page's tables."""
    cells = re.findall(r"^\| (`.*?`) \| ", PAGE.read_text(), re.MULTILINE)
    return [message for cell in cells for message in re.findall(r"`([^`]*)`", cell)]


def test_every_message_is_documented() -> None:
    """What fails here stands there as it must be on the page; placeholders may have any name."""
    known = {messages.normalized(message) for message in documented()}
    missing = {
        messages.normalized(message.template): f"`{message.template}`  ({message.path})"
        for message in messages.of_errors()
        if messages.normalized(message.template) not in known
    }
    assert not missing, "add to docs/troubleshooting.md:\n" + "\n".join(missing.values())


def test_no_message_is_stale() -> None:
    real = {messages.normalized(message.template) for message in messages.of_errors()}
    stale = [message for message in documented() if messages.normalized(message) not in real]
    assert not stale, "remove from docs/troubleshooting.md:\n" + "\n".join(stale)
