"""Sound of a call in our hands: a media leg beside the call, in a bridge with it.

    call ─┐
          ├─ bridge ── media channel ── AudioSocket (or websocket) ── Leg: our sound out, its sound in
    play ─┘

The listening server is the app's, in the event loop of its handlers, as the legs are. When Asterisk cannot
make media channels, a breaker stops asking for a while. An Asterisk whose AudioSocket knows 8 kHz only
(before 20.17 and 22.7) gets that, and the leg turns it into its own rate. Neither kind of media channel needs
an RTP port: with none left a call that is up can still be heard and spoken to (measured).
"""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from voxtractl.ari import requests
from voxtractl.ari.release import LEG_RATES, MEDIA_WEBSOCKET
from voxtractl.audio.leg import Leg
from voxtractl.audio.mediasocket import connect
from voxtractl.audio.server import AudioServer
from voxtractl.errors import AriError, CallEnded, CallError, LocalProtocolError, MediaFailed

if TYPE_CHECKING:
    from voxtractl.runtime.hub import Hub

__all__ = ["FAILURES", "FORMATS", "Breaker", "open_leg"]

Server = Callable[[], Awaitable[AudioServer]]

FORMATS: Final[Mapping[int, str]] = {8000: "slin", 16000: "slin16", 24000: "slin24", 48000: "slin48"}
CONNECT: Final = 5.0  # seconds until Asterisk must have connected
FAILURES: Final = 3  # in a row, until the breaker opens
REST: Final = 5.0  # seconds it stays open


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
        channel = await hub.open_aux(call_id, build)
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
        channel = await hub.open_aux(call_id, build, begin)
    except BaseException:
        for leg in legs:
            await leg.close()
        raise
    return str(channel["id"]), legs[0]
