"""The door to Asterisk's REST interface: HTTP keep-alive, and the websocket of an attached event stream.

What is asked stands in ``requests.py``. The websocket carries any number of requests at once over one
connection (40,000 a second and 25 us of ours each, with 32 on the way; HTTP: 26,000 and 37 us), so they go
there when the stream takes them. Foreign errors are translated here and nowhere else. Every request has a
timeout. Connections are dropped before Asterisk drops them (its keep-alive ends at 15 s, ours at 10 s), else
reuse races with its close.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, cast

from voxtractl.ari import http, requests
from voxtractl.ari.addresses import NOT_THERE, connected, why
from voxtractl.ari.requests import Answer, Request
from voxtractl.errors import AriAuthFailed, AriError, AriUnreachable, BadRequest, Conflict, NotFound
from voxtractl.settings import Secret

if TYPE_CHECKING:
    from ssl import SSLContext

    from voxtractl.ari.events import Event
    from voxtractl.ari.resources import Channel
    from voxtractl.ari.stream import EventStream

__all__ = ["CONNECTIONS", "ARIClient", "stop_playback"]

KEEP_ALIVE: Final = 10.0  # seconds; Asterisk's session_keep_alive is 15 s
# Connections that Asterisk has not taken yet: it listens with a backlog of 10 (`ss -ltn`), and of 16 at once
# the kernel drops some, which come back after a second (measured). And questions of a list on the way at
# once: 8 are as fast as more, 10,000 DIDs in 1.4 s.
AT_ONCE: Final = 8
# Seconds until a connection counts as taken that brings no answer. On busy cores 8 of 7,200 requests in
# bursts of 60 waited for a second when it was 0.
TAKEN: Final = 0.1
# In all: a command that waits for a sound keeps its connection, and must not keep everybody else's.
# Asterisk's sessionlimit is 100, with the websockets of events and media.
CONNECTIONS: Final = 64
RELOAD_TIMEOUT: Final = 120.0  # a first reload of 5000 PJSIP endpoints was measured in seconds, not minutes
BUSY: Final = "another reload is currently in progress"
BUSY_WAIT: Final = 0.02  # seconds between tries while another reload runs; grows by half
BUSY_WAIT_MAX: Final = 0.2  # 32 nodes of one Asterisk stood in line for a second when this was 1.0
NO_ARI: Final = "is this Asterisk's HTTP port, with its prefix, and ari.conf enabled? else see Asterisk's log"
STOP_AGAIN: Final = (0.01, 0.03, 0.1, 0.3, 1.0)  # seconds between tries to stop a sound about to begin


class ARIClient:
    """Requests to one Asterisk; use as ``async with ARIClient(url, user, password) as ari``, or with ``open``
    and ``close``.

    ``url`` is the base without ``/ari``; ``open`` raises UsageFault for what is none. Requests raise
    AriUnreachable, AriAuthFailed, NotFound, Conflict, BadRequest or AriError; ``where`` names the address,
    never the password. ``timeout`` is in seconds, of one request, connecting included.
    """

    def __init__(self, url: str, user: str, password: str | Secret, *, timeout: float = 30.0) -> None:
        self.url = url.rstrip("/")
        self._user = user
        self._password = password if isinstance(password, Secret) else Secret(password)
        self.timeout = timeout
        self._server: http.Server | None = None
        self._stream: EventStream | None = None
        self._free = asyncio.Semaphore(CONNECTIONS)
        self._handshake = asyncio.Lock()  # of one event stream after the other
        self._connecting = asyncio.Semaphore(AT_ONCE)
        self._busy: set[_Connection] = set()
        self._idle: list[tuple[float, _Connection]] = []  # since when, by monotonic()

    def renew(self, password: Secret) -> None:
        """Use this password from the next request on; for streams that are made from now on."""
        self._password = password
        if self._server is not None:
            self._server = http.Server(self.url, self._user, password.reveal())

    async def open(self) -> Self:
        """Make ready for requests; connects to nobody yet. Raises UsageFault for a URL that is none."""
        self._server = http.Server(http.base_url(self.url), self._user, self._password.reveal())
        return self

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connections; a second close does nothing. An attached stream is its owner's to close.

        Requests on their way or waiting for a connection fail with AriUnreachable: of the former Asterisk may
        have done what was asked, the latter are not sent.
        """
        self._server = None
        self._stream = None
        for connection in self._busy:
            connection.abort()
        while self._idle:
            self._idle.pop()[1].abort()

    def stream(
        self,
        apps: Sequence[str],
        *,
        on_event: "Callable[[Event], None]",
        on_up: Callable[[], Awaitable[None]] | None = None,
        on_down: Callable[[str], None] | None = None,
        on_taken: Callable[[str], None] | None = None,
        timeout: float = 10.0,
    ) -> "EventStream":
        """An event stream to the same Asterisk with the same user; not started."""
        from voxtractl.ari.stream import EventStream  # loads picows, which commands do without

        return EventStream(
            self.url,
            self._user,
            self._password,
            apps,
            on_event=on_event,
            on_up=on_up,
            on_down=on_down,
            on_taken=on_taken,
            timeout=timeout,
            turn=self._handshake,
        )

    def attach(self, stream: "EventStream | None") -> None:
        """Send over this stream's websocket what it takes, from now on; None: all over HTTP again."""
        self._stream = stream

    async def ask(self, request: Request, *, timeout: float | None = None) -> Answer:
        """Send a request and return Asterisk's answer, whatever its status; only 401 and 403 are raised."""
        if self._server is None:
            raise RuntimeError("this ARIClient is not open; use it in `async with`, or `await open()` first")
        seconds = timeout or self.timeout
        if self._stream is not None and self._stream.takes(request):
            answer = await self._stream.ask(request, timeout=seconds)
        else:
            answer = await self._over_http(self._server, request, seconds)
        if denied := self._denied(request, answer):
            raise denied
        return answer

    def post(self, request: Request, told: Callable[[Answer | AriError], object]) -> bool:
        """Send it over the websocket without waiting: ``told`` gets what ``ask`` returns or raises, once.

        False when the websocket does not take it: nothing was sent.
        """
        if self._stream is None or not self._stream.takes(request):
            return False
        self._stream.post(request, partial(self._tell, request, told), timeout=self.timeout)
        return True

    def _tell(
        self, request: Request, told: Callable[[Answer | AriError], object], answer: Answer | AriError
    ) -> None:
        told((self._denied(request, answer) if isinstance(answer, Answer) else None) or answer)

    def _denied(self, request: Request, answer: Answer) -> AriError | None:
        """The error of an answer that says this user may not. A wrong password ends the attached stream."""
        if answer.status == 401:
            refused = AriAuthFailed(
                f"Asterisk refuses the ARI user {self._user!r}: wrong name or password",
                method=request.method,
                path=request.path,
                status=401,
                where=self.url,
                hint=f"compare with the section [{self._user}] in the node's ari.conf",
            )
            if self._stream is not None:
                self._stream.fail(refused)
            return refused
        if answer.status == 403:
            return AriError(
                f"the ARI user {self._user!r} may not {request.method} {request.path}: {answer.message}",
                method=request.method,
                path=request.path,
                status=403,
                where=self.url,
                hint=f"set read_only = no in [{self._user}] of the node's ari.conf",
            )
        return None

    async def _over_http(self, server: http.Server, request: Request, seconds: float) -> Answer:
        try:
            async with asyncio.timeout(seconds), self._free:
                return await self._exchange(server, request)
        except TimeoutError as exc:
            raise self._unreachable(request, f"no answer within {seconds:.0f} s") from exc
        except OSError as exc:
            if server is not self._server:
                raise self._unreachable(request, "this client was closed") from exc
            # Over its sessionlimit Asterisk accepts and closes without a byte.
            raise self._unreachable(request, *why(exc)) from exc
        except ValueError as exc:
            raise AriError(
                f"no valid HTTP answer from {self.url}: {exc}",
                method=request.method,
                path=request.path,
                where=self.url,
                hint="is this Asterisk's HTTP port? see http.conf",
            ) from exc

    async def _exchange(self, server: http.Server, request: Request) -> Answer:
        """One request and its answer, on a connection that is free or a new one."""
        sent = http.request_bytes(server, request)
        connection = self._kept() or await self._connect(server)
        if server is not self._server:
            connection.abort()
            raise ConnectionAbortedError("closed")
        self._busy.add(connection)
        try:
            status, body = await connection.exchange(sent)
        except BaseException:
            connection.abort()  # half an answer may still come: never use it again
            raise
        finally:
            self._busy.discard(connection)
        if connection.reusable and server is self._server:
            self._idle.append((monotonic(), connection))
        else:
            connection.abort()
        return _answer(status, body)

    async def _connect(self, server: http.Server) -> "_Connection":
        await self._connecting.acquire()
        try:
            connection = self._kept() or await _connect(server)  # one may be free by now
        except BaseException:
            self._connecting.release()
            raise
        connection.taken.add_done_callback(lambda _: self._connecting.release())
        asyncio.get_running_loop().call_later(TAKEN, connection.mark_taken)
        return connection

    def _kept(self) -> "_Connection | None":
        """The connection used last, unless it ended or idles for so long that Asterisk may just end it."""
        while self._idle:
            since, connection = self._idle.pop()
            if connection.reusable and monotonic() - since < KEEP_ALIVE:
                return connection
            connection.abort()
        return None

    async def request(self, request: Request, *, timeout: float | None = None) -> Any:
        """The JSON body of a successful answer. Raises the AriError that fits the status."""
        answer = await self.ask(request, timeout=timeout)
        if answer.status < 300:
            return answer.body
        raise self.refused(request, answer)

    async def originate(
        self,
        endpoint: str,
        *,
        app: str | None = None,
        app_args: Sequence[str] = (),
        context: str | None = None,
        extension: str | None = None,
        priority: int = 1,
        caller_id: str | None = None,
        timeout: float = 30,
        variables: Mapping[str, object] | None = None,
        channel_id: str | None = None,
        originator: str | None = None,
        formats: Iterable[str] | None = None,
    ) -> "Channel":
        """Dial ``endpoint``; who answers goes to ``app``, or to ``extension`` in ``context`` of the dialplan.

        Returns as soon as Asterisk dials, with the channel under ``channel_id`` (32 hex digits when none is
        given); events tell how it ends. ``timeout``: seconds it may ring. ``variables`` are set before it is
        dialled, their values made strings. Raises UsageFault before anything is sent, AriError when Asterisk
        cannot dial, Conflict when the id is taken, and AriUnreachable when no answer came: it may ring then.
        """
        from voxtractl.ari.resources import Channel

        # All ids equally long: Asterisk takes an id that begins another one for the same.
        own = channel_id or os.urandom(16).hex()
        request = requests.originate(
            endpoint,
            app=app,
            app_args=app_args,
            context=context,
            extension=extension,
            priority=priority,
            caller_id=caller_id,
            timeout=timeout,
            variables=variables,
            channel_id=own,
            originator=originator,
            formats=formats,
        )
        answer = await self.ask(request)
        if answer.status == 409 and (await self.ask(requests.channel(own))).status == 404:
            # After one true 409 on a connection Asterisk says so to every later originate on it that fails:
            # its errno belongs to the thread and nobody resets it (main/channel_internal_api.c).
            raise AriError(
                f"Asterisk could not make a channel to {endpoint}",
                method=request.method,
                path=request.path,
                status=answer.status,
                where=self.url,
                hint="is there such an endpoint, and is it registered? see Asterisk's log",
            )
        if answer.status >= 300:
            raise self.refused(request, answer)
        return Channel.of(answer.body)

    async def reload(self, module: str) -> None:
        """Reload one module; waits while another reload runs. Conflict: Asterisk refuses the files.

        Returning is no proof: Asterisk answers 204 to files it dropped. Ask for the marks afterwards.
        """
        request = requests.reload_module(module)
        deadline = monotonic() + RELOAD_TIMEOUT
        pause = BUSY_WAIT
        while True:
            answer = await self.ask(request, timeout=RELOAD_TIMEOUT)
            busy = answer.status == 409 and BUSY in answer.message.lower()
            if not busy or monotonic() + pause > deadline:
                break
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, BUSY_WAIT_MAX)
        if answer.status >= 300:
            raise self.refused(request, answer)

    async def ask_all(self, wanted: Sequence[Request], *, patience: float | None = None) -> list[Answer]:
        """The answers to many requests, in their order; AT_ONCE are on the way. The first error ends all.
        One that has no answer within ``patience`` seconds is no error: its status is 0."""
        answers: list[Answer] = [Answer(0)] * len(wanted)
        rest = iter(enumerate(wanted))

        async def worker() -> None:
            for index, request in rest:
                with suppress(TimeoutError):
                    async with asyncio.timeout(patience):
                        answers[index] = await self.ask(request)

        failure: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(AT_ONCE, len(wanted))):
                    group.create_task(worker())
        except* AriError as errors:
            failure = errors.exceptions[0]
        if failure is not None:  # raised out here: Python 3.11.2 would wrap it in a group again
            raise failure
        return answers

    def refused(self, request: Request, answer: Answer) -> AriError:
        """The error that fits an answer's status, with Asterisk's own reason."""
        kind = {400: BadRequest, 404: NotFound, 409: Conflict}.get(answer.status, AriError)
        return kind(
            f"{request.method} {request.path} was refused with {answer.status}:"
            f" {answer.message or 'no reason given'}",
            method=request.method,
            path=request.path,
            status=answer.status,
            where=self.url,
            hint=None if answer.message else NO_ARI,
        )

    def _unreachable(self, request: Request, reason: str, hint: str = NOT_THERE) -> AriUnreachable:
        return AriUnreachable(
            f"ARI does not answer: {reason}",
            method=request.method,
            path=request.path,
            where=self.url,
            hint=hint,
        )


async def stop_playback(ask: Callable[[Request], Awaitable[Answer]], playback_id: str) -> Answer:
    """Stop a sound, over ``ask``; Asterisk's answer, 404 when the sound is over.

    Asterisk announces a sound (PlaybackStarted) before it can be stopped, and refuses with 500 in between; so
    it is asked again, for 1.4 s at most. It never stops what it speaks itself: ``digits:``, ``number:`` and
    ``characters:`` (res_stasis_playback.c; both measured).
    """
    request = requests.stop_playback(playback_id)
    for pause in STOP_AGAIN:
        answer = await ask(request)
        if answer.status != 500:
            return answer
        await asyncio.sleep(pause)
    return await ask(request)


class _Connection(asyncio.Protocol):
    """One TCP connection; carries one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._reader = http.AnswerReader()
        self._waiter: asyncio.Future[bytes] | None = None
        self.reusable = False
        self.taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()  # accepted, or gone

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def mark_taken(self) -> None:
        if not self.taken.done():
            self.taken.set_result(None)

    def data_received(self, data: bytes) -> None:
        self.mark_taken()
        if self._waiter is None or self._waiter.done():
            self.abort()  # nobody asked
            return
        try:
            body = self._reader.feed(data)
        except ValueError as exc:
            self._waiter.set_exception(exc)
            return
        if body is not None:
            self.reusable = self._reader.reusable
            self._waiter.set_result(body)

    def connection_lost(self, exc: Exception | None) -> None:
        self.reusable = False
        self.mark_taken()
        if self._waiter is None or self._waiter.done():
            return
        if exc is None and not self._reader.begun:
            exc = ConnectionResetError("it closed the connection without an answer")
        if exc is not None:
            self._waiter.set_exception(exc)
            return
        try:
            self._waiter.set_result(self._reader.end())
        except ValueError as fault:
            self._waiter.set_exception(fault)

    async def exchange(self, request: bytes) -> tuple[int, bytes]:
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the connection is closed")
        self._reader = http.AnswerReader()
        self._waiter = asyncio.get_running_loop().create_future()
        self.reusable = False
        self._transport.write(request)
        body = await self._waiter
        return self._reader.status, body

    def abort(self) -> None:
        self.reusable = False
        if self._transport is not None:
            self._transport.abort()


async def _connect(server: http.Server) -> _Connection:
    loop = asyncio.get_running_loop()
    context = _certificates() if server.tls else None
    name = server.host if context else None
    socket = await connected(server.host, server.port)
    if socket is None:
        _, connection = await loop.create_connection(_Connection, server.host, server.port, ssl=context)
    else:
        _, connection = await loop.create_connection(
            _Connection, sock=socket, ssl=context, server_hostname=name
        )
    return connection


def _certificates() -> "SSLContext":
    """The system's certificates, read when an https ARI is asked for."""
    import ssl

    return ssl.create_default_context()


def _answer(status: int, body: bytes) -> Answer:
    import json

    try:
        return Answer(status, json.loads(body) if body else None)
    except (ValueError, RecursionError):
        return Answer(status, content=body)
