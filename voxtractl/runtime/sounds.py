"""What a call hears from Asterisk: sound files, tones, numbers that are spoken.

    play ──▶ playing ──PlaybackFinished──▶ done, failed          _playing   a verb, or stop(), knows it
              └─ stop, timeout, cancel ──▶ stopped               _sounding  Asterisk has not said it is over

A sound holds up what else is done with the channel: Asterisk answers it, bridges it and sets its variables
only when its sounds have ended (measured). Waiting for its answer would occupy a connection that other calls
need, so who wants one of these waits here first (``until_quiet``).
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Final, NamedTuple
from uuid import uuid4

from voxtractl.ari import requests
from voxtractl.ari.client import stop_playback
from voxtractl.ari.requests import Answer, Request
from voxtractl.errors import AriUnreachable, MediaFailed, UsageFault
from voxtractl.runtime.channel import Channel, seen

__all__ = ["SOUND_MAX", "Played", "Sounds", "tone_of"]

log = logging.getLogger(__name__)

LOOK_AGAIN: Final = 3.0  # seconds until Asterisk is asked whether a sound is over
SOUND_MAX: Final = 3600.0  # seconds: Asterisk tells no end of some playbacks (measured); a handler goes on
TONE_ENDS: Final = 1.0  # seconds for a tone that is stopped; it takes Asterisk a millisecond or two
SPOKEN: Final = frozenset({"number", "digits", "characters"})  # by Asterisk itself; it cannot stop them
SCHEMES: Final = SPOKEN | {"sound", "recording", "tone"}


class Played(NamedTuple):
    """How a sound ended: ``done``, ``stopped`` (by ``stop()``) or ``failed`` (Asterisk has no such file)."""

    media: str
    status: str

    @property
    def ok(self) -> bool:
        return self.status == "done"


class Sounds:
    """Of one call."""

    __slots__ = ("_asking", "_channel", "_playing", "_quiet", "_sounding", "_stopping")

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._playing: dict[str, list[str]] = {}  # the media of each playback
        self._asking: dict[str, asyncio.Future[Answer]] = {}  # requests that have no answer yet
        self._sounding: set[str] = set()
        self._stopping: set[str] = set()  # tones whose end is not told yet
        self._quiet = asyncio.Event()  # nothing is sounding
        self._quiet.set()

    async def play(
        self, media: list[str], op: str, *, wait: bool, lang: str = "", timeout: float = SOUND_MAX
    ) -> Played:
        """Play one after the other; returns when all have ended, or without ``wait`` at once."""
        channel = self._channel
        for uri in media:
            if uri.partition(":")[0] not in SCHEMES or not uri.partition(":")[2]:
                raise MediaFailed(
                    f"{op}: Asterisk cannot play {uri!r}",
                    call=channel.call_id,
                    hint=f"one of {', '.join(sorted(SCHEMES))}",
                )
        if not media:
            raise UsageFault(f"{op} needs something to play")
        await self.stop_tones()  # else it would begin when they end, and they never do
        playback = await self._tone(op) if _is_tone(media) else uuid4().hex
        done = channel.expect(playback, op)
        self._playing[playback] = media
        self._sounding.add(playback)
        self._quiet.clear()
        bridge = channel.bridge

        def build(own: str) -> Request:
            if bridge is None:
                return requests.play(own, playback, media, lang=lang or None)
            return requests.play_bridge(bridge, playback, media, lang=lang or None)

        self._asking[playback] = asking = asyncio.ensure_future(channel.command(build, op))
        asking.add_done_callback(partial(self._asked, playback))
        try:
            await asyncio.shield(asking)
        except BaseException as exc:
            self._forget(playback, media)
            if isinstance(exc, (asyncio.CancelledError, AriUnreachable)):  # it may have begun
                channel.background(self.end(playback, media))
            else:
                self._silent(playback)
            raise
        ended = self._watch(playback, done, media, op, timeout)
        if wait:
            return await ended
        channel.background(ended)
        return Played(media[-1], "started")

    def _asked(self, playback: str, asking: "asyncio.Future[Answer]") -> None:
        del self._asking[playback]
        seen(asking)

    async def _tone(self, op: str) -> str:
        """The id of the next tone; the one before it, which is being stopped, is waited for."""
        tone = tone_of(self._channel.id)
        if tone in self._sounding:
            ending = self._channel.waiting(tone) or self._channel.expect(tone, op)
            await asyncio.wait([ending], timeout=TONE_ENDS)
            if tone not in self._playing:
                self._channel.forget(tone)
        return tone if tone not in self._sounding else uuid4().hex

    async def _watch(
        self, playback: str, done: "asyncio.Future[str]", media: list[str], op: str, timeout: float
    ) -> Played:
        try:
            async with asyncio.timeout(timeout):
                status = await done
        except TimeoutError:
            status = "stopped"
            self._channel.check(op)
            await self.end(playback, media)
            self._silent(playback)
        except asyncio.CancelledError:
            if done.cancelled():  # else it had ended
                self._channel.background(self.end(playback, media))
            raise
        finally:
            self._forget(playback, media)
        if status == "failed":
            log.error("%s: Asterisk could not play %s (call %s)", op, ", ".join(media), self._channel.call_id)
            self._channel.write("playback_failed", media=", ".join(media))
        return Played(media[-1], status)

    async def stop(self) -> None:
        """Stop all that plays; who waits for it gets ``stopped``."""
        for playback, media in list(self._playing.items()):
            self._channel.resolve(playback, "stopped")
            self._channel.check("stop")
            await self.end(playback, media)

    async def stop_tones(self) -> None:
        """They never end by themselves. One that is being stopped is not stopped again: Asterisk may not know
        it any more before it has told its end, and that would be taken for the end of the next one."""
        tones = {playback for playback, media in self._playing.items() if _is_tone(media)}
        tones = tones & self._sounding - self._stopping
        self._stopping |= tones
        try:
            await self._stop(list(tones))
        except BaseException:
            self._stopping -= tones
            raise

    async def _stop(self, playbacks: Sequence[str]) -> None:
        for playback in playbacks:
            if playback in self._playing and not self._channel.is_gone:
                await self.end(playback, self._playing[playback])

    async def end(self, playback: str, media: Sequence[str]) -> None:
        """Have Asterisk end a sound; nothing happens when it is over. What it cannot stop goes to the log.

        Not before Asterisk has answered for it: over HTTP the end overtakes the request, finds no sound, and
        the sound goes on (10 of 88 times).
        """
        channel = self._channel
        if playback in self._asking:
            await asyncio.wait([self._asking[playback]])
        if all(uri.partition(":")[0] in SPOKEN for uri in media):
            answer = await channel.hub.ask(requests.stop_playback(playback))
        else:
            answer = await stop_playback(channel.hub.ask, playback)
        if answer.status == 404:
            self._silent(playback)
        elif answer.status >= 300 and not channel.is_gone:
            log.warning(
                "call %s: Asterisk does not stop %s: %s", channel.call_id, ", ".join(media), answer.message
            )

    async def until_quiet(self, op: str, *, at_once: bool = False, leaving: bool = False) -> None:
        """Wait until nothing plays any more; tones are stopped, ``at_once`` all that can be stopped. What
        plays in a bridge counts when the call is ``leaving`` it."""
        await (self._stop(list(self._playing)) if at_once else self.stop_tones())
        while not self._quiet.is_set() and (leaving or self._channel.bridge is None):
            await self._channel.through(self._until_told(), op)
            if not self._quiet.is_set():
                await self._look()
        self._channel.check(op)

    async def _until_told(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_AGAIN):
                await self._quiet.wait()

    async def _look(self) -> None:
        """Asterisk does not tell the end of each sound (measured), and events can be lost."""
        for playback in list(self._sounding):
            if playback in self._asking:
                continue
            if (await self._channel.hub.ask(requests.playback(playback))).status == 404:
                self._silent(playback)

    @property
    def quiet(self) -> bool:
        """Nothing plays."""
        return self._quiet.is_set()

    # --- what it is told --------------------------------------------------------------------------------

    def finished(self, playback: str, status: str) -> None:
        """Asterisk says so."""
        self._channel.resolve(playback, status)
        self._silent(playback)

    def adopted(self) -> None:
        """Another process had the call, and may have left it with a tone."""
        tone = tone_of(self._channel.id)
        self._sounding.add(tone)
        self._quiet.clear()
        self._channel.background(self.end(tone, ["tone:"]))

    def replaced(self) -> None:
        """Another channel has the place of the call's (REFER), and goes on with its sounds. A tone it does
        not hear, and the id is that of the channel before: whoever has the call after us could not stop it.
        """
        if self._channel.bridge is None:
            for playback, media in self._playing.items():
                if _is_tone(media):
                    self._channel.background(self._begin_again(playback, media))

    async def _begin_again(self, playback: str, media: list[str]) -> None:
        done = self._channel.waiting(playback)
        await self.end(playback, media)
        if done is not None and not (done.done() and done.result() == "stopped"):
            await self.play(media, "play_tone", wait=False)

    def left(self) -> None:
        """The call has left the bridge its sounds were played into."""
        for playback in list(self._sounding):
            self._silent(playback)

    def resync(self) -> None:
        """Events were lost with a connection: ask whether what sounds is over."""
        if self._sounding:
            self._channel.background(self._look())

    def _silent(self, playback: str) -> None:
        """A sound is over, or never began."""
        self._sounding.discard(playback)
        self._stopping.discard(playback)
        self._channel.resolve(playback, "done")
        if not self._sounding:
            self._quiet.set()

    def _forget(self, playback: str, media: list[str]) -> None:
        """Not what plays under this id by now: the next tone has that of the one before."""
        if self._playing.get(playback) is media:
            self._channel.forget(playback)
            del self._playing[playback]


def tone_of(channel_id: str) -> str:
    """The id of the tone that a call hears. A tone has no end, and holds up what else is done with the call:
    whoever has the call after us must be able to stop it."""
    return f"vx-tone-{channel_id}"


def _is_tone(media: Sequence[str]) -> bool:
    return any(uri.startswith("tone:") for uri in media)
