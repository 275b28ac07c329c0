"""How often a host may be asked: a token bucket for each, which all threads share."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable


class Pace:
    """At most ``burst`` requests at once to a host, and ``per_s`` a second for as long as it lasts.

    Args:
        per_s: tokens that come into each host's bucket in a second.
        burst: tokens that a bucket holds.
        clock, sleep: the time in seconds, and how to wait; tests bring their own.
    """

    def __init__(
        self,
        per_s: float,
        burst: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._per_s, self._burst, self._clock, self._sleep = per_s, burst, clock, sleep
        self._tokens: dict[str, float] = defaultdict(lambda: float(burst))
        self._filled: dict[str, float] = {}
        self._lock = threading.Lock()

    def wait(self, host: str) -> None:
        """Take a token of the host, waiting until there is one."""
        with self._lock:
            now = self._clock()
            since = max(now - self._filled.get(host, now), 0.0)  # negative while the host is paused
            self._tokens[host] = min(self._burst, self._tokens[host] + since * self._per_s) - 1
            self._filled[host] = max(self._filled.get(host, now), now)
            due = self._filled[host] + max(-self._tokens[host], 0.0) / self._per_s
        if due > now:
            self._sleep(due - now)

    def pause(self, host: str, seconds: float) -> None:
        """Ask the host nothing for so long: it said so."""
        with self._lock:
            self._filled[host] = max(self._filled.get(host, 0.0), self._clock() + seconds)
            self._tokens[host] = min(self._tokens[host], 1.0)
