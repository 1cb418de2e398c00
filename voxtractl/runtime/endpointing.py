"""Where speech begins and ends in sound, by its energy; pure, so that the same sound gives the same answer.

Sound is cut into frames of 20 ms. A frame is loud when its level lies ``margin`` dB above the noise floor,
and the floor is the lowest level of the last ``memory`` seconds: speech has gaps, a fan and a dial tone have
none.

    quiet    ── loud for ``onset`` ──▶     speaking    SpeechBegan(start)
    speaking ── not loud for ``silence`` ─▶  quiet     SpeechEnded(start, end)

Levels are dB below the loudest a 16-bit sample can be (dBFS) and leave out a constant offset of the line.
"""

import math
import struct
from collections import deque
from operator import mul
from typing import Final, NamedTuple

from voxtractl.audio.audiosocket import FRAME_SECONDS, frame_bytes

__all__ = ["Endpointer", "SpeechBegan", "SpeechEnded", "level"]

SILENCE: Final = -96.0  # dBFS of digital silence; 16 bits reach no lower
DEAD: Final = -80.0  # dBFS; below it no line is open yet, and nothing is learned of its noise
FULL: Final = 32768.0


class SpeechBegan(NamedTuple):
    """Somebody speaks, since ``start`` seconds of the sound."""

    start: float


class SpeechEnded(NamedTuple):
    """They spoke from ``start`` to ``end``, seconds of the sound; the silence after it is not counted."""

    start: float
    end: float


def level(frame: bytes) -> float:
    """The level of a frame in dBFS: its mean power without a constant offset."""
    count = len(frame) // 2
    samples = struct.unpack(f"<{count}h", frame)
    mean = sum(samples) / count
    power = sum(map(mul, samples, samples)) / count - mean * mean
    return max(10 * math.log10(power / (FULL * FULL)), SILENCE) if power > 0 else SILENCE


class Endpointer:
    """Finds speech in sound that comes in pieces of any size; how it is cut changes nothing.

    ``rate``     samples a second, one of AudioSocket's
    ``silence``  seconds of quiet that end speech; 0.5 cuts into pauses for thought, 1.0 feels slow
    ``onset``    seconds of loud frames that begin it; a click or a key is shorter
    ``margin``   dB above the noise floor that are loud; 3 dB less suffice to go on speaking
    ``least``    dBFS below which nothing is loud, however quiet the line
    ``floor``    dBFS of noise that is assumed until a gap was heard, so that one may speak at once
    ``memory``   seconds of sound whose lowest level is the floor

    The defaults take speech at -26 dBFS (ITU-T P.56's active level of a telephone line) with noise 15 dB
    below it.
    """

    def __init__(
        self,
        rate: int,
        *,
        silence: float = 0.8,
        onset: float = 0.06,
        margin: float = 9.0,
        least: float = -50.0,
        floor: float = -48.0,
        memory: float = 3.0,
    ) -> None:
        self._frame_bytes = frame_bytes(rate)
        self._silence = max(round(silence / FRAME_SECONDS), 1)
        self._onset = max(round(onset / FRAME_SECONDS), 1)
        self._margin = margin
        self._least = least
        self._memory = max(round(memory / FRAME_SECONDS), 1)
        # The lowest level of a sliding window: only frames that are lower than all after them are kept.
        self._lows: deque[tuple[int, float]] = deque([(0, floor)])
        self._rest = b""  # less than a frame
        self._frames = 0  # so far
        self._loud = 0  # frames in a row, up to now
        self._start: int | None = None  # the frame with which the speech began; None: nobody speaks
        self._end = 0  # the frame after the last loud one

    @property
    def speaking(self) -> bool:
        return self._start is not None

    @property
    def seconds(self) -> float:
        """Seconds of sound so far, in whole frames."""
        return self._frames * FRAME_SECONDS

    @property
    def floor(self) -> float:
        """The noise floor in dBFS."""
        return self._lows[0][1]

    def feed(self, pcm: bytes) -> list[SpeechBegan | SpeechEnded]:
        """More sound; what it tells, in order."""
        pcm = self._rest + pcm
        size = self._frame_bytes
        whole = len(pcm) - len(pcm) % size
        self._rest = pcm[whole:]
        events = (self._frame(pcm[at : at + size]) for at in range(0, whole, size))
        return [event for event in events if event is not None]

    def finish(self) -> list[SpeechBegan | SpeechEnded]:
        """There is no more sound: speech that has not ended yet ends with its last loud frame."""
        return [self._quiet()] if self._start is not None else []

    def _frame(self, frame: bytes) -> SpeechBegan | SpeechEnded | None:
        now = level(frame)
        self._remember(now)
        self._frames += 1
        margin = self._margin if self._start is None else self._margin - 3
        if now < max(self.floor + margin, self._least):
            self._loud = 0
            if self._start is not None and self._frames - self._end >= self._silence:
                return self._quiet()
            return None
        self._loud += 1
        self._end = self._frames
        if self._start is None and self._loud >= self._onset:
            self._start = self._frames - self._loud
            return SpeechBegan(self._start * FRAME_SECONDS)
        return None

    def _quiet(self) -> SpeechEnded:
        start, self._start = self._start or 0, None
        return SpeechEnded(start * FRAME_SECONDS, self._end * FRAME_SECONDS)

    def _remember(self, now: float) -> None:
        lows = self._lows
        if now > DEAD:
            while lows and lows[-1][1] >= now:
                lows.pop()
            lows.append((self._frames, now))
        if lows[0][0] <= self._frames - self._memory and len(lows) > 1:
            lows.popleft()
