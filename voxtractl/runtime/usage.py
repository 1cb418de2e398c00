"""What a tenant has used of its limits, over every load of its code: a replaced app goes on with its calls
beside the one that replaced it, in another thread when it blocks.

The limits themselves are the app's; calls are counted where they are, in the hubs.
"""

from heapq import heappop, heappush, heapreplace
from threading import Lock

__all__ = ["Usage"]


class Usage:
    def __init__(self) -> None:
        self._lock = Lock()
        self._legs = 0
        self._next_start = 0.0
        self._free: list[float] = []  # turns before that, whose calls were given up

    def take_leg(self, most: int) -> bool:
        """One more media leg, unless it has so many."""
        with self._lock:
            free = self._legs < most
            self._legs += free
            return free

    def give_leg(self) -> None:
        with self._lock:
            self._legs -= 1

    def turn(self, now: float, per_second: float) -> float:
        """When its next call may go out, by the clock of ``now``; each caller has a turn of its own."""
        with self._lock:
            self._forget(now)
            if self._free:
                return heappop(self._free)
            start = max(now, self._next_start)
            self._next_start = start + 1 / per_second
            return start

    def earlier(self, start: float, now: float) -> float:
        """The same turn, or an earlier one in its place that was given back meanwhile."""
        with self._lock:
            self._forget(now)
            return heapreplace(self._free, start) if self._free and self._free[0] < start else start

    def give_turn(self, start: float) -> None:
        """Who was to go out then does not: others may."""
        with self._lock:
            heappush(self._free, start)

    def _forget(self, now: float) -> None:
        while self._free and self._free[0] < now:
            heappop(self._free)
