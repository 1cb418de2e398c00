"""The server Asterisk brings the sound of calls to, over AudioSocket: one port for all legs.

    leg = server.expect(uuid, 16000)          first: Asterisk connects while the request is still on its way
    POST /channels/externalMedia …            external_host = server.address, data = uuid, format = slin16
    await leg.connected()

Only who names a UUID that is expected gets a leg, once. All others are told nothing and dropped, counted by
reason in ``server.rejected``: "peer" a foreign address, "crowd" too many that have not named one, "silent" no
UUID in time, "garbage" bytes that break the protocol, "unknown" a UUID nobody expects, "twice" one in use.

300 legs are 15,000 frames a second each way. So there is one timer for all, and asyncio only accepts,
waits for the UUID, keeps what the kernel did not take, and closes: the frames go past it, read when one
epoll for all legs says so and written by the tick (``_Sockets``, ``_Connection``).
"""

import asyncio
import errno
import logging
import os
import select
import socket
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from fcntl import ioctl
from ipaddress import IPv6Address, ip_address, ip_network
from termios import TIOCOUTQ
from threading import Lock
from types import TracebackType
from typing import Final, Self, cast
from uuid import UUID

from voxtractl.ari.forks import ours
from voxtractl.audio.audiosocket import RATES, Decoder, Frame, Kind, encode, frame_bytes
from voxtractl.audio.guard import GUARD, STILL
from voxtractl.audio.leg import BACKLOG, KEEP, Clock, PacedLeg
from voxtractl.audio.resample import Resampler
from voxtractl.errors import LocalProtocolError, MediaFailed, RemoteProtocolError

__all__ = ["AudioServer", "AudioSocketLeg"]

UUID_SECONDS: Final = 2.0  # Asterisk names it with its first packet
NAMELESS_MAX: Final = 256  # connections at once that have not named their UUID; Asterisk makes 200 a second
QUIET: Final = 3  # ticks without sound until silence is sent: no gaps in sound that comes a little late
GOODBYE_SECONDS: Final = 2.0  # for Asterisk to end a connection after our hangup: about 1 ms was measured
QUEUE: Final = 1024  # connections that wait to be accepted
READ_MAX: Final = 65536  # bytes of one read by asyncio; a frame of 20 ms has 323 to 7683
EVENTS_MAX: Final = 1024  # connections read in one turn of the event loop
EPOLL: Final = hasattr(select, "epoll")  # Linux; elsewhere asyncio reads, at its price
HOST_MAX: Final = 49  # characters of external_host that Asterisk keeps

_HANGUP: Final = encode(Kind.HANGUP)
_log = logging.getLogger(__name__)


class AudioServer:
    """Listens for Asterisk's AudioSocket connections; use as ``async with AudioServer() as server``.

    It takes the first of ``ports`` that is free; 0 is any. ``advertise`` is the host Asterisk shall connect
    to when it is not ``host`` (which may be 0.0.0.0). ``peers`` are the addresses or networks that may
    connect; all when None, for the UUID is a secret already. The connection itself is neither encrypted nor
    authenticated: keep it on a network of your own.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        ports: Sequence[int] = (0,),
        *,
        advertise: str | None = None,
        peers: Iterable[str] | None = None,
    ) -> None:
        self.rejected: Counter[str] = Counter()
        self._host, self._ports = host, ports
        self._port = 0  # that was taken
        self._advertise = advertise or host
        self._peers = None if peers is None else tuple(ip_network(peer) for peer in peers)
        self._server: asyncio.Server | None = None
        self._clock: Clock | None = None
        self._sockets: _Sockets | None = None
        self._expected: dict[bytes, AudioSocketLeg] = {}  # UUID → leg that Asterisk has not connected yet
        self._running: dict[bytes, AudioSocketLeg] = {}
        self._nameless: set[_Connection] = set()
        self._buffer = memoryview(bytearray(READ_MAX))
        self._closing = Lock()  # no socket is closed while the guard writes to it

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Listen. Raises LocalProtocolError when the address cannot be had, or Asterisk could not keep it."""
        if self._server is not None:
            return
        try:
            self._sockets = _Sockets() if EPOLL else None
            self._server = await self._listen()
        except BaseException:
            self._close_sockets()
            raise
        self._clock = Clock()
        GUARD.watch(self)
        self._port = self._server.sockets[0].getsockname()[1]
        for listening in self._server.sockets:
            ours(listening)
        if len(self.address) > HOST_MAX:
            address = self.address
            await self.close()
            raise LocalProtocolError(
                f"{address} has {len(address)} characters, and Asterisk keeps {HOST_MAX}",
                hint="advertise an IP address",
            )

    async def _listen(self) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        taken: OSError | None = None
        for port in self._ports:
            try:
                server = await loop.create_server(
                    lambda: _Connection(self), self._host, port, backlog=1, start_serving=False
                )
                try:
                    await server.start_serving()
                    _lengthen(server)
                except BaseException:  # who gives up here leaves no port taken
                    server.close()
                    raise
                else:
                    return server
            except OSError as exc:
                taken = exc
                if exc.errno != errno.EADDRINUSE:
                    break
        where = f"{self._host}:{_span(self._ports)}"
        why = "no port was given" if taken is None else (taken.strerror or str(taken)).lower()
        raise LocalProtocolError(
            f"cannot listen for sound at {where}: {why}",
            hint="choose another host or other ports; port 0 takes a free one",
        ) from taken

    @property
    def address(self) -> str:
        """What Asterisk is given as external_host."""
        host = f"[{self._advertise}]" if ":" in self._advertise else self._advertise
        return f"{host}:{self._port}"

    def expect(
        self,
        leg_id: UUID,
        rate: int,
        timeout: float = 5.0,
        *,
        wire_rate: int | None = None,
        backlog: float = BACKLOG,
        keep: float = KEEP,
    ) -> "AudioSocketLeg":
        """The leg that Asterisk will connect within ``timeout`` seconds. Ask before Asterisk is asked.

        ``wire_rate``, else ``rate``, must be that of the channel's format. Raises LocalProtocolError for a
        UUID in use, SpeechUnavailable when the rates differ and soxr is not installed.
        """
        if self._clock is None or self._server is None:
            raise RuntimeError("this AudioServer is not started; use it in `async with`")
        key = leg_id.bytes
        if key in self._expected or key in self._running:
            raise LocalProtocolError(f"the UUID {leg_id} is in use by another leg")
        leg = AudioSocketLeg(
            self, leg_id, rate, self._clock, wire_rate or rate, timeout=timeout, backlog=backlog, keep=keep
        )
        self._expected[key] = leg
        return leg

    async def close(self) -> None:
        """End all legs, as by their own close(), and listen no more; a second close does nothing."""
        server, self._server = self._server, None
        if server is None:
            return
        GUARD.forget(self)
        server.close()
        for connection in tuple(self._nameless):
            connection.abort()
        legs = (*self._expected.values(), *self._running.values())
        await asyncio.gather(*(leg.close() for leg in legs))
        await server.wait_closed()
        self._close_sockets()

    def _close_sockets(self) -> None:
        sockets, self._sockets = self._sockets, None
        if sockets is not None:
            sockets.close()

    # --- for connections and legs -------------------------------------------------------------------------

    def _met(self, connection: "_Connection", peer: str) -> bool:
        """Whether a new connection may stay."""
        if not self._known(peer):
            return self._refuse("peer", peer)
        if len(self._nameless) >= NAMELESS_MAX:
            return self._refuse("crowd", peer)
        self._nameless.add(connection)
        return True

    def _known(self, peer: str) -> bool:
        if self._peers is None:
            return True
        address = ip_address(peer.partition("%")[0])
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._peers)

    def _named(self, key: bytes, peer: str) -> "AudioSocketLeg | None":
        """The leg of this UUID, which is in use from now on."""
        leg = self._expected.pop(key, None)
        if leg is None:
            self._refuse("twice" if key in self._running else "unknown", peer)
            return None
        self._running[key] = leg
        return leg

    def _refuse(self, reason: str, peer: str) -> bool:
        self.rejected[reason] += 1
        _log.warning("dropped an AudioSocket connection from %s: %s", peer, reason)
        return False

    def stand_in(self) -> None:
        """For the guard, in its thread."""
        if self._clock is None or self._clock.still < STILL:
            return
        with self._closing:
            for leg in tuple(self._running.values()):
                leg.stand_in()

    def _gone(self, leg: "AudioSocketLeg") -> None:
        self._expected.pop(leg.leg_id.bytes, None)
        self._running.pop(leg.leg_id.bytes, None)


def _lengthen(server: asyncio.Server) -> None:
    """Let more connections wait than asyncio accepts in one turn. When the process has no file left it tries,
    and logs, as often as it was told that may wait, each second (measured: 4 MB of log a second)."""
    for listening in server.sockets:
        own = socket.socket(fileno=listening.fileno())
        own.listen(QUEUE)
        own.detach()


def _span(ports: Sequence[int]) -> str:
    return str(ports[0]) if len(ports) == 1 else f"{min(ports)}-{max(ports)}" if ports else "?"


class AudioSocketLeg(PacedLeg):
    """A leg over AudioSocket. Made by ``AudioServer.expect``.

    It sends silence when there is nothing else to send, and it must: Asterisk now and then reads a leg that
    has sent nothing, with its channel locked, and waits until something comes. Whoever makes a channel waits
    for that lock. In every third run with 300 quiet legs one did so, and Asterisk made no channel any more
    (22.10.1, by its stacks; src/res_audiosocket.c, the header's loop; __ast_channel_alloc asks all channels).
    """

    __slots__ = (
        "_connection",
        "_deadline",
        "_header",
        "_idle_ticks",
        "_kind",
        "_met",
        "_plain",
        "_server",
        "_silence",
        "_turned",
        "_turned_out",
        "_wire_rate",
        "leg_id",
    )

    def __init__(
        self,
        server: AudioServer,
        leg_id: UUID,
        rate: int,
        clock: Clock,
        wire_rate: int,
        *,
        timeout: float,
        backlog: float,
        keep: float,
    ) -> None:
        super().__init__(rate, clock, backlog=backlog, keep=keep)
        self.leg_id = leg_id
        self._server = server
        self._wire_rate = wire_rate
        self._kind = RATES[wire_rate]
        self._silence = bytes(frame_bytes(rate))
        self._header = encode(self._kind, bytes(frame_bytes(wire_rate)))[:3]
        self._turned = (Resampler(rate, wire_rate), Resampler(wire_rate, rate)) if rate != wire_rate else None
        self._plain = self._turned is None  # and open: its sound may go straight to its reader
        self._turned_out = b""  # at the rate of the wire, less than a frame and what soxr gives in lumps
        self._idle_ticks = QUIET
        self._connection: _Connection | None = None
        self._met: asyncio.Future[None] = self._loop.create_future()
        self._deadline: asyncio.TimerHandle | None = self._loop.call_later(
            timeout, self._end, f"error: Asterisk did not connect its sound within {timeout:g} s"
        )

    async def connected(self) -> None:
        """Return as soon as Asterisk has connected. Raises MediaFailed when it does not, or close() came."""
        await asyncio.shield(self._met)
        if self._connection is None:
            raise MediaFailed(
                f"no sound from Asterisk: {self.why}",
                hint=f"it must reach {self._server.address}; see its log",
                details={"leg": str(self.leg_id)},
            )

    async def close(self) -> None:
        connection = self._connection
        if self.why is None and connection is not None:
            connection.say_goodbye()
        self._end("ours")
        if connection is not None:
            # Asterisk is left to end the connection: ending it here, with sound of it unread, would be a
            # reset, which Asterisk logs as an error.
            await connection.over(GOODBYE_SECONDS)

    # --- for the connection -------------------------------------------------------------------------------

    def _connect(self, connection: "_Connection") -> None:
        self._connection = connection
        self._end_wait()
        self._clock.add(self)

    def _take(self, frames: list[Frame]) -> None:
        """What Asterisk says. Raises RemoteProtocolError for what it may not say now."""
        if self.why is not None:
            return
        for kind, payload in frames:
            if kind is self._kind:
                if payload and self._turned:
                    payload = self._turned[1].feed(payload)
                if payload:
                    self._heard(payload)
            elif kind is Kind.DTMF:
                self._pressed(chr(payload[0]))
            elif kind is Kind.HANGUP:
                self._end("hangup")
                if self._connection is not None:
                    self._connection.abort()
                return
            elif kind is Kind.ERROR:
                raise RemoteProtocolError(f"Asterisk reports an error of its own: 0x{payload.hex() or '00'}")
            elif kind is not Kind.UUID:
                raise RemoteProtocolError(
                    f"sound of type 0x{kind:02x} comes where {self._wire_rate} Hz is 0x{self._kind:02x}",
                    hint="the channel's format must be of that rate",
                )

    def _start(self) -> None:
        self._playing = True
        self._idle_ticks = 0
        if self._connection is not None:  # else the sound waits for it
            self._clock.add(self)

    def _idle(self) -> None:
        self._idle_ticks += 1
        if self._idle_ticks >= QUIET:
            self._write(self._silence)

    def _write(self, frame: bytes) -> bool:
        if self._turned:
            frame = self._turn_out(frame, self._turned[0])
        return self._connection is not None and self._connection.write(self._header + frame)

    def stand_in(self) -> None:
        """Send silence from another thread."""
        if self._connection is not None:
            self._connection.stand_in(self._header + bytes(frame_bytes(self._wire_rate)))

    def _turn_out(self, frame: bytes, turner: Resampler) -> bytes:
        """A frame at the rate of the wire; soxr begins with nothing, and gives it later."""
        size = frame_bytes(self._wire_rate)
        turned = self._turned_out + turner.feed(frame)
        if len(turned) < size:
            self._turned_out = turned
            return bytes(size)
        self._turned_out = turned[size:]
        return turned[:size]

    def _end(self, why: str) -> None:
        if self.why is not None:
            return
        self._plain = False
        super()._end(why)
        self._end_wait()
        self._server._gone(self)

    def _end_wait(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if not self._met.done():
            self._met.set_result(None)


class _Connection(asyncio.BufferedProtocol):
    """One TCP connection: nameless, then a leg's, then over.

    Of a leg's connection asyncio reads nothing any more, and writes only the rest of half a frame and the
    goodbye: its way through selector key, handle and transport was a third of our own time for a frame.
    """

    __slots__ = (
        "_buffer",
        "_decoder",
        "_fd",
        "_half",
        "_leg",
        "_over",
        "_patience",
        "_peer",
        "_server",
        "_transport",
        "_want",
        "_whole",
    )

    def __init__(self, server: AudioServer) -> None:
        self._server = server
        self._buffer = server._buffer
        self._decoder = Decoder()
        self._leg: AudioSocketLeg | None = None
        self._transport: asyncio.Transport | None = None
        self._peer = "?"
        self._patience: asyncio.TimerHandle | None = None
        self._over = asyncio.get_running_loop().create_future()
        self._fd = -1  # of a leg's; -1 again before it is closed, for its number may soon be another's
        self._whole = 0  # bytes of a frame of 20 ms
        self._want = 0  # of the next read: up to the end of the frame
        self._half = False  # whether the kernel took half a frame only, and asyncio has the rest

    # --- nameless, and as asyncio sees it -----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        ours(transport.get_extra_info("socket"))
        self._peer = transport.get_extra_info("peername")[0]
        if not self._server._met(self, self._peer):
            self._transport.abort()
            return
        self._patience = asyncio.get_running_loop().call_later(UUID_SECONDS, self._refuse, "silent")

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._feed(bytes(self._buffer[:nbytes]))

    def connection_lost(self, exc: Exception | None) -> None:
        self._no_longer_nameless()
        self.lost(exc)
        if not self._over.done():
            self._over.set_result(None)

    def _feed(self, data: bytes) -> None:
        try:
            frames = self._decoder.feed(data)
            if self._leg is None and frames:
                self._name(frames[0].payload)
            if self._leg is not None:
                waiting = self._decoder.waiting
                self._want = self._whole - waiting if waiting < self._whole else READ_MAX
                self._leg._take(frames)
            if self._decoder.error is not None:
                raise self._decoder.error
        except RemoteProtocolError as error:
            self._broken(error)

    def _name(self, key: bytes) -> None:
        assert self._transport is not None  # noqa: S101 - asyncio made the connection first
        self._no_longer_nameless()
        self._leg = self._server._named(key, self._peer)
        if self._leg is None:
            self._transport.abort()
            return
        self._fd = self._transport.get_extra_info("socket").fileno()
        self._whole = len(self._leg._header) + frame_bytes(self._leg._wire_rate)
        if self._server._sockets is not None:
            self._transport.pause_reading()
            self._server._sockets.add(self._fd, self)
        self._leg._connect(self)

    def _broken(self, error: RemoteProtocolError) -> None:
        if self._leg is None:
            self._refuse("garbage")
            return
        self._leg._end(f"error: {error}")
        self.abort()

    def _refuse(self, reason: str) -> None:
        self._server._refuse(reason, self._peer)
        self.abort()

    def _no_longer_nameless(self) -> None:
        self._server._nameless.discard(self)
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    # --- a leg's ------------------------------------------------------------------------------------------

    def read(self) -> None:
        """Read one frame, or what has come of it."""
        leg = self._leg
        assert leg is not None  # noqa: S101 - nothing is read here before it has a name
        try:
            data = os.read(self._fd, self._want)
        except BlockingIOError:
            return
        except OSError as error:
            self.lost(error)
            return
        if not data:
            self.lost(None)
        elif len(data) == self._want == self._whole and data.startswith(leg._header) and leg._plain:
            leg._heard(data[3:])  # all but always: a whole frame of sound
        else:
            self._feed(data)

    def write(self, data: bytes) -> bool:
        """Send a whole frame or nothing of it.

        Asterisk reads a payload with 5 ms of patience and a header with none at all, blocking its channel.
        So no frame goes behind one that the kernel took only half of.
        """
        transport = self._transport
        if transport is None or (self._half and transport.get_write_buffer_size()):
            return False
        try:
            sent = os.write(self._fd, data)
        except BlockingIOError:
            return False
        except OSError as error:
            self.lost(error)
            return False
        self._half = sent < len(data)
        if self._half:
            transport.write(data[sent:])
        return True

    def stand_in(self, frame: bytes) -> None:
        """Send it from another thread, if that cannot leave half of it behind: the kernel has nothing else
        to send."""
        if self._fd < 0 or self._half:
            return
        with suppress(OSError):
            if not int.from_bytes(ioctl(self._fd, TIOCOUTQ, bytes(4)), sys.byteorder):
                os.write(self._fd, frame)

    def say_goodbye(self) -> None:
        """Hang up, after the rest of half a frame if there is one."""
        if self._transport is not None:
            self._transport.write(_HANGUP)

    def lost(self, error: Exception | None) -> None:
        """The connection has ended, or can be used no more."""
        # Asterisk closes with our sound unread: the kernel makes that a reset, and it means the same.
        if self._leg is not None:
            reset = error is None or isinstance(error, (ConnectionError, TimeoutError))
            self._leg._end("eof" if reset else f"error: {error}")
        self.abort()

    def abort(self) -> None:
        if self._server._sockets is not None:
            self._server._sockets.discard(self._fd)
        with self._server._closing:
            self._fd = -1
        if self._transport is not None:
            self._transport.abort()

    async def over(self, seconds: float) -> None:
        """Return when the connection has ended; it is cut after ``seconds``, or when this is cancelled."""
        try:
            await asyncio.wait((self._over,), timeout=seconds)
        finally:
            self.abort()
        await asyncio.shield(self._over)


class _Sockets:
    """Reads the connections of all legs by one event of the loop, which watches their epoll as one file."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll()
        self._connections: dict[int, _Connection] = {}
        self._loop.add_reader(self._epoll.fileno(), self._ready)

    def add(self, fd: int, connection: _Connection) -> None:
        self._epoll.register(fd, select.EPOLLIN)
        self._connections[fd] = connection

    def discard(self, fd: int) -> None:
        if self._connections.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def close(self) -> None:
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def _ready(self) -> None:
        for fd, _ in self._epoll.poll(0, EVENTS_MAX):
            connection = self._connections.get(fd)  # one before it may have ended it
            if connection is not None:
                try:
                    connection.read()
                except Exception as error:  # noqa: BLE001 - one leg's fault must not keep the others unread
                    _log.exception("the sound of a call is lost")
                    connection.lost(error)
