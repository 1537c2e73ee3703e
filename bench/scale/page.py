"""python -m bench.scale.page PATH...: start pgkeep serve, get pages, stop it."""

import http.client
import signal
import socket
import subprocess
import sys
import time

SECONDS = 60  # until it listens


def main() -> None:
    """Get the pages that the arguments name."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with subprocess.Popen(["pgkeep", "-q", "serve", f"--listen=127.0.0.1:{port}"]) as service:
        try:
            for path in sys.argv[1:]:
                print(path, len(_get(port, path)))
        finally:
            service.send_signal(signal.SIGTERM)


def _get(port: int, path: str) -> bytes:
    deadline = time.monotonic() + SECONDS
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        try:
            connection.request("GET", path)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
            continue
        answer = connection.getresponse()
        found = answer.read()
        if answer.status not in (200, 503):  # status.json answers 503 if a goal is missed
            raise SystemExit(f"{path}: status {answer.status}")
        return found


if __name__ == "__main__":
    main()
