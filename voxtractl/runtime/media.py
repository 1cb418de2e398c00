"""Sound of a call in our hands: a media leg beside the call, in a bridge with it.

    call ─┐
          ├─ bridge ── media channel ── AudioSocket (or websocket) ── Leg: our sound out, its sound in
    play ─┘

The listening server is the app's, in the event loop of its handlers, as the legs are. When Asterisk cannot
make media channels, a breaker stops asking for a while. An Asterisk whose AudioSocket knows 8 kHz only
(before 20.17 and 22.7) gets that, and the leg turns it into its own rate. Neither kind of media channel needs
an RTP port: with none left a call that is up can still be heard and spoken to (measured).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, cast
from uuid import uuid4

from voxtractl.ari import requests
from voxtractl.ari.release import LEG_RATES, MEDIA_WEBSOCKET
from voxtractl.audio.leg import Leg
from voxtractl.audio.mediasocket import connect
from voxtractl.audio.server import AudioServer
from voxtractl.errors import AriError, CallEnded, CallError, LocalProtocolError, MediaFailed
from voxtractl.runtime import lifecycle
from voxtractl.runtime.channel import Channel
from voxtractl.runtime.sounds import Sounds

if TYPE_CHECKING:
    from voxtractl.runtime.hub import Hub
    from voxtractl.runtime.taker import Taker

__all__ = ["FAILURES", "FORMATS", "WAYS", "AudioStream", "Breaker", "Media", "open_leg"]


WAYS: Final = ("audiosocket", "websocket")  # Asterisk connects to us, or we to Asterisk
Server = Callable[[], Awaitable[AudioServer]]

FORMATS: Final[Mapping[int, str]] = {8000: "slin", 16000: "slin16", 24000: "slin24", 48000: "slin48"}
CONNECT: Final = 5.0  # seconds until Asterisk must have connected
FAILURES: Final = 3  # in a row, until the breaker opens
REST: Final = 5.0  # seconds it stays open
RATE: Final = 16000  # of a leg that nobody has chosen one for


class Breaker:
    """Stops asking after ``failures`` in a row, for ``rest`` seconds; then one try decides."""

    def __init__(self, failures: int = FAILURES, rest: float = REST) -> None:
        self._most, self._rest = failures, rest
        self._failed = 0
        self._until = 0.0

    def check(self, now: float) -> float:
        """Seconds until the next try; 0: go on."""
        return max(0.0, self._until - now) if self._failed >= self._most else 0.0

    def tell(self, now: float, *, good: bool) -> None:
        if good:
            self._failed = 0
            return
        self._failed += 1
        if self._failed >= self._most:
            self._until = now + self._rest


async def open_leg(
    hub: "Hub", call_id: str, app: str, *, rate: int, transport: str, server: Server, breaker: Breaker
) -> tuple[str, Leg]:
    """A media channel of this call and its leg; the channel is in no bridge yet.

    ``transport``: audiosocket (Asterisk connects to the ``server``) or websocket (we connect). Raises
    MediaFailed.
    """
    if rate not in FORMATS:
        raise MediaFailed(f"a rate of {rate} Hz", call=call_id, hint=f"one of {', '.join(map(str, FORMATS))}")
    if wait := breaker.check(monotonic()):
        raise MediaFailed(
            f"Asterisk made no media channels; none is asked for during {wait:.0f} s",
            call=call_id,
            hint="is res_audiosocket (or chan_websocket) loaded? see Asterisk's log",
        )
    if transport == "websocket" and not await hub.has(MEDIA_WEBSOCKET):
        raise MediaFailed(
            "this Asterisk has no media websocket with JSON messages",
            call=call_id,
            hint='Asterisk 20.18 and 22.8 have; or VoxtraApp(media="audiosocket")',
        )
    opened = _audiosocket if transport == "audiosocket" else _websocket
    try:
        channel, leg = await opened(hub, call_id, app, rate, server)
    except CallEnded:
        raise
    except (AriError, CallError, LocalProtocolError, TimeoutError, OSError) as exc:
        if not isinstance(exc, AriError) or exc.status >= 500 or exc.status == 0:
            breaker.tell(monotonic(), good=False)
        raise MediaFailed(
            f"Asterisk opened no media channel: {str(exc) or 'no answer'}",
            call=call_id,
            hint="is res_audiosocket (or chan_websocket) loaded? see Asterisk's log",
        ) from exc
    breaker.tell(monotonic(), good=True)
    return channel, leg


async def _audiosocket(hub: "Hub", call_id: str, app: str, rate: int, begun: Server) -> tuple[str, Leg]:
    server = await begun()
    leg_id = uuid4()
    wire = rate if await hub.has(LEG_RATES) else 8000
    leg = server.expect(leg_id, rate, CONNECT, wire_rate=wire)  # before Asterisk can connect
    try:
        build = partial(
            requests.external_media,
            app=app,
            external_host=server.address,
            format=FORMATS[wire],
            encapsulation="audiosocket",
            transport="tcp",
            data=str(leg_id),
        )
        channel = await hub.aux.open_channel(call_id, build)
        await leg.connected()
    except BaseException:
        await leg.close()
        raise
    return str(channel["id"]), leg


async def _websocket(hub: "Hub", call_id: str, app: str, rate: int, _: Server) -> tuple[str, Leg]:
    build = partial(
        requests.external_media,
        app=app,
        external_host="INCOMING",
        format=FORMATS[rate],
        encapsulation="none",
        transport="websocket",
        connection_type="server",
        transport_data="f(json)",
    )
    legs: list[Leg] = []

    async def begin(channel: Mapping[str, Any]) -> None:
        """Only when we have connected does the channel come into the app (measured)."""
        connection = channel["channelvars"]["MEDIA_WEBSOCKET_CONNECTION_ID"]
        legs.append(await connect(hub.ari.url, connection, rate=rate))

    try:
        channel = await hub.aux.open_channel(call_id, build, begin)
    except BaseException:
        for leg in legs:
            await leg.close()
        raise
    return str(channel["id"]), legs[0]


class Media:
    """The legs of one call: the one that it is heard and spoken to with, and those that listen in."""

    __slots__ = ("_app", "_begins", "_channel", "_leg", "_listening", "_over", "_sounds", "_taker")

    def __init__(self, channel: Channel, sounds: Sounds, taker: "Taker", app: str) -> None:
        self._channel = channel
        self._sounds = sounds
        self._taker = taker
        self._app = app
        self._leg: Leg | None = None
        self._begins = asyncio.Lock()
        self._listening: list[Leg] = []
        self._over = False

    async def leg(self, rate: int | None = None) -> Leg:
        """The leg of the call, opened when there is none. Raises MediaFailed, CallEnded."""
        async with self._begins:
            if self._leg is not None and not self._leg.closed:
                if rate not in (None, self._leg.rate):
                    raise MediaFailed(
                        f"the call's sound is open at {self._leg.rate} Hz",
                        call=self._channel.call_id,
                        hint="close that leg first",
                    )
                return self._leg
            self._channel.must_be_here("audio_stream")
            channel, leg = await self._open(rate or RATE, "audio_stream")
            try:
                bridge = await self._bridge()
                await self._channel.command(
                    lambda _: requests.add_to_bridge(bridge, [channel]), "audio_stream"
                )
            except BaseException:
                await leg.close()
                raise
            leg.on_close(partial(self._closed, leg))
            self._leg = leg
            return leg

    async def _bridge(self) -> str:
        """The bridge of this call and its media; from then on sounds are played into it."""
        channel = self._channel
        if channel.bridge is None:
            channel.must_be_alone("audio_stream")
            await self._sounds.until_quiet("audio_stream", at_once=True)
            if not channel.is_up:
                await self._open_early()
            channel.bridge = await channel.open_bridge("audio_stream", [channel])
        return channel.bridge

    async def _open_early(self) -> None:
        """Let the caller hear sound before the answer. Asterisk opens the line (SIP 183) for a sound of its
        own, silence too, but not for a bridge."""
        for request in (requests.silence_start, requests.silence_stop):
            await self._channel.command(request, "audio_stream")

    async def _open(self, rate: int, op: str) -> tuple[str, Leg]:
        self._channel.check(op)
        self._taker.take_leg()
        try:
            channel, leg = await open_leg(
                self._channel.hub,
                self._channel.call_id,
                self._app,
                rate=rate,
                transport=self._taker.media,
                server=self._taker.audio_server,
                breaker=self._taker.breaker,
            )
        except BaseException:
            self._taker.give_leg()
            raise
        leg.on_close(self._taker.give_leg)
        return channel, leg

    def _closed(self, leg: Leg, why: str) -> None:
        """The connection of the call's sound ended: so does the call, unless we closed it."""
        if self._leg is not leg:  # it was left behind when the call went into the dialplan
            return
        self._leg = None
        if why != "ours":
            kind = why.partition(":")[0]
            self._channel.tell(
                lifecycle.MediaLost(cast("Any", kind if kind in ("hangup", "eof") else "error"))
            )

    async def snoop(self, spy: str, *, rate: int) -> Leg:
        """A leg that hears the other side (``in``), what it is played (``out``) or ``both``."""
        listener = await self.listener(spy, "snoop")
        try:
            channel, leg = await self._open(rate, "snoop")
            try:
                bridge = await self._channel.open_bridge("snoop", [], [listener, channel])
            except BaseException:
                await leg.close()
                raise
        except BaseException:
            self._channel.remove(listener)
            raise
        self._listening.append(leg)
        leg.on_close(partial(self._unsnooped, leg, listener, bridge))
        return leg

    async def listener(self, spy: str, op: str) -> str:
        """A channel of our own that listens in."""
        build = partial(requests.snoop, app=self._app, spy=cast("Any", spy))
        return await self._channel.open_channel(build, op)

    def _unsnooped(self, leg: Leg, listener: str, bridge: str, why: str) -> None:
        """Its leg is closed: what it listened with goes too; what a call leaves, the hub removes."""
        self._listening.remove(leg)
        if not self._over:
            self._channel.remove(listener)
            self._channel.remove(bridge)

    def clear(self) -> None:
        """Forget what was sent and is not played yet."""
        if self._leg is not None:
            self._leg.clear()

    def left(self) -> None:
        """The call has left the bridge of its media, which costs as much as in a call."""
        bridge, self._channel.bridge = self._channel.bridge, None
        if bridge is not None:
            self._channel.remove(bridge)
        leg, self._leg = self._leg, None
        if leg is not None:
            self._channel.background(leg.close())

    def over(self) -> None:
        """The call is over."""
        self._over = True
        for leg in (*self._listening, self._leg):
            if leg is not None and not leg.closed:
                self._channel.background(leg.close())


class AudioStream:
    """What ``audio_stream()`` gives: await it for the leg, or iterate over the caller's sound."""

    def __init__(self, opened: Callable[[], Awaitable[Leg]]) -> None:
        self._opened = opened

    def __await__(self) -> Generator[Any, None, Leg]:
        return self._opened().__await__()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for pcm in await self:
            yield pcm
