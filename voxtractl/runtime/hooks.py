"""Functions of a handler that are run for a call: ``on_hangup``, ``on_dtmf``. None of them holds up a call.

An async one runs in the loop of the handlers, a plain one in a thread of its own. What it raises goes to the
log.
"""

import asyncio
import inspect
import logging
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from threading import Thread

from voxtractl.errors import UsageFault
from voxtractl.runtime.channel import settle

__all__ = ["Hook", "must_be_callable", "run"]

log = logging.getLogger(__name__)

Hook = Callable[[], object]


def must_be_callable(name: str, hook: object) -> None:
    """Raises UsageFault for what cannot be run; ``name`` is what it was given to."""
    if not callable(hook):
        raise UsageFault(
            f"{name} takes a function, not {hook!r}", hint=f"{name}(cleanup), not {name}(cleanup())"
        )


async def run(hook: Hook, call_id: str) -> None:
    """Run it to its end. A plain one may return something to be awaited (``lambda: persist(call)``)."""
    try:
        told = hook() if _is_async(hook) else await _in_thread(hook, call_id)
        if inspect.isawaitable(told):
            await told
    except (SystemExit, KeyboardInterrupt):  # either would end the loop
        log.exception("a hook of call %s failed", call_id)


def _is_async(hook: Hook) -> bool:
    function = hook.func if isinstance(hook, partial) else hook
    call = getattr(function, "__call__", None)  # noqa: B004  an object with an async __call__
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


async def _in_thread(hook: Hook, call_id: str) -> object:
    """Not in asyncio's own pool: six slow hooks (2 cores) would fill it, and one that never returns would
    hold the end of the process."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[object] = loop.create_future()

    def work() -> None:
        told = None
        try:
            told = hook()
        except BaseException:  # a user's code; after sys.exit() too somebody waits
            log.exception("a hook of call %s failed", call_id)
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, done, told)

    Thread(target=copy_context().run, args=(work,), name=f"hook of {call_id}", daemon=True).start()
    return await done
