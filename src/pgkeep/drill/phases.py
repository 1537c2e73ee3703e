"""Measure how long each phase of a drill takes."""

import time

from ..progress import Progress

# What the steps of a restore and of an examination count as, by the beginning of their texts.
PHASES = {
    "downloading": "download",
    "starting a server": "start",
    "checking the file": "verify",
    "creating tables": "load",
    "loading rows": "load",
    "building indexes": "index",
    "analyzing": "analyze",
    "finishing": "load",
    # Of a drill of a point in time.
    "fetching WAL": "fetch",
    "restoring": "assemble",
    "unpacking base backup": "assemble",
    "combining": "assemble",
    "recovering": "recover",
    "checking tables and indexes": "check",
    "comparing rows": "check",
    "checking objects": "check",
    "comparing large objects": "check",
    "comparing computed values": "check",
    "asking assertions": "check",
    "cleaning up": "clean",
}


class Phases:
    """Pass on the progress of a drill, and measure its phases."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._phase: str | None = None
        self._since = 0.0
        self._seconds: dict[str, float] = {}

    def step(self, text: str) -> None:
        """Begin a step, and perhaps a phase."""
        self.stop()
        found = (phase for step, phase in PHASES.items() if text.startswith(step))
        self._phase = next(found, "other")
        self._progress.step(text)

    def stop(self) -> None:
        """End the phase that is running."""
        now = time.monotonic()
        if self._phase is not None:
            self._seconds[self._phase] = self._seconds.get(self._phase, 0) + now - self._since
        self._phase, self._since = None, now

    def seconds(self) -> dict[str, float]:
        """Return the time of each phase, in their order."""
        order = dict.fromkeys([*PHASES.values(), "other"])
        return {phase: round(self._seconds[phase], 3) for phase in order if phase in self._seconds}

    def total(self, size: int) -> None:
        """Take the size of the step."""
        self._progress.total(size)

    def advance(self, size: int) -> None:
        """Count what is done."""
        self._progress.advance(size)

    def wrote(self, raw: int, compressed: int) -> None:
        """Take how much has been written."""
        self._progress.wrote(raw, compressed)
