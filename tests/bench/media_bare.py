"""The least a program on asyncio's loop can do for the sound of calls: one Protocol a leg, one timer.

``python -m tests.bench.media_bare LAB LEGS SECONDS RATE`` prints JSON. The limit of our CPU for 300 legs is
25 % of a core because such a program took 21 to 22 % on the machine where it was set. How fast a machine is
changes both, so the bench runs both, and compares.

No stream is checked, nobody waits for sound, nothing ends in an orderly way: a library has to do more.
"""

import asyncio
import json
import sys
import time
from typing import cast
from uuid import UUID, uuid4

from tests.bench.media_side import SETTLE, costs
from tests.tools.media import Calls
from tests.tools.sound import tone
from voxtractl.audio.audiosocket import FRAME_SECONDS, RATES, encode, frame_bytes
from voxtractl.lab import Lab, find


class Bare(asyncio.Protocol):
    """One leg: gives back each frame when it is an echo."""

    def __init__(self, waiting: "dict[UUID, asyncio.Future[Bare]]") -> None:
        self.gaps: list[float] = []
        self.settled = asyncio.Event()
        self.echo = False
        self._waiting = waiting
        self._left = b""
        self._named = False
        self._last = time.monotonic()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._left:
            data = self._left + data
        at, size = 0, len(data)
        while size - at >= 3:
            end = at + 3 + (data[at + 1] << 8 | data[at + 2])
            if end > size:
                break
            if self._named:
                self._heard(data[at:end])
            else:
                self._named = True
                self._waiting.pop(UUID(bytes=data[at + 3 : end])).set_result(self)
            at = end
        self._left = data[at:]

    def _heard(self, frame: bytes) -> None:
        now = time.monotonic()
        self.gaps.append(now - self._last)
        self._last = now
        if len(self.gaps) == SETTLE:
            self.settled.set()
        if self.echo:
            self.transport.write(frame)


class Pace:
    """Writes a frame to each of ``legs`` every 20 ms."""

    def __init__(self, rate: int) -> None:
        self.legs: list[Bare] = []
        self._frame = encode(RATES[rate], tone(440, 1, rate)[: frame_bytes(rate)])
        self._loop = asyncio.get_running_loop()
        self._next = self._loop.time()
        self._tick()

    def _tick(self) -> None:
        self._next = max(self._next + FRAME_SECONDS, self._loop.time())
        self._timer = self._loop.call_at(self._next, self._tick)
        for leg in self.legs:
            leg.transport.write(self._frame)

    def stop(self) -> None:
        self._timer.cancel()


async def measure(lab: Lab, count: int, seconds: int, rate: int) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    waiting: dict[UUID, asyncio.Future[Bare]] = {}
    server = await loop.create_server(lambda: Bare(waiting), "127.0.0.1", 0, backlog=1024)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    pace = Pace(rate)
    pairs: list[tuple[Bare, Bare]] = []
    async with Calls(lab) as calls:

        async def leg() -> tuple[Bare, str]:
            leg_id = uuid4()
            waiting[leg_id] = came = loop.create_future()
            # At once: a leg that has sent nothing may hold up all of Asterisk (docs/decisions/0007, Sound).
            came.add_done_callback(lambda named: pace.legs.append(named.result()))
            channel = await calls.audiosocket(address, leg_id, rate)
            return await came, channel

        async def pair() -> None:
            (one, first), (two, second) = [await leg() for _ in range(2)]
            await calls.bridge(first, second)
            pairs.append((one, two))

        async with asyncio.TaskGroup() as group:
            for _ in range(count // 2):
                group.create_task(pair())
        for _, two in pairs:
            two.echo = True
            pace.legs.remove(two)
        legs = [leg for both in pairs for leg in both]
        for each in legs:
            await each.settled.wait()
        found = await costs(lab, seconds, [each.gaps for each in legs])
        pace.stop()
        for each in legs:
            each.transport.abort()
        server.close()
    return found


if __name__ == "__main__":
    name, *numbers = sys.argv[1:]
    lab = find(name)
    assert lab is not None
    print(json.dumps(asyncio.run(measure(lab, *map(int, numbers)))))
