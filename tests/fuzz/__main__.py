"""python -m tests.fuzz: fuzz the readers, keep what is new, write docs/fuzz.md."""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from . import report, seeds
from .report import Result
from .targets import TARGETS

MEMORY = 2048  # MiB of a process
SECONDS = 60  # for one input
LONGEST = 64 << 10  # bytes of an input
KEPT = 250 << 10  # bytes of a target's kept corpus
RESTARTS = 50
_STATUS = re.compile(r"cov: (\d+) ft: (\d+) corp: (\d+)/")
_COUNT = re.compile(r"^stat::number_of_executed_units: (\d+)|^#(\d+)\t", re.MULTILINE)
_SAVED = re.compile(r"Test unit written to (\S+)")
WORDS = (
    "COPY ", " FROM stdin;\\x0a", "\\x0a\\\\.\\x0a", "$$", "E'", "-- Name: ", "; Type: ",
    "; Schema: ", "; Owner: ", "BEGIN ATOMIC\\x0a", "age-encryption.org/v1\\x0a", "-> X25519 ",
    "--- ", "@O0", "@L0", "@R0", "@S0", "\\x0a%member\\x0a", "\\x0a%index\\x0a",
    "\\x0a%payload\\x0a", "../", "\\x00", "000000010000000000000002", ".partial", ".history",
    "9999-12-31T23:59:59Z", "1e999", "\\xff", "0001-01-01T00:00:00+23:59", "rmgr: Transaction ",
    ", lsn: 0/1, ", " desc: COMMIT ", " UTC",
)  # fmt: skip


def main() -> int:
    """Run, and return the exit code: 1 if there are findings."""
    options = _options()
    options.corpus.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(options.jobs) as pool:
        results = list(pool.map(lambda name: fuzz(name, options), options.target))
    for result in results:
        if options.minimize:
            minimize(result.target, options.corpus)
    return 1 if any(result.findings for result in results) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="default: all")
    parser.add_argument("--seconds", type=int, default=1800, help="for each target")
    parser.add_argument("--jobs", type=int, default=2, help="targets at once")
    parser.add_argument("--corpus", type=Path, default=Path("build/fuzz"), help="working directory")
    parser.add_argument("--minimize", action="store_true", help="keep the inputs in the repository")
    options = parser.parse_args()
    options.target = options.target or list(TARGETS)
    return options


def _write_report(corpus: Path) -> None:
    """Write docs/fuzz.md from the last results of all targets."""
    recorded = (json.loads((corpus / f"{name}.json").read_text()) for name in TARGETS)
    page = report.page([Result(**fields) for fields in recorded])
    (seeds.ROOT / "docs" / "fuzz.md").write_text(page)


def fuzz(name: str, options: argparse.Namespace) -> Result:
    """Run one target until its time is over; start it again where an input has ended it."""
    folder, found = options.corpus / name, options.corpus / "findings"
    folder.mkdir(exist_ok=True)
    found.mkdir(exist_ok=True)
    begin = [*seeds.seeds(name), *seeds.kept(name)]
    for number, data in enumerate(begin):
        (folder / f"seed-{number:04}").write_bytes(data)
    words = options.corpus / "words"
    words.write_text("".join('"' + word.replace('"', '\\"') + '"\n' for word in WORDS))
    result = Result(target=name, commit=_commit())
    end = time.monotonic() + options.seconds
    for _ in range(RESTARTS):
        left = int(end - time.monotonic())
        if left <= 0:
            break
        limits = [
            f"-max_total_time={left}", f"-rss_limit_mb={MEMORY}", f"-timeout={SECONDS}",
            f"-max_len={LONGEST}", "-len_control=20", f"-dict={words}", "-print_final_stats=1",
            f"-artifact_prefix={found / name}-",
        ]  # fmt: skip
        _engine(name, found, [*limits, str(folder)], result)
    files = (path for path in sorted(found.glob(f"{name}-*")) if path.suffix != ".txt")
    result.findings = [path.name for path in files if _fails(name, path)]
    recorded = options.corpus / f"{name}.json"
    if recorded.exists():
        before = json.loads(recorded.read_text())
        result.seconds += before["seconds"]
        result.processor += before["processor"]
        result.executions += before["executions"]
    result.ended = f"{datetime.now(UTC):%Y-%m-%d}"
    recorded.write_text(json.dumps(asdict(result)))
    return result


def _fails(name: str, path: Path) -> bool:
    """Whether an input is still a finding, with the code as it is now."""
    command = [sys.executable, "-m", "tests.fuzz.replay", name, str(path)]
    try:
        done = subprocess.run(command, check=False, capture_output=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return True
    return done.returncode != 0


def _commit() -> str:
    """Return the commit of this checkout."""
    command = ["git", "-C", str(seeds.ROOT), "rev-parse", "--short=10", "HEAD"]
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip()


def _engine(name: str, found: Path, arguments: list[str], result: Result) -> None:
    """Run one process of atheris, and add what it reports."""
    began = time.monotonic()
    command = [sys.executable, "-m", "tests.fuzz.engine", name, str(found), *arguments]
    with (found.parent / f"{name}.log").open("a") as log:
        executions = 0
        child = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
        )
        assert child.stderr is not None
        for line in child.stderr:
            if status := _STATUS.search(line):
                result.edges, result.features, result.inputs = map(int, status.groups())
            if count := _COUNT.match(line):
                executions = int(count[1] or count[2])
            if "REDUCE" not in line and "pulse" not in line:
                log.write(line)
                log.flush()
        _, _, usage = os.wait4(child.pid, 0)
        result.processor += usage.ru_utime + usage.ru_stime
        log.write(f"ended after {time.monotonic() - began:.0f} s\n")
    result.seconds += time.monotonic() - began
    result.executions += executions


def minimize(name: str, corpus: Path) -> None:
    """Keep the smallest set of inputs with the same coverage, up to a limit of bytes."""
    with tempfile.TemporaryDirectory() as folder:
        command = Path(folder) / "engine"
        engine = f"{sys.executable} -m tests.fuzz.engine {name} {folder}"
        command.write_text(f'#!/bin/sh\nexec {engine} "$@"\n')
        command.chmod(0o700)
        merged = Path(folder) / "merged"
        merged.mkdir()
        limits = ["-set_cover_merge=1", f"-timeout={SECONDS}", f"-max_len={LONGEST}"]
        environment = {**os.environ, "FUZZ_COMMAND": str(command)}
        subprocess.run(
            [command, *limits, str(merged), str(corpus / name)],
            check=False, stderr=subprocess.DEVNULL, env=environment,
        )  # fmt: skip
        kept = seeds.CORPUS / name
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(parents=True)
        room = KEPT
        for path in sorted(merged.iterdir(), key=lambda path: (path.stat().st_size, path.name)):
            room -= path.stat().st_size
            if room < 0:
                break
            shutil.copy(path, kept / path.name[:16])


if __name__ == "__main__":
    sys.exit(main())
