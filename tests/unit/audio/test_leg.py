"""The contract of media legs on the one without Asterisk, and what only that one can show."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from tests.contract.legs import LegContract, Place
from voxtractl.audio.leg import Leg, MemoryLeg


@dataclass
class MemoryCall:
    memory: MemoryLeg
    leg: Leg
    hangup: str = "hangup"

    async def press(self, digits: str) -> None:
        for digit in digits:
            self.memory.press(digit)

    async def hang_up(self) -> None:
        self.memory.hang_up()

    async def gone(self) -> None:
        await asyncio.sleep(0)  # callbacks of the end are on their way


@asynccontextmanager
async def in_memory(rate: int) -> AsyncIterator[MemoryCall]:
    async with MemoryLeg(rate, far=lambda pcm: pcm, speed=10) as leg:
        yield MemoryCall(leg, leg)


class TestMemoryLeg(LegContract):
    @pytest.fixture
    def place(self) -> Place:
        return in_memory


async def test_the_oldest_is_dropped_for_a_slow_reader() -> None:
    leg = MemoryLeg(8000, keep=0.06)
    for number in range(5):
        leg.say(bytes([number, 0]))
    leg.hang_up()
    assert [pcm[0] async for pcm in leg] == [2, 3, 4]
    assert (leg.counters.received, leg.counters.unread) == (5, 2)


async def test_only_keys_are_keys() -> None:
    leg = MemoryLeg(8000)
    pressed: list[str] = []
    leg.on_digit(pressed.append)
    for sign in ("1", "a", "f", "E", "", "\n", "#"):
        leg.press(sign)
    await asyncio.sleep(0)
    assert pressed == ["1", "A", "#"]


async def test_the_far_side_says_nothing_after_the_end() -> None:
    leg = MemoryLeg(8000)
    pressed: list[str] = []
    leg.on_digit(pressed.append)
    leg.hang_up()
    leg.say(b"ab")
    leg.press("1")
    leg.hang_up("eof")
    await asyncio.sleep(0)
    assert leg.why == "hangup"
    assert leg.counters.received == 0
    assert pressed == []


async def test_all_legs_of_a_clock_share_its_timer_and_it_rests_with_them() -> None:
    leg = MemoryLeg(8000, speed=100)
    other = MemoryLeg(8000, speed=100)
    other._clock = leg._clock
    for each in (leg, other):
        await each.send(bytes(320))
    assert leg._clock._timer is not None
    await asyncio.gather(leg.drained(), other.drained())
    assert leg.played == other.played == bytes(320)
    assert leg._clock._timer is None


async def test_a_late_tick_is_caught_up_but_not_without_bound() -> None:
    leg = MemoryLeg(8000, speed=1)
    await leg.send(bytes(320 * 20))
    leg.tick(1)
    assert (leg.counters.sent, leg.counters.late) == (1, 0)
    leg._clock._legs.add(leg)
    leg._clock._new.clear()
    leg._clock._next -= 10  # as if the loop had been blocked for ten seconds
    leg._clock._tick()
    assert (leg.counters.sent, leg.counters.late) == (6, 4)
    leg.clear()
