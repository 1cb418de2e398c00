"""Our side of the media bench: ``python -m tests.bench.media_side LAB LEGS SECONDS RATE``; prints JSON."""

import asyncio
import json
import os
import resource
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final
from uuid import uuid4

from tests.tools.media import Calls
from tests.tools.sound import tone
from voxtractl.audio.leg import Leg
from voxtractl.audio.server import AudioServer, AudioSocketLeg
from voxtractl.errors import CallEnded
from voxtractl.lab import Lab, find
from voxtractl.runtime.event_loop import new_event_loop

ON_TIME: Final = 0.040  # seconds since the frame before; a frame's time and one tick of grace
SETTLE: Final = 50  # frames of each leg before the count begins
TICK: Final = 1 / os.sysconf("SC_CLK_TCK")


class Listener:
    """Counts what a leg hears, and gives it back when it is an echo."""

    def __init__(self, leg: Leg, *, echo: bool) -> None:
        self.leg = leg
        self.gaps: list[float] = []
        self.settled = asyncio.Event()
        self._echo = echo

    async def listen(self) -> None:
        leg, gaps, echo = self.leg, self.gaps, self._echo
        clock = time.monotonic
        last = clock()
        with suppress(CallEnded):  # send() when the bench is over
            async for pcm in leg:
                now = clock()
                gaps.append(now - last)
                last = now
                if len(gaps) == SETTLE:
                    self.settled.set()
                if echo:
                    await leg.send(pcm)


async def costs(lab: Lab, seconds: int, gaps: Sequence[list[float]]) -> dict[str, float]:
    """What the next ``seconds`` cost, in % of a core, and of the frames that come meanwhile.

    ``gaps`` has a list a leg that grows: how long after the one before each frame came, in seconds.
    """
    begins = [len(each) for each in gaps]
    before, asterisk, wall = resource.getrusage(resource.RUSAGE_SELF), _cpu_of(lab), time.monotonic()
    await asyncio.sleep(seconds)
    after, asterisk, wall = (
        resource.getrusage(resource.RUSAGE_SELF),
        _cpu_of(lab) - asterisk,
        time.monotonic() - wall,
    )
    came = sorted(gap for each, begin in zip(gaps, begins, strict=True) for gap in each[begin:])
    expected = len(gaps) * wall * 50
    user, kernel = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    return {
        "expected": round(expected),
        "received": len(came),
        "on_time": min(sum(gap <= ON_TIME for gap in came) / expected, 1.0) * 100,
        "gap_p50": came[len(came) // 2] * 1000,
        "gap_p99": came[len(came) * 99 // 100] * 1000,
        "gap_max": came[-1] * 1000,
        "cpu": (user + kernel) / wall * 100,
        "kernel": kernel / wall * 100,
        "asterisk": asterisk / wall * 100,
    }


def _cpu_of(lab: Lab) -> float:
    stat = Path(f"/proc/{lab.pid}/stat").read_text()
    utime, stime = stat.rpartition(")")[2].split()[11:13]
    return (int(utime) + int(stime)) * TICK


async def connect(server: AudioServer, calls: Calls, rate: int) -> tuple[AudioSocketLeg, str]:
    leg_id = uuid4()
    leg = server.expect(leg_id, rate, 60.0)
    channel = await calls.audiosocket(server.address, leg_id, rate)
    await leg.connected()
    return leg, channel


async def measure(lab: Lab, count: int, seconds: int, rate: int) -> dict[str, float]:
    async with AudioServer() as server, Calls(lab) as calls:
        listeners: list[Listener] = []
        async with asyncio.TaskGroup() as group:

            async def pair() -> None:
                (one, first), (two, second) = [await connect(server, calls, rate) for _ in range(2)]
                await calls.bridge(first, second)
                listeners.extend((Listener(one, echo=False), Listener(two, echo=True)))

            for _ in range(count // 2):
                group.create_task(pair())
        tasks = [asyncio.create_task(listener.listen()) for listener in listeners]
        speakers = [listener.leg for listener in listeners[::2]]
        sound = tone(440, seconds + 3, rate)
        sending = [asyncio.create_task(speaker.send(sound)) for speaker in speakers]
        for listener in listeners:
            await listener.settled.wait()
        found = await costs(lab, seconds, [listener.gaps for listener in listeners])
        for task in sending:
            task.cancel()
        counters = [listener.leg.counters for listener in listeners]
        await server.close()
        await asyncio.gather(*tasks)
        return found | {
            "late": sum(each.late for each in counters),
            "dropped": sum(each.dropped + each.unread for each in counters),
        }


if __name__ == "__main__":
    name, *numbers = sys.argv[1:]
    found = find(name)
    assert found is not None
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        print(json.dumps(runner.run(measure(found, *map(int, numbers)))))
