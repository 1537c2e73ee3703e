"""/healthz and /metrics of a running receiver."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ..model.wal import Lsn
from ..monitor.metrics import HELP
from ..pitr.stream_state import StreamState
from .web import Address, is_own_host

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_TEXT = "text/plain; version=0.0.4; charset=utf-8"
_SLOT_STATES = ("reserved", "extended", "unreserved", "lost")


def application(
    read: Callable[[], StreamState], max_lag: float, cluster: str, address: Address
) -> "WSGIApplication":
    """Return the application; `cluster` is the label of the metrics."""

    def answer(environ: "WSGIEnvironment", start: "StartResponse") -> list[bytes]:
        # Another address was opened on purpose; on loopback, a browser can be made to ask.
        if address.loopback and not is_own_host(environ.get("HTTP_HOST", ""), address.host):
            status, text = "421 Misdirected Request", "unknown host\n"
        elif environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            status, text = "405 Method Not Allowed", "only GET\n"
        elif environ["PATH_INFO"] == "/metrics":
            status, text = "200 OK", metrics(read(), cluster, datetime.now(UTC))
        elif environ["PATH_INFO"] == "/healthz":
            reasons = read().reasons(datetime.now(UTC), max_lag)
            status = "503 Service Unavailable" if reasons else "200 OK"
            text = "".join(f"{reason}\n" for reason in reasons or ["ok"])
        else:
            status, text = "404 Not Found", "/healthz and /metrics are here\n"
        body = text.encode()
        start(status, [("Content-Type", _TEXT), ("Content-Length", str(len(body)))])
        return [body]

    return answer


def metrics(state: StreamState, cluster: str, now: datetime) -> str:
    """Return the text for Prometheus; pgkeep metrics has the same from the file of the receiver."""
    lines: list[str] = []
    for name, more, value in _values(state, now):
        if (kind := f"# TYPE {name} gauge") not in lines:
            lines += [f"# HELP {name} {HELP.get(name, 'State of the receiver of WAL.')}", kind]
        lines.append(f'{name}{{cluster="{cluster}"{more}}} {value}')
    return "\n".join([*lines, ""])


def _values(state: StreamState, now: datetime) -> Iterator[tuple[str, str, float]]:
    lag = state.lag(now)
    if lag is not None:
        yield "pgkeep_pitr_rpo_seconds", "", lag
    yield "pgkeep_pitr_receiver_running", "", 1
    yield "pgkeep_pitr_receiver_restarts", "", state.restarts
    yield "pgkeep_pitr_waiting_segments", "", state.waiting
    yield "pgkeep_pitr_broken_windows", "", len(state.broken)
    if state.slot is not None:
        for name in _SLOT_STATES:
            more = f',state="{name}"'
            yield "pgkeep_pitr_slot_state", more, int(state.slot.status == name)
        if state.slot.safe_size is not None:
            yield "pgkeep_pitr_slot_safe_bytes", "", state.slot.safe_size
            if state.server is not None and state.slot.restart is not None:
                kept = Lsn.parse(state.server) - Lsn.parse(state.slot.restart)
                limit = max(0, state.slot.safe_size) + max(0, kept)
                yield "pgkeep_pitr_slot_limit_bytes", "", limit
