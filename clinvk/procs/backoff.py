"""When a start that failed may be tried again; synchronous, and blind to what is started."""

import time
from collections.abc import Callable


class StartBackoffError(Exception):
    """The last start failed; `retry_after_s` says when the next try is due."""

    def __init__(self, cause: Exception, failures: int, retry_after_s: float) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.failures = failures
        self.retry_after_s = retry_after_s


class Backoff:
    """Counts failures in a row; each beyond those that are `free` doubles the wait for a try.

    Args:
        first_s: the wait after the first failure that is not free.
        max_s: the longest wait.
        free: failures in a row after which nothing is waited for.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        first_s: float,
        max_s: float,
        *,
        free: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.failures = 0
        self._first_s = first_s
        self._max_s = max_s
        self._free = free
        self._clock = clock
        self._cause: Exception | None = None
        self._retry_at = 0.0

    @property
    def retry_at(self) -> float:
        """When the next try is due, on the clock; in the past if it may come at once."""
        return self._retry_at

    @property
    def wait_s(self) -> float:
        """How long until the next try is due; 0 if it may come at once."""
        return max(0.0, self._retry_at - self._clock())

    @property
    def trouble(self) -> str | None:
        """What is wrong while no try is due, None at any other time."""
        if self._cause is None or not self.wait_s:
            return None
        return f"{failed_often(self.failures, self.wait_s)}: {self._cause}"

    def require(self) -> None:
        """Allow one try, and no other before its outcome is known or the wait is over again.

        Raises:
            StartBackoffError: if none is due.
        """
        if self._cause is None:
            return
        if wait_s := self.wait_s:
            raise StartBackoffError(self._cause, self.failures, wait_s)
        self._wait()

    def failed(self, cause: Exception) -> None:
        """A start has failed."""
        self._cause = cause
        self.failures += 1
        self._wait()

    def succeeded(self) -> None:
        """A start has succeeded: all is forgotten."""
        self.failures, self._retry_at, self._cause = 0, 0.0, None

    def _wait(self) -> None:
        beyond = self.failures - self._free
        if beyond > 0:
            delay_s = min(self._first_s * 2.0 ** min(beyond - 1, 64), self._max_s)
            self._retry_at = self._clock() + delay_s


def failed_often(failures: int, retry_after_s: float) -> str:
    """Return the words for a start that is not tried now."""
    times = "once" if failures == 1 else f"{failures} times in a row"
    return f"it has failed to start {times} and is tried again in {max(1, round(retry_after_s))} s"
