"""The threads of the tenants: each with an event loop, begun when a handler or hook needs it first.

    tenant ─▶ its loop, for the apps of all its code      no loop any more ─▶ its thread ends
              └─ blocked, or closed ─▶ another one, for the app that comes next

Only the handlers of a tenant run in its loop, so one that blocks stops that tenant only. Over LOOPS_MAX of
them are shared. All of this is called in the loop of the hubs.
"""

import asyncio
import logging
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator
from contextlib import suppress
from time import monotonic
from typing import Any, Final

from voxtractl.runtime.app import VoxtraApp
from voxtractl.runtime.event_loop import new_tenant_loop

__all__ = ["BLOCKED_AFTER", "Loop", "Loops"]

log = logging.getLogger(__name__)

LOOPS_MAX: Final = 256  # threads; more tenants share them by the order they come
BLOCKED_AFTER: Final = 2.0  # seconds a tenant's loop may not turn before it is told


class Loop:
    """A thread with an event loop."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.loop = new_tenant_loop()
        self.turned = monotonic()
        self._asked = self._stops = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stops:
                try:
                    self.loop.run_forever()
                except (SystemExit, KeyboardInterrupt):  # of a task that a handler made; the others go on
                    log.exception("%s: a task wanted to end the process", self.name)
        finally:
            self.loop.close()

    def check(self) -> float:
        """Ask the loop for a sign; returns the seconds since the last one."""
        if self.loop.is_closed():
            return 0.0
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

    def end(self) -> None:
        self._stops = True
        with suppress(RuntimeError):  # it has ended
            self.loop.call_soon_threadsafe(self.loop.stop)

    def join(self) -> None:
        self._thread.join(timeout=1.0)  # a handler that blocks for ever does not hold the process


class Loops:
    """An app has its loop until ``let_go``, a tenant until ``keep`` leaves it out."""

    def __init__(self) -> None:
        self._of: dict[str, Loop] = {}  # by slug
        self._at: dict[VoxtraApp, Loop] = {}  # where an app runs, from its first need of a loop to its end
        self._blocked: set[Loop] = set()  # those whose block was told

    def __iter__(self) -> Iterator[Loop]:
        return iter({*self._of.values(), *self._at.values()})

    def of(self, app: VoxtraApp) -> Loop:
        """The loop of an app's handlers: its tenant's, from when it is first needed on."""
        loop = self._at.get(app)
        if loop is None or loop.loop.is_closed():
            loop = self._at[app] = self._for(app.tenant or "")
        return loop

    def _for(self, slug: str) -> Loop:
        """The loop a tenant has. Not one that is blocked: repaired code would wait behind what it repairs."""
        before = self._of.get(slug)
        if before is not None and self._turns(before):
            return before
        own = [loop for loop in dict.fromkeys(self._of.values()) if self._turns(loop)]
        loop = Loop(f"tenant {slug}") if len(own) < LOOPS_MAX else own[hash(slug) % len(own)]
        self._of[slug] = loop
        if before is not None:
            self._end_unused(before)
        return loop

    def let_go(self, app: VoxtraApp) -> None:
        """The app runs no more."""
        loop = self._at.pop(app, None)
        if loop is not None and loop is not self._of.get(app.tenant or ""):
            self._end_unused(loop)

    def keep(self, slugs: Collection[str]) -> None:
        """End the threads of all other tenants."""
        for slug in self._of.keys() - slugs:
            self._end_unused(self._of.pop(slug))

    def _end_unused(self, loop: Loop) -> None:
        if loop not in self:
            loop.end()

    def turns(self, slug: str) -> bool:
        """Nothing blocks the loop of the tenant, if it has one."""
        return slug not in self._of or self._turns(self._of[slug])

    def _turns(self, loop: Loop) -> bool:
        return loop not in self._blocked and not loop.loop.is_closed()

    async def each(
        self, apps: Iterable[VoxtraApp], what: Callable[[VoxtraApp], Coroutine[Any, Any, None]], most: float
    ) -> list[str]:
        """Do it for apps that have a loop, each in its own; returns the tenants that took more seconds."""
        work = {
            asyncio.wrap_future(asyncio.run_coroutine_threadsafe(what(app), self.of(app).loop)): (
                app.tenant or ""
            )
            for app in apps
            if app in self._at or app.tenant in self._of
        }
        _, late = await asyncio.wait(work, timeout=most) if work else (set(), set())
        return sorted(work[one] for one in late)

    def watch(self) -> list[VoxtraApp]:
        """Tell which tenant's handler blocks its loop, and where, once for each time; returns the apps that
        are blocked."""
        loops = set(self)
        self._blocked &= loops
        for loop in loops:
            seconds = loop.check()
            if seconds < BLOCKED_AFTER:
                self._blocked.discard(loop)
            elif loop not in self._blocked:
                self._blocked.add(loop)
                whose = sorted(app.tenant or "" for app, at in self._at.items() if at is loop)
                log.error(
                    "%s: its handler blocks its event loop, at %s",
                    loop.name,
                    loop.where(),
                    extra={"tenant": ", ".join(whose)},
                )
        for app, loop in self._at.items():
            app.blocked = loop in self._blocked
        return [app for app in self._at if app.blocked]

    def end(self) -> None:
        """End all threads; a handler that blocks is left behind."""
        loops = set(self)
        self._of, self._at = {}, {}
        for loop in loops:
            loop.end()
        for loop in loops:
            loop.join()
