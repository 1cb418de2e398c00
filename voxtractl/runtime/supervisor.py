"""The tenants of a document, served in one process: what ``voxtractl run`` runs.

    document ─▶ one hub per node (its connection)      one thread with an event loop per tenant (its handlers)
             ─▶ one app per tenant, loaded from its handler file

A tenant's handler can raise, block or fail to load: it is told, its calls take the dialplan's fallback, and
nobody else notices, because nothing of a tenant runs in the loop of the hubs. When the document changes, apps
are added, replaced and left while calls go on with the app they began with.
"""

import asyncio
import logging
import sys
import threading
import traceback
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Final

from voxtractl import files, naming
from voxtractl.ari import requests
from voxtractl.ari.client import ARIClient
from voxtractl.errors import AppReplaced, AriError, HandlerFault, UsageFault, VoxtractlError
from voxtractl.model import document
from voxtractl.model.fleet import Fleet
from voxtractl.model.tenant import Tenant
from voxtractl.runtime.app import VoxtraApp
from voxtractl.runtime.hub import MOVED, Hub
from voxtractl.runtime.journal import Journal, Sink
from voxtractl.runtime.loading import load_app
from voxtractl.settings import Secret

__all__ = ["Supervisor", "Worker"]

log = logging.getLogger(__name__)

LOOPS_MAX: Final = 256  # threads; more tenants share them by the order they come
LOAD_TIMEOUT: Final = 30.0  # seconds a handler file may take to load, its startup hooks included
SETTLE: Final = 6.0  # seconds for handlers and hooks of calls at the end
SHUT_DOWN: Final = 5.0  # seconds for the shutdown hooks after that
LOOK_EVERY: Final = 2.0  # seconds between looks at the document's files
BLOCKED_AFTER: Final = 2.0  # seconds a tenant's loop may not turn before it is told
BEAT: Final = 1.0  # seconds between a worker's signs of life
DEAD_AFTER: Final = 5.0  # seconds without one until its calls are moved
ALIVE: Final = "VOXTRA_WORKER_ALIVE"


@dataclass(frozen=True, slots=True)
class Worker:
    """``number`` of ``count`` runtime processes; 0 of 1 means all apps are served here."""

    number: int
    count: int


class _Loop:
    """A thread with an event loop, begun when a handler or hook needs it first."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()
        self.turned = monotonic()
        self._asked = False

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.close()

    def check(self) -> float:
        """Ask the loop for a sign; returns the seconds since the last one."""
        if not self._asked:
            self._asked = True
            self.loop.call_soon_threadsafe(self._turn)
            return 0.0
        return monotonic() - self.turned

    def _turn(self) -> None:
        self.turned = monotonic()
        self._asked = False

    def where(self) -> str:
        """What the thread does right now."""
        frame = sys._current_frames().get(self._thread.ident or 0)
        if frame is None:
            return "nowhere"
        last = traceback.extract_stack(frame)[-1]
        return f"{last.filename}:{last.lineno} in {last.name}"

    def stop(self) -> None:
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(timeout=1.0)  # a handler that blocks for ever does not hold the process


@dataclass
class _Served:
    """A tenant that is served: its values, its app, where the handler stood when it was loaded."""

    tenant: Tenant
    app: VoxtraApp
    stamp: float
    names: list[tuple[Hub, str, str]] = field(default_factory=list)  # (hub, app name, slug)


class Supervisor:
    """``config`` is the document; ``tenants`` and ``nodes`` limit what is served; ``worker`` is this process.

    ``sinks`` get the events of all calls. Raises on ``start``: the errors of the document, AriUnreachable,
    AriAuthFailed. A tenant whose handler cannot be loaded is in ``faults``, the rest are served.
    """

    def __init__(
        self,
        config: Path,
        *,
        tenants: Sequence[str] = (),
        nodes: Sequence[str] = (),
        worker: Worker | None = None,
        sinks: Sequence[Sink] = (),
        timeout: float = 10.0,
    ) -> None:
        self.config = config
        self.worker = worker
        self.hubs: dict[str, Hub] = {}
        self.served: dict[str, _Served] = {}
        self.faults: dict[str, HandlerFault] = {}
        self._only, self._nodes = tuple(tenants), tuple(nodes)
        self._sinks = list(sinks)
        self._timeout = timeout
        self._fleet = Fleet()
        self._sources: object = None
        self._loops: dict[str, _Loop] = {}  # by slug
        self._past: list[VoxtraApp] = []  # served no more; their last calls go on
        self._tasks: list[asyncio.Task[None]] = []
        self._beats: dict[tuple[str, int], tuple[str, float]] = {}
        self._bases: dict[str, str] = {}  # our apps → the tenants' app, without the worker's number
        self._reloading = asyncio.Lock()
        self.wanted = 0  # tenants that should be served here

    # --- life -------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Load the document and the handlers, connect to every node; returns when calls can come."""
        self._fleet = self._read()
        for name in self._nodes or self._fleet.nodes:
            if name not in self._fleet.nodes:
                raise UsageFault(f"there is no node {name!r} in {self.config}", hint="voxtractl node list")
            node = self._fleet.nodes[name]
            password = node.ari_password.resolve(self.config.parent)
            journal = Journal(name)
            journal.sinks += self._sinks
            ari = ARIClient(node.ari, node.ari_user, password, timeout=self._timeout)
            await ari.open()  # startup hooks may use it
            hub = self.hubs[name] = Hub(ari, journal=journal)
            hub.elsewhere = partial(self._elsewhere, name)
        for slug in self._only:
            if slug not in self._fleet.tenants:
                raise UsageFault(
                    f"there is no tenant {slug!r} in {self.config}", hint="voxtractl tenant list"
                )
        if self.worker is not None and self.worker.count != self._fleet.defaults.workers:
            raise UsageFault(
                f"--worker {self.worker.number}/{self.worker.count}, but the document has"
                f" workers = {self._fleet.defaults.workers}",
                hint="the dialplan tries as many workers as the document says; push it first",
            )
        wanted = self._wanted(self._fleet)
        if not wanted:
            raise UsageFault(
                f"no tenant of {self.config} has a handler to run",
                hint='voxtractl tenant set NAME handler="handlers/NAME.py:app"',
            )
        await self._load(wanted)
        if not self.served:
            raise next(iter(self.faults.values()))
        try:
            await asyncio.gather(*(hub.start() for hub in self.hubs.values()))
        except BaseException:
            await self.close()
            raise
        self._tasks = [asyncio.create_task(self._watch()), asyncio.create_task(self._look())]
        if self.worker is not None and self.worker.count > 1:
            self._tasks.append(asyncio.create_task(self._beat()))

    async def drain(self, seconds: float) -> int:
        """New calls take the fallback, running ones get so long, the rest are ended; returns how many those
        were."""
        ended = await asyncio.gather(*(hub.drain(seconds) for hub in self.hubs.values()))
        return sum(ended)

    async def close(self) -> None:
        """Let handlers and hooks finish, run the shutdown hooks, disconnect, end the threads; a second close
        does nothing."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        apps = [*self._past, *(served.app for served in self.served.values())]
        await self._each(apps, VoxtraApp.settle, SETTLE)
        if late := await self._each(apps, VoxtraApp.shut_down, SHUT_DOWN):
            log.error("what takes over %.0f s to shut down is left behind: %s", SHUT_DOWN, ", ".join(late))
        self.served.clear()
        self._past.clear()
        await asyncio.gather(*(hub.stop() for hub in self.hubs.values()))
        loops, self._loops = self._loops, {}
        for loop in set(loops.values()):
            loop.stop()

    async def _each(
        self, apps: Iterable[VoxtraApp], what: Callable[[VoxtraApp], Coroutine[Any, Any, None]], most: float
    ) -> list[str]:
        """Do it for apps that have a loop, each in its own; returns the tenants that took more seconds."""
        work = {
            asyncio.wrap_future(asyncio.run_coroutine_threadsafe(what(app), loop.loop)): app.tenant or ""
            for app in apps
            if (loop := self._loops.get(app.tenant or "")) is not None and not loop.loop.is_closed()
        }
        _, late = await asyncio.wait(work, timeout=most) if work else (set(), set())
        return sorted(work[one] for one in late)

    async def failed(self) -> VoxtractlError:
        """Wait until a connection ended for good, and return why.

        A node whose apps are all another process's is no reason to leave the other nodes.
        """
        while True:
            futures = [hub.failed for hub in self.hubs.values() if hub.failed is not None]
            errors = [one.exception() for one in futures if one.done() and not one.cancelled()]
            for error in errors:
                if isinstance(error, VoxtractlError) and (
                    not isinstance(error, AppReplaced) or len(errors) == len(futures)
                ):
                    return error
            waiting = [one for one in futures if not one.done()]
            if waiting:  # a node that is served again has another future
                await asyncio.wait(waiting, timeout=LOOK_EVERY, return_when=asyncio.FIRST_COMPLETED)
            else:  # we stopped them
                await asyncio.sleep(LOOK_EVERY)

    def listen(self, sink: Sink) -> None:
        """One more sink; before ``start``."""
        self._sinks.append(sink)

    def sentence(self) -> str:
        """What is served, in one line."""
        nodes = ", ".join(self.hubs)
        text = f"serving {len(self.served)} of {self.wanted} tenants on {nodes}"
        if self.faults:
            text += f"; without a handler: {', '.join(sorted(self.faults))}"
        return text

    def secrets(self) -> list[Secret]:
        """The passwords of this process, for the log to leave out. Raises SettingsError."""
        fleet = self._read()
        chosen = [fleet.nodes[name] for name in self._nodes or fleet.nodes if name in fleet.nodes]
        return [node.ari_password.resolve(self.config.parent) for node in chosen]

    # --- the document -----------------------------------------------------------------------------------

    def _read(self) -> Fleet:
        sources = files.read_sources(self.config)
        self._sources = sources
        return document.parse(sources)

    def _wanted(self, fleet: Fleet) -> dict[str, Tenant]:
        """The tenants to serve here: with a handler, on one of our nodes."""
        return {
            slug: tenant
            for slug, tenant in fleet.tenants.items()
            if tenant.handler
            and (not self._only or slug in self._only)
            and (not tenant.nodes or set(tenant.nodes) & set(self.hubs))
        }

    async def reload(self) -> bool:
        """Read the document again and serve what it says now; calls that are up go on. False: it is not
        valid, and everything stays as it was."""
        async with self._reloading:
            try:
                fleet = self._read()
            except VoxtractlError as exc:
                log.warning("the changed document is not valid, the old one stays in use: %s", exc)
                return False
            wanted = self._wanted(fleet)
            for slug in set(self.served) - set(wanted):
                self._leave(slug)
            changed = {
                slug: tenant
                for slug, tenant in wanted.items()
                if slug not in self.served
                or self.served[slug].tenant != tenant
                or self.served[slug].stamp != self._stamp(tenant)
            }
            self._fleet = fleet
            await self._load(changed)
            for hub in self.hubs.values():
                await hub.register()
            log.info("reloaded: %d tenants served, %d changed", len(self.served), len(changed))
            return True

    async def _load(self, tenants: dict[str, Tenant]) -> None:
        """Load handlers, a few at once; a fault is kept and told, and an app that ran before goes on."""
        self.wanted = len(self._wanted(self._fleet))
        slots = asyncio.Semaphore(4)

        async def one(tenant: Tenant) -> None:
            stamp = self._stamp(tenant)
            async with slots:
                try:
                    async with asyncio.timeout(LOAD_TIMEOUT):
                        app = await asyncio.to_thread(
                            load_app, tenant.handler or "", tenant.slug, self.config.parent
                        )
                        await self._start_up(tenant, app)
                except TimeoutError:
                    fault = HandlerFault(
                        f"the handler of {tenant.slug} was not ready within {LOAD_TIMEOUT:.0f} s",
                        tenant=tenant.slug,
                        where=tenant.handler,
                    )
                except HandlerFault as exc:
                    fault = exc
                else:
                    self.faults.pop(tenant.slug, None)
                    self._serve(tenant, app, stamp)
                    return
            self.faults[tenant.slug] = fault
            log.error("%s: %s", fault.where, fault, exc_info=fault.__cause__)

        await asyncio.gather(*(one(tenant) for tenant in tenants.values()))

    async def _start_up(self, tenant: Tenant, app: VoxtraApp) -> None:
        """Attach the app and run its startup hooks, in the loop of its handlers. Raises HandlerFault."""
        app.max_channels = tenant.max_channels
        app.calls_per_second = tenant.outbound.calls_per_second if tenant.outbound else None
        app.app_name = self._apps(tenant)[0]
        app.attach(self._hubs_of(tenant), lambda: self._loop_of(tenant.slug), tenant=tenant.slug)
        if not app.has_hooks:
            return
        try:
            work = asyncio.run_coroutine_threadsafe(_started(app, tenant), self._loop_of(tenant.slug))
            await asyncio.wrap_future(work)
        except BaseException:
            app.detach()
            raise

    def _hubs_of(self, tenant: Tenant) -> list[Hub]:
        return [hub for name, hub in self.hubs.items() if not tenant.nodes or name in tenant.nodes]

    def _serve(self, tenant: Tenant, app: VoxtraApp, stamp: float) -> None:
        if tenant.slug in self.served:
            self._past.append(self.served[tenant.slug].app)
        served = _Served(tenant, app, stamp)
        slug = tenant.slug if self._fleet.defaults.apps == "shared" else ""
        for hub in self._hubs_of(tenant):
            for name in self._apps(tenant):
                hub.serve(name, app, slug=slug)
                served.names.append((hub, name, slug))
        self._bases |= dict.fromkeys(self._apps(tenant), tenant.app)
        self.served[tenant.slug] = served

    def _apps(self, tenant: Tenant) -> list[str]:
        """The Stasis apps of a tenant that this process serves."""
        workers = self._fleet.defaults.workers
        numbers = range(1, workers + 1) if self.worker is None else [self.worker.number]
        return [naming.worker_app(tenant.app, number, workers) for number in numbers]

    def _leave(self, slug: str) -> None:
        served = self.served.pop(slug)
        self._past.append(served.app)
        for hub, name, key in served.names:
            hub.leave(name, slug=key)

    def _stamp(self, tenant: Tenant) -> float:
        """When the handler file was changed last; 0 for a module."""
        place = (tenant.handler or "").rpartition(":")[0]
        try:
            return (self.config.parent / Path(place).expanduser()).stat().st_mtime
        except OSError:
            return 0.0

    def _loop_of(self, slug: str) -> asyncio.AbstractEventLoop:
        """The loop of a tenant's handlers, begun when it is first needed."""
        if slug not in self._loops:
            own = list(self._loops.values())[:LOOPS_MAX]
            self._loops[slug] = (
                _Loop(f"tenant {slug}") if len(own) < LOOPS_MAX else own[hash(slug) % LOOPS_MAX]
            )
        return self._loops[slug].loop

    async def _retire(self) -> None:
        """Shut down apps that are served no more, when their last call is over."""
        await self._each(self._past, VoxtraApp.retire, SHUT_DOWN)
        self._past = [app for app in self._past if app.is_up or app.busy]

    # --- watching ---------------------------------------------------------------------------------------

    async def _look(self) -> None:
        """Reload when a file of the document, or a handler, has changed."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            try:
                changed = files.read_sources(self.config) != self._sources or any(
                    self._stamp(served.tenant) not in (served.stamp, 0.0) for served in self.served.values()
                )
            except VoxtractlError as exc:
                log.warning("the document cannot be read: %s", exc)
                continue
            if changed:
                await self.reload()
            await self.reclaim()
            await self._retire()

    async def reclaim(self, *, force: bool = False) -> None:
        """Serve apps that another process took, when it has left them; ``force``: take them back."""
        async with self._reloading:
            for name, hub in self.hubs.items():
                try:
                    await hub.reclaim(force=force)
                except AriError as exc:
                    log.warning("%s: the apps of another process cannot be taken back: %s", name, exc)

    async def _watch(self) -> None:
        """Tell which tenant's handler blocks its loop, and where; once for each time."""
        told: set[_Loop] = set()
        while True:
            await asyncio.sleep(BLOCKED_AFTER / 2)
            for loop in set(self._loops.values()):
                seconds = loop.check()
                if seconds < BLOCKED_AFTER:
                    told.discard(loop)
                elif loop not in told:
                    told.add(loop)
                    log.error("%s: its handler blocks its event loop, at %s", loop.name, loop.where())

    # --- workers ----------------------------------------------------------------------------------------

    async def _beat(self) -> None:
        """Show that this worker lives, and take over the calls of the next one that does not."""
        count = 0
        while True:
            await asyncio.sleep(BEAT)
            count += 1
            for name, hub in self.hubs.items():
                try:
                    await self._beat_at(name, hub, count)
                except AriError as exc:
                    log.debug("no sign of life at %s: %s", name, exc)

    async def _beat_at(self, name: str, hub: Hub, count: int) -> None:
        worker = self.worker
        assert worker is not None  # noqa: S101  start() asked
        await hub.ari.request(
            requests.set_global(f"{ALIVE}_{worker.number}", f"{count} {'draining' if hub.draining else 'up'}")
        )
        now = monotonic()
        for other in range(1, worker.count + 1):
            if other == worker.number:
                continue
            answer = await hub.ari.ask(requests.get_global(f"{ALIVE}_{other}"))
            value = str(answer.body.get("value", "")) if answer.status == 200 else ""
            last, since = self._beats.get((name, other), ("", now))
            self._beats[name, other] = (value, now) if value != last else (last, since)
        alive = [n for n in range(1, worker.count + 1) if n == worker.number or self._lives(name, n, now)]
        for dead in set(range(1, worker.count + 1)) - set(alive):
            heir = next((n for n in alive if n > dead), alive[0])  # one heir: nobody moves a call twice
            if heir == worker.number:
                await self._inherit(hub, dead)

    def _lives(self, name: str, other: int, now: float) -> bool:
        _, since = self._beats.get((name, other), ("", now))  # not looked at yet: give it time
        return now - since < DEAD_AFTER

    async def _inherit(self, hub: Hub, dead: int) -> None:
        """Move the calls of a dead worker here; they come as a StasisStart that says so."""
        workers = self._fleet.defaults.workers
        theirs = {naming.worker_app(base, dead, workers): ours for ours, base in self._bases.items()}
        for place in await hub.places(await hub.ari.request(requests.channels())):
            if place.app in theirs:
                moved = await hub.move(place, theirs[place.app], [MOVED, *place.args])
                told = "moved" if moved else "not moved"
                log.warning("call %s of worker %d %s", place.channel["id"], dead, told)

    def _elsewhere(self, name: str, app: str) -> list[str]:
        """The same app at the workers that live and take calls."""
        if self.worker is None or app not in self._bases:
            return []
        now = monotonic()
        return [
            naming.worker_app(self._bases[app], other, self.worker.count)
            for other in range(1, self.worker.count + 1)
            if other != self.worker.number
            and self._beats.get((name, other), ("", now))[0].endswith(" up")
            and self._lives(name, other, now)
        ]


async def _started(app: VoxtraApp, tenant: Tenant) -> None:
    """Run its startup hooks, in the loop of its handlers. Raises HandlerFault whatever they raise: it is this
    tenant's fault only."""
    try:
        await app.start_up()
    except (Exception, SystemExit) as exc:
        raise HandlerFault(
            f"a startup hook of {tenant.slug} failed: {type(exc).__name__}: {exc}",
            tenant=tenant.slug,
            where=tenant.handler,
        ) from exc
