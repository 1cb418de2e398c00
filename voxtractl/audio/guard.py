"""Silence for legs whose event loop stands still, from a thread.

A handler that blocks (``time.sleep``) stops the event loop of its tenant, and with it what its legs send.
Asterisk may be waiting for that sound with a lock that requests about all other calls need as well: after
1 of 130 legs whose handler then slept for 5 s nothing could be asked about any call for 4.8 s; with the
guard, 1 of 240, for 0.3 s (measured; see AudioSocketLeg). One frame is enough to let it go.
"""

import logging
from threading import Lock, Thread
from time import sleep
from typing import Final, Protocol

__all__ = ["GUARD", "STILL", "Guard", "Watched"]

LOOK: Final = 0.25  # seconds between looks
STILL: Final = 0.5  # seconds without a tick until an event loop stands still

log = logging.getLogger(__name__)


class Watched(Protocol):
    def stand_in(self) -> None:
        """Send a frame of silence over each leg if the event loop stands still; called in the thread."""


class Guard:
    """One thread for all that is watched; there is none when nothing is."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._watched: set[Watched] = set()
        self._looks = False

    def watch(self, one: Watched) -> None:
        with self._lock:
            self._watched.add(one)
            if not self._looks:
                Thread(target=self._look, name="voxtractl-sound", daemon=True).start()
                self._looks = True  # it did begin

    def forget(self, one: Watched) -> None:
        with self._lock:
            self._watched.discard(one)

    def _look(self) -> None:
        while True:
            sleep(LOOK)
            with self._lock:
                watched = tuple(self._watched)
                if not watched:
                    self._looks = False
                    return
            for one in watched:
                try:
                    one.stand_in()
                except Exception:
                    log.exception("nobody sends silence for legs whose event loop stands still")


GUARD: Final = Guard()
