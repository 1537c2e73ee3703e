"""The web application of `pgkeep serve`: its pages, and who is allowed to see them."""

import hmac

import flask
import msgspec

from ..monitor import cluster_metrics, pgbackrest, site, status
from ..monitor.pages import rendering
from .metrics import CONTENT_TYPE, exposition
from .status import document
from .web import Cached, is_own_host

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": f"{rendering.policy()}; frame-ancestors 'none'; form-action 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def application(state: Cached[status.State], token: str | None, host: str) -> flask.Flask:
    """Return the application; without a token only requests to this machine are answered."""
    app = flask.Flask("pgkeep", static_folder=None)

    @app.before_request
    def check() -> flask.Response | None:
        request = flask.request
        if request.path == "/healthz":
            return None
        if token is not None:
            return None if _has_token(request, token) else _unauthorized()
        # DNS rebinding: the name of a foreign page, open in a browser here, can point to us.
        return None if is_own_host(request.host, host) else _text("unknown host\n", 421)

    @app.after_request
    def harden(response: flask.Response) -> flask.Response:
        response.headers.update(HEADERS)
        return response

    @app.get("/healthz")
    def health() -> flask.Response:
        return _text("ok\n")

    @app.get("/")
    def overview() -> flask.Response:
        return flask.Response(site.overview_page(state.get()))

    @app.get("/database/<key>")
    def database(key: str) -> flask.Response:
        target = flask.request.args.get("target")
        page = site.database_page(state.get(), key, target)
        return _text("no such database\n", 404) if page is None else flask.Response(page)

    @app.get("/metrics")
    def metrics() -> flask.Response:
        now = state.get()
        clusters = [
            sample
            for place in now.places
            if place.cluster_goals is not None
            for sample in cluster_metrics.of_clusters(place.clusters, place.cluster_goals, now.now)
        ]
        clusters += pgbackrest.samples(now.stanzas)
        targets = [place.target for place in now.places]
        text = exposition(targets, now.contents, now.attempts, clusters)
        if text is None:
            return _text("none of the stores can be read\n", 503)
        return flask.Response(text, content_type=CONTENT_TYPE)

    @app.get("/status.json")
    def answer() -> flask.Response:
        now = state.get()
        body = msgspec.json.encode(document(now))
        return flask.Response(body, 200 if now.ok else 503, content_type="application/json")

    return app


def _has_token(request: flask.Request, token: str) -> bool:
    """Whether a request has the token, as a bearer token or as the password of a browser."""
    kind, _, sent = request.headers.get("Authorization", "").partition(" ")
    if kind.lower() != "bearer":
        given = request.authorization
        sent = "" if given is None or given.password is None else given.password
        return hmac.compare_digest(sent.encode(), token.encode())
    # The raw header: werkzeug takes a token that contains "=" for parameters.
    return hmac.compare_digest(sent.strip().encode("latin-1"), token.encode())


def _unauthorized() -> flask.Response:
    response = _text("BACKUP_SERVE_TOKEN is required\n", 401)
    response.headers["WWW-Authenticate"] = 'Basic realm="pgkeep", charset="UTF-8"'
    return response


def _text(text: str, code: int = 200) -> flask.Response:
    return flask.Response(text, code, content_type="text/plain; charset=utf-8")
