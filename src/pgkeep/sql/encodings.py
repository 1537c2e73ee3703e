"""PostgreSQL's server encodings, and names that can be in any of them."""

import codecs
import re

# PostgreSQL's server encodings that Python knows by another name, and SQL_ASCII, which is none:
# its bytes are most often UTF-8. What does not decode is shown as an escape, never lost: SQL text
# stays bytes.
_CODECS = {
    "SQL_ASCII": "utf-8", "UTF8": "utf-8", "EUC_CN": "gb2312", "KOI8R": "koi8-r",
    "KOI8U": "koi8-u", "LATIN5": "iso8859-9", "LATIN6": "iso8859-10", "LATIN7": "iso8859-13",
    "LATIN8": "iso8859-14", "LATIN9": "iso8859-15", "LATIN10": "iso8859-16",
}  # fmt: skip


# Python has codecs that are no encodings of text, and names come from files.
_SERVER_ENCODING = re.compile(
    r"SQL_ASCII|UTF8|EUC_(?:JP|CN|KR|TW|JIS_2004)|LATIN(?:[1-9]|10)|ISO_8859_[5-8]|KOI8[RU]"
    r"|WIN(?:866|874|125[0-8])|MULE_INTERNAL|BIG5|GB18030|GBK|JOHAB|SJIS|SHIFT_JIS_2004|UHC"
)


def codec(encoding: str) -> str:
    """Return the Python codec for names in a server encoding; ASCII if Python has none."""
    if _SERVER_ENCODING.fullmatch(encoding) is None:
        return "ascii"
    name = _CODECS.get(encoding, encoding.replace("WIN", "cp").replace("_", "-").lower())
    try:
        return codecs.lookup(name).name
    except LookupError:
        return "ascii"


def shared_text(value: bytes, codec_name: str) -> str:
    """Return a name that all databases of a cluster share, such as a role's.

    The server does not convert these names: a role that was created in a UTF8 database has the same
    bytes, and so other characters, in a LATIN1 database. Therefore UTF-8 is tried first.
    """
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode(codec_name, "backslashreplace")
