"""HTML pages from templates: the drill's report and the pages of `pgkeep serve`.

Every page is one document without scripts and without external resources. Its
Content-Security-Policy enforces that: the style is allowed by its hash.
"""

import hashlib
import re
from base64 import b64encode
from datetime import UTC, datetime
from functools import cache
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from ... import __version__, progress
from ...terminal import printable
from ..spans import span

_DATE = re.compile(r"\b(?:\d{4}-\d\d-\d\d|\d\d:\d\d UTC)\b")


def render(template: str, **values: object) -> bytes:
    """Return a page as UTF-8; names in other encodings are shown with escapes."""
    page = _environment().get_template(template).render(**values)
    return page.encode("utf-8", "backslashreplace")


@cache
def policy() -> str:
    """Return what a browser may do for a page (Content-Security-Policy): show it."""
    digest = b64encode(hashlib.sha256(_style().encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'"


@cache
def _style() -> str:
    return (resources.files(__package__) / "style.css").read_text("utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(__package__, "."),
        autoescape=True,  # databases and tables may be called anything
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "size": progress.size,
        "duration": progress.duration,
        "span": span,
        "moment": moment,
        "count": "{:,}".format,
        "dates": dates,
        "heading": heading,
        "name": printable,  # with escapes for line ends and characters that change the direction
    }
    environment.globals |= {"style": _style(), "policy": policy(), "version": __version__}
    return environment


def dates(text: str) -> Markup:
    """Return a text in which no date and no time is divided at the end of a line."""
    return Markup(_DATE.sub(r'<span class="date">\g<0></span>', str(escape(text))))  # noqa: S704


def heading(name: str) -> Markup:
    """Return a name that a narrow screen divides behind an underscore, not inside a word."""
    return Markup(str(escape(printable(name))).replace("_", "_<wbr>"))  # noqa: S704


def moment(when: datetime) -> str:
    """Return a point in time for people."""
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
