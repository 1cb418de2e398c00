"""What every media leg of a call can do, whatever carries its sound; and a leg for tests without Asterisk.

    Leg            receive · send · clear · drained · close, and why it ended
    └─ PacedLeg    for a wire that plays at once whatever it gets: sends one frame each 20 ms
       └─ MemoryLeg    no wire: a function is the far side

Sound is signed 16-bit little endian mono PCM at ``leg.rate`` everywhere. A leg ends once, with one reason:

    "hangup"     the other side ended it in an orderly way, and said so
    "eof"        its connection ended; on AudioSocket this is how Asterisk hangs up
    "ours"       close() was called
    "error: …"   something broke; the sentence says what

Callbacks run on the event loop but never inside the leg's own work: one that raises harms nobody else.
"""

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Final, Self

from voxtractl.audio.audiosocket import FRAME_SECONDS, frame_bytes
from voxtractl.errors import CallEnded, LocalProtocolError

__all__ = ["BACKLOG", "DIGITS", "KEEP", "Clock", "Counters", "Leg", "MemoryLeg", "PacedLeg"]

BACKLOG: Final = 1.0  # seconds; send() waits while more than this is queued
KEEP: Final = 2.0  # seconds of received sound that wait for a slow reader; 64 kB at 16 kHz
DIGITS: Final = frozenset("0123456789*#ABCD")  # Asterisk also makes "f" of a fax tone; nobody pressed that
CATCH_UP: Final = 5  # frames at once after a late tick; 100 ms is what a phone's jitter buffer takes


@dataclass(slots=True)
class Counters:
    """Frames of one leg since it began."""

    received: int = 0
    sent: int = 0
    late: int = 0  # sent more than one frame's time after their time
    unread: int = 0  # received, and dropped because the reader was too slow or there was none
    dropped: int = 0  # to send, and dropped because the wire took nothing any more


class Leg(ABC):
    """The sound of one call, both ways. One reader; any number of senders, whose sounds do not mix.

    ``backlog`` and ``keep`` are seconds: of sound that is queued before send() waits, and of received sound
    that waits to be read before the oldest is dropped.
    """

    __slots__ = (  # hundreds of legs 50 times a second: a tenth less CPU without a dict (decisions/0007)
        "_backlog",
        "_ended",
        "_frame_bytes",
        "_inbox",
        "_loop",
        "_on_close",
        "_on_digit",
        "_reader",
        "_sender",
        "_senders",
        "_turn",
        "_unsent",
        "counters",
        "rate",
        "why",
    )

    def __init__(self, rate: int, *, backlog: float = BACKLOG, keep: float = KEEP) -> None:
        self.rate = rate
        self.counters = Counters()
        self.why: str | None = None  # why it ended; None while it is open
        self._loop = asyncio.get_running_loop()
        self._frame_bytes = frame_bytes(rate)
        self._backlog = max(int(backlog / FRAME_SECONDS), 1) * self._frame_bytes
        self._inbox: deque[bytes] = deque(maxlen=max(int(keep / FRAME_SECONDS), 1))
        self._reader: asyncio.Future[None] | None = None
        self._sender: asyncio.Future[None] | None = None  # the one send() that waits for room
        self._senders = asyncio.Lock()
        self._unsent = 0  # bytes that send() was given and that are not queued yet
        self._turn = 0  # clear() begins the next one; sounds of an older turn are forgotten
        self._ended: asyncio.Future[str] = self._loop.create_future()
        self._on_digit: list[Callable[[str], object]] = []
        self._on_close: list[Callable[[str], object]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # --- listening ----------------------------------------------------------------------------------------

    async def receive(self) -> bytes:
        """The next sound, one frame as it came (20 ms as a rule). What came before the end is still given.

        Raises CallEnded when the leg has ended.
        """
        while not self._inbox:
            self._must_be_open("receive sound")
            await self._news()
        return self._inbox.popleft()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while not self._inbox:  # as receive(), without a coroutine in a coroutine for each frame
            if self.why is not None:
                raise StopAsyncIteration
            await self._news()
        return self._inbox.popleft()

    def _news(self) -> asyncio.Future[None]:
        """Done when a sound comes, or the end."""
        if self._reader is not None and not self._reader.done():
            raise RuntimeError("this leg is being read already")
        self._reader = self._loop.create_future()
        return self._reader

    def on_digit(self, callback: Callable[[str], object]) -> None:
        """``callback(digit)`` for each key the caller presses from now on: 0-9, *, #, A-D."""
        self._on_digit.append(callback)

    # --- talking ------------------------------------------------------------------------------------------

    async def send(self, pcm: bytes) -> None:
        """Queue a sound of any length; returns when less than the backlog is left to play.

        A last part of less than 20 ms waits for what follows, and is filled up with silence when nothing
        does. Returns early when clear() forgets it. Raises CallEnded when the leg has ended, and
        LocalProtocolError for half a sample.
        """
        if len(pcm) % 2:
            raise LocalProtocolError(f"PCM of {len(pcm)} bytes has half a sample")
        turn = self._turn
        rest = len(pcm)
        self._unsent += rest
        try:
            async with self._senders:
                while rest and turn == self._turn:
                    self._must_be_open("send sound")
                    room = self._backlog - self._queued_bytes()
                    if room <= 0 or self._blocked():
                        await self._room()
                        continue
                    at = len(pcm) - rest
                    part = pcm[at : at + room]
                    rest -= len(part)
                    self._unsent -= len(part)
                    await self._put(part)
                if rest:
                    self._must_be_open("send sound")
        finally:
            if turn == self._turn:
                self._unsent -= rest

    @property
    def queued(self) -> float:
        """Seconds of sound that were given to send() and are not played yet."""
        return (self._queued_bytes() + self._unsent) / (2 * self.rate)

    def clear(self) -> float:
        """Forget all that is not played yet, for a caller who speaks meanwhile; returns its seconds."""
        seconds = self.queued
        self._turn += 1
        self._unsent = 0
        self._forget()
        self._wake_sender()
        return seconds

    @abstractmethod
    async def drained(self) -> None:
        """Return when all that was sent has been played, or was forgotten. Raises CallEnded."""

    # --- the end ------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """It has ended."""
        return self.why is not None

    async def wait_closed(self) -> str:
        """Why it ended, as soon as it has."""
        return await asyncio.shield(self._ended)

    def on_close(self, callback: Callable[[str], object]) -> None:
        """``callback(why)``, once; soon when the leg has ended already."""
        if self.why is None:
            self._on_close.append(callback)
        else:
            self._loop.call_soon(callback, self.why)

    @abstractmethod
    async def close(self) -> None:
        """Hang up this leg: Asterisk ends its channel. What is queued is not played: see drained().

        A second close does nothing.
        """

    # --- for what carries the sound -----------------------------------------------------------------------

    @abstractmethod
    def _queued_bytes(self) -> int:
        """Bytes on their way to the caller and not played yet."""

    @abstractmethod
    async def _put(self, pcm: bytes) -> None:
        """Take a sound; never more than the backlog."""

    @abstractmethod
    def _forget(self) -> None:
        """Drop what was put, and tell who waits for drained()."""

    def _blocked(self) -> bool:
        """Whether the wire wants no sound for now, however little is queued."""
        return False

    async def _room(self) -> None:
        """Wait until there may be room; also ends for clear() and the end of the leg."""
        self._sender = self._loop.create_future()
        try:
            await self._sender
        finally:
            self._sender = None

    def _wake_sender(self) -> None:
        if self._sender is not None and not self._sender.done():
            self._sender.set_result(None)

    def _heard(self, pcm: bytes) -> None:
        inbox = self._inbox
        self.counters.received += 1
        if len(inbox) == inbox.maxlen:
            self.counters.unread += 1
        inbox.append(pcm)
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _pressed(self, digit: str) -> None:
        if digit.upper() in DIGITS:
            for callback in self._on_digit:
                self._loop.call_soon(callback, digit.upper())

    def _must_be_open(self, op: str) -> None:
        if self.why is not None:
            raise CallEnded(op)

    def _end(self, why: str) -> None:
        """The one door out; only the first reason counts."""
        if self.why is not None:
            return
        self.why = why
        self._ended.set_result(why)
        self._turn += 1
        self._unsent = 0
        self._forget()
        self._wake_sender()
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
        for callback in self._on_close:
            self._loop.call_soon(callback, why)


class Clock:
    """Ticks every 20 ms for all legs that have something to send, with one timer; rests when there is none.

    The ticks lie on a grid, so that a late one does not shift the next. After a late one each leg may send up
    to CATCH_UP frames at once; what was missed beyond is played later, not faster. ``seconds`` is a tick's.
    """

    def __init__(self, seconds: float = FRAME_SECONDS) -> None:
        self._loop = asyncio.get_running_loop()
        self._seconds = seconds
        self._legs: set[PacedLeg] = set()
        self._new: set[PacedLeg] = set()  # since the last tick: they have missed none
        self._next = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._ticked = 0.0

    @property
    def still(self) -> float:
        """Seconds since the last tick, when there should have been one; from whatever thread."""
        return 0.0 if self._timer is None else monotonic() - self._ticked

    def add(self, leg: "PacedLeg") -> None:
        if leg not in self._legs:
            self._new.add(leg)
        if self._timer is None:
            self._next = self._loop.time()
            self._ticked = monotonic()
            self._timer = self._loop.call_at(self._next, self._tick)

    def discard(self, leg: "PacedLeg") -> None:
        self._legs.discard(leg)
        self._new.discard(leg)
        if not self._legs and not self._new and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        due = 1 + max(int((self._loop.time() - self._next) / self._seconds), 0)
        self._next += due * self._seconds
        self._timer = self._loop.call_at(self._next, self._tick)
        self._ticked = monotonic()
        legs, new = tuple(self._legs), tuple(self._new)
        self._legs |= self._new
        self._new.clear()
        for leg in legs:
            leg.tick(min(due, CATCH_UP))
        for leg in new:
            leg.tick(1)


class PacedLeg(Leg):
    """A leg whose wire plays what it gets at once: we keep the time."""

    __slots__ = ("_clock", "_drains", "_frames", "_low", "_playing", "_tail", "_tail_held")

    def __init__(self, rate: int, clock: Clock, *, backlog: float = BACKLOG, keep: float = KEEP) -> None:
        super().__init__(rate, backlog=backlog, keep=keep)
        self._clock = clock
        self._frames: deque[bytes] = deque()
        self._tail = b""  # less than a frame
        self._tail_held = False  # for one tick already
        self._playing = False  # until one tick after the last frame
        self._drains: list[asyncio.Future[None]] = []
        self._low = self._backlog // self._frame_bytes * 3 // 4  # frames; send() goes on here, not at each

    async def send(self, pcm: bytes) -> None:
        # One frame with room, the common case: no lock, no slices.
        if (
            len(pcm) == self._frame_bytes
            and not self._tail
            and not self._unsent
            and self.why is None
            and len(self._frames) * self._frame_bytes < self._backlog
        ):
            self._frames.append(pcm)
            if not self._playing:
                self._start()
            return
        await super().send(pcm)

    async def drained(self) -> None:
        if self._playing:
            waiter = self._loop.create_future()
            self._drains.append(waiter)
            await waiter
        self._must_be_open("play sound")

    def tick(self, due: int) -> None:
        """By the clock: send as many frames as are due."""
        frames, counters = self._frames, self.counters
        late = 0
        while due and frames:
            due -= 1
            if self._write(frames.popleft()):
                counters.sent += 1
                counters.late += late
            else:
                counters.dropped += 1
            late = 1
        if self._sender is not None and len(frames) <= self._low:
            self._wake_sender()
        if not due or self._unsent:
            return
        if not self._tail:
            self._played()
            self._idle()
        elif self._tail_held:
            frames.append(self._tail.ljust(self._frame_bytes, b"\0"))
            self._tail = b""
            self.tick(1)
        else:
            self._tail_held = True

    @abstractmethod
    def _write(self, frame: bytes) -> bool:
        """Give a frame of 20 ms to the wire; False when it takes none, and the frame is dropped."""

    def _start(self) -> None:
        self._playing = True
        self._clock.add(self)

    def _idle(self) -> None:
        """A tick with nothing to send."""
        self._clock.discard(self)

    def _played(self) -> None:
        """All that was sent is over, or forgotten."""
        if not self._playing:
            return
        self._playing = False
        drains, self._drains = self._drains, []
        for waiter in drains:
            if not waiter.done():
                waiter.set_result(None)

    def _queued_bytes(self) -> int:
        return len(self._frames) * self._frame_bytes + len(self._tail)

    async def _put(self, pcm: bytes) -> None:
        pcm = self._tail + pcm
        size = self._frame_bytes
        whole = len(pcm) - len(pcm) % size
        self._frames.extend(pcm[at : at + size] for at in range(0, whole, size))
        self._tail = pcm[whole:]
        self._tail_held = False
        if not self._playing:
            self._start()

    def _forget(self) -> None:
        self._frames.clear()
        self._tail = b""
        self._played()
        if self.why is not None:
            self._clock.discard(self)


class MemoryLeg(PacedLeg):
    """A leg without Asterisk, for tests of what talks to one: a function is the far side.

    ``far`` gets each frame that was played and may return what the far side says to it (``lambda pcm: pcm``
    is an echo). ``played`` keeps all of them. ``speed`` is how many times faster than real sound it plays.
    """

    def __init__(
        self,
        rate: int,
        *,
        far: Callable[[bytes], bytes | None] | None = None,
        speed: float = 1.0,
        backlog: float = BACKLOG,
        keep: float = KEEP,
    ) -> None:
        super().__init__(rate, Clock(FRAME_SECONDS / speed), backlog=backlog, keep=keep)
        self.played = bytearray()
        self._far = far

    def say(self, pcm: bytes) -> None:
        """The far side says something."""
        if self.why is None:
            self._heard(pcm)

    def press(self, digit: str) -> None:
        """The far side presses a key."""
        if self.why is None:
            self._pressed(digit)

    def hang_up(self, why: str = "hangup") -> None:
        """The far side ends the leg."""
        self._end(why)

    async def close(self) -> None:
        self._end("ours")

    def _write(self, frame: bytes) -> bool:
        self.played += frame
        answer = self._far(frame) if self._far is not None else None
        if answer is not None:
            self._heard(answer)
        return True
