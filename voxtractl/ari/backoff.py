"""How long to wait before the next try to connect. Pure: the chance comes in as a number.

Half of each wait is fixed and half is drawn, so that a hundred workers that lost one Asterisk in the same
instant do not come back in the same instant: its listen backlog is 10 (measured, see ``client.py``).
"""

from typing import NamedTuple

__all__ = ["Backoff"]


class Backoff(NamedTuple):
    """Waits in seconds that grow by ``factor`` from ``first`` to ``most``."""

    first: float = 0.1
    factor: float = 2
    most: float = 5.0

    def delay(self, attempt: int, jitter: float) -> float:
        """Seconds to wait after failed try ``attempt`` (from 0): between half of the full wait and all of it.

        ``jitter`` is drawn by the caller from [0, 1). Raises ValueError for anything else, or a negative
        ``attempt``.
        """
        if attempt < 0 or not 0 <= jitter < 1:
            raise ValueError(f"attempt {attempt} must not be negative and jitter {jitter} must be in [0, 1)")
        try:
            full = min(self.first * self.factor**attempt, self.most)
        except OverflowError:  # 2.0 ** 1024: after so many tries the wait is the longest for sure
            full = self.most
        return full / 2 * (1 + jitter)
