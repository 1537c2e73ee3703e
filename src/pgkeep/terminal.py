"""Make text from other sources safe to print: no control characters reach the terminal."""

import re

# Unsafe bytes in SQL and rows: control characters except tab and line feed, those of ISO 8859-1 in
# UTF-8, line separators, and characters that change the direction of text.
_UNSAFE = re.compile(
    rb"[\x00-\x08\x0b-\x1f\x7f]|\xc2[\x80-\x9f]|\xe2\x80[\x8b-\x8f\xa8-\xae]|\xe2\x81[\xa0-\xaf]"
    rb"|\xef\xbb\xbf"
)


def printable(text: str) -> str:
    """Return the text with escapes for control characters, line ends and direction changes."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def harmless(data: bytes) -> bytes:
    """Return SQL or rows with escapes for unsafe characters; line ends and tabs stay."""
    return _UNSAFE.sub(lambda match: b"".join(b"\\x%02x" % byte for byte in match.group()), data)
