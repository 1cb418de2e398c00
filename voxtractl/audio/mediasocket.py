"""The same leg over Asterisk's websocket of media (chan_websocket): we connect to it, and it paces.

    POST /channels/externalMedia …    transport=websocket encapsulation=none connection_type=server
                                      transport_data=f(json) format=slin16
    GET  /channels/ID/variable        MEDIA_WEBSOCKET_CONNECTION_ID
    leg = await connect(ari_url, connection_id, rate=16000)

Binary messages are sound, text is JSON: events from Asterisk, commands from us. It takes three times the CPU
of AudioSocket (measured, 300 legs), but no port of ours. The id of the connection is its only secret.

Media buffering is always on, so that Asterisk joins parts of frames, and STOP_MEDIA_BUFFERING is a mark
in its queue: its answer comes when all before it is played. FLUSH_MEDIA drops the queue with all marks in it
and ends the buffering (src/channels/chan_websocket.c, handle_command).
"""

import asyncio
import json
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from voxtractl.ari.forks import ours
from voxtractl.audio.leg import BACKLOG, KEEP, Leg
from voxtractl.errors import MediaFailed, RemoteProtocolError

if TYPE_CHECKING:
    from aiohttp import ClientSession, ClientWebSocketResponse

__all__ = ["WebsocketLeg", "connect"]

MESSAGE_MAX: Final = (
    32_000  # bytes of sound in a message; Asterisk reads up to 65,535, older ones 8192 a piece
)
GOODBYE_SECONDS: Final = 2.0
BACKLOG_MAX: Final = 15.0  # seconds; Asterisk's queue ends at 1000 frames, 20 s, and drops what comes then

_log = logging.getLogger(__name__)


async def connect(
    url: str,
    connection_id: str,
    *,
    rate: int,
    backlog: float = BACKLOG,
    keep: float = KEEP,
    timeout: float = 5.0,
    session: "ClientSession | None" = None,
) -> "WebsocketLeg":
    """The leg of an external media channel; ``url`` is that of ARI, without ``/ari``.

    Nothing is lost when callbacks are registered at once. Raises MediaFailed when Asterisk knows no such
    connection, has another on it or does not answer within ``timeout`` seconds, and RemoteProtocolError when
    what answers is no media channel of this rate with JSON. A ``session`` is used and not closed.
    """
    import aiohttp

    own = session is None
    used = session or aiohttp.ClientSession()
    try:
        async with asyncio.timeout(timeout):
            socket = await used.ws_connect(
                f"{url.rstrip('/')}/media/{connection_id}",
                protocols=("media",),
                timeout=aiohttp.ClientWSTimeout(ws_close=GOODBYE_SECONDS),
            )
            ours(socket.get_extra_info("socket"))
            try:
                _check(await socket.receive(), rate)
            except BaseException:
                await socket.close()
                raise
    except BaseException as exc:
        if own:
            await used.close()
        if isinstance(exc, TimeoutError):
            raise _failed(f"Asterisk does not answer within {timeout:g} s", connection_id) from exc
        if isinstance(exc, aiohttp.WSServerHandshakeError):
            what = {404: "it knows no such connection", 409: "it has another connection for it"}
            raise _failed(what.get(exc.status, f"it answers {exc.status}"), connection_id) from exc
        if isinstance(exc, aiohttp.ClientError):
            raise _failed(str(exc), connection_id) from exc
        raise
    return WebsocketLeg(socket, rate, backlog=backlog, keep=keep, session=used if own else None)


def _failed(what: str, connection_id: str) -> MediaFailed:
    return MediaFailed(
        f"no sound from Asterisk: {what}",
        hint="the channel must be up, of transport websocket and connection_type server",
        details={"connection": connection_id},
    )


def _check(message: Any, rate: int) -> None:
    """That the first message is MEDIA_START of our rate."""
    start = _event(message.data) if isinstance(message.data, str) else None
    if start is None or start.get("event") != "MEDIA_START":
        raise RemoteProtocolError(
            f"a media websocket begins with {str(message.data)[:40]!r}, not with MEDIA_START in JSON",
            hint="make the channel with transport_data=f(json)",
        )
    size = start.get("optimal_frame_size")
    if size != rate // 50 * 2:
        raise RemoteProtocolError(
            f"a frame of the media channel is {size} bytes of {start.get('format')}, not PCM at {rate} Hz",
            hint="the channel's format must be of the leg's rate",
        )


def _event(text: str) -> dict[str, Any] | None:
    try:
        event = json.loads(text)
    except ValueError:
        return None
    except RecursionError:
        raise RemoteProtocolError("the media websocket sends JSON that is nested too deep") from None
    return event if isinstance(event, dict) else None


class WebsocketLeg(Leg):
    """A leg over chan_websocket; made by ``connect``.

    What Asterisk still has to play is known by the clock: it plays 20 ms every 20 ms.
    """

    def __init__(
        self,
        socket: "ClientWebSocketResponse",
        rate: int,
        *,
        backlog: float,
        keep: float,
        session: "ClientSession | None",
    ) -> None:
        super().__init__(rate, backlog=min(backlog, BACKLOG_MAX), keep=keep)
        self._socket = socket
        self._session = session
        connection = socket._conn  # aiohttp itself only closes, and waits for what is not written yet
        self._transport = connection.transport if connection is not None else None
        self._writing = asyncio.Lock()
        self._paused = False  # by MEDIA_XOFF
        self._silent_at = 0.0  # when Asterisk will have played all it has, by loop.time()
        self._marks: dict[str, asyncio.Future[None]] = {}
        self._mark = 0
        self._flushing: asyncio.Task[None] | None = None
        self._buffering = False
        self._listening = asyncio.create_task(self._listen(), name="media websocket")

    async def drained(self) -> None:
        self._must_be_open("play sound")
        self._mark += 1
        mark = str(self._mark)
        self._marks[mark] = self._loop.create_future()
        try:
            async with self._senders:  # behind the sound that is on its way
                await self._flushed()
                await self._command("STOP_MEDIA_BUFFERING", correlation_id=mark)
                self._buffering = False
            await self._marks[mark]
        finally:
            self._marks.pop(mark, None)
        self._must_be_open("play sound")

    async def close(self) -> None:
        self._end("ours")
        await self._flushed()
        await self._part()
        await asyncio.wait((self._listening,))

    # --- to Asterisk --------------------------------------------------------------------------------------

    def _queued_bytes(self) -> int:
        left = max(self._silent_at - self._loop.time(), 0.0)
        return int(left * self.rate) * 2

    def _blocked(self) -> bool:
        return self._paused

    async def _room(self) -> None:
        over = self._queued_bytes() - self._backlog * 3 // 4
        wake = self._loop.create_future()
        self._sender = wake
        try:
            await asyncio.wait((wake,), timeout=None if self._paused else over / (2 * self.rate))
        finally:
            self._sender = None

    async def _put(self, pcm: bytes) -> None:
        turn = self._turn
        await self._flushed()
        if not self._buffering and turn == self._turn:
            self._buffering = True  # before a clear() that comes meanwhile, which ends it
            await self._command("START_MEDIA_BUFFERING")
        for at in range(0, len(pcm), MESSAGE_MAX):
            part = pcm[at : at + MESSAGE_MAX]
            async with self._writing:
                if turn != self._turn:
                    return
                self._silent_at = max(self._silent_at, self._loop.time()) + len(part) / (2 * self.rate)
                self.counters.sent += -(-len(part) // self._frame_bytes)
                await self._write(self._socket.send_bytes, part)

    def _forget(self) -> None:
        self._silent_at = 0.0
        for waiter in self._marks.values():
            if not waiter.done():
                waiter.set_result(None)
        if self.why is None:
            self._buffering = False
            if self._flushing is None:
                self._flushing = asyncio.create_task(self._command("FLUSH_MEDIA"))

    async def _flushed(self) -> None:
        """Wait until Asterisk was told to forget, so that it forgets nothing that comes later."""
        if self._flushing is not None:
            await asyncio.wait((self._flushing,))
            self._flushing = None

    async def _command(self, command: str, **more: str) -> None:
        async with self._writing:
            await self._write(self._socket.send_str, json.dumps({"command": command, **more}))

    async def _write(self, send: Any, message: bytes | str) -> None:
        """Returns when it is written or the leg has ended: a peer that does not read holds up nobody."""
        if self.why is not None:
            return
        writing = asyncio.ensure_future(send(message))
        try:
            await asyncio.wait((writing, self._ended), return_when=asyncio.FIRST_COMPLETED)
            if writing.done():
                await writing
        except ConnectionError as exc:
            self._end(f"error: {exc}")
        finally:
            writing.cancel()

    # --- from Asterisk ------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        from aiohttp import WSMsgType

        why = "eof"
        try:
            while True:
                message = await self._socket.receive()
                if message.type is WSMsgType.BINARY:
                    if self.why is None:
                        self._heard(message.data)
                elif message.type is WSMsgType.TEXT:
                    self._told(message.data)
                else:
                    if message.type is WSMsgType.ERROR:
                        why = f"error: {message.data}"
                    elif message.type is WSMsgType.CLOSE:
                        why = "hangup"
                    break
        except RemoteProtocolError as exc:
            why = f"error: {exc}"
        finally:
            self._end(why)
            await self._part()
            if self._session is not None:
                await self._session.close()

    async def _part(self) -> None:
        """Say farewell; a peer that does not read is cut off."""
        with suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE_SECONDS):
                await self._socket.close()
        if self._transport is not None:
            self._transport.abort()

    def _told(self, text: str) -> None:
        event = _event(text) or {}
        match event.get("event"):
            case "DTMF_END":
                if self.why is None:
                    self._pressed(str(event.get("digit", "")))
            case "MEDIA_XOFF":
                self._paused = True
            case "MEDIA_XON":
                self._paused = False
                self._wake_sender()
            case "MEDIA_BUFFERING_COMPLETED":
                waiter = self._marks.get(str(event.get("correlation_id")))
                if waiter is not None and not waiter.done():
                    waiter.set_result(None)
            case "ERROR":
                _log.warning("Asterisk's media websocket refuses a command: %s", event.get("error_text"))
