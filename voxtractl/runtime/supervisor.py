"""The tenants of a document, served in one process: what ``voxtractl run`` runs.

    document ─▶ one hub per node (its connection)      one thread with an event loop per tenant (its handlers)
             ─▶ one app per tenant, loaded from its handler file

A tenant's handler can raise, block or fail to load: it is told, its calls take the dialplan's fallback, and
nobody else notices, because nothing of a tenant runs in the loop of the hubs. When the document changes, apps
are added, replaced and left while calls go on with the app they began with.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final

from voxtractl import files, naming
from voxtractl.ari import requests
from voxtractl.ari.client import ARIClient
from voxtractl.errors import (
    AppReplaced,
    AriAuthFailed,
    AriError,
    FleetError,
    HandlerFault,
    UsageFault,
    VoxtractlError,
)
from voxtractl.model import document
from voxtractl.model.fleet import Fleet, must_know
from voxtractl.model.node import Node
from voxtractl.model.tenant import Tenant
from voxtractl.runtime.app import VoxtraApp
from voxtractl.runtime.event_loop import policy_keeper
from voxtractl.runtime.hub import Hub
from voxtractl.runtime.journal import Journal, Sink
from voxtractl.runtime.loading import Code, unload
from voxtractl.runtime.loops import BLOCKED_AFTER, Loops
from voxtractl.runtime.usage import Usage
from voxtractl.runtime.wording import told
from voxtractl.runtime.workers import BEAT, Worker, Workers
from voxtractl.settings import Secret, SecretRef

__all__ = ["Supervisor"]

log = logging.getLogger(__name__)

REACH: Final = 10.0  # seconds a node gets to answer at the start: it may start too
REACH_AGAIN: Final = 0.5
LOADS: Final = 4  # handler files at once
PATIENCE: Final = 2.0  # seconds until a load is slow: the others no longer wait for it
LOAD_TIMEOUT: Final = 30.0  # seconds a handler file may take to load, its startup hooks included
SETTLE: Final = 6.0  # seconds for handlers and hooks of calls at the end
SHUT_DOWN: Final = 5.0  # seconds for the shutdown hooks after that
LOOK_EVERY: Final = 2.0  # seconds between looks at the document's files
WRITING: Final = 0.5  # seconds in which they must not change: then nobody is writing them
WRITES_MAX: Final = 20  # looks of that kind, when somebody always is


@dataclass(eq=False)
class _Served:
    """A tenant that is served: its values, its app, the code behind it."""

    tenant: Tenant
    app: VoxtraApp
    code: Code
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
        self.keep_log: Callable[[], None] = lambda: None  # after a handler file may have changed it
        self._keep_policy = policy_keeper()
        self.served: dict[str, _Served] = {}
        self.faults: dict[str, HandlerFault] = {}
        self.loading: set[str] = set()  # tenants whose handlers are not ready yet
        self._only, self._nodes = tuple(tenants), tuple(nodes)
        self._sinks = list(sinks)
        self._timeout = timeout
        self._fleet = Fleet()
        self._sources: object = None
        self._tried: dict[str, tuple[Tenant, Code]] = {}  # what was loaded last, also when it could not be
        self._connected: dict[str, object] = {}  # how each node was reached at the start
        self._told_nodes: list[str] = []
        self._told_workers = 0
        self._usage: defaultdict[str, Usage] = defaultdict(Usage)  # by slug, over all loads
        self._fault = ""  # why the document is not in use, as it was told
        self._passwords: dict[SecretRef, Secret] = {}
        self._secrets: list[Secret] = []  # all that were ever read
        self._loops = Loops()
        self._past: list[_Served] = []  # served no more; their last calls go on
        self._tasks: set[asyncio.Task[None]] = set()
        self._bases: dict[str, str] = {}  # our apps → the tenants' app, without the worker's number
        self._reloading = asyncio.Lock()
        self._registering: set[str] = set()  # nodes where it is tried
        self.wanted = 0  # tenants that should be served here
        self.serves = False  # it has started
        self._ends = False  # it drains: nothing more is served, the document is not read again

    # --- life -------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Load the document and the handlers, connect to every node; returns when calls can come.
        ``drain`` and ``close`` it also when this raises or is cancelled: some nodes may have begun."""
        self._fleet = self._read()
        several: list[Workers] = []  # this one among others, at each node
        for name in self._nodes or self._fleet.nodes:
            must_know("node", name, self._fleet.nodes, self.config)
            node = self._fleet.nodes[name]
            self._connected[name] = _way(node)
            password = self._password(node)
            journal = Journal(name)
            journal.sinks += self._sinks
            ari = ARIClient(node.ari, node.ari_user, password, timeout=self._timeout)
            await ari.open()  # startup hooks may use it
            hub = self.hubs[name] = Hub(ari, journal=journal)
            if self.worker is not None and self.worker.count > 1:
                moves = partial(self._go, also_at_the_end=True)
                several.append(workers := Workers(self.worker, hub, self._bases, moves))
                hub.siblings, hub.elsewhere, hub.in_time = True, workers.elsewhere, workers.in_time
        for slug in self._only:
            must_know("tenant", slug, self._fleet.tenants, self.config)
        if self.worker is not None and self.worker.count != self._fleet.defaults.workers:
            raise UsageFault(
                f"--worker {self.worker.number}/{self.worker.count}, but the document has"
                f" workers = {self._fleet.defaults.workers}",
                hint="the dialplan tries as many workers as the document says; push it first",
            )
        late = await self._load(self._must_want(self._fleet))
        if not self.served and late:
            await asyncio.gather(*late)
        if not self.served:
            raise next(iter(self.faults.values()))
        # All of them before one app is registered: a call is answered only when the process stays.
        await asyncio.gather(*(self._go(_reach(hub)) for hub in self.hubs.values()))
        await asyncio.gather(*(self._go(workers.begin()) for workers in several))
        await asyncio.gather(*(self._go(hub.start()) for hub in self.hubs.values()))
        self._go(self._every(BLOCKED_AFTER / 2, self._watch))
        self._go(self._every(LOOK_EVERY, self._look))
        for workers in several:  # each on its own: a node that is away holds up no other
            self._go(self._every(BEAT, workers.beat))
        for load in late:
            self._go(self._serve_late(load))
        self.serves = True

    def _go(self, work: Coroutine[Any, Any, None], *, also_at_the_end: bool = False) -> "asyncio.Task[None]":
        """Do it beside everything else, until ``close``; most of it not at all when the end has begun."""
        self._tasks.add(task := asyncio.create_task(work))
        if self._ends and not also_at_the_end:
            task.cancel()
        task.add_done_callback(self._tasks.discard)
        return task

    @staticmethod
    async def _every(seconds: float, work: Callable[..., Coroutine[Any, Any, None]], *of: object) -> None:
        """Do it again and again. What fails unforeseen is told, and tried once more: a process that serves
        calls must not stop looking after them."""
        while True:
            await asyncio.sleep(seconds)
            try:
                await work(*of)
            except Exception:
                log.exception("%s failed, and is tried again", work.__name__.strip("_"))

    async def drain(self, seconds: float) -> int:
        """New calls take the fallback, running ones get so long, the rest are ended; returns how many those
        were. From now on no app is taken from another process, which may be the one that replaces this."""
        self._ends = True
        ended = await asyncio.gather(*(hub.drain(seconds) for hub in self.hubs.values()))
        return sum(ended)

    async def close(self) -> None:
        """Let handlers and hooks finish, run the shutdown hooks, disconnect, end the threads; a second close
        does nothing."""
        self._ends = True
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        apps = [served.app for served in (*self._past, *self.served.values())]
        await self._loops.each(apps, VoxtraApp.settle, SETTLE)
        if late := await self._loops.each(apps, VoxtraApp.shut_down, SHUT_DOWN):
            log.error("what takes over %.0f s to shut down is left behind: %s", SHUT_DOWN, ", ".join(late))
        self.served.clear()
        self._past.clear()
        await asyncio.gather(*(hub.stop() for hub in self.hubs.values()))
        self._loops.end()

    async def failed(self) -> VoxtractlError:
        """Wait until a connection ended for good, and return why.

        A node that refuses us, or whose apps are all another process's, is no reason to leave the others.
        """
        while True:
            hubs = [hub for hub in self.hubs.values() if hub.has_apps]
            errors = [hub.failure for hub in hubs if hub.failure is not None]
            if errors and len(errors) == len(hubs):
                return next((one for one in errors if not isinstance(one, AppReplaced)), errors[0])
            waiting = [hub.failed for hub in hubs if hub.failed is not None and not hub.failed.done()]
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
        if self.without_handler:
            text += f"; without a handler: {', '.join(sorted(self.without_handler))}"
        if self.loading:
            text += f"; still loading: {', '.join(sorted(self.loading))}"
        if away := [name for name, hub in self.hubs.items() if not hub.connected]:
            text += f"; not connected: {', '.join(away)}"
        return text

    @property
    def without_handler(self) -> dict[str, HandlerFault]:
        """The faults of tenants that are not served: code that ran before a fault goes on."""
        return {slug: fault for slug, fault in self.faults.items() if slug not in self.served}

    def secrets(self) -> list[Secret]:
        """The passwords of this process, for the log to leave out: those of now, and those that come later.

        Raises SettingsError.
        """
        fleet = self._read()
        for name in self._nodes or fleet.nodes:
            if name in fleet.nodes:
                self._password(fleet.nodes[name])
        return self._secrets

    def _password(self, node: Node) -> Secret:
        """Asked for once: a command may take a while, or want a finger on a key."""
        ref = node.ari_password
        if ref not in self._passwords:
            self._passwords[ref] = ref.resolve(self.config.parent)
            self._secrets.append(self._passwords[ref])
        return self._passwords[ref]

    # --- the document -----------------------------------------------------------------------------------

    def _read(self) -> Fleet:
        try:
            self._sources = sources = files.read_sources(self.config)
        except VoxtractlError as exc:
            self._sources = _told(exc)
            raise
        return document.parse(sources)

    def _written(self) -> object:
        """The document as it is now, or why it cannot be read."""
        try:
            return files.read_sources(self.config)
        except VoxtractlError as exc:
            return _told(exc)

    def _wanted(self, fleet: Fleet) -> dict[str, Tenant]:
        """The tenants to serve here: with a handler, on one of our nodes, or served there until now, for
        until the dialplan is pushed their calls come there."""
        return {
            slug: tenant
            for slug, tenant in fleet.tenants.items()
            if tenant.handler
            and (not self._only or slug in self._only)
            and (not tenant.nodes or set(tenant.nodes) & set(self.hubs) or slug in self.served)
        }

    def _must_want(self, fleet: Fleet) -> dict[str, Tenant]:
        """The same; raises UsageFault when there are none."""
        if wanted := self._wanted(fleet):
            return wanted
        raise UsageFault(
            f"no tenant of {self.config} has a handler to run",
            hint='voxtractl tenant set NAME handler="handlers/NAME.py:app"',
        )

    async def reload(self, *, asked: bool = True) -> bool:
        """Read the document again and serve what it says now; calls that are up go on. False: it is not
        valid, so that the old one stays in use, or the end has begun. A fault that was told is told again
        only when somebody ``asked``."""
        async with self._reloading:
            if self._ends:
                return False
            fault = ""
            try:
                fleet = await asyncio.to_thread(self._read)
                wanted = self._must_want(fleet)
            except VoxtractlError as exc:
                fault, fleet, wanted = _told(exc), self._fleet, self._wanted(self._fleet)
                if asked or fault != self._fault:
                    log.warning("the changed document is not valid, the old one stays in use: %s", fault)
            self._fault = fault
            self._fleet = fleet
            self._tried = {slug: tried for slug, tried in self._tried.items() if slug in wanted}
            changed = await asyncio.to_thread(self._due, wanted)
            if fault and not changed:
                return False
            self.loading &= set(wanted)
            self.faults = {slug: fault for slug, fault in self.faults.items() if slug in wanted}
            self._tell_restart(fleet)
            late = await self._load(changed)
            for slug in set(self.served) - set(wanted):  # now: a tenant of another name may have its app
                self._leave(slug)
            await self._register()
            for load in late:
                self._go(self._serve_late(load))
            kept = sorted(changed.keys() & self.faults.keys() & self.served.keys())
            log.info(
                "reloaded: %d tenants served, %d changed%s",
                len(self.served),
                len(changed),
                f"; served as before: {', '.join(kept)}" if kept else "",
            )
            return not fault

    def _due(self, wanted: Mapping[str, Tenant]) -> dict[str, Tenant]:
        """Those of them to load; runs in a thread, for all of their files are looked at."""
        return {slug: tenant for slug, tenant in wanted.items() if self._is_due(tenant)}

    def _is_due(self, tenant: Tenant) -> bool:
        """Its handler must be loaded, or may be this time. One that still hangs would only hang once more."""
        last, code = self._tried.get(tenant.slug, (None, None))
        if code is None or last != tenant or code.is_stale():
            return True
        served = self.served.get(tenant.slug)
        if served is not None and not set(self._names(tenant)) <= set(served.names):
            return True  # its apps have other names now: of more workers, or shared
        # Its startup hook may stand in its loop.
        return tenant.slug in self.faults and not code.hangs() and self._loops.turns(tenant.slug)

    def _tell_restart(self, fleet: Fleet) -> None:
        """Nodes are connected at the start only: tell which ones the document has otherwise now. The same for
        the number of workers, when this is one of them."""
        names = self._nodes or tuple(fleet.nodes)
        now = {name: _way(fleet.nodes[name]) for name in names if name in fleet.nodes}
        differing = sorted(
            name for name in now.keys() | self._connected.keys() if now.get(name) != self._connected.get(name)
        )
        if differing and differing != self._told_nodes:
            log.warning("the document has other nodes now (%s): restart to serve them", ", ".join(differing))
        self._told_nodes = differing
        workers = fleet.defaults.workers
        if self.worker is not None and workers != self.worker.count and workers != self._told_workers:
            log.warning(
                "the document has workers = %d now: this process goes on as %d of %d until it is restarted",
                workers,
                self.worker.number,
                self.worker.count,
            )
        self._told_workers = workers

    # --- handlers ---------------------------------------------------------------------------------------

    async def _load(self, tenants: dict[str, Tenant]) -> list[asyncio.Task[None]]:
        """Load handlers, a few at once; returns when all are ready but those that hang, with these."""
        self.wanted = len(self._wanted(self._fleet))
        slots = asyncio.Semaphore(LOADS)
        loads = []
        for tenant in tenants.values():
            if self._ends:
                break
            loads.append(self._go(self._load_one(tenant, slots)))
            await asyncio.sleep(0)  # calls come between the first steps of thousands
        for ready in asyncio.as_completed(loads):
            try:
                async with asyncio.timeout(2 * PATIENCE):
                    await ready
            except TimeoutError:
                break
        return [load for load in loads if not load.done()]

    async def _load_one(self, tenant: Tenant, slots: asyncio.Semaphore) -> None:
        """Load the handler of a tenant and serve it; a fault is kept and told, and an app that ran before
        goes on."""
        slug = tenant.slug
        code = Code(tenant.handler or "", slug, self.config.parent)
        self._tried[slug] = (tenant, code)
        self.loading.add(slug)
        app, whose = None, {"tenant": slug}
        try:
            async with slots:
                work = asyncio.wrap_future(code.start())
                await asyncio.wait([work], timeout=PATIENCE)
            if not work.done():
                log.warning("the handler of %s is slow to load, at %s", slug, code.standing(), extra=whose)
            async with asyncio.timeout(LOAD_TIMEOUT):
                try:
                    app = _own(await work, tenant)
                    await self._start_up(tenant, app)
                finally:
                    self._keep()
        except TimeoutError:
            fault = HandlerFault(
                f"the handler of {slug} was not ready within {LOAD_TIMEOUT:.0f} s",
                tenant=slug,
                where=code.standing() if app is None else self._loops.of(app).where(),
                hint="do such work in @app.on_startup, without blocking",
            )
        except HandlerFault as exc:
            fault = exc
        except (OSError, RuntimeError) as exc:  # no file or thread for its loop: nobody else's fault
            fault = HandlerFault(
                f"the handler of {slug} cannot be loaded now: {told(exc)}", tenant=slug, where=code.standing()
            )
            fault.__cause__ = exc
        else:
            if self._tried.get(slug) == (tenant, code) and not self._ends:
                self.loading.discard(slug)
                self.faults.pop(slug, None)
                self._serve(tenant, app, code)
            else:  # the document has changed since, or the end has begun
                self._past.append(_Served(tenant, app, code))
            return
        if app is not None:
            app.detach()
            self._loops.let_go(app)
        unload([code])
        if self._tried.get(slug) == (tenant, code):
            self.loading.discard(slug)
            self.faults[slug] = fault
        log.error("%s: %s", fault.where, fault, exc_info=fault.__cause__, extra=whose)

    async def _serve_late(self, load: asyncio.Task[None]) -> None:
        """Serve a tenant whose handler was slow to load, when it is ready."""
        await load
        async with self._reloading:
            if not self._ends:
                await self._register()
                log.info("%s", self.sentence())

    async def _register(self) -> None:
        """Register what is served now, at every node; returns when all have it but those that are away."""
        if self._ends:
            return
        waiting = [name for name, hub in self.hubs.items() if hub.waiting and name not in self._registering]
        tries = [self._go(self._register_at(name, self.hubs[name])) for name in waiting]
        done, _ = await asyncio.wait(tries, timeout=PATIENCE) if tries else (set(), set())
        for one in done:
            one.result()

    async def _register_at(self, name: str, hub: Hub) -> None:
        """Try until its apps are registered: a node may be away for long."""
        self._registering.add(name)
        told = False
        try:
            while hub.waiting and not self._ends:
                try:
                    await hub.register()
                except AriAuthFailed as exc:
                    log.error("%s: its new apps are not served: %s", name, exc)  # noqa: TRY400  no fault of ours
                    return
                except AriError as exc:
                    if not told:
                        log.warning("%s: its new apps are registered when it is back: %s", name, exc)
                        told = True
                    await asyncio.sleep(LOOK_EVERY)
        finally:
            self._registering.discard(name)
        if told and not self._ends:
            log.info("%s is back: its new apps are registered", name)

    async def _start_up(self, tenant: Tenant, app: VoxtraApp) -> None:
        """Attach the app and run its startup hooks, in the loop of its handlers. Raises HandlerFault."""
        self._limit(app, tenant)
        app.app_name = self._apps(tenant)[0]
        before = self.served.get(tenant.slug)
        hubs = [*self._hubs_of(tenant), *(hub for hub, _, _ in (before.names if before else ()))]
        app.attach(list(dict.fromkeys(hubs)), lambda: self._loops.of(app).loop, tenant=tenant.slug)
        if not app.has_hooks or app.is_up:
            return
        loop = self._loops.of(app).loop
        work = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_started(app, tenant), loop))
        try:
            await _result(work, tenant)
        except BaseException:
            work.cancel()
            app.detach()
            raise

    def _limit(self, app: VoxtraApp, tenant: Tenant) -> None:
        """The document's limits hold for all code of a tenant, also for what it replaces."""
        app.usage = self._usage[tenant.slug]
        past = [served.app for served in self._past if served.tenant.slug == tenant.slug]
        now = [self.served[tenant.slug].app] if tenant.slug in self.served else []
        for one in (*past, *now, app):
            one.max_channels = tenant.max_channels
            if tenant.max_media_legs is not None:
                one.media_legs = tenant.max_media_legs
            one.calls_per_second = tenant.outbound.calls_per_second if tenant.outbound else None

    def _hubs_of(self, tenant: Tenant) -> list[Hub]:
        return [hub for name, hub in self.hubs.items() if not tenant.nodes or name in tenant.nodes]

    def _serve(self, tenant: Tenant, app: VoxtraApp, code: Code) -> None:
        names = self._names(tenant)
        app.app_name = self._apps(tenant)[0]  # the document may have changed since its startup
        if (old := self.served.get(tenant.slug)) is not None:
            if old.app is app:  # of a module that was not loaded anew
                unload([old.code])
            else:
                self._past.append(old)
            # Names it has no more: the dialplan sends calls there until it is pushed.
            names += [at for at in old.names if at not in names and at[0].taker(*at[1:]) is old.app]
        for hub, name, slug in names:
            hub.serve(name, app, slug=slug)
        self._bases |= dict.fromkeys(self._apps(tenant), tenant.app)
        self.served[tenant.slug] = _Served(tenant, app, code, names)

    def _names(self, tenant: Tenant) -> list[tuple[Hub, str, str]]:
        """Where its calls come: node, app, and the first argument of a shared one."""
        slug = tenant.slug if self._fleet.defaults.apps == "shared" else ""
        return [(hub, name, slug) for hub in self._hubs_of(tenant) for name in self._apps(tenant)]

    def _apps(self, tenant: Tenant) -> list[str]:
        """The Stasis apps of a tenant that this process serves."""
        numbers = range(1, self._workers + 1) if self.worker is None else [self.worker.number]
        return [naming.worker_app(tenant.app, number, self._workers) for number in numbers]

    @property
    def _workers(self) -> int:
        """How many processes the names of the apps are for: a process of several stays what it is."""
        return self._fleet.defaults.workers if self.worker is None else self.worker.count

    def _leave(self, slug: str) -> None:
        served = self.served.pop(slug)
        self._past.append(served)
        for hub, name, key in served.names:
            if hub.taker(name, key) is served.app:  # no other tenant has the name now
                hub.leave(name, slug=key)

    async def _retire(self) -> None:
        """Shut down apps that are served no more, when their last call is over, and end threads that nobody
        needs."""
        ready = [served for served in self._past if not served.app.blocked]
        await self._loops.each([served.app for served in ready], VoxtraApp.retire, SHUT_DOWN)
        over = {one for one in ready if not (one.app.is_up or one.app.busy or one.app.blocked)}
        self._past = [one for one in self._past if one not in over]
        for one in over:
            one.app.detach()
            self._loops.let_go(one.app)
        unload([one.code for one in over])
        past = {served.tenant.slug for served in self._past}
        self._loops.keep(self.served.keys() | self.faults.keys() | self.loading | past)

    # --- watching ---------------------------------------------------------------------------------------

    async def _look(self) -> None:
        """Reload when a file of the document, or a handler, has changed."""
        if self._ends:
            await self._retire()
            return
        if await asyncio.to_thread(self._changed, [code for _, code in self._tried.values()]):
            await self.reload(asked=False)
        await self.reclaim()
        await self._retire()

    def _changed(self, codes: list[Code]) -> bool:
        """The files on disk are not those we serve; runs in a thread, for there may be many. One that is
        being written is waited for: half a document may be valid, with half of the tenants."""
        written = self._written()
        if written == self._sources and not any(code.is_stale() for code in codes):
            return False
        now = written, [code.now() for code in codes]
        for _ in range(WRITES_MAX):
            sleep(WRITING)
            before, now = now, (self._written(), [code.now() for code in codes])
            if now == before:
                break
        return True

    async def reclaim(self, *, force: bool = False) -> None:
        """Serve apps that another process took, when it has left them; ``force``: take them back."""
        async with self._reloading:
            for name, hub in self.hubs.items():
                if self._ends:
                    return
                try:
                    await hub.reclaim(force=force)
                except AriError as exc:
                    log.warning("%s: the apps of another process cannot be taken back: %s", name, exc)

    async def readmit(self) -> None:
        """Serve nodes again that refused their password, with the one there is now."""
        async with self._reloading:
            for name, hub in self.hubs.items():
                node = self._fleet.nodes.get(name)
                if node is None or self._ends or not isinstance(hub.failure, AriAuthFailed):
                    continue
                self._passwords.pop(node.ari_password, None)
                try:
                    await hub.readmit(await asyncio.to_thread(self._password, node))
                except VoxtractlError as exc:
                    log.warning("%s is not served again: %s", name, exc)

    def _keep(self) -> None:
        """Undo what a handler file may have done to all: to the log, or to the policy of event loops, which
        everybody's child processes ask for their watcher before Python 3.14 (uvloop's has none)."""
        self.keep_log()
        self._keep_policy()

    async def _watch(self) -> None:
        """Calls of a tenant whose handler blocks its loop take the fallback, unless they have begun."""
        self._keep()
        for app in self._loops.watch():
            for hub in self.hubs.values():
                hub.give_back(app)


async def _reach(hub: Hub) -> None:
    """Wait until its Asterisk answers and lets us in. Raises AriAuthFailed at once, AriError in time."""
    until = monotonic() + REACH
    while True:
        try:
            await hub.ari.request(requests.ping(), timeout=REACH)
        except AriError as exc:
            if isinstance(exc, AriAuthFailed) or monotonic() > until:
                raise
            await asyncio.sleep(REACH_AGAIN)
        else:
            return


def _own(app: VoxtraApp, tenant: Tenant) -> VoxtraApp:
    """The app, unless another tenant has it. Raises HandlerFault."""
    if app.tenant in (None, tenant.slug):
        return app
    raise HandlerFault(
        f"the handler of {tenant.slug} has the VoxtraApp of {app.tenant}: an installed module is shared",
        tenant=tenant.slug,
        where=tenant.handler,
        hint="make app = VoxtraApp() in the module that handler = names",
    )


def _way(node: Node) -> object:
    """What a connection to it is made of."""
    return node.ari, node.ari_user, node.ari_password


def _told(exc: VoxtractlError) -> str:
    """The error in a line, with the first of its reasons."""
    if not isinstance(exc, FleetError):
        return f"{exc.where}: {exc}" if exc.where else str(exc)
    first, *more = exc.reasons
    rest = f" (and {len(more)} more)" if more else ""
    return f"{first}{rest}"


async def _result(started: asyncio.Future[None], tenant: Tenant) -> None:
    """Wait for it. A hook that cancels itself is a HandlerFault: CancelledError is for whoever waits here."""
    await asyncio.wait([started])
    if started.cancelled():
        raise HandlerFault(
            f"a startup hook of {tenant.slug} was cancelled", tenant=tenant.slug, where=tenant.handler
        )
    started.result()


async def _started(app: VoxtraApp, tenant: Tenant) -> None:
    """Run its startup hooks, in the loop of its handlers. Raises HandlerFault whatever they raise: it is this
    tenant's fault only."""
    try:
        await app.start_up()
    except asyncio.CancelledError:
        raise
    except BaseException as exc:
        raise HandlerFault(
            f"a startup hook of {tenant.slug} failed: {told(exc)}",
            tenant=tenant.slug,
            where=tenant.handler,
        ) from exc
