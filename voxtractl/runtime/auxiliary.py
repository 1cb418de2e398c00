"""Channels and bridges of our own, beside the calls: sound in our hands, ears on a call, bridges.

    asked for ──▶ in the app ──▶ removed     by who asked for it, or with its call
        └─ refused, ended, late, its call is over ──▶ removed

Each serves one call and never outlives it. Its id begins with AUX, which tells every process that it is no
call, so one that nobody has any more (its process is dead) is removed by who finds it. Whoever asks for one
may do so in any loop; Asterisk's signs come in the hub's.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from voxtractl.ari import requests
from voxtractl.ari.requests import Answer, Request
from voxtractl.errors import AriError, CallEnded, CallError, MediaFailed

if TYPE_CHECKING:
    from voxtractl.runtime.session import CallSession

__all__ = ["Auxiliaries", "is_auxiliary", "removal"]

AUX: Final = "vx-aux-"
AUX_TIMEOUT: Final = 5.0  # seconds until a channel of our own must be in the app


def is_auxiliary(thing: str) -> bool:
    """The channel or bridge with this id is a process's own, and no call."""
    return thing.startswith(AUX)


class Auxiliaries:
    """``sessions`` are the calls; ``ask`` gets Asterisk's answer and ``made`` the body of a good one, from
    whatever loop; ``sweep`` removes what nobody waits for, also when Asterisk is away for a while."""

    def __init__(
        self,
        sessions: Mapping[str, "CallSession"],
        *,
        ask: Callable[[Request], Awaitable[Answer]],
        made: Callable[[Request], Awaitable[Mapping[str, Any]]],
        sweep: Callable[[str], object],
    ) -> None:
        self._sessions = sessions
        self._ask, self._made, self._sweep = ask, made, sweep
        self._calls: dict[str, str] = {}  # channel or bridge of ours → the call it belongs to
        self._coming: dict[str, Future[None]] = {}  # channels of ours that are not in the app yet
        self._making: dict[str, asyncio.Future[Any]] = {}  # requests that have no answer yet

    async def open_bridge(self, call_id: str, channels: Sequence[str]) -> str:
        """A bridge with these channels, removed with the call; from whatever loop.

        Raises CallEnded, or AriError when Asterisk refuses.
        """
        session = self._sessions.get(call_id)
        aux = self._own(call_id)
        app = session.app if session is not None else ""  # the name of a bridge says whose it is
        try:
            for request in (
                requests.create_bridge(aux, "mixing", app),
                requests.add_to_bridge(aux, channels),
            ):
                await self._make(aux, request)
                self._still_own(aux, call_id)
        except BaseException as exc:
            self.drop(aux)
            if isinstance(exc, AriError) and call_id not in self._sessions:
                raise CallEnded("a bridge", call=call_id) from exc
            raise
        return aux

    async def open_channel(
        self,
        call_id: str,
        build: Callable[[str], Request],
        begin: Callable[[Mapping[str, Any]], Awaitable[None]] | None = None,
    ) -> Mapping[str, Any]:
        """Make a channel (media, snoop) and wait until it is in the app; from whatever loop.

        ``build`` gets the channel's id. ``begin`` gets what Asterisk answered and does what the channel needs
        to come into the app; it runs in the loop of the caller. Raises CallEnded, AriError, CallError when
        the channel ended at once, or MediaFailed when it does not come.
        """
        aux = self._own(call_id)
        entered: Future[None] = Future()  # Asterisk says so in the loop of the hub
        self._coming[aux] = entered
        try:
            made = await self._make(aux, build(aux))
            async with asyncio.timeout(AUX_TIMEOUT):
                if begin is not None:
                    await begin(made)
                await asyncio.wrap_future(entered)
            self._still_own(aux, call_id)
        except BaseException as exc:
            self.drop(aux)
            over = entered.exception() if entered.done() and not entered.cancelled() else None
            if isinstance(over, CallEnded) and isinstance(exc, Exception) and exc is not over:
                raise over from exc  # whatever it met: the channel was ended with its call
            if isinstance(exc, TimeoutError):
                raise MediaFailed(
                    f"a channel of the call's own did not come into the app within {AUX_TIMEOUT:.0f} s",
                    call=call_id,
                    hint="see Asterisk's log; or the event connection was lost meanwhile",
                ) from exc
            raise
        finally:
            self._coming.pop(aux, None)
        return made

    async def remove(self, aux: str) -> None:
        """End it; nothing happens when it is gone."""
        self._calls.pop(aux, None)
        for request in removal(aux):
            await self._ask(request)

    def drop(self, aux: str) -> None:
        """Have it ended by the hub, which waits for that before it stops; from whatever loop."""
        self._calls.pop(aux, None)
        making = self._making.get(aux)
        if making is None:
            self._sweep(aux)
        else:  # a DELETE over the websocket overtakes a POST over HTTP
            making.add_done_callback(lambda _: self._sweep(aux))

    def _own(self, call_id: str) -> str:
        """A new id for what serves this call."""
        if call_id not in self._sessions:
            raise CallEnded("a channel of its own", call=call_id)
        aux = f"{AUX}{uuid4().hex}"
        self._calls[aux] = call_id
        return aux

    def _still_own(self, aux: str, call_id: str) -> None:
        """The call may have ended while its channel was made: then nobody else removes it."""
        if aux not in self._calls:
            raise CallEnded("a channel of its own", call=call_id)

    async def _make(self, aux: str, request: Request) -> Mapping[str, Any]:
        """What Asterisk answers. Who gives up does not take back a request that may be on its way."""
        self._making[aux] = making = asyncio.ensure_future(self._made(request))
        making.add_done_callback(partial(self._answered, aux))
        return await asyncio.shield(making)

    def _answered(self, aux: str, making: "asyncio.Future[Any]") -> None:
        del self._making[aux]
        if not making.cancelled():
            making.exception()  # seen, also when nobody waits any more

    # --- what Asterisk tells, in the loop of the hub ------------------------------------------------------

    def call_of(self, thing: str) -> "CallSession | None":
        """The call that is this channel, or that this channel or bridge of ours serves."""
        return self._sessions.get(self._calls.get(thing, thing))

    def is_stray(self, thing: str) -> bool:
        """One that no call has here."""
        return is_auxiliary(thing) and thing not in self._calls

    def entered(self, aux: str) -> None:
        """The channel is in the app."""
        coming = self._coming.get(aux)
        if coming is not None and not coming.done():
            coming.set_result(None)

    def destroyed(self, event: Any) -> None:
        """The channel is no more; its call hears of it."""
        aux = event["channel"]["id"]
        call = self._sessions.get(self._calls.pop(aux, ""))
        self._fail(aux, CallError(f"the channel ended: {event.get('cause_txt', 'no reason')}"))
        if call is not None:
            call.deliver(event)

    def disown(self, call_id: str) -> list[str]:
        """What the call has of its own, which is nobody's from now on; who waits for it is told."""
        own = [aux for aux, owner in list(self._calls.items()) if owner == call_id]
        for aux in own:
            del self._calls[aux]
            self._fail(aux, CallEnded("a channel of its own", call=call_id))
        return own

    def _fail(self, aux: str, error: CallError) -> None:
        coming = self._coming.get(aux)
        if coming is not None and not coming.done():
            coming.set_exception(error)


def removal(aux: str) -> tuple[Request, Request]:
    """What ends it, whichever it is; 404 when it is gone."""
    return requests.hangup(aux, "normal"), requests.destroy_bridge(aux)
