"""What a tenant has used of its limits, over every load of its code: a replaced app goes on with its calls
beside the one that replaced it, in another thread when it blocks.

The limits themselves are the app's; calls are counted where they are, in the hubs.
"""

from threading import Lock

__all__ = ["Usage"]


class Usage:
    def __init__(self) -> None:
        self._lock = Lock()
        self._legs = 0
        self._next_start = 0.0

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
        """Seconds until its next call may go out; each caller has a turn of its own."""
        with self._lock:
            start = max(now, self._next_start)
            self._next_start = start + 1 / per_second
            return start - now
