"""pgkeep serve: the same answers as the commands, for people in a browser and for monitors."""

import base64
import contextlib
import html
import json
import re
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.message import Message
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, sync_playwright

from pgkeep.catalog.catalog import Backup
from pgkeep.model.manifest import Drill, Manifest
from pgkeep.model.record import DatabaseResult, Record
from pgkeep.monitor import overview, site, status
from pgkeep.monitor.pages import charts
from pgkeep.stores.memory import MemoryStore
from tests.support import invoke, planted, planted_wal
from tests.support.buckets import Buckets
from tests.support.exposition import steady
from tests.support.listeners import refusing
from tests.support.pages import CHROMIUM, serving

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)  # a Tuesday
DAY = timedelta(days=1)
TOKEN = "0123456789abcdef"
WRONG = f"Bearer {TOKEN}x", "Bearer ", "Bearer ä", "Basic !", "Basic YTpi", "Digest x=y", TOKEN
HOSTILE = 'a"b<script>alert(1)</script>\n/../?&#%é'


class Answer(NamedTuple):
    code: int
    headers: Message
    body: str


def get(url: str, method: str = "GET", **headers: str) -> Answer:
    request = urllib.request.Request(url, headers=headers, method=method)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return Answer(answer.status, answer.headers, answer.read().decode())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.headers, error.read().decode())


def many(directory: Path, now: datetime) -> dict[str, str]:
    """Plant the backups of some databases, and return an environment."""
    for n in range(40):
        kind = "monthly" if n % 30 == 5 else "weekly" if n % 7 == 0 else "daily"
        one = planted.manifest(now - n * DAY, kind)
        drills = [Drill(now - n * DAY, n % 2 == 0, {"start": 1, "load": 9, "check": 3}, n % 2)]
        planted.plant(directory, msgspec.structs.replace(one, drills=drills if n < 3 else []))
    planted.plant(directory, planted.manifest(now - 9 * DAY, database=HOSTILE))
    planted.plant(directory, planted.manifest(now - 2 * DAY, database="gone", verified=False))
    cluster = planted_wal.Planted(directory, name="main")
    cluster.bases(planted_wal.base(1))
    cluster.segments([1, 2, 4])
    cluster.receiver(directory, position="0/3000000", complete_until=now)
    return invoke.environment(
        BACKUP_DIR=str(directory), BACKUP_DATABASES="app,new," + "x" * 63, BACKUP_RTO="1s"
    )


def test_what_is_shown_is_what_the_commands_say(tmp_path: Path) -> None:
    env = many(tmp_path / "b", datetime.now(UTC).replace(microsecond=0))
    with serving(env=env) as (url, _):
        page = get(f"{url}/")
        assert page.code == 200
        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
        assert "<h2>Point in time</h2>" in page.body
        assert "the receiver does not run" in page.body
        assert "WAL after 0/3000000 is missing" in page.body
        _, out, _ = invoke.complete("status", "--json", env=env)
        answer = get(f"{url}/status.json")
        assert answer.code == 503
        ages = re.compile(r'"(?:age|rpo)_seconds": ?[0-9.]+')
        assert json.loads(ages.sub('"age_seconds":0', answer.body)) == json.loads(
            ages.sub('"age_seconds":0', out)
        )
        scraped = get(f"{url}/metrics")
        assert scraped.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        printed = invoke.run("metrics", env=env)
        assert steady(scraped.body) == steady(printed)
        assert (get(f"{url}/healthz").code, get(f"{url}/healthz").body) == (200, "ok\n")
        planted.plant(tmp_path / "b", planted.manifest(datetime.now(UTC), "manual", database="new"))
        assert "never" in page.body
        links = re.findall(r'<h3><a href="(/database/[^"]+)">', page.body)
        assert len(links) == 5
        # The worst come first, those that are not expected last.
        assert [link.rpartition("/")[2] for link in links[:3]] == ["app", "new", "x" * 63]
        for link in links:
            assert get(url + link).code == 200
        assert "2026" in get(f"{url}/database/new").body
        assert get(f"{url}/database/none").code == 404
        assert get(f"{url}/database/app?target=other").code == 404


def test_all_is_well(tmp_path: Path) -> None:
    planted.plant(tmp_path / "b", planted.manifest(datetime.now(UTC).replace(microsecond=0)))
    with serving(env=invoke.environment(BACKUP_DIR=str(tmp_path / "b"))) as (url, _):
        assert get(f"{url}/status.json").code == 200
        assert 'class="banner good">ok: 1 database is within' in get(f"{url}/").body


def test_nothing_but_reading_is_possible(tmp_path: Path) -> None:
    with serving(env=invoke.environment(BACKUP_DIR=str(tmp_path))) as (url, _):
        for method in ("POST", "PUT", "DELETE"):
            assert get(f"{url}/", method).code == 405
        for path in ("/etc/passwd", "/../pgkeep", "/database/", "/static/x", "/%2e%2e/%2e%2e"):
            assert get(url + path).code == 404
        headers = get(f"{url}/").headers
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; style-src 'sha256-")
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert "Server" not in headers


def test_a_token_is_needed_where_others_can_reach_it(tmp_path: Path) -> None:
    env = invoke.environment(BACKUP_DIR=str(tmp_path))
    for address in ("0.0.0.0:0", "[::]:0", "example.com:0"):
        said = invoke.run("serve", f"--listen={address}", env=env, code=2)
        assert "BACKUP_SERVE_TOKEN is not set" in said
    said = invoke.run("serve", env=env | {"BACKUP_SERVE_TOKEN": "secret"}, code=2)
    assert "BACKUP_SERVE_TOKEN: expected 16 letters" in said
    assert "secret" not in said.replace("BACKUP_SERVE_TOKEN", "")
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    env["BACKUP_SERVE_TOKEN_FILE"] = str(tmp_path / "token")
    basic = base64.b64encode(f"anybody:{TOKEN}".encode()).decode()
    with serving("--listen=0.0.0.0:0", env=env) as (everywhere, _):
        url = everywhere.replace("0.0.0.0", "127.0.0.1")  # noqa: S104
        for path in ("/", "/metrics", "/status.json", "/database/app", "/none"):
            refused = get(url + path)
            asks = refused.headers["WWW-Authenticate"]
            assert (refused.code, asks[:5]) == (401, "Basic")
            for wrong in (
                f"Bearer {TOKEN}x",
                "Bearer ",
                "Basic !",
                "Basic YTpi",
                TOKEN,
                "Bearer ä",
            ):
                assert get(url + path, Authorization=wrong).code == 401
        assert get(f"{url}/healthz").code == 200
        for right in (f"Bearer {TOKEN}", f"Basic {basic}"):
            assert get(f"{url}/", Authorization=right, Host="backups.example.com").code == 200


def test_a_token_may_have_any_sign(tmp_path: Path) -> None:
    token = "abcdefgh=ijklmn,op+/=="
    env = invoke.environment(BACKUP_DIR=str(tmp_path), BACKUP_SERVE_TOKEN=token)
    with serving(env=env) as (url, _):
        assert get(f"{url}/", Authorization=f"Bearer {token}").code == 200
        assert get(f"{url}/", Authorization=f"Bearer {token[:-1]}").code == 401
        basic = base64.b64encode(f":{token}".encode()).decode()
        assert get(f"{url}/", Authorization=f"Basic {basic}").code == 200


def test_clients_that_never_finish_a_request_are_let_go(tmp_path: Path) -> None:
    """More of them than the server takes, each with a line of a header now and then."""
    with serving(env=invoke.environment(BACKUP_DIR=str(tmp_path))) as (url, _):
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(socket.create_connection(address)) for _ in range(120)]
            for one in clients:
                one.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
            stop = threading.Event()

            def drip() -> None:
                while not stop.wait(1):
                    for client in clients:
                        with contextlib.suppress(OSError):
                            client.sendall(b"X: y\r\n")

            thread = threading.Thread(target=drip)
            thread.start()
            try:
                assert get(f"{url}/healthz").code == 200
            finally:
                stop.set()
                thread.join()


def test_a_page_elsewhere_cannot_look_at_it(tmp_path: Path) -> None:
    """A name of somebody else's that leads to the loopback address is not ours (DNS rebinding)."""
    with serving(env=invoke.environment(BACKUP_DIR=str(tmp_path))) as (url, _):
        assert get(f"{url}/", Host="evil.example").code == 421
        for host in ("localhost:1", "127.0.0.1", "[::1]:9648"):
            assert get(f"{url}/", Host=host).code == 200


def test_stores_that_cannot_be_read_are_said(tmp_path: Path, buckets: Buckets) -> None:
    """With one of two nothing is unknown; with none the page still is there."""
    planted.plant(tmp_path / "b", planted.manifest(datetime.now(UTC).replace(microsecond=0)))
    env = invoke.environment(BACKUP_DIR=str(tmp_path / "b")) | buckets.environment(buckets.bucket())
    env |= {"BACKUP_S3_ENDPOINT": refusing(), "BACKUP_S3_TIMEOUT": "1"}
    with serving(env=env) as (url, _):
        page = get(f"{url}/").body
        assert "cannot be read" in page
        assert "ok: 1 database is within" in page
        assert get(f"{url}/status.json").code == 200
    (tmp_path / "file").touch()
    with serving(env=invoke.environment(BACKUP_DIR=str(tmp_path / "file"))) as (url, process):
        page = get(f"{url}/").body
        assert "None of its stores can be read" in page
        assert "not ok: no store of a target can be read" in page
        assert [get(url + path).code for path in ("/status.json", "/metrics")] == [503, 503]
        assert get(f"{url}/healthz").code == 200
        assert process.stderr is not None
        assert process.stderr.readline().startswith("warning: ")


def test_several_targets(tmp_path: Path) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    for name in ("a", "b"):
        planted.plant(tmp_path / name, planted.manifest(now, database="app"))
    (tmp_path / "pgkeep.toml").write_text(
        f"[targets.one]\nbackup_dir = '{tmp_path}/a'\n"
        f"[targets.'t&wo']\nbackup_dir = '{tmp_path}/b'\n"
    )
    env = invoke.environment(PGKEEP_CONFIG=str(tmp_path / "pgkeep.toml"))
    with serving(env=env) as (url, _):
        page = get(f"{url}/").body
        assert "Target <bdi>one</bdi>" in page
        assert "Target <bdi>t&amp;wo</bdi>" in page
        (first, second) = re.findall(r'<h3><a href="(/database/[^"]+)">', page)
        assert f"{tmp_path}/a" in get(url + first).body
        assert "--target=t&amp;wo" in get(url + second).body.replace("&#39;", "")
        assert get(f"{url}/database/app").code == 404
    more = "[targets.three]\nbackup_serve_token = '0123456789abcdefg'\n"
    (tmp_path / "pgkeep.toml").write_text((tmp_path / "pgkeep.toml").read_text() + more)
    assert "not the same for all targets" in invoke.run("serve", env=env, code=2)


def test_mistakes(tmp_path: Path) -> None:
    env = invoke.environment(BACKUP_DIR=str(tmp_path), BACKUP_SERVE_TOKEN=TOKEN)
    assert "expected HOST:PORT" in invoke.run("serve", "--listen=x", env=env, code=2)
    said = invoke.run("serve", "--listen=192.0.2.1:1", env=env, code=2)
    assert "could not listen on 192.0.2.1:1: " in said
    with serving(env=env) as (url, _):
        port = url.rpartition(":")[2]
        said = invoke.run("serve", f"--listen={port}", env=env, code=2)
        assert f"could not listen on 127.0.0.1:{port}: Address already in use" in said


# -- in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (375, "dark")])
def test_the_pages_in_a_browser(browser: Browser, tmp_path: Path, width: int, scheme: str) -> None:
    """No complaint, nothing from elsewhere, no script, no scrolling aside, and accessible."""
    env = many(tmp_path / "b", datetime.now(UTC).replace(microsecond=0))
    with serving(env=env) as (url, _):
        context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, bypass_csp=True  # type: ignore[arg-type]
        )  # fmt: skip
        page = context.new_page()
        said: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(url)
        names = page.locator("h3 a").all_inner_texts()
        for path in ("/", *(one.get_attribute("href") or "" for one in page.locator("h3 a").all())):
            page.goto(url + path)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            found = Axe().run(page)
            assert found.violations_count == 0, found.generate_report()
        context.close()
    assert any("<script>" in name for name in names)
    assert said == []
    assert {one.rpartition("/database/")[0] or one.rstrip("/") for one in asked} == {url}


def test_the_policy_is_kept(browser: Browser, tmp_path: Path) -> None:
    """The style is the one that the policy allows, or a browser would say so, and drop it."""
    env = many(tmp_path / "b", datetime.now(UTC).replace(microsecond=0))
    with serving(env=env) as (url, _):
        context = browser.new_context(java_script_enabled=False)
        page = context.new_page()
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.goto(url)
        assert page.locator(".banner.bad").is_visible()
        page.get_by_role("link", name="app").first.click()
        assert page.locator("h1").inner_text().startswith("app")
        context.close()
    assert said == []


# Each is a valid name in PostgreSQL, and each has another meaning in a path, in HTML or in a shell.
ODD = (
    HOSTILE, ".", "..", "a b", "a\nb", "a/b?c#d%65", "\\", "$(id)", "'", "-x", "\u202egnp.ppa",
    "שלום", "ä" * 31 + "x", "%2E", "~",
)  # fmt: skip


def test_a_database_with_any_name_has_a_page(browser: Browser, tmp_path: Path) -> None:
    """A1.6, A7: it is reached by its link, and its commands are for exactly this name."""
    now = datetime.now(UTC).replace(microsecond=0)
    stems = {planted.plant(tmp_path / "b", planted.manifest(now, database=name)).name.id: name
             for name in ODD}  # fmt: skip
    found = {}
    with serving("--listen=0", "--dir=b", env=invoke.environment(), cwd=tmp_path) as (url, _):
        page = browser.new_page()
        page.goto(url)
        # As a browser understands them: without the segments "." and "..", for instance.
        for link in page.evaluate("Array.from(document.querySelectorAll('h3 a'), a => a.href)"):
            body = get(link).body
            (key,) = re.findall(r"<td><abbr [^>]*>(\w+)</abbr>", body)
            found[key] = html.unescape(
                body.partition('<pre tabindex="0">')[2].partition("</pre>")[0]
            )
        page.close()
    assert found.keys() == stems.keys()
    for key, commands in found.items():
        name = stems[key]
        said = subprocess.run(
            ["/bin/bash", "-c", f"pgkeep() {{ printf '%s\\0' \"$@\" END; }}\n{commands}"],
            capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"},
        ).stdout.decode()  # fmt: skip
        words = [part.split("\0") for part in said.removesuffix("\0END\0").split("\0END\0")]
        start = ["restore", "--latest", f"--dir={tmp_path / 'b'}", f"--database={name}"]
        assert [line[:4] for line in words] == [start] * 3
        copy = words[0][4].removeprefix("--target-db=").removesuffix("_copy")
        assert name.startswith(copy)
        assert len(copy.encode()) <= 58
        assert words[2][4:] == ["--drop-existing"]


# -- what is decided without a browser


def state(*manifests: Manifest, missing: bool = False) -> status.State:
    target = overview.Target(store=MemoryStore(), copy=MemoryStore())
    contents = {target.store.url: [Backup(manifest, missing) for manifest in manifests]}
    goals = status.Goals(max_age=93600)
    databases = status.judge(target, contents, goals, NOW, UTC)
    place = status.TargetState(
        name=None, target=target, zone=UTC, goals=goals, readable=True, databases=databases
    )
    return status.State(now=NOW, places=[place], contents=contents, problems=[])


def test_debts_notes_and_drills_are_shown() -> None:
    one = planted.manifest(NOW - DAY)
    drills = [Drill(NOW - DAY, False, {"load": 2.0, "check": 2.0}, 0)]
    copy = "memory://copy"
    shown = state(
        msgspec.structs.replace(one, drift=["public.t: 0 rows, 5 before"], drills=drills,
                                pending=[copy], warnings=["<no> statistics"]),
    )  # fmt: skip
    place = shown.places[0]
    assert place.target.copy is not None
    pending = msgspec.structs.replace(
        shown.contents[place.target.store.url][0].manifest, pending=[place.target.copy.url]
    )
    shown.contents[place.target.store.url][0] = Backup(pending, False)  # type: ignore[index]
    page = site.overview_page(shown).decode()
    assert one.name.stem in page
    assert place.target.copy.url in page
    assert "public.t: 0 rows, 5 before" in page
    assert "&lt;no&gt; statistics" in page
    assert "unproved" in page
    detail = (site.database_page(shown, "app", None) or b"").decode()
    assert "1 finding" in detail
    assert "pgkeep restore --latest --database=app --target-db=app_copy" in detail


def test_failed_runs_and_a_missing_copy_are_shown() -> None:
    """F3, F14: why the last run failed, which day has no run, that there is no second place."""
    made = planted.manifest(NOW - DAY)
    gone = planted.manifest(NOW - 3 * DAY).name.stem
    runs = [
        Record(
            command="backup", pgkeep="0", user="u", host="db<1>", started=NOW - hours * DAY / 24,
            finished=NOW - hours * DAY / 24, exit_code=code, removed=[gone],
            results=[DatabaseResult(database="app", exit_code=code, error=error, backup=backup)],
        )
        for hours, code, error, backup in (
            (24, 0, None, made.name.stem), (1, 4, "<b>pg_dump</b> failed", None),
        )
    ]  # fmt: skip
    target = overview.Target(store=MemoryStore(), named=["app"])
    contents, attempts = {target.store.url: [Backup(made, False)]}, {target.store.url: runs}
    goals = status.Goals(max_age=93600)
    judged = status.judge(target, contents, goals, NOW, UTC)
    databases = status.with_runs(judged, target, contents, attempts, NOW, UTC)
    place = status.TargetState(
        name=None, target=target, zone=UTC, goals=goals, readable=True, databases=databases
    )
    shown = status.State(now=NOW, places=[place], contents=contents, problems=[], attempts=attempts)
    page = site.overview_page(shown).decode()
    assert 'class="badge warn">last run failed' in page
    assert "on db&lt;1&gt;, exit code 4: &lt;b&gt;pg_dump&lt;/b&gt; failed" in page
    days = ("Sat 2026-03-07: removed by retention", "Sun 2026-03-08: no run recorded",
            "Mon 2026-03-09: daily", "Tue 2026-03-10: the run failed")  # fmt: skip
    assert [f"<title>{day}</title>" in page for day in days] == [True] * 4
    assert "No off-site copy configured" in page
    detail = (site.database_page(shown, "app", None) or b"").decode()
    assert "exit code 4</span> &lt;b&gt;pg_dump" in detail
    assert '<span class="badge good">succeeded' in detail
    assert f'<abbr title="{made.name.stem}">{made.name.id}</abbr>' in detail


def test_what_is_missing_or_nothing_is_said() -> None:
    detail = (
        site.database_page(state(planted.manifest(NOW), missing=True), "app", None) or b""
    ).decode()
    assert "never" in detail
    assert "missing" in detail
    assert "There is no backup that can be restored" in detail
    assert "pgkeep restore" not in detail


def test_only_the_newest_of_thousands_are_listed() -> None:
    shown = state(*(planted.manifest(NOW - n * timedelta(hours=1), "manual") for n in range(600)))
    detail = (site.database_page(shown, "app", None) or b"").decode()
    assert detail.count('<td class="moment">') == site.SHOWN
    assert "The newest 500" in detail
    assert detail.count("<circle") == 2 * charts.MOST


def test_the_calendar_has_a_cell_for_each_day() -> None:
    one = charts.calendar({"2026-03-09": "weekly", "2026-03-10": "daily"}, NOW.date())
    assert len(one.cells) == 7 * (charts.WEEKS - 1) + 2
    assert [(cell.tier, cell.title) for cell in one.cells[-2:]] == [
        ("weekly", "Mon 2026-03-09: weekly"), ("daily", "Tue 2026-03-10: daily"),
    ]  # fmt: skip
    assert one.summary == "backups on 2 of the last 177 days"
    assert max(cell.x + 11 for cell in one.cells) <= one.width
    assert [month.text for month in one.months] == ["Oct", "Nov", "Dec", "Jan", "Feb", "Mar"]


def test_a_chart_goes_from_nothing_to_the_highest() -> None:
    points = [charts.Point(NOW + n * DAY, value, "daily", "") for n, value in enumerate((5, 0, 10))]
    one = charts.chart(points, str)
    assert one is not None
    assert [(dot.x, dot.y) for dot in one.dots] == [
        (charts.LEFT, (charts.TOP + charts.BOTTOM) / 2),
        ((charts.LEFT + charts.RIGHT) / 2, charts.BOTTOM),
        (charts.RIGHT, charts.TOP),
    ]
    assert charts.chart([], str) is None
    (dot,) = (charts.chart(points[:1], str) or one).dots
    assert (dot.x, dot.y) == (charts.RIGHT, charts.TOP)


def test_phases_are_laid_end_to_end() -> None:
    laid = charts.bars({"start": 1, "load": 2, "index": 1}, 8)
    assert [(bar.start, bar.width, bar.kind) for bar in laid] == [
        (0, 12.5, "own"), (12.5, 25, "even"), (37.5, 12.5, "odd"),
    ]  # fmt: skip
