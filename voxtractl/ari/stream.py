"""The websocket of ARI: the events of one or more Stasis apps, and requests over the same connection.

    NEW ──start()──▶ CONNECTING ──▶ UP ──lost──▶ DOWN ──▶ UP …  connects again by itself, with backoff
                         └───────────┴────────────┴──▶ FAILED   password refused, also later; others took all
    every state ──close()──▶ CLOSED

An app that another process takes is gone from the stream, which goes on for the others and does not take it
back: two processes that did would take it from each other for ever. One that is parting, because its apps go
to another stream of ours, is there until it is closed: Asterisk's threads may have more for it (measured).

Asterisk keeps no events while we are away (measured): after each ``on_up`` compare with ``GET /channels``.
A request that was on its way when the connection was lost may have been carried out; it fails with
AriUnreachable, which says so, and only a look at Asterisk tells.

Requests over the websocket exist from Asterisk 20.14 and 22.4 on. An older one drops them without a word, so
the first request of each connection is a ping, and until its answer is there ``takes`` is False. Asterisk
answers the requests of one connection one by one, in their order.
"""

import asyncio
import logging
import random
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from functools import partial
from math import inf
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import picows
from orjson import dumps, loads
from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport

from voxtractl.ari import requests
from voxtractl.ari.addresses import NOT_THERE, connected, why
from voxtractl.ari.backoff import Backoff
from voxtractl.ari.events import Event
from voxtractl.ari.forks import ours
from voxtractl.ari.requests import Answer, Request
from voxtractl.errors import AppReplaced, AriAuthFailed, AriUnreachable, UsageFault
from voxtractl.naming import APP_MAX
from voxtractl.settings import Secret

__all__ = ["EventStream", "State"]

log = logging.getLogger(__name__)
wire = log.getChild("wire")  # picows tells every connection it ends
wire.setLevel(logging.WARNING)

LINE_MAX: Final = (
    4095  # bytes of the request line with its end that Asterisk takes; one more is a 400 (measured)
)
MESSAGE_MAX: Final = 65_535  # bytes; Asterisk drops the connection at a longer one (measured)
ANSWER_MAX: Final = (
    64 * 1024 * 1024
)  # bytes of one message to us, as over HTTP; Asterisk 22.10.1 dies before it has sent one of 0.5 MB
HANDSHAKE: Final = 5.0  # seconds; a frozen Asterisk accepts and says nothing
APP_SECONDS: Final = 0.05  # more for each app: with 2,000 others on the node Asterisk takes 18 ms (measured)
# A frozen Asterisk is noticed 7.5 to 10 s after its last byte. Not sooner: a request that waits for a slow
# driver keeps its connection silent, and its answer is worth more than a quick verdict.
PING: Final = 2.5  # seconds between pings; Asterisk answers each (measured)
PINGS_LOST: Final = 3
CLOSE: Final = 2.0  # seconds for the farewell; Asterisk takes 2 ms for each app when there are few (measured)

EVENTS: Final = Request("GET", "/events")
UNKNOWN: Final = "whether Asterisk did what was asked is unknown"


Told = Callable[[Answer | AriUnreachable], object]


class _Waiting(NamedTuple):
    """A request whose answer is not there yet."""

    request: Request
    told: Told
    body: bool
    seconds: float
    until: float  # by the clock of the loop

    def tell(self, answer: Answer | AriUnreachable) -> None:
        try:
            self.told(answer)
        except Exception:  # the caller's own code: nothing of it may end the stream
            log.exception("the answer to %s %s was not handled", self.request.method, self.request.path)


class State(StrEnum):
    NEW = "new"
    CONNECTING = "connecting"
    UP = "up"
    DOWN = "down"
    FAILED = "failed"
    CLOSED = "closed"


class EventStream:
    """One websocket to one Asterisk for ``apps``.

    ``on_event`` gets every event in order, from the reader itself: it must be quick, and an exception in it
    is logged and ends nothing. ``on_down`` gets one sentence each time the connection is lost for a while or
    for good (then ``failure`` is set). ``on_up`` runs as a task each time it is there again, not the first
    time, which is the return of ``start``; it ends early when the connection is lost meanwhile. ``on_taken``
    gets each app that another process took, also the last one.
    ``turn`` is one for all streams of an Asterisk: it registers apps one after the other, and the more slowly
    the more there are, so that handshakes at once would all come too late.
    ``timeout``: seconds ``start`` waits for Asterisk, more for many apps. All belongs to the event loop that
    ``start`` was called in.
    """

    def __init__(
        self,
        url: str,
        user: str,
        password: str | Secret,
        apps: Sequence[str],
        *,
        on_event: Callable[[Event], None],
        on_up: Callable[[], Awaitable[None]] | None = None,
        on_down: Callable[[str], None] | None = None,
        on_taken: Callable[[str], None] | None = None,
        timeout: float = 10.0,
        backoff: Backoff = Backoff(),  # noqa: B008  (a value)
        turn: asyncio.Lock | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.apps = tuple(apps)
        self.state = State.NEW
        self.parting = False  # its apps go to another stream of ours: it reads on, and does not connect again
        self.failure: AriAuthFailed | AppReplaced | None = None  # why the stream ended for good
        self._target = _target(self.url, self.apps)
        self._user = user
        self._password = password if isinstance(password, Secret) else Secret(password)
        self._on_event, self._on_up, self._on_down, self._on_taken = on_event, on_up, on_down, on_taken
        self._timeout = timeout
        self._backoff = backoff
        self._turn = turn or asyncio.Lock()
        self._run: asyncio.Task[None] | None = None
        self._again: asyncio.Task[None] | None = None  # on_up
        self._first: asyncio.Future[None] | None = None  # the first connection
        self._ended = asyncio.Event()
        self._reason, self._hint = "it does not answer", NOT_THERE  # why the last try failed
        self._connected: _Connection | None = None  # the one that is being attended
        self._socket: WSTransport | None = None
        self._answers = False  # whether this connection is known to carry requests
        self._heard = False  # whether anything came since the last ping
        self._ghost = 0.0  # until when, by the clock of the loop, a handshake we gave up may take our apps
        self._sent = 0
        self._waiting: dict[str, _Waiting] = {}
        self._clock: asyncio.TimerHandle | None = None  # rings when the first of them has waited long enough

    @property
    def connected(self) -> bool:
        """Whether events come now."""
        return self.state is State.UP

    @property
    def patience(self) -> float:
        """Seconds Asterisk gets for a handshake, in which it registers the apps."""
        return HANDSHAKE + APP_SECONDS * len(self.apps)

    # --- lifecycle ----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect. Raises AriAuthFailed at once, AriUnreachable after ``timeout``; both end the stream."""
        if self.state is not State.NEW:
            raise RuntimeError(f"this EventStream cannot be started: it is {self.state}")
        self.state = State.CONNECTING
        seconds = self._timeout + APP_SECONDS * len(self.apps)
        self._first = asyncio.get_running_loop().create_future()
        self._run = asyncio.create_task(self._serve(self._first))
        try:
            async with asyncio.timeout(seconds):
                await self._first
        except TimeoutError:
            await self.close()
            reason = f"no event connection within {seconds:.0f} s: {self._reason}"
            raise self._unreachable(reason, hint=self._hint) from None
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """End the connection; a second close does nothing. Calls stay up in Asterisk."""
        if self.state is not State.FAILED:
            self.state = State.CLOSED
        if self._first is not None and not self._first.done():  # somebody else waits in start()
            self._first.set_exception(self._unreachable("the stream was closed before it was up"))
        run, self._run = self._run, None
        try:
            if run is not None:
                run.cancel()
                await asyncio.wait([run])  # ends this too when on_up closes the stream
        finally:
            self._ended.set()

    def fail(self, failure: AriAuthFailed) -> None:
        """End it for good, from its own loop: Asterisk asks no connection for its password again, and goes on
        to send calls that nobody may answer."""
        if self._connected is not None:
            self._connected.fail(failure)

    def again(self, reason: str) -> None:
        """End this connection and make another one, when Asterisk has taken down the apps of this one."""
        if self._connected is not None and not self._connected.ended.done():
            self._connected.farewell = self.patience
            self._connected.ended.set_result(reason)

    async def wait_failed(self) -> AriAuthFailed | AppReplaced | None:
        """Wait for the end of the stream: why it failed, or None when it was closed."""
        await self._ended.wait()
        return self.failure

    # --- requests -----------------------------------------------------------------------------------------

    def takes(self, request: Request) -> bool:
        """Whether ``ask`` may be given this request now; if not, HTTP is the way."""
        if not self._answers or request.slow:
            return False
        return request.body is None or len(_message(request, "0" * 10)) <= MESSAGE_MAX

    async def ask(self, request: Request, *, timeout: float = 30.0) -> Answer:
        """Send a request and return Asterisk's answer, whatever its status.

        Any number may be on the way. Raises AriUnreachable when the connection is not there or is lost, or
        nothing comes within ``timeout`` seconds (whether Asterisk did it is unknown then), and UsageFault for
        what no message can carry.
        """
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        number = self.post(request, partial(_settle, answer), timeout=timeout, body=True)
        try:
            return await answer
        finally:
            self._waiting.pop(number, None)

    def post(self, request: Request, told: Told, *, timeout: float = 30.0, body: bool = False) -> str:
        """As ``ask``, but without waiting: ``told`` gets the answer or the AriUnreachable, once.

        Without ``body`` only that of a refusal is read: a subscription is answered with every channel of the
        app. Returns the number under which it waits.
        """
        if self._socket is None:
            raise self._unreachable("the event connection is down, nothing was sent", request)
        self._sent += 1
        number = str(self._sent)
        message = _message(request, number)
        if len(message) > MESSAGE_MAX:
            raise UsageFault(
                f"{request.method} {request.path} has {len(message)} bytes; a websocket takes {MESSAGE_MAX}"
            )
        loop = asyncio.get_running_loop()
        waiting = self._waiting[number] = _Waiting(request, told, body, timeout, loop.time() + timeout)
        if self._clock is None or waiting.until < self._clock.when():
            self._wind(loop)
        self._socket.send(WSMsgType.TEXT, message)
        return number

    def _wind(self, loop: asyncio.AbstractEventLoop) -> None:
        """One clock for all that wait: a timer for each request was a twentieth of a call's cost."""
        if self._clock is not None:
            self._clock.cancel()
        first = min((waiting.until for waiting in self._waiting.values()), default=None)
        self._clock = None if first is None else loop.call_at(first, self._expire, loop)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        late = [number for number, waiting in self._waiting.items() if waiting.until <= loop.time()]
        for number in late:
            waiting = self._waiting.pop(number)
            reason = f"no answer within {waiting.seconds:.0f} s; {UNKNOWN}"
            waiting.tell(self._unreachable(reason, waiting.request))
        self._wind(loop)

    def _answered(self, event: Mapping[str, Any]) -> None:
        self._answers = True
        number = event["request_id"]
        if waiting := self._waiting.get(number):
            answer = _answer(event, body=waiting.body)  # may raise: then it waits on, and is told of the loss
            del self._waiting[number]
            waiting.tell(answer)

    # --- one connection after another ---------------------------------------------------------------------

    async def _serve(self, first: asyncio.Future[None]) -> None:
        attempt = 0
        clock = asyncio.get_running_loop().time
        try:
            while True:
                since = clock()
                try:
                    reason = await self._connection(first)
                except AriUnreachable as exc:
                    reason, self._hint = exc.message, exc.hint or NOT_THERE
                    if not attempt and not first.done():
                        log.info("waiting for Asterisk at %s: %s", self.url, reason)
                except (AriAuthFailed, AppReplaced):
                    raise
                except Exception:  # a fault of ours: whoever waits for calls would never hear of it
                    log.exception("the event stream of %s fails, and connects once more", self.url)
                    reason = "voxtractl itself failed, see the log"
                self._reason = reason
                if self._run is None:
                    return  # closed: what was raised took the place of the cancel
                if self.state is State.UP:
                    self.state = State.CLOSED if self.parting else State.DOWN
                    self._tell_down(reason)
                if self.state is State.CLOSED:
                    self._ended.set()
                    return
                if clock() - since > self._backoff.most:
                    attempt = 0
                await asyncio.sleep(self._backoff.delay(attempt, random.random()))  # noqa: S311
                attempt += 1
        except (AriAuthFailed, AppReplaced) as exc:
            self.state = State.FAILED
            self.failure = exc
            if not first.done():
                first.set_exception(exc)
            else:
                self._tell_down(str(exc))
            self._ended.set()
        finally:
            if self._again is not None:
                await asyncio.wait([self._again])

    async def _connection(self, first: asyncio.Future[None]) -> str:
        """One connection from its begin to its end; returns why it ended.

        Raises AriUnreachable when there was none, AriAuthFailed, AppReplaced.
        """
        connection = _Connection(self._message, partial(self._opened, first))
        try:
            await self._connect(connection)
            return await self._attend(connection)
        finally:
            self._lose()
            await connection.part()

    async def _connect(self, connection: "_Connection") -> None:
        secret = b64encode(f"{self._user}:{self._password.reveal()}".encode()).decode()
        patience = self.patience
        try:
            async with self._turn, asyncio.timeout(patience):
                await picows.ws_connect(
                    lambda: connection,
                    f"ws{self._target.removeprefix('http')}",
                    extra_headers={"Authorization": f"Basic {secret}"},
                    # Given up, it leaves a connection that only picows can end: so it does after this time,
                    # and the listener as soon as it is a websocket.
                    websocket_handshake_timeout=patience,
                    max_frame_size=ANSWER_MAX,
                    max_redirects=0,
                    socket_factory=lambda url: connected(url.host, url.port),
                    use_aiofastnet=False,  # it watches sockets it has closed (docs/decisions/0009)
                    logger_name=wire,
                )
        except picows.WSHandshakeError as exc:
            # `from None`: the foreign error may show what was sent, and that holds the password.
            status = exc.response.status if exc.response is not None else 0
            if status == 401:
                raise self._auth_failed("wrong name or password", 401) from None
            if status == 403:
                raise self._auth_failed("it may not have events", 403) from None
            told = f"with {status:d}" if status else "with what is no HTTP"
            raise self._unreachable(f"it answers the websocket {told}") from None
        except TimeoutError as exc:
            self._ghost = inf
            raise self._unreachable(f"no answer to the websocket within {patience:.0f} s") from exc
        except OSError as exc:
            reason, hint = why(exc)
            raise self._unreachable(reason, hint=hint) from exc
        except picows.WSError as exc:
            raise self._unreachable(str(exc)) from exc
        if connection.socket is None:  # picows returns as if it were there
            raise self._unreachable("it ended the connection before it was a websocket")

    def _opened(self, first: asyncio.Future[None], socket: WSTransport) -> None:
        if self.state is State.CLOSED:
            return  # in this moment
        self._socket = socket
        self._heard = True
        self.state = State.UP
        if self._ghost == inf:
            self._ghost = asyncio.get_running_loop().time() + self.patience
        socket.send(WSMsgType.TEXT, _message(requests.ping(), "ping"))
        if first.done():
            self._tell_up()
        else:
            first.set_result(None)

    async def _attend(self, connection: "_Connection") -> str:
        """Wait until the connection ends, or is silent for too long; returns why. Raises AppReplaced,
        AriAuthFailed."""
        socket = connection.socket
        assert socket is not None  # noqa: S101  _connect saw to it
        self._connected = connection
        silent = 0
        while True:
            ended, _ = await asyncio.wait([connection.ended], timeout=PING)
            if ended:
                return connection.ended.result()
            silent = 0 if self._heard else silent + 1
            if silent == PINGS_LOST:
                return f"Asterisk does not answer pings for {PING * PINGS_LOST:.0f} s"
            self._heard = False
            socket.send_ping()

    def _message(self, frame: WSFrame) -> None:
        """What came, from the read itself. Raises AppReplaced when no app is left, ValueError for rubbish."""
        self._heard = True
        if frame.msg_type != WSMsgType.TEXT:
            return
        try:
            event = loads(frame.get_payload_as_memoryview())
            kind = event["type"]
            if kind == "RESTResponse":
                self._answered(event)
                return
        except (ValueError, KeyError, TypeError) as exc:
            raise ValueError("what came is no event of ARI") from exc
        self._happened(kind, event)

    def _happened(self, kind: str, event: Any) -> None:
        if kind == "ApplicationReplaced":
            self._taken(event.get("application"))
            return
        try:
            self._on_event(event)
        except Exception:  # the caller's own code: no event may end the stream
            log.exception("an event of type %s was not handled", kind)

    def _taken(self, app: str | None) -> None:
        """Another process has the app now. Raises AppReplaced when it was the last one here, and ValueError
        when it was ourselves."""
        if app not in self.apps:
            return
        if asyncio.get_running_loop().time() < self._ghost:
            # An Asterisk that stood still answers all that has queued up, in any order (measured: every
            # fourth time the older one last), and the older one is ended as soon as it is there.
            self._ghost = 0.0
            raise ValueError("an older try of ours took the app")
        self.apps = tuple(one for one in self.apps if one != app)
        if self._on_taken is not None:
            try:
                self._on_taken(app)
            except Exception:  # the caller's own code
                log.exception("on_taken of the event stream of %s failed", self.url)
        if self.apps:
            self._target = _target(self.url, self.apps)
        elif not self.parting:
            raise AppReplaced(
                f"another process took the Stasis app {app!r}: its calls go there",
                where=self.url,
                hint="end one of the two, or give each an app of its own",
            )

    def _lose(self) -> None:
        """What was on the way has no answer any more."""
        self._connected = None
        self._socket = None
        self._answers = False
        waiting, self._waiting = self._waiting, {}
        for one in waiting.values():
            one.tell(self._unreachable(f"the event connection was lost; {UNKNOWN}", one.request))
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None
        if self._again is not None:
            self._again.cancel()

    # --- telling ------------------------------------------------------------------------------------------

    def _tell_up(self) -> None:
        if self._on_up is not None:
            self._again = asyncio.create_task(self._up(self._on_up))

    async def _up(self, on_up: Callable[[], Awaitable[None]]) -> None:
        try:
            await on_up()
        except Exception:  # the caller's own code
            log.exception("on_up of the event stream of %s failed", self.url)

    def _tell_down(self, reason: str) -> None:
        if self._on_down is not None:
            try:
                self._on_down(reason)
            except Exception:  # the caller's own code
                log.exception("on_down of the event stream of %s failed", self.url)

    def _unreachable(
        self, reason: str, request: Request = EVENTS, *, hint: str = NOT_THERE
    ) -> AriUnreachable:
        return AriUnreachable(
            reason,
            method=request.method,
            path=request.path,
            where=self.url,
            hint=hint,
        )

    def _auth_failed(self, reason: str, status: int) -> AriAuthFailed:
        return AriAuthFailed(
            f"Asterisk refuses the ARI user {self._user!r}: {reason}",
            method=EVENTS.method,
            path=EVENTS.path,
            status=status,
            where=self.url,
            hint=f"compare with the section [{self._user}] in the node's ari.conf",
        )


def _target(url: str, apps: Sequence[str]) -> str:
    """Where to connect. Raises UsageFault for names, or so many, that Asterisk cannot take."""
    for app in apps:
        if not app or "," in app or len(app.encode()) > APP_MAX:
            raise UsageFault(f"{app!r} is no name of a Stasis app: 1 to {APP_MAX} bytes, no comma")
    if not apps:
        raise UsageFault("an event stream needs the name of at least one Stasis app")
    names = ",".join(quote(app, safe="") for app in apps)
    target = f"{url}/ari/events?app={names}"
    line = len(f"GET /{target.split('/', 3)[3]} HTTP/1.1\r\n")
    if line > LINE_MAX:
        raise UsageFault(
            f"{len(apps)} apps make a request line of {line} bytes, and Asterisk reads {LINE_MAX}",
            hint="use several streams, with 400 short names each at most",
        )
    return target


def _message(request: Request, number: str) -> bytes:
    """A request as it goes over the websocket; the path without its first slash (else: 405).

    Raises UsageFault for what has no bytes.
    """
    message: dict[str, Any] = {
        "type": "RESTRequest",
        "request_id": number,
        "method": request.method,
        "uri": request.path[1:],
    }
    if request.query:
        message["query_strings"] = [{"name": name, "value": value} for name, value in request.query]
    try:
        if request.body is not None:
            message["content_type"] = "application/json"
            message["message_body"] = request.json()
        return dumps(message)
    except (TypeError, ValueError) as exc:
        raise request.unwritable(exc) from None


def _answer(event: Mapping[str, Any], *, body: bool) -> Answer:
    status, text = event["status_code"], event.get("message_body")
    return Answer(status, loads(text) if text and (body or status >= 300) else None)


def _settle(future: "asyncio.Future[Answer]", answer: Answer | AriUnreachable) -> None:
    if future.done():
        return
    if isinstance(answer, Answer):
        future.set_result(answer)
    else:
        future.set_exception(answer)


class _Connection(WSListener):
    """One websocket, as picows drives it; ``ended`` is done with the reason when it is over."""

    def __init__(self, message: Callable[[WSFrame], None], opened: Callable[[WSTransport], None]) -> None:
        super().__init__()
        self._message, self._opened = message, opened
        self.socket: WSTransport | None = None
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.farewell = CLOSE  # seconds for it
        self._parted = asyncio.Event()  # the other side is gone

    def on_ws_connected(self, transport: WSTransport) -> None:
        if self.ended.done():  # we have parted before it was there
            transport.disconnect(graceful=False)
            return
        self.socket = transport
        ours(transport.underlying_transport.get_extra_info("socket"))
        self._watching = asyncio.ensure_future(transport.wait_disconnected())
        self._watching.add_done_callback(self._cut)
        self._opened(transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if self.ended.done():
            return
        if frame.msg_type == WSMsgType.CLOSE:
            self.ended.set_result(f"Asterisk closed it ({frame.get_close_code():d})")
            return
        try:
            self._message(frame)
        except ValueError as exc:
            self.ended.set_result(str(exc))
        except AppReplaced as exc:
            self.fail(exc)

    def fail(self, failure: AppReplaced | AriAuthFailed) -> None:
        if not self.ended.done():
            self.ended.set_exception(failure)

    def _cut(self, gone: "asyncio.Future[None]") -> None:
        """It is gone, as picows tells it: with an exception when the other side broke the protocol."""
        self._parted.set()
        fault = None if gone.cancelled() else gone.exception()
        if not self.ended.done():
            self.ended.set_result("it was cut" if fault is None else f"it is no websocket any more: {fault}")

    async def part(self) -> None:
        """Say farewell; a peer that does not listen is cut off."""
        if not self.ended.cancel():  # from now on nothing that comes is told
            self.ended.exception()  # seen
        if self.socket is None:
            return
        try:
            self.socket.send_close(WSCloseCode.OK)
        except RuntimeError:  # given up as it became a websocket: uvloop has closed it, and tells nobody
            self._watching.cancel()
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(self.farewell):
                await self._parted.wait()  # it ends the connection when it has taken down our apps
        self.socket.disconnect(graceful=False)
