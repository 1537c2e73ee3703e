"""/healthz and /metrics of a running receiver."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ..monitor.cluster_metrics import of_receiver
from ..monitor.metrics import render
from ..pitr.stream_state import StreamState
from .web import Address, is_own_host

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_TEXT = "text/plain; version=0.0.4; charset=utf-8"


def application(
    read: Callable[[], StreamState], max_lag: float, cluster: str, address: Address
) -> "WSGIApplication":
    """Return the application; `cluster` is the label of the metrics."""

    def answer(environ: "WSGIEnvironment", start: "StartResponse") -> list[bytes]:
        # Another address was opened on purpose; on loopback, a browser can be made to ask.
        text: str | bytes
        if address.loopback and not is_own_host(environ.get("HTTP_HOST", ""), address.host):
            status, text = "421 Misdirected Request", "unknown host\n"
        elif environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            status, text = "405 Method Not Allowed", "only GET\n"
        elif environ["PATH_INFO"] == "/metrics":
            found = of_receiver(read(), cluster, datetime.now(UTC), running=True)
            status, text = "200 OK", render(found)
        elif environ["PATH_INFO"] == "/healthz":
            reasons = read().reasons(datetime.now(UTC), max_lag)
            status = "503 Service Unavailable" if reasons else "200 OK"
            text = "".join(f"{reason}\n" for reason in reasons or ["ok"])
        else:
            status, text = "404 Not Found", "/healthz and /metrics are here\n"
        body = text.encode() if isinstance(text, str) else text
        start(status, [("Content-Type", _TEXT), ("Content-Length", str(len(body)))])
        return [body]

    return answer
