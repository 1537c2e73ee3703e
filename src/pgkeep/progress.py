"""Progress of long work: a bar on a terminal, a line every few seconds elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, Self, TextIO

from .terminal import printable

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

EVERY = 5.0  # seconds between two lines on a terminal
LOG_EVERY = 60.0  # and in a log, which somebody keeps
_UNITS = ("B", "kB", "MB", "GB", "TB")


def size(count: float) -> str:
    """Return bytes for people: 1.3 GB."""
    for unit in _UNITS[:-1]:
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} {_UNITS[-1]}"


def duration(seconds: float) -> str:
    """Return a time span for people: 1 h 02 min, 3 min 20 s, 5.2 s."""
    if seconds >= 3600:
        return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:02.0f} min"
    if seconds >= 60:
        return f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"
    return f"{seconds:.1f} s"


Advance = Callable[[int], None]  # takes the number of bytes that have been processed


class Progress(Protocol):
    """What long work reports while it runs: steps, each with bytes of a total.

    Workers call it from several threads.
    """

    def step(self, text: str) -> None:
        """Begin a step; it has no total until `total` is called."""

    def total(self, size: int) -> None:
        """Set the number of bytes that the step will process."""

    def advance(self, size: int) -> None:
        """Add the number of bytes that have been processed."""

    def wrote(self, raw: int, compressed: int) -> None:
        """Set how many bytes the step has written, before and after compression."""


class Silent:
    """Print nothing: for --json, for --quiet and for libraries."""

    def step(self, text: str) -> None:
        """Ignore the step."""

    def total(self, size: int) -> None:
        """Ignore the total."""

    def advance(self, size: int) -> None:
        """Ignore the bytes."""

    def wrote(self, raw: int, compressed: int) -> None:
        """Ignore the bytes."""

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Show nothing while something else is written to the terminal, such as a question."""
        yield

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


class Lines(Silent):
    """A line for each step, and one every few seconds with share, rate and time left."""

    def __init__(
        self,
        say: Callable[[str], None],
        say_progress: Callable[[str], None] | None = None,
        every: float = LOG_EVERY,
        *,
        with_times: bool = False,
    ) -> None:
        self._say = say
        self._say_progress = say_progress or say
        self._every = every
        self._with_times = with_times  # also a line with its duration when a step ends
        self._text = ""
        self._total = self._done = 0
        self._written = (0, 0)
        self._began = self._told = time.monotonic()

    def step(self, text: str) -> None:
        """Begin a step."""
        self._end_step()
        self._text = text
        self._total = self._done = 0
        self._written = (0, 0)
        self._began = self._told = time.monotonic()
        self._say(text)

    def total(self, size: int) -> None:
        """Set the size of the step."""
        self._total = size

    def advance(self, size: int) -> None:
        """Add bytes. Called from several threads: the sum need not be exact."""
        self._done += size
        self._tell()

    def wrote(self, raw: int, compressed: int) -> None:
        """Set how much has been written. Called often enough to be the clock."""
        self._written = (raw, compressed)
        self._tell()

    def __exit__(self, *_: object) -> None:
        self._end_step()

    def _end_step(self) -> None:
        if self._with_times and self._text:
            self._say(f"{self._text}: {duration(time.monotonic() - self._began)}")
        self._text = ""

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self._told < self._every:
            return
        self._told = now
        parts = [self._text]
        elapsed = now - self._began
        if self._total and self._done:
            share = min(1.0, self._done / self._total)
            left = elapsed / share - elapsed
            parts.append(f"{share:.0%} of {size(self._total)}, {size(self._done / elapsed)}/s")
            parts.append(f"{duration(left)} left")
        if self._written[0]:
            parts.append(f"{size(self._written[0])} of SQL in {size(self._written[1])}")
        self._say_progress(", ".join(parts))


class Bar(Silent):
    """A bar with rate and time left, for a terminal."""

    def __init__(self, bars: "Bars") -> None:
        self._bars = bars
        self._task = bars.add_task("", total=None)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Remove the bar; a bar that refreshes itself would overwrite a question."""
        was_shown = self._bars.live.is_started
        self._bars.stop()
        yield
        if was_shown:
            self._bars.start()

    def step(self, text: str) -> None:
        """Begin a step."""
        self._bars.reset(self._task, total=None, description=printable(text))

    def total(self, size: int) -> None:
        """Set the size of the step."""
        self._bars.update(self._task, total=size)

    def advance(self, size: int) -> None:
        """Add bytes."""
        self._bars.advance(self._task, size)


class Named:
    """The progress of one of several databases: each step begins with its name."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress = progress
        self._name = name

    def step(self, text: str) -> None:
        """Begin a step."""
        self._progress.step(f"{self._name}: {text}")

    def total(self, size: int) -> None:
        """Pass on the total."""
        self._progress.total(size)

    def advance(self, size: int) -> None:
        """Pass on the bytes."""
        self._progress.advance(size)

    def wrote(self, raw: int, compressed: int) -> None:
        """Pass on the bytes."""
        self._progress.wrote(raw, compressed)


def create(say: Callable[[str], None], stream: TextIO) -> Silent:
    """Return the display that fits the stream; import nothing for a bar that nobody sees."""
    if not stream.isatty():
        return Lines(say)
    from rich.console import Console  # noqa: PLC0415 - 50 ms that other commands save
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    bars = Progress(
        TextColumn("{task.description:18}", markup=False), BarColumn(bar_width=20),
        DownloadColumn(),
        TransferSpeedColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        console=Console(file=stream), transient=True,
    )  # fmt: skip
    return Bar(bars)
