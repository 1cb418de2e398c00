"""What every media leg must do, as one suite: over AudioSocket, over Asterisk's websocket, and in memory.

A subclass in a test file gives the fixture ``place``, which makes calls whose far side echoes.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, Protocol

import pytest

from tests.tools.sound import loudness, pitch, tone
from voxtractl.audio.leg import Leg
from voxtractl.errors import CallEnded, LocalProtocolError

__all__ = ["Call", "LegContract", "Place"]

RATE: Final = 8000
PATIENCE: Final = 20.0  # seconds until a test is over, whatever it waits for


class Call(Protocol):
    """A leg, and what its far side does."""

    leg: Leg
    hangup: str  # what the leg says when the far side hangs up

    async def press(self, digits: str) -> None: ...

    async def hang_up(self) -> None:
        """From the far side."""

    async def gone(self) -> None:
        """Return when the far side knows that it is over."""


Place = Callable[..., AbstractAsyncContextManager[Call]]  # (rate) → a call that is up


class Ear:
    """Listens all the time to what comes back."""

    def __init__(self, leg: Leg) -> None:
        self.heard = bytearray()
        self._loud = bytearray()  # since the last pause
        self._leg = leg
        self._news = asyncio.Condition()
        self._task = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        async for pcm in self._leg:
            async with self._news:
                self.heard += pcm
                self._loud += pcm
                if loudness(pcm) < 1000:
                    self._loud.clear()
                self._news.notify_all()

    async def seconds(self, seconds: float) -> None:
        """Return when so much was heard."""
        async with self._news:
            await self._news.wait_for(lambda: len(self.heard) >= seconds * 2 * self._leg.rate)

    async def tone(self, hertz: float) -> None:
        """Return when 0.3 s of it was heard, and was loud: a machine that stands still cuts it in pieces."""
        size = 2 * self._leg.rate // 10 * 3

        def heard() -> bool:
            last = bytes(self._loud[-size:])
            return len(last) == size and abs(pitch(last, self._leg.rate) - hertz) < 5

        async with self._news:
            await self._news.wait_for(heard)

    async def end(self) -> None:
        """Return when there is no more to hear."""
        await self._task


@asynccontextmanager
async def limited(place: Place, rate: int = RATE) -> AsyncIterator[Call]:
    async with asyncio.timeout(PATIENCE), place(rate) as call:
        yield call


class LegContract:
    """The suite."""

    @pytest.mark.parametrize("rate", [8000, 16000, 24000, 48000])
    async def test_a_tone_is_played_and_comes_back(self, place: Place, rate: int) -> None:
        async with limited(place, rate) as call:
            ear = Ear(call.leg)
            sending = asyncio.create_task(call.leg.send(tone(440, 5.0, rate)))
            await ear.tone(440)
            call.leg.clear()
            await sending

    async def test_sound_in_odd_pieces_is_played_whole(self, place: Place) -> None:
        async with limited(place) as call:
            ear = Ear(call.leg)
            sound = tone(440, 5.0, RATE)

            async def send() -> None:
                for at in range(0, len(sound), 226):  # 14.1 ms
                    await call.leg.send(sound[at : at + 226])

            sending = asyncio.create_task(send())
            await ear.tone(440)
            sending.cancel()

    async def test_a_part_of_a_frame_is_played_as_well(self, place: Place) -> None:
        async with limited(place) as call:
            ear = Ear(call.leg)
            await call.leg.send(tone(440, 0.11, RATE))
            await call.leg.drained()
            await ear.seconds(0.11)
            assert loudness(bytes(ear.heard[1600:1760])) > 1000  # from 0.10 to 0.11 s

    async def test_send_waits_while_more_than_the_backlog_is_queued(self, place: Place) -> None:
        async with limited(place) as call:
            ear = Ear(call.leg)
            sending = asyncio.create_task(call.leg.send(tone(440, 2.5, RATE)))
            await ear.seconds(0.2)
            assert not sending.done()
            assert 1.0 < call.leg.queued < 2.5
            await sending
            assert call.leg.queued <= 1.0
            await call.leg.drained()
            assert call.leg.queued == 0

    async def test_drained_returns_at_once_when_nothing_was_sent(self, place: Place) -> None:
        async with limited(place) as call:
            await call.leg.drained()

    async def test_clear_forgets_what_is_queued_and_what_still_waits(self, place: Place) -> None:
        async with limited(place) as call:
            ear = Ear(call.leg)
            sending = asyncio.create_task(call.leg.send(tone(440, 9.0, RATE)))
            waiting = asyncio.create_task(call.leg.send(tone(440, 9.0, RATE)))
            draining = asyncio.create_task(call.leg.drained())
            await ear.seconds(0.3)
            dropped = call.leg.clear()
            assert 16.0 < dropped < 18.0
            assert call.leg.queued == 0
            await asyncio.gather(sending, waiting, draining)
            await call.leg.send(tone(1200, 1.0, RATE))
            before = len(ear.heard)
            await call.leg.drained()
            await ear.seconds(before / 2 / RATE + 0.7)
            assert len(ear.heard) < 3 * 2 * RATE
            last = bytes(
                ear.heard[before + RATE // 5 * 4 : before + RATE // 10 * 2 * 6]
            )  # 0.4 to 0.6 s after
            assert pitch(last, RATE) == pytest.approx(1200, abs=15)

    async def test_a_second_clear_drops_nothing(self, place: Place) -> None:
        async with limited(place) as call:
            await call.leg.send(tone(440, 0.9, RATE))
            assert call.leg.clear() > 0
            assert call.leg.clear() == 0
            await call.leg.drained()

    async def test_keys_arrive_once_and_in_order(self, place: Place) -> None:
        async with limited(place) as call:
            pressed: asyncio.Queue[str] = asyncio.Queue()
            call.leg.on_digit(pressed.put_nowait)
            await call.press("12*#D")
            assert [await pressed.get() for _ in range(5)] == list("12*#D")
            assert pressed.empty()

    async def test_a_hangup_of_the_far_side_ends_everything_once(self, place: Place) -> None:
        async with limited(place) as call:
            leg = call.leg
            whys: list[str] = []
            leg.on_close(whys.append)
            sending = asyncio.create_task(leg.send(tone(440, 9.0, RATE)))
            draining = asyncio.create_task(leg.drained())
            ear = Ear(leg)
            await ear.seconds(0.1)
            await call.hang_up()
            assert await leg.wait_closed() == call.hangup == leg.why
            for task in (sending, draining):
                with pytest.raises(CallEnded):
                    await task
            await ear.end()
            for ended in (leg.receive(), leg.send(b"ab"), leg.drained()):
                with pytest.raises(CallEnded):
                    await ended
            await leg.close()
            assert leg.why == call.hangup
            assert leg.clear() == 0
            await call.gone()
            late: asyncio.Queue[str] = asyncio.Queue()
            leg.on_close(late.put_nowait)
            assert await late.get() == call.hangup
            assert whys == [call.hangup]

    async def test_close_hangs_up_once(self, place: Place) -> None:
        async with limited(place) as call:
            leg = call.leg
            whys: list[str] = []
            leg.on_close(whys.append)
            ear = Ear(leg)
            await leg.send(tone(440, 0.5, RATE))
            await ear.seconds(0.1)
            await asyncio.gather(leg.close(), leg.close())
            await leg.close()
            await call.gone()
            await ear.end()
            assert whys == ["ours"]
            assert await leg.wait_closed() == "ours"

    async def test_what_came_before_the_end_is_still_read(self, place: Place) -> None:
        async with limited(place) as call:
            leg = call.leg
            await leg.send(tone(440, 0.5, RATE))
            await leg.drained()
            await leg.close()
            sounds = [pcm async for pcm in leg]
            assert sum(map(len, sounds)) >= 0.4 * 2 * RATE

    async def test_half_a_sample_is_refused_and_harms_nothing(self, place: Place) -> None:
        async with limited(place) as call:
            with pytest.raises(LocalProtocolError, match="3 bytes"):
                await call.leg.send(b"abc")
            assert not call.leg.closed

    async def test_two_readers_are_refused(self, place: Place) -> None:
        async with limited(place) as call:
            ear = Ear(call.leg)
            await call.leg.send(tone(440, 0.1, RATE))
            await ear.seconds(0.06)
            with pytest.raises(RuntimeError, match="read already"):
                await call.leg.receive()

    async def test_a_callback_that_raises_harms_nobody(self, place: Place) -> None:
        faults: list[BaseException | None] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: faults.append(context.get("exception"))
        )
        async with limited(place) as call:
            pressed: asyncio.Queue[str] = asyncio.Queue()
            call.leg.on_digit(lambda _: 1 / 0)
            call.leg.on_digit(pressed.put_nowait)
            await call.press("5")
            assert await pressed.get() == "5"
            assert not call.leg.closed
        assert [type(fault) for fault in faults] == [ZeroDivisionError]
