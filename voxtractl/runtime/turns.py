"""A tenant's turn for requests that take a connection of the node: it has a quarter of them, and no more when
Asterisk is slow to answer. Its turn belongs to the loop of its handlers.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from time import monotonic
from typing import Final
from weakref import WeakKeyDictionary

from voxtractl.ari.client import CONNECTIONS, ARIClient
from voxtractl.ari.requests import Request
from voxtractl.errors import AriUnreachable

__all__ = ["Turns"]

SHARE: Final = CONNECTIONS // 4  # slow requests of a tenant at once


class Turns:
    """Of all tenants at one Asterisk."""

    def __init__(self, ari: ARIClient) -> None:
        self._ari = ari
        self._shares: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()

    def take(self, request: Request, timeout: float | None) -> AbstractAsyncContextManager[float | None]:
        """Wait for a turn, from whatever loop; gives what is left of the timeout.

        Raises AriUnreachable when it does not come.
        """
        if not request.slow:
            return nullcontext(timeout)
        loop = asyncio.get_running_loop()
        share = self._shares.setdefault(loop, asyncio.Semaphore(SHARE))
        return self._wait(share, request, timeout or self._ari.timeout)

    @asynccontextmanager
    async def _wait(self, share: asyncio.Semaphore, request: Request, timeout: float) -> AsyncIterator[float]:
        until = monotonic() + timeout
        try:
            async with asyncio.timeout(timeout):
                await share.acquire()
        except TimeoutError as exc:
            raise AriUnreachable(
                f"it was not sent within {timeout:.0f} s: the tenant has {SHARE} slow requests on their way",
                method=request.method,
                path=request.path,
                where=self._ari.url,
                hint="wait for their answers before you ask for more; is Asterisk slow? see its log",
            ) from exc
        try:
            yield max(until - monotonic(), 0.001)
        finally:
            share.release()
