"""What is recorded of a call: by Asterisk into a file, or from a leg into a sink of the handler's.

    start ──▶ running ──stop──▶ stopping ──RecordingFinished──▶ Recorded
               └─ RecordingFinished, RecordingFailed (it ended by itself) ──▶ Recorded, MediaFailed

Asterisk's recorder listens in on a channel of its own: on the call itself no sound would play meanwhile
(measured on 22.10).
"""

import asyncio
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from voxtractl.ari import requests
from voxtractl.ari.requests import Answer, Request
from voxtractl.errors import MediaFailed, UsageFault
from voxtractl.runtime.channel import Channel, seen

if TYPE_CHECKING:
    from voxtractl.audio.leg import Leg
    from voxtractl.runtime.media import Media

__all__ = ["Recorded", "Recordings"]

STOPS: Final = 10.0  # seconds Asterisk gets to write the end of a recording
STOP_AGAIN: Final = 0.5  # seconds until it is asked again
LOOKS: Final = 3  # for a recording of a call that is over
LOOK_EVERY: Final = 1.0  # seconds before each
RATE: Final = 8000  # of what a sink gets


class Recorded(NamedTuple):
    """A finished recording; ``name`` is its name among Asterisk's stored recordings. Of a file Asterisk tells
    whole ``seconds`` only: 0 for all that is shorter than one."""

    name: str
    format: str
    seconds: float


class _Recording(NamedTuple):
    """A recording that runs: on a snoop channel by Asterisk, or a leg that feeds a sink."""

    format: str
    done: "asyncio.Future[Recorded]"
    channel: str | None = None
    leg: "Leg | None" = None


class Recordings:
    """Of one call; a recording without a name gets one that begins with ``prefix``."""

    __slots__ = ("_beginning", "_begun", "_channel", "_media", "_prefix", "_running", "_stopping")

    def __init__(self, channel: Channel, media: "Media", prefix: str) -> None:
        self._channel = channel
        self._media = media
        self._prefix = prefix
        self._running: dict[str, _Recording] = {}
        self._stopping: dict[str, _Recording] = {}
        self._begun = 0
        self._beginning = asyncio.Lock()  # what is on its way is stopped when it has begun

    @property
    def last(self) -> str | None:
        """The one that was begun last of those that were not stopped."""
        return next(reversed(self._running), None)

    async def start(
        self,
        name: str,
        fmt: str,
        *,
        direction: str,
        max_seconds: int,
        beep: bool,
        sink: Callable[[bytes], object] | None,
    ) -> str:
        """Begin; returns its name. Raises MediaFailed, UsageFault, CallEnded."""
        if direction not in ("both", "in", "out"):
            raise UsageFault(f"record_start takes the direction both, in or out, not {direction!r}")
        async with self._beginning:
            self._channel.check("record_start")
            name = name or f"{self._prefix}-{self._begun}"
            if name in self._running:
                raise MediaFailed(f"{name} is being recorded already", call=self._channel.call_id)
            self._begun += 1
            future: asyncio.Future[Recorded] = self._channel.loop.create_future()
            future.add_done_callback(seen)
            self._running[name] = recording = _Recording(fmt, future)
            try:
                if sink is not None:
                    leg = await self._media.snoop(direction, rate=RATE)
                    done = asyncio.ensure_future(_feed(name, leg, sink))
                    done.add_done_callback(seen)
                    self._running[name] = _Recording("pcm", done, leg=leg)
                else:
                    await self._into_file(name, recording, direction, max_seconds, beep=beep)
            except BaseException:
                self._running.pop(name, None)
                raise
            return name

    async def _into_file(
        self, name: str, recording: _Recording, direction: str, max_seconds: int, *, beep: bool
    ) -> None:
        """Have Asterisk record, on a channel that listens in."""
        channel = self._channel
        snooped = await self._media.listener(direction, "record_start")
        self._running[name] = recording._replace(channel=snooped)
        request = requests.record(
            snooped, name, recording.format, max_duration=max_seconds, if_exists="fail", beep=beep
        )
        asking = asyncio.ensure_future(channel.hub.ask(request))
        asking.add_done_callback(seen)
        try:
            answer = await asyncio.shield(asking)
        except BaseException:
            await asyncio.wait([channel.background(self._discard(asking, name, snooped, recording.done))])
            raise
        if answer.status >= 300:
            await channel.hub.aux.remove(snooped)
            await channel.unless_gone("record_start")
            raise MediaFailed(
                f"Asterisk does not record {name}: {answer.message}",
                call=channel.call_id,
                hint="is the name taken? does its folder exist, and may Asterisk write there?",
            )

    async def _discard(
        self, asking: "asyncio.Future[Answer]", name: str, snooped: str, done: "asyncio.Future[Recorded]"
    ) -> None:
        """End what may have begun, and nobody knows of; not that of another call, which has the name then.

        Not before Asterisk has answered for it: over HTTP our question overtakes the request, and the
        recording stayed (25 of 82 that were given up on their way). Asterisk deletes the file when it is
        asked to, refuses with 500 when there is none yet, and keeps the one it makes then (9 of 67).
        """
        hub = self._channel.hub
        await asyncio.wait([asking])
        try:
            found = await hub.ask(requests.recording(name))
            ours = found.status == 200 and found.body["target_uri"] == f"channel:{snooped}"
            if ours and await self._end(requests.cancel_recording(name), name, done):
                await hub.ask(requests.delete_stored(name))
        finally:
            await hub.aux.remove(snooped)

    async def _end(self, request: Request, name: str, done: "asyncio.Future[Recorded]") -> bool:
        """Have Asterisk end one. Just as one begins it may not hear that (6 of 300 times): ask again. Returns
        whether it refused."""
        refused = False
        while not done.done():
            answer = await self._channel.hub.ask(request)
            refused = refused or answer.status == 500
            await asyncio.wait([done], timeout=STOP_AGAIN)
            if answer.status == 404:
                self.finished({"name": name}, failed=False)
                break  # who gave it up twice has forgotten it
        return refused

    async def stop(self, name: str | None) -> Recorded:
        """End one, the last when not told which; returns when it is written. Raises MediaFailed."""
        channel = self._channel
        async with self._beginning:
            name = self.last if name is None else name
            if name is None or name not in self._running:
                raise MediaFailed("nothing is being recorded", call=channel.call_id)
            recording = self._running.pop(name)
        try:
            if recording.leg is not None:
                await recording.leg.close()
            async with asyncio.timeout(STOPS):
                if recording.channel is not None:
                    self._stopping[name] = recording
                    await self._end(requests.stop_recording(name), name, recording.done)
                return await recording.done
        except TimeoutError:
            raise MediaFailed(f"Asterisk did not end the recording {name}", call=channel.call_id) from None
        finally:
            self._stopping.pop(name, None)
            if recording.channel is not None:
                await channel.hub.aux.remove(recording.channel)

    # --- what it is told --------------------------------------------------------------------------------

    def finished(self, recording: Mapping[str, Any], *, failed: bool) -> None:
        """Asterisk says so."""
        name = recording["name"]
        found = self._running.get(name) or self._stopping.get(name)
        if found is None or found.done.done():
            return
        if failed:
            why = recording.get("cause", "")
            found.done.set_exception(MediaFailed(f"{name}: {why}", call=self._channel.call_id))
        else:
            found.done.set_result(Recorded(name, found.format, float(recording.get("duration", 0))))
        if found.channel is not None and name in self._running:  # it ended by itself
            self._channel.remove(found.channel)

    def resync(self) -> None:
        """Events were lost with a connection: ask whether what is recorded is over."""
        if self._running or self._stopping:
            self._channel.background(self._look())

    def over(self) -> None:
        """What was recorded of a call that is over, but not hung up, is told to nobody any more: ask."""
        if not all(each.done.done() for each in (*self._running.values(), *self._stopping.values())):
            self._channel.background(self._look_again())

    async def _look_again(self) -> None:
        for _ in range(LOOKS):
            await asyncio.sleep(LOOK_EVERY)
            await self._look()

    async def _look(self) -> None:
        for name, recording in (*self._running.items(), *self._stopping.items()):
            if recording.channel is not None and not recording.done.done():
                answer = await self._channel.hub.ask(requests.recording(name))
                if answer.status == 404:
                    self.finished({"name": name}, failed=False)


async def _feed(name: str, leg: "Leg", sink: Callable[[bytes], object]) -> Recorded:
    """Hand every piece of sound to the sink; an async one is waited for."""
    count = 0
    async for pcm in leg:
        count += len(pcm)
        told = sink(pcm)
        if inspect.isawaitable(told):
            await told
    return Recorded(name, "pcm", count / 2 / leg.rate)
