"""The event loops of the runtime (docs/decisions/0009).

uvloop's has the connections to Asterisk: for ``VoxtraApp.run`` and the hubs of ``voxtractl run``. The loops
of its tenants are asyncio's: libuv ends the process for what a handler may do to a file descriptor.
"""

import asyncio
import asyncio.events
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Final, ParamSpec, TypeVar

import uvloop

__all__ = ["new_event_loop", "new_tenant_loop", "policy_keeper"]

THREADS: Final = 32  # of asyncio.to_thread in one loop: what asyncio itself has at most

P = ParamSpec("P")
T = TypeVar("T")


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A new event loop; the caller closes it."""
    loop = uvloop.new_event_loop()
    loop.set_default_executor(_Threads())
    return loop


def new_tenant_loop() -> asyncio.AbstractEventLoop:
    """The same for the handlers of a tenant, whatever policy another tenant has set."""
    loop = asyncio.SelectorEventLoop()
    loop.set_default_executor(_Threads())
    return loop


def policy_keeper() -> Callable[[], None]:
    """What sets the policy of event loops back to the one there is now; both are called again and again.

    Python 3.14 warns of the public functions, and does without the warning itself; 3.16 has no policies.
    """
    asked, put = (
        getattr(asyncio.events, f"_{name}", None) or getattr(asyncio.events, name, None)
        for name in ("get_event_loop_policy", "set_event_loop_policy")
    )
    if asked is None or put is None:
        return lambda: None
    before = asked()

    def keep() -> None:
        if asked() is not before:
            put(before)

    return keep


class _Threads(ThreadPoolExecutor):
    """For ``asyncio.to_thread``: threads that last as long as there is work, and do not hold the end of the
    process. Python waits for those of a ThreadPoolExecutor, and a handler's work may never return."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._running = 0

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        done: Future[T] = Future()
        with self._lock:
            self._waiting.append((done, partial(fn, *args, **kwargs)))
            if self._running < THREADS:
                try:
                    threading.Thread(target=self._run, name="asyncio.to_thread", daemon=True).start()
                    self._running += 1
                except RuntimeError:  # the system gives no more: those that run do it, if there are any
                    if not self._running:
                        self._waiting.pop()
                        raise
        return done

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._running -= 1
                    return
                done, work = self._waiting.popleft()
            if done.set_running_or_notify_cancel():
                try:
                    done.set_result(work())
                except BaseException as exc:  # noqa: BLE001  whatever it is, it is for the one who waits
                    done.set_exception(exc)
            del done, work  # what it was given is not kept until there is more
