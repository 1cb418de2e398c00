"""Work on a node that is never left running behind our back: a cancelled caller waits for it, then goes."""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from typing import TypeVar

__all__ = ["ended", "to_its_end"]

T = TypeVar("T")


async def ended(work: asyncio.Future[T]) -> None:
    """Wait until ``work`` has ended, however often we are cancelled meanwhile; its outcome stays in it."""
    while not work.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait({work})


async def to_its_end(work: Awaitable[T]) -> T:
    """The result of ``work``; when cancelled meanwhile, wait for it all the same, then pass that on."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await ended(task)
        if not task.cancelled():
            task.exception()  # seen: its place is taken by the cancellation
        raise
