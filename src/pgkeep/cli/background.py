"""Work in the background that must not hold up or fail the run."""

import threading
import time
from collections.abc import Callable

from .. import errors as e


class BackgroundTask:
    """Work beside the run that is waited for until a deadline only.

    The thread is a daemon: a thread that waits for a server must not hold up our exit either.
    """

    def __init__(self, what: str, function: Callable[[], str | None]) -> None:
        self._what = what
        self._function = function
        self._problem: str | None = None
        self._thread = threading.Thread(target=self._run, name=what, daemon=True)
        self._thread.start()

    def problem(self, deadline: float) -> str | None:
        """Wait until a deadline of the monotonic clock; return what failed, if anything."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            return f"{self._what}: no answer in time"
        return self._problem

    def _run(self) -> None:
        try:
            problem = self._function()
            self._problem = None if problem is None else f"{self._what}: {problem}"
        except e.PgkeepError as error:
            self._problem = f"{self._what}: {error.message}"
        except ModuleNotFoundError as error:
            self._problem = f"{self._what}: requires another package: {error.name}"
            if error.name == "prometheus_client":
                self._problem += " (pip install 'pgkeep[metrics]')"
        except Exception as error:  # noqa: BLE001 - whatever it is, the run goes on
            self._problem = f"{self._what}: {type(error).__name__}: {error}"
