"""The receiver as a process: what it tells, what it survives, and how it ends."""

import json
import os
import re
import shutil
import signal
import socket
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pgkeep.model.wal import Lsn
from pgkeep.pitr import stream_state
from pgkeep.pitr.stream_state import StreamState
from pgkeep.postgres.server import Server
from tests.support import exposition, invoke, receiver_kills, servers
from tests.support.buckets import Buckets
from tests.support.receiving import SETTINGS, SIZE, enabled, service_of, streaming, until


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pitr-") as folder:
        Path(folder).chmod(0o755)
        (Path(folder) / "backups").mkdir()
        yield Path(folder)


def test_the_state_of_an_idle_server_is_new(place: Path) -> None:
    """A8, PITR rule 8: health is the age of what is stored, although no position moves.

    After a restart, the last record of an idle server ends with zeros, as the rest of its file.
    """
    with Server(servers.bin_folder(18), settings=SETTINGS, initdb=["--wal-segsize=1"]) as server:
        cluster = enabled(server, place)
        with streaming(cluster) as stream:
            cluster.sql("create table public.t (n int)")
            stream.stores(cluster.position())
            state = cluster.state()
            assert state is not None
            (store,) = state.stores
            assert store.error is None
            assert state.receiving
            assert state.timeline == 1
            assert state.slot is not None
            assert state.slot.status == "reserved"
            assert stream_state.path_in(cluster.spool).stat().st_mode & 0o777 == 0o600
            server.stop()
            stream.tells("the server does not answer")
            server.start()
            first = datetime.now(UTC)
            stream.until(lambda: (state := cluster.state()) and state.lag(first) == 0)
            folder = cluster.spool / "wal"
            folder.rename(away := cluster.spool / "away")
            stream.tells("could not use the spool")
            away.rename(folder)
            stream.until(lambda: (state := cluster.state()) and not state.waiting)
            second = invoke.run("pitr", "stream", env=cluster.env, code=10)
            assert "another process receives WAL" in second


def test_a_lost_slot_begins_a_new_window(place: Path) -> None:
    """A8, PITR rule 7: told within one look, a new slot, a new full base backup, nothing stops."""
    settings = {"max_slot_wal_keep_size": "2MB", "max_wal_size": "2MB", "min_wal_size": "2MB"}
    with Server(servers.bin_folder(17), settings=settings, initdb=["--wal-segsize=1"]) as server:
        cluster = enabled(server, place)
        with streaming(cluster) as stream:
            cluster.write(2)
            stream.stores(cluster.position())
        cluster.write(8)
        cluster.sql("checkpoint")
        assert cluster.sql("select wal_status from pg_replication_slots") == "lost"
        with streaming(cluster) as stream:
            stream.tells("was lost: the server has removed its WAL; it is created again")
            stream.tells("WAL is missing, a window is broken")
            state = stream.until(lambda: (now := cluster.state()) and now.broken and now)
            assert isinstance(state, StreamState)
            assert "has already been removed" in state.broken[0].reason
            stream.tells("a new base backup is stored")
            cluster.write(2)
            stream.stores(cluster.position())
            state = cluster.state()
            assert state is not None
            assert state.broken[0].healed_at is not None
            assert state.slot is not None
            assert state.slot.status == "reserved"
        assert [*(cluster.folder / "base").glob("*.base.json")]
        assert len(cluster.runs()) == 2, "the WAL before the gap stays"
        assert not [*(cluster.spool / "earlier").iterdir()]
        windows = json.loads(invoke.run("pitr", "windows", "--json", env=cluster.env))
        assert len(windows[0]["windows"]) == 1


def test_another_cluster_is_refused(place: Path) -> None:
    """PITR rule 10: nothing of it is stored, and the receiver ends instead of trying for ever."""
    programs = servers.bin_folder(17)
    with (
        Server(programs, settings=SETTINGS, initdb=["--wal-segsize=1"]) as server,
        Server(programs, settings=SETTINGS, initdb=["--wal-segsize=1"]) as other,
    ):
        file = place / "services"
        file.write_text(service_of(server))
        cluster = enabled(server, place, PGSERVICEFILE=str(file), PGSERVICE="own")
        for name in ("PGHOST", "PGPORT", "PGUSER", "PGDATABASE"):
            del cluster.env[name]
        with streaming(cluster, code=9) as stream:
            cluster.sql("create table public.t (n int)")
            stream.stores(cluster.position())
            file.write_text(service_of(other))
            stream.process.wait(timeout=30)
        assert f"expected {cluster.folder.name}" in stream.printed
        assert [path.name for path in (place / "backups" / "pitr").glob("*.cluster.json")] == [
            f"{cluster.folder.name}.cluster.json"
        ]
        del cluster.env["PGSERVICEFILE"], cluster.env["PGSERVICE"]
        bare = cluster.env | invoke.environment(other, "postgres")
        assert "WAL could be lost unnoticed" in invoke.run("pitr", "stream", env=bare, code=9)


@pytest.mark.parametrize("major", [15, 18])
def test_a_promotion_is_followed(major: int, place: Path) -> None:
    """A10, PITR rule 6: in a segment and at the border of one; .history first, .partial kept."""
    with Server(servers.bin_folder(major), settings=SETTINGS, initdb=["--wal-segsize=1"]) as server:
        cluster = enabled(server, place)
        with streaming(cluster) as stream:
            cluster.write(2)
            cluster.sql("create table public.before (n int)")
            cluster.promote()
            cluster.write(1)
            stream.stores(cluster.position())
            names = cluster.stored()
            assert "00000002.history" in names
            (partial,) = [name for name in names if name.startswith("00000001") and "." in name]
            assert f"00000002{partial[8:24]}" in names, "one position on both timelines"
            border = cluster.write(1)
            assert border % SIZE == 0
            cluster.promote(immediate=True)
            cluster.write(1)
            stream.stores(cluster.position())
            names = cluster.stored()
            assert f"00000003{border // SIZE:016X}" in names, "the switch is at the border"
            assert not [name for name in names if name.startswith(f"00000002{border // SIZE:016X}")]
            state = cluster.state()
            assert state is not None
            assert state.timeline == 3
            assert not state.broken
        assert len(cluster.runs()) == 1


def test_other_wal_under_a_name_is_an_alarm(place: Path) -> None:
    """A6, PITR rule 4: never overwritten; the receiver ends with exit code 6."""
    with Server(servers.bin_folder(17), settings=SETTINGS, initdb=["--wal-segsize=1"]) as server:
        cluster = enabled(server, place)
        with streaming(cluster) as stream:
            cluster.write(2)
            stream.stores(cluster.position())
        (newest,) = [path for path in (cluster.spool / "wal").iterdir() if len(path.name) == 24]
        (stored,) = (cluster.folder / "wal").glob(f"{newest.name}-*")
        before = stored.read_bytes()
        with newest.open("r+b") as file:
            file.seek(SIZE // 2)
            file.write(b"of another server")
        with streaming(cluster, code=6) as stream:
            stream.process.wait(timeout=30)
        assert "with other contents" in stream.printed
        assert stored.read_bytes() == before
        assert len([*(cluster.folder / "wal").glob(f"{newest.name}-*")]) == 1


def test_no_segment_is_lost_with_the_spool(place: Path) -> None:
    """A9: kill -9, an empty spool and the orphan that still holds the slot; zero gaps.

    The slot can be further than the stores. What is missing in between is asked for again. A file
    that was being created when the process was killed has another size, which pg_receivewal
    refuses.
    """
    with Server(servers.bin_folder(17), settings=SETTINGS, initdb=["--wal-segsize=1"]) as server:
        cluster = enabled(server, place)
        with streaming(cluster, code=-9) as stream:
            cluster.write(2)
            stream.stores(cluster.position())
            stores = cluster.folder / "wal"
            os.kill(stream.process.pid, signal.SIGSTOP)
            position = cluster.write(3)
            query = "select restart_lsn >= %s::pg_lsn from pg_replication_slots"
            until(lambda: cluster.sql(query, str(position)))
            stream.process.kill()
            stream.process.wait()
        assert cluster.sql("select active from pg_replication_slots"), "the orphan still receives"
        before = {*stores.iterdir()}
        shutil.rmtree(cluster.spool)
        with streaming(cluster) as stream:
            stream.stores(position)
        assert before < {*stores.iterdir()}
        (cluster.spool / "wal" / f"{'0' * 7}1{position // SIZE:016X}.partial").write_bytes(
            b"\0" * 9
        )
        with streaming(cluster) as stream:
            stream.stores(cluster.write(2))
        assert len(cluster.runs()) == 1
        assert not [path.name for path in stores.iterdir() if path.name.startswith(".")]


def test_the_service_tells_how_it_is(place: Path) -> None:
    """READY after the first contact, signs of life, /healthz and /metrics of what is stored."""
    with (
        Server(servers.bin_folder(17), settings=SETTINGS, initdb=["--wal-segsize=1"]) as server,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        address = str(place / "notify")
        manager.bind(address)
        manager.settimeout(60)
        cluster = enabled(server, place)
        extra = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1500000", "BACKUP_CLUSTER": "main"}
        with streaming(cluster, "--listen=0", extra=extra) as stream:
            received = ""
            serving = re.compile(r"serving http://127.0.0.1:([0-9]+)/healthz")
            stream.until(lambda: serving.search(stream.printed))
            (port,) = map(int, serving.findall(stream.printed))

            def tells(text: str) -> None:
                nonlocal received
                deadline = time.monotonic() + 30
                while text not in received:
                    assert time.monotonic() < deadline, received
                    received += manager.recv(1000).decode() + "\n"

            tells("READY=1")
            state = cluster.state()
            assert state is not None
            assert state.slot is not None
            cluster.sql("create table public.t (n int)")
            position = cluster.position()
            stream.stores(position)
            stream.until(lambda: asked(port, "/healthz") == (200, "ok\n"))
            for _ in range(2):
                received = ""
                tells("WATCHDOG=1")
            text = asked(port, "/metrics")[1]
            for line in ("receiver_running", "receiver_restarts", "waiting_segments"):
                assert f'pgkeep_pitr_{line}{{cluster="main"}} ' in text
            for name in ("reserved", "extended", "unreserved", "lost", "missing"):
                assert f'slot_state{{cluster="main",state="{name}"}} ' in text
            assert 'state="reserved"} 1' in text
            assert 'pgkeep_pitr_slot_limit_bytes{cluster="main"} ' in text
            assert 'pgkeep_pitr_rpo_seconds{cluster="main"} ' in text
            exposition.check(text)
            assert asked(port, "/status.json")[0] == 404
            server.stop()
            stream.until(lambda: asked(port, "/healthz")[0] == 503)
            assert "may not be stored, expected 1 s at most" in asked(port, "/healthz")[1]
            stream.until(lambda: "the server does not answer" in asked(port, "/healthz")[1])
            tells("the server does not answer")
        tells("STOPPING=1")


def test_a_dead_store_delays_nobody(place: Path) -> None:
    """PITR rule 7, A4: the other store gets everything; the end is possible at any time."""
    with (
        Server(servers.bin_folder(17), settings=SETTINGS, initdb=["--wal-segsize=1"]) as server,
        socket.create_server(("127.0.0.1", 0)) as silent,
    ):
        bucket = {
            "BACKUP_S3_BUCKET": "copies",
            "BACKUP_S3_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "AWS_ACCESS_KEY_ID": "any",
            "AWS_SECRET_ACCESS_KEY": "any",
        }
        cluster = enabled(server, place)
        with streaming(cluster, code=128 + signal.SIGTERM, extra=bucket) as stream:
            position = cluster.write(2)

            def first_store_has_it() -> bool:
                state = cluster.state()
                return (
                    state is not None and Lsn.parse(state.stores[0].position or "0/0") >= position
                )

            stream.until(first_store_has_it)
            state = cluster.state()
            assert state is not None
            assert state.position is None, "not every store has it"
            assert state.waiting
            assert state.complete_until is None
            stream.process.send_signal(signal.SIGHUP)
            time.sleep(0.5)
            assert stream.process.poll() is None, "it waits for the store"
            stream.process.terminate()
            stream.process.wait(timeout=5)
        closed = bucket | {"BACKUP_S3_ENDPOINT": "http://127.0.0.1:1"}
        with streaming(cluster, code=6, extra=closed) as stream:
            stream.tells("Could not connect to the endpoint")
        assert "did not get all received WAL" in stream.printed
        with streaming(cluster) as stream:
            stream.stores(position)
        assert len(cluster.runs()) == 1


def asked(port: int, path: str) -> tuple[int, str]:
    """Return status and text of an answer; 0 if nobody listens yet."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except urllib.error.URLError:
        return 0, ""


def test_receiving_stops_before_the_disk_is_full(place: Path) -> None:
    """A7: people are told before; the server goes on, and nothing is lost when there is space."""
    with Server(servers.bin_folder(17), settings=SETTINGS, initdb=["--wal-segsize=1"]) as server:
        cluster = enabled(server, place)
        with streaming(cluster, disk="32m") as stream:

            def stored(border: Lsn) -> bool:
                return f"{1:08X}{border // SIZE - 1:016X}" in cluster.stored()

            border = cluster.write(1)
            stream.until(lambda: stored(border))
            filler = Path(f"/proc/{stream.process.pid}/root{cluster.spool.parent}/filler")
            filler.write_bytes(bytes(24 * SIZE))
            stream.tells("free: receiving stops when less than 5% is free")
            assert "stays on the server" not in stream.printed
            with filler.open("ab") as file, pytest.raises(OSError, match="No space"):
                file.write(bytes(32 * SIZE))
            stream.tells("has less than 5% free: WAL stays on the server")
            border = cluster.write(2)
            filler.unlink()
            stream.until(lambda: stored(border))
        assert len(cluster.runs()) == 1


def test_kills_lose_nothing(place: Path, buckets: Buckets) -> None:
    """A3: kill -9 at random points of receiving and storing; many: tests.support.receiver_kills."""
    with Server(servers.bin_folder(17), settings=SETTINGS, initdb=["--wal-segsize=1"]) as server:
        result = receiver_kills.run(server, place, buckets, 3)
    assert result.segments > 3
    assert result.gaps == 0
    assert result.temporary == []
