"""VoxtraApp: handlers by number, calls to them, and calls out.

    app = VoxtraApp(ari_url="http://127.0.0.1:8088", ari_user="voxtractl", ari_password="…")

    @app.route(extension="+265999000001")
    async def acme(call): ...

    app.run()

An app on its own has one Asterisk and one event loop. Under ``voxtractl run`` the supervisor gives it the
hubs of its tenant's nodes and a loop of its own, and ``run()`` returns at once.
"""

import asyncio
import inspect
import logging
import os
import signal
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import uuid4

from voxtractl import naming
from voxtractl.ari import requests
from voxtractl.ari.client import ARIClient
from voxtractl.ari.requests import Answer, Request
from voxtractl.audio.server import AudioServer
from voxtractl.errors import (
    AriError,
    CallEnded,
    LimitReached,
    OriginateFailed,
    RuntimeFault,
    UsageFault,
)
from voxtractl.runtime import hooks
from voxtractl.runtime.event_loop import new_event_loop
from voxtractl.runtime.hub import Hub
from voxtractl.runtime.journal import Journal, Sink
from voxtractl.runtime.lifecycle import Direction, Ended, EndedBy
from voxtractl.runtime.logs import shown
from voxtractl.runtime.media import FAILURES, WAYS, Breaker
from voxtractl.runtime.router import Route, Router
from voxtractl.runtime.session import CALL, NODE, TENANT, CallSession, context_of
from voxtractl.runtime.usage import Usage
from voxtractl.settings import Secret

if TYPE_CHECKING:
    from voxtractl.runtime.speech import SpeechToText, TextToSpeech

__all__ = ["CALL", "LOADING", "TENANT", "Handler", "HubClient", "VoxtraApp", "checked_handler"]

log = logging.getLogger(__name__)

Handler = Callable[[CallSession], Awaitable[object]]
H = TypeVar("H", bound=Handler)
Hook = Callable[[], object]
K = TypeVar("K", bound=Hook)

LOADING: Final[ContextVar[bool]] = ContextVar(
    "voxtractl_loading", default=False
)  # a handler file is imported

DRAIN: Final = 10.0  # seconds that calls get to finish when the app is told to stop
CANCELS: Final = (1.0, 1.0, 1.0)  # seconds a handler gets to clean up before it is cancelled again
LEGS_MAX: Final = 200  # media legs of one app: 300 take a quarter of a core here, half of one in Asterisk
NO_PORT: Final = "no RTP port left? see rtp.conf and Asterisk's log"
NO_TRUNK: Final = "does Asterisk have this trunk? pjsip show endpoints"
NO_EXTENSION: Final = "has its context such an extension?"
NOWHERE: Final = "voxtra-nowhere"  # a context that no dialplan has: where a redirected call is sent on
TURN_LOOK: Final = 5.0  # seconds; who waits longer for a turn looks whether others have given up theirs
SERVED: Final = 10.0  # seconds until an app must be served that a task of a startup hook calls with
SERVED_LOOK: Final = 0.05
ANSWER_GRACE: Final = 15.0  # seconds beyond the ringing time until we end an originate ourselves


class VoxtraApp:
    """``ari_url`` is the base without ``/ari``; ``timeout`` in seconds, of one request. Nothing is connected
    before ``start()``. ``app_name`` is the Stasis app of the dialplan. ``tts`` and ``stt`` speak and hear
    (``runtime.speech``). Sound goes by ``media``, audiosocket or websocket. With the first Asterisk brings it
    to ``audio_host``, at the first free port of ``audio_ports``; ``audio_bind`` is the address to listen on
    when it is another one.

    What is not given of the first three is read from VOXTRA_ARI_URL, VOXTRA_ARI_USER and VOXTRA_ARI_PASSWORD.
    """

    session_type: type[CallSession] = CallSession  # what its calls are

    def __init__(
        self,
        ari_url: str = "",
        ari_user: str = "",
        ari_password: str | Secret = "",
        app_name: str = "voxtra",
        *,
        timeout: float = 10.0,
        tts: "TextToSpeech | None" = None,
        stt: "SpeechToText | None" = None,
        media: str = "audiosocket",
        audio_host: str = "127.0.0.1",
        audio_bind: str | None = None,
        audio_ports: Sequence[int] = (0,),
    ) -> None:
        if media not in WAYS:
            raise UsageFault(f"there is no media {media!r}", hint=f"one of {', '.join(WAYS)}")
        self.app_name = app_name
        password = ari_password or os.environ.get("VOXTRA_ARI_PASSWORD", "")
        self._password = password if isinstance(password, Secret) else Secret(password)
        self._ari = ARIClient(
            ari_url or os.environ.get("VOXTRA_ARI_URL") or "http://127.0.0.1:8088",
            ari_user or os.environ.get("VOXTRA_ARI_USER") or "voxtractl",
            self._password,
            timeout=timeout,
        )
        self.tts, self.stt = tts, stt
        self.media, self.audio_host = media, audio_host
        self.audio_bind, self.audio_ports = audio_bind, audio_ports
        self._audio: AudioServer | None = None
        self._audio_begins = asyncio.Lock()
        self.breaker = Breaker()
        self.tenant: str | None = None
        self.max_channels: int | None = None
        self.calls_per_second: float | None = None
        self.media_legs = LEGS_MAX
        self.usage = Usage()
        # By node and PJSIP endpoint: a trunk that cannot be dialled over is no reason to leave another.
        self._dialling: defaultdict[tuple[str | None, str], Breaker] = defaultdict(Breaker)
        self.router: Router[Handler] = Router()
        self.calls: dict[str, CallSession] = {}
        self._on_adopt: Handler | None = None
        self._on_startup: list[Hook] = []
        self._on_shutdown: list[Hook] = []
        self._starting: asyncio.Task[Any] | None = None  # where the startup hooks run
        self.is_up = False  # the startup hooks have run, the shutdown hooks have not
        self.blocked = False  # its loop is known not to turn; the supervisor says so
        self._shutting_down = asyncio.Lock()
        self._sinks: list[Sink] = []
        self._hubs: list[Hub] = []
        self._own_hub = False
        self._stops = False
        self._loop: Callable[[], asyncio.AbstractEventLoop] | None = None
        self._hub_loop: asyncio.AbstractEventLoop | None = None  # when that is another one
        self._tasks: set[asyncio.Future[Any]] = set()  # handlers and hooks that run

    # --- routes -----------------------------------------------------------------------------------------

    def route(
        self,
        extension: str | None = None,
        *,
        number: str | None = None,
        prefix: str | None = None,
        name: str = "",
        metadata: Mapping[str, Any] | None = None,
    ) -> Callable[[H], H]:
        """Calls to this number go to the decorated handler.

        ``extension`` is a DID, an internal number or an Asterisk pattern (``_+265X.``), ``number`` the same
        without patterns, ``prefix`` whatever begins with it. ``metadata`` is the handler's ``call.metadata``.
        Raises UsageFault when the number has a handler already, or the handler is not async.
        """

        if callable(extension):
            raise UsageFault(
                "@app.route does not say which number", hint='write @app.route(extension="+265…")'
            )

        def keep(handler: H) -> H:
            known = {**(metadata or {}), **({"name": name} if name else {})}
            self.router.add(
                checked_handler(handler), extension=extension, number=number, prefix=prefix, metadata=known
            )
            return handler

        return keep

    def default(self) -> Callable[[H], H]:
        """Calls that no route takes go to the decorated handler; without one they are refused (cause 1)."""

        def keep(handler: H) -> H:
            self.router.default(checked_handler(handler))
            return handler

        return keep

    def on_adopt(self, handler: H) -> H:
        """Calls that were there before this process go to it; without one they are ended politely."""
        self._on_adopt = checked_handler(handler)
        return handler

    def on_event(self, sink: Sink) -> Sink:
        """Every event of the app's calls as a mapping (docs/events.md); sync or async, in the loop of the
        handlers. What it raises goes to the log."""
        hooks.must_be_callable("on_event", sink)
        self._sinks.append(told := partial(self._tell, sink))
        for hub in self._hubs:
            hub.journal.sinks.append(told)
        return sink

    def _tell(self, sink: Sink, event: Mapping[str, Any]) -> None:
        """An event of a hub, in its loop: under ``voxtractl run`` that has the calls of other tenants too."""
        if self._own_hub:
            self._hear(sink, event)
        elif event["tenant"] == self.tenant:
            where = context_of(self.tenant, event["call_id"], event["node"])
            # Others have the event too.
            self.loop.call_soon_threadsafe(self._hear, sink, dict(event), context=where)

    def _hear(self, sink: Sink, event: Mapping[str, Any]) -> None:
        told = None
        try:
            told = sink(event)
        except BaseException:  # a user's code; sys.exit() would end the loop that has the calls
            log.exception("an event could not be told: %s", event["event"])
        if inspect.isawaitable(told):
            self.keep(self.loop.create_task(_heard(told, event["event"])))

    def on_startup(self, hook: K) -> K:
        """Run it once before the first call can come; sync or async, in the loop of the handlers.

        What it raises is raised by ``start``; under ``voxtractl run`` the tenant is not served, as with a
        handler file that cannot be loaded. ``originate`` is not possible in it, ``ari`` is; a task that it
        begins may call out, and waits until the app is served.
        """
        hooks.must_be_callable("on_startup", hook)
        self._on_startup.append(hook)
        return hook

    def on_shutdown(self, hook: K) -> K:
        """Run it once after the last call, when the startup hooks ran; sync or async. What it raises goes to
        the log."""
        hooks.must_be_callable("on_shutdown", hook)
        self._on_shutdown.append(hook)
        return hook

    # --- life -------------------------------------------------------------------------------------------

    @property
    def ari(self) -> ARIClient:
        """Asterisk's REST interface; under ``voxtractl run`` that of the call's node, from whatever loop."""
        if self._hub_loop is None:
            return self._ari
        return self._client(self._hub_here(), self._hub_loop)

    def _hub_here(self) -> Hub:
        """Of the node whose call this is done for, else of the first that can be had."""
        at = NODE.get()
        here = [hub for hub in self._hubs if hub.journal.node == at] or [
            hub for hub in self._hubs if hub.hears(self.app_name)
        ]
        return (here or self._hubs)[0]

    def _client(self, hub: Hub, loop: asyncio.AbstractEventLoop) -> ARIClient:
        return HubClient(hub, loop)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise RuntimeFault("the app is not started", hint="await app.start(), or app.run()")
        return self._loop()

    async def start(self) -> None:
        """Run the startup hooks, connect, register the Stasis app, adopt calls that are there; returns when
        calls can come.

        A second start does nothing, nor does one under ``voxtractl run``: the supervisor serves. Raises
        AriUnreachable or AriAuthFailed, or what a hook raises.
        """
        if self._hubs or LOADING.get():
            return
        loop = asyncio.get_running_loop()
        self._loop = lambda: loop
        hub = Hub(self._ari, journal=Journal())
        hub.journal.sinks += self._sinks
        hub.serve(self.app_name, self)
        self._hubs, self._own_hub = [hub], True
        try:
            await self._ari.open()
            await self.start_up()
            await hub.start()
        except BaseException:
            self._hubs = []
            await self.shut_down()
            await hub.stop()
            raise

    @property
    def has_hooks(self) -> bool:
        """There are startup or shutdown hooks to run."""
        return bool(self._on_startup or self._on_shutdown)

    async def start_up(self) -> None:
        """Run the startup hooks, unless they have run; for ``start`` and for the supervisor."""
        TENANT.set(self.tenant)
        if not self.is_up:
            self._starting = asyncio.current_task()
            try:
                for hook in self._on_startup:
                    await _run(hook)
            finally:
                self._starting = None
            self.is_up = True

    async def shut_down(self) -> None:
        """Run the shutdown hooks, when the startup hooks have run, and close the providers of speech and the
        port for sound; for ``stop`` and for the supervisor. A second one waits for the first."""
        TENANT.set(self.tenant)
        async with self._shutting_down:
            if self.is_up:
                self.is_up = False
                for hook in self._on_shutdown:
                    await self._shut(hook)
            for provider in {id(provider): provider for provider in (self.tts, self.stt)}.values():
                if (close := getattr(provider, "close", None)) is not None:
                    await self._shut(close)
            audio, self._audio = self._audio, None
            if audio is not None:
                await audio.close()

    async def _shut(self, hook: Hook) -> None:
        try:
            await _run(hook)
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException:  # a user's code; the next hook has its own to close
            log.exception("a shutdown hook failed: %r", hook)

    async def stop(self, *, drain: float = 0.0) -> None:
        """Give calls ``drain`` seconds to finish, end the rest, run their hooks and the shutdown hooks,
        disconnect; twice is harmless."""
        if not self._own_hub or not self._hubs or self._stops:
            return
        self._stops = True
        try:
            for hub in self._hubs:  # calls that finish may still call others
                await hub.drain(drain)
            await self.settle()
            hubs, self._hubs = self._hubs, []
            await self.shut_down()
            for hub in hubs:
                await hub.stop()
        finally:
            self._stops = False

    @property
    def is_connected(self) -> bool:
        """Events of its calls come: not while the connection is away, or another process has the app."""
        return any(hub.hears(self.app_name) for hub in self._hubs)

    @property
    def busy(self) -> bool:
        """Calls are up, or handlers and hooks run."""
        return bool(self.calls or self._tasks) or self._shutting_down.locked()

    async def retire(self) -> None:
        """Shut down, unless a call is left; for the supervisor, in the loop of the handlers."""
        if not self.busy:
            await self.shut_down()

    async def settle(self, seconds: float = 5.0) -> None:
        """Wait until handlers and hooks of ended calls have run; what still runs then is cancelled.

        A handler that does not let itself be cancelled is left behind, and the log tells. One that asks for
        this itself is not waited for.
        """
        me: set[asyncio.Future[Any] | None] = {asyncio.current_task()}
        for pause in (seconds, *CANCELS):
            if self._tasks - me:
                await asyncio.wait(self._tasks - me, timeout=pause)
            for task in self._tasks - me:
                task.cancel()
        for task in self._tasks - me:
            log.error("it goes on although it was cancelled: %r", task)

    def run(self, *, drain: float = DRAIN) -> None:
        """Start and serve until SIGINT or SIGTERM, then drain. A second signal ends at once.

        What it does stands on stderr, unless the program has configured logging.
        Raises AriAuthFailed or AppReplaced when the connection ends for good. Under ``voxtractl run`` it
        returns at once: the supervisor serves.
        """
        if LOADING.get():
            return
        if asyncio._get_running_loop() is not None:
            raise RuntimeFault(
                "an event loop runs here already", hint="await app.start(), and await app.stop() at the end"
            )
        # Not asyncio.run(): at its end it waits for every task, and a handler may swallow every cancel.
        loop = new_event_loop()
        asyncio.set_event_loop(loop)
        try:
            with shown([self._password]):
                loop.run_until_complete(self._serve(drain))
        finally:
            loop.run_until_complete(_leave())
            asyncio.set_event_loop(None)
            loop.close()

    async def _serve(self, drain: float) -> None:
        loop = asyncio.get_running_loop()
        told, told_again = asyncio.Event(), asyncio.Event()

        def tell() -> None:
            (told_again if told.is_set() else told).set()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, tell)
        try:
            await self.start()
            hub = self._hubs[0]
            assert hub.failed is not None  # noqa: S101  start() made it
            log.info("serving %s on %s", self.app_name, hub.ari.url)
            await _until(told, hub.failed)
            if told.is_set():
                log.info("draining: calls get %.0f s; a second signal ends them now", drain)
                draining = asyncio.create_task(hub.drain(drain))
                await _until(told_again, draining)
                draining.cancel()
        finally:
            await self.stop()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)
        if not hub.failed.cancelled() and (error := hub.failed.exception()):
            raise error

    def attach(self, hubs: list[Hub], loop: Callable[[], asyncio.AbstractEventLoop], *, tenant: str) -> None:
        """Serve a tenant over these hubs; ``loop`` gives the loop of its handlers when it is needed first.
        What the supervisor does instead of ``start``, in the loop of the hubs."""
        self._hubs, self._loop, self.tenant, self._own_hub = hubs, loop, tenant, False
        self._hub_loop = asyncio.get_running_loop()
        for hub in hubs:
            hub.journal.sinks += [sink for sink in self._sinks if sink not in hub.journal.sinks]

    def detach(self) -> None:
        """Served no more: its startup hooks failed, or its last call is over."""
        for hub in self._hubs:
            hub.journal.sinks = [sink for sink in hub.journal.sinks if sink not in self._sinks]
        self._hubs, self._hub_loop = [], None

    # --- calls in ---------------------------------------------------------------------------------------

    def take(self, call: CallSession) -> None:
        """A new call, from the hub."""
        self.calls[call.id] = call
        route = self._route(call)
        if route is None:
            log.error("no handler for %s, and no default", call.called_number)
            if call.claim():
                call.refuse("unallocated")
            return
        call.metadata = {**route.metadata, **call.metadata}  # one that comes back keeps what it has
        self._handle(call, route.handler)

    def _route(self, call: CallSession) -> Route[Handler] | None:
        return self.router.find(call.called_number)

    def adopt(self, call: CallSession) -> None:
        """A call that was there before, from the hub."""
        self.calls[call.id] = call
        if self._on_adopt is None:
            if call.claim():
                call.refuse("normal", by=EndedBy.LOST)
        else:
            self._handle(call, self._on_adopt)

    def ended(self, call: CallSession) -> None:
        """A call is over, from the hub."""
        self.calls.pop(call.id, None)
        ended = call.ended
        if call.trunk and ended is not None and (ended.dialled or ended.undialled):
            self._dialling[call.node, call.trunk].tell(monotonic(), good=ended.dialled)

    def keep(self, work: "asyncio.Future[Any]") -> None:
        """A handler or hook runs: ``stop`` waits for it."""
        self._tasks.add(work)
        work.add_done_callback(self._tasks.discard)

    def _handle(self, call: CallSession, handler: Handler) -> None:
        call.attended = True
        task = self.loop.create_task(self._run_handler(call, handler), name=f"call {call.id}")
        self.keep(task)

    async def _run_handler(self, call: CallSession, handler: Handler) -> None:
        """The one place where foreign code runs: whatever it raises is this call's end and nobody else's."""
        TENANT.set(self.tenant)
        CALL.set(call.id)
        NODE.set(call.node)
        if not call.claim():
            call.attended = False
            log.warning("the call to %s took the fallback: its handler came too late", call.called_number)
            return
        try:
            await handler(call)
        except GeneratorExit:  # nobody raised it: its loop is gone
            raise
        except BaseException as exc:  # a user's code; told with its traceback, then the call ends
            task = asyncio.current_task()
            if isinstance(exc, asyncio.CancelledError) and task is not None and task.cancelling():
                call.finish()
                raise
            if _tells_the_end(exc):
                log.debug("the handler was told of the end: %s", exc)
                call.finish()
                return
            log.exception("the handler of %s failed", call.called_number)
            call.fail(exc)
            return
        call.finish()

    # --- calls out --------------------------------------------------------------------------------------

    async def originate(
        self,
        endpoint: str,
        *,
        caller_id: str | None = None,
        timeout: float = 30.0,
        variables: Mapping[str, object] | None = None,
        wait: bool = True,
        node: str | None = None,
    ) -> CallSession:
        """Call ``endpoint`` (``PJSIP/+265999123456@my-trunk``) and return the session when it is answered.

        ``caller_id`` is a number, or ``"Acme" <+265888000001>``; ``timeout`` is the ringing time in seconds.
        ``wait=False`` returns the ringing session. ``variables`` become strings (True is "1"). Raises
        OriginateFailed with disposition and cause when nobody answers, LimitReached over the tenant's
        max_channels (nothing is dialled), UsageFault for what cannot be sent, RuntimeFault when the app is
        not served within 10 s. A tenant's calls_per_second are kept by waiting. It is made at ``node``, else
        at that of the call whose handler asks, else at the first of the tenant's that is there.
        """
        if not self._hubs:
            raise RuntimeFault("the app is not started", hint="await app.start() first")
        here = self._hub_here() if node is None else None
        hub = here or next((hub for hub in self._hubs if hub.journal.node == node), None)
        if hub is None:
            nodes = ", ".join(str(hub.journal.node) for hub in self._hubs)
            raise UsageFault(f"{self.tenant or self.app_name} has no node {node!r}", hint=f"one of {nodes}")
        return await self.call(
            endpoint, caller_id=caller_id, timeout=timeout, variables=variables, wait=wait, hub=hub
        )

    async def call(
        self,
        endpoint: str,
        *,
        hub: Hub,
        caller_id: str | None = None,
        timeout: float = 30.0,
        variables: Mapping[str, object] | None = None,
        wait: bool = True,
    ) -> CallSession:
        """As ``originate``, on this node."""
        endpoint, caller_id = requests.dialled_endpoint(endpoint), requests.shown_caller(caller_id)
        self._must_have_room()
        await self._until_served(hub)
        trunk = _trunk(endpoint)
        if trunk and (wait_for := self._dialling[hub.journal.node, trunk].check(monotonic())):
            raise OriginateFailed(
                f"{endpoint} is not called: Asterisk could not dial over {trunk} {FAILURES} times in a row,"
                f" and is not asked to during {wait_for:.0f} s",
                disposition="failed",
                hint=NO_PORT,
            )
        await self._turn()
        if hub not in self._hubs:
            raise RuntimeFault("the app was stopped: it calls nobody any more")
        self._must_have_room()  # others may have had their turn meanwhile
        sent = dict(variables or {})
        # Else Asterisk would call the new number with a channel of another id, which nobody here waits for.
        sent["FORWARD_CONTEXT"] = NOWHERE
        if self.tenant is not None and f"@{naming.outbound_context(self.tenant)}" not in endpoint:
            # So that the dialplan counts it (docs/decisions/0004); its own outbound context does so itself.
            sent["GROUP(voxtra)"] = self.tenant
        channel = {"id": uuid4().hex, "caller": _caller(caller_id or ""), "state": "Down"}
        number = endpoint.partition("/")[2].partition("@")[0]
        call = self.session_type(hub, self, channel, [number], Direction.OUTBOUND, app=self.app_name)
        call.trunk = trunk
        up = call.expect_up()
        self.calls[call.id] = call
        how = {"endpoint": endpoint, "app": self.app_name, "caller_id": caller_id or None, "timeout": timeout}
        try:
            await hub.originate(call, **how, variables=sent)
            if not wait:
                return call
            async with asyncio.timeout(timeout + ANSWER_GRACE):
                ended: Ended | None = await up
        except AriError as exc:
            self._not_begun(call, hub)
            raise OriginateFailed(
                f"{endpoint} cannot be called: {exc.message}",
                disposition="failed",
                call=call.id,
                hint=exc.hint or (NO_TRUNK if trunk else None),
            ) from exc
        except TimeoutError:
            call.refuse("no_answer", by=EndedBy.LIMIT)
            raise OriginateFailed(
                f"{endpoint} did not answer", disposition="no_answer", call=call.id
            ) from None
        except BaseException:
            # Whether it was begun, the hub knows; what is seen of that in here may be a moment old.
            call.refuse("normal", by=EndedBy.HANDLER)
            self._not_begun(call, hub)
            raise
        if ended is None:
            return call
        lost = ended.ended_by is EndedBy.LOST
        raise OriginateFailed(
            f"{endpoint} was lost with the connection: whether it was answered, nobody heard"
            if lost
            else f"{endpoint} was not answered: {ended.disposition}",
            disposition=str(ended.disposition),
            cause=ended.cause,
            tech_cause=ended.tech_cause,
            call=call.id,
            hint=(NO_PORT if trunk else NO_EXTENSION) if ended.undialled else None,
        )

    async def _until_served(self, hub: Hub) -> None:
        """A dialler that a startup hook begins waits here, until calls can be made. The hook itself would
        wait for itself."""
        late = monotonic() + SERVED
        while not hub.has_begun(self.app_name):
            if asyncio.current_task() is self._starting or monotonic() > late or hub not in self._hubs:
                raise RuntimeFault(
                    "the app is not served yet: it calls nobody",
                    hint="a startup hook begins a task for that: asyncio.create_task(dial())",
                )
            await asyncio.sleep(SERVED_LOOK)

    def _not_begun(self, call: CallSession, hub: Hub) -> None:
        """What was never begun has no end that would give back its place."""
        if call.id not in hub.sessions:
            self.calls.pop(call.id, None)

    def _must_have_room(self) -> None:
        if self.max_channels is not None and self._up() >= self.max_channels:
            raise LimitReached(
                f"{self.tenant or self.app_name} has all of its {self.max_channels} calls up",
                tenant=self.tenant or self.app_name,
                hint="max_channels in the document",
            )

    def _up(self) -> int:
        """Calls of the tenant here; those that its earlier code has, too."""
        return len(set().union(self.calls, *(hub.calls_of(self.tenant) for hub in self._hubs)))

    async def _turn(self) -> None:
        """Wait until the next call may go out: calls_per_second, evenly spread."""
        if self.calls_per_second:
            start = self.usage.turn(monotonic(), self.calls_per_second)
            try:
                while (wait := start - monotonic()) > 0:
                    await asyncio.sleep(min(wait, TURN_LOOK))
                    start = self.usage.earlier(start, monotonic())
            except BaseException:
                self.usage.give_turn(start)
                raise

    async def audio_server(self) -> AudioServer:
        """Where Asterisk brings the sound of its calls: listens from the first leg on, in the loop of the
        handlers. Raises LocalProtocolError."""
        async with self._audio_begins:  # the first two legs may come at once
            if self._audio is None:
                listen = self.audio_bind or self.audio_host
                audio = AudioServer(listen, self.audio_ports, advertise=self.audio_host)
                call = CALL.set(None)  # the port outlives this call, and tells of others
                try:
                    await audio.start()
                finally:
                    CALL.reset(call)
                self._audio = audio
        return self._audio

    def take_leg(self) -> None:
        """One more media leg; ``give_leg`` gives it back. Raises LimitReached."""
        if not self.usage.take_leg(self.media_legs):
            raise LimitReached(
                f"{self.tenant or self.app_name} has all of its {self.media_legs} media legs open",
                tenant=self.tenant or self.app_name,
                hint="max_media_legs in the document" if self.tenant else "app.media_legs",
            )

    def give_leg(self, why: str = "") -> None:
        self.usage.give_leg()


class HubClient(ARIClient):
    """The client of a hub for handlers, which may run in another loop."""

    def __init__(self, hub: Hub, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(hub.ari.url, "", "")  # nothing is sent from here
        self._hub, self._loop = hub, loop

    async def ask(self, request: Request, *, timeout: float | None = None) -> Answer:
        if asyncio.get_running_loop() is self._loop:
            return await self._hub.ari.ask(request, timeout=timeout)
        async with self._hub.turns.take(request, timeout) as left:
            asked = asyncio.run_coroutine_threadsafe(self._hub.ari.ask(request, timeout=left), self._loop)
            return await asyncio.wrap_future(asked)


async def _heard(told: Awaitable[object], name: str) -> None:
    try:
        await told
    except (asyncio.CancelledError, GeneratorExit):
        raise
    except BaseException:  # as above
        log.exception("an event could not be told: %s", name)


def _tells_the_end(error: BaseException) -> bool:
    """CallEnded, and nothing else from any task of a TaskGroup."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(CallEnded)[1] is None
    return isinstance(error, CallEnded)


async def _run(hook: Hook) -> None:
    told = hook()
    if inspect.isawaitable(told):
        await told


def _trunk(endpoint: str) -> str:
    """The PJSIP endpoint that is dialled over; "" for channels that need no RTP port."""
    technology, _, rest = endpoint.partition("/")
    return rest.rpartition("@")[2].partition("/")[0] if technology.upper() == "PJSIP" else ""


def _caller(caller_id: str) -> Mapping[str, str]:
    """Number and name of ``"Acme" <+265888000001>``, or of a number alone."""
    name, found, number = caller_id.rpartition("<")
    if found and number.endswith(">"):
        return {"number": number[:-1], "name": name.strip().strip('"')}
    return {"number": caller_id, "name": ""}


async def _leave() -> None:
    """Cancel what is left in this loop, and wait a moment for it."""
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    if rest:
        await asyncio.wait(rest, timeout=CANCELS[0])


async def _until(told: asyncio.Event, work: "asyncio.Future[Any]") -> None:
    """Wait until the work is done, or somebody is told to stop."""
    asked: asyncio.Future[Any] = asyncio.create_task(told.wait())
    await asyncio.wait([asked, work], return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()


def checked_handler(handler: H) -> H:
    """Only async functions can wait for a caller without stopping every other call."""
    if not inspect.iscoroutinefunction(handler) and not inspect.iscoroutinefunction(
        getattr(handler, "__call__", None)  # noqa: B004  an object with an async __call__
    ):
        name = getattr(handler, "__qualname__", repr(handler))
        raise UsageFault(f"{name} is not an async function", hint=f"write `async def {name}(call):`")
    return handler
