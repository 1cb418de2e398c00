"""The channel of a call, as the parts of its session use it (sounds, recordings, media, the session itself).

    command     a request to Asterisk: its answer, CallEnded when the channel is gone, AriError
    in_turn     commands that undo each other
    expect      a future that an event resolves, and the end of the call too: subscribe, then act
    through     the result of what takes a while, or CallEnded as soon as the other side is gone
    background  what goes on after its verb has returned

It lives in the event loop of the call's handler.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import uuid4

from voxtractl.ari import requests
from voxtractl.ari.requests import Answer, Request
from voxtractl.errors import AriError, AriUnreachable, BadRequest, CallEnded, CallError, NotFound
from voxtractl.runtime import lifecycle

if TYPE_CHECKING:
    from voxtractl.runtime.hub import Hub

__all__ = ["CALLED_OFF", "FRESH", "Channel", "seen", "settle"]

log = logging.getLogger(__name__)

T = TypeVar("T")

GONE_GRACE: Final = 0.2  # seconds until the event of an end has come, after a refusal that may be due to it
# Seconds for which Asterisk may not find a channel that has got the place of another: it tells of that before
# it has put it into its list again (`channel_do_masquerade`, main/channel.c). 0.5 ms as a rule.
FRESH: Final = 1.0
# Verbs for a call that is over, with no turn of the loop between them: who catches CallEnded and goes on for
# ever keeps every other call of the loop waiting.
CALLED_OFF: Final = 1000


class Channel:
    """``told`` is what every event of the call tells.

    ``id`` is the channel that the call has now, ``call_id`` that of its first one, by which it is known: a
    far side that transfers the call (REFER) leaves its place to another channel.
    """

    __slots__ = (
        "_refused",
        "_replaced",
        "_tasks",
        "_turn",
        "_waits",
        "bridge",
        "call_id",
        "hub",
        "id",
        "is_gone",
        "is_up",
        "loop",
        "other",
        "told",
        "touched",
        "untouched",
        "visits",
    )

    def __init__(
        self, hub: "Hub", loop: asyncio.AbstractEventLoop, call_id: str, told: dict[str, Any], *, visits: int
    ) -> None:
        self.hub = hub
        self.loop = loop
        self.id = self.call_id = call_id
        self.told = told
        self.is_gone = False  # from the first sign that the other side is
        self.is_up = False
        self.untouched = True  # no command was given to it yet
        self.visits = visits  # how often it came into its app
        self.touched = 0  # the visit in which somebody did something with it, the last time
        self.bridge: str | None = None  # our own: the call and its media; sounds are played into it
        self.other: Channel | None = None  # who it is connected with, or just about to be
        self._refused = 0  # verbs since the loop has turned
        self._replaced = float("-inf")  # when this channel got the place of another
        self._waits: dict[str, tuple[asyncio.Future[Any], str]] = {}
        self._tasks: set[asyncio.Future[Any]] = set()
        self._turn: asyncio.Future[Any] | None = None  # the last that was done in turn

    # --- what can be known without waiting --------------------------------------------------------------

    def check(self, op: str) -> None:
        """Something is done with it. Raises CallEnded when it is gone, and cancels who does not listen."""
        self.touched = self.visits
        if self.is_gone:
            if not self._refused:
                self.loop.call_soon(self._turned)
            self._refused += 1
            if self._refused > CALLED_OFF:
                raise asyncio.CancelledError(f"{op} was tried {CALLED_OFF} times after the end of the call")
            raise CallEnded(op, call=self.call_id)

    def _turned(self) -> None:
        self._refused = 0

    def must_be_alone(self, op: str) -> None:
        """Raises CallError for what would take it away from who it is connected with, and leave that one
        alone."""
        if self.other is not None:
            raise CallError(
                f"{op}: the call is connected with another call, {self.other.call_id}",
                call=self.call_id,
                hint="cancel that bridge_with or transfer first; snoop() and record_start() listen in",
            )

    def must_be_here(self, op: str) -> None:
        """Raises CallError when it is in a queue, or elsewhere in the dialplan."""
        known = self.hub.table.live.get(self.call_id)
        if known is not None and known.state is lifecycle.State.LEFT:
            raise self.elsewhere(op)

    def elsewhere(self, op: str) -> CallError:
        return CallError(
            f"{op}: the call is elsewhere in the dialplan",
            call=self.call_id,
            hint="who waits for it (transfer_to_queue) has it again when it comes back",
        )

    def tell(self, signal: lifecycle.Signal) -> None:
        """Tell the call table, unless this session is over and another has the channel."""
        self.hub.feed(self.call_id, signal, of=self)

    def write(self, event: str, **more: Any) -> None:
        """An event of this call for the journal."""
        self.hub.journal.write(event, self.told, **more)

    def replaced(self, by: str) -> None:
        """Another channel has its place."""
        self._replaced = monotonic()  # first: the handler's loop may be another thread
        self.id = by

    @property
    def is_fresh(self) -> bool:
        """It has just got the place of another: Asterisk may not find it, and not because it is gone."""
        return monotonic() - self._replaced < FRESH

    # --- waiting ----------------------------------------------------------------------------------------

    def expect(self, key: str, op: str) -> "asyncio.Future[Any]":
        """A future that ``resolve`` of this key ends, and the end of the call too."""
        self.check(op)
        future: asyncio.Future[Any] = self.loop.create_future()
        future.add_done_callback(seen)
        self._waits[key] = (future, op)
        return future

    def waiting(self, key: str) -> "asyncio.Future[Any] | None":
        """The future of this key, when it is not done."""
        future, _ = self._waits.get(key, (None, ""))
        return None if future is None or future.done() else future

    def resolve(self, key: str, value: object) -> None:
        future = self.waiting(key)
        if future is not None:
            future.set_result(value)

    def forget(self, key: str) -> None:
        self._waits.pop(key, None)

    def end(self, *, but: str) -> None:
        """The other side is gone: every wait ends now, ``but`` one."""
        self.is_gone = True
        for key, (future, op) in list(self._waits.items()):
            if not future.done() and key != but:
                future.set_exception(CallEnded(op, call=self.call_id))

    async def through(
        self,
        work: "Coroutine[Any, Any, T]",
        op: str,
        *,
        left: "Callable[[asyncio.Future[T]], object] | None" = None,
    ) -> "T":
        """The result of something that takes a while, or CallEnded as soon as the other side is gone.

        ``left`` gets what nobody waits for any more: it may have got its result just then.
        """
        key = f"{op}:{uuid4().hex}"
        try:
            gone = self.expect(key, op)
        except CallEnded:
            work.close()
            raise
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait([task, gone], return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                await gone
        except BaseException:
            task.add_done_callback(left or seen)
            task.cancel()
            await asyncio.wait([task])
            raise
        finally:
            self.forget(key)
        return await task

    async def unless_gone(self, op: str, exc: Exception | None = None) -> None:
        """Raise CallEnded when something failed because the caller is gone. Asterisk refuses with many a word
        then, some before its event of the end has come."""
        if isinstance(exc, AriUnreachable):
            return
        await self._until_gone(op)
        self.check(op)
        if (await self.hub.ask(requests.channel(self.id))).status == 404:
            self.tell(lifecycle.Doubted())
            raise CallEnded(op, call=self.call_id)

    async def _until_gone(self, op: str) -> None:
        key = f"{op}:{uuid4().hex}"
        try:
            await asyncio.wait([self.expect(key, op)], timeout=GONE_GRACE)
        finally:
            self.forget(key)

    # --- requests ---------------------------------------------------------------------------------------

    async def command(self, build: Callable[[str], Request], op: str, *, unless: str | None = None) -> Answer:
        """Asterisk's answer to a command; ``build`` gets the id of the channel. Raises CallEnded when that is
        gone, CallError when it is elsewhere in the dialplan, AriError otherwise. ``unless``: how Asterisk
        words a 404 that is an answer.

        The far side may put another channel in its place while the command is on its way (REFER), and
        Asterisk refuses it then: it is for that one.
        """
        while True:
            self.check(op)
            self.untouched = False
            channel = self.id
            answer = await self.hub.ask(request := build(channel))
            if answer.status < 300 or (answer.status == 404 and answer.message == unless):
                return answer
            if answer.status == 409:
                self.must_be_here(op)
            if answer.status != 404:
                refused = self.hub.ari.refused(request, answer)
                await self.unless_gone(op, refused)
                if not self._was_another(channel, refused):
                    raise refused
            elif not await self._has_another(channel, op):
                if not self.is_gone:
                    self.tell(lifecycle.Doubted())
                raise CallEnded(op, call=self.call_id)

    async def _has_another(self, channel: str, op: str) -> bool:
        """Asterisk does not find it: another one may be in its place, and the event of that on its way, or it
        is that one, and not found yet."""
        if self.id == channel and not self.is_gone:
            await self._until_gone(op)
        return (self.id != channel or self.is_fresh) and not self.is_gone

    def _was_another(self, channel: str, refused: Exception) -> bool:
        """What was refused was for a channel that had its place, or for this one, which is not found yet."""
        return self.id != channel or (self.is_fresh and isinstance(refused, NotFound | BadRequest))

    async def in_turn(self, command: "Coroutine[Any, Any, T]") -> T:
        """One after the other, also when the one before was given up: for commands that undo each other. Over
        HTTP each has a way of its own, and the second may be there first."""
        self._turn = turn = asyncio.ensure_future(self._after(self._turn, command))
        turn.add_done_callback(seen)
        return await asyncio.shield(turn)

    async def _after(self, before: "asyncio.Future[Any] | None", command: "Coroutine[Any, Any, T]") -> T:
        if before is not None:
            await asyncio.wait([before])
        return await command

    async def open_channel(self, build: Callable[[str, str], Request], op: str) -> str:
        """A channel that serves this one and ends with it; ``build`` gets the ids of both. Raises CallEnded
        when the caller is gone."""
        while True:
            self.check(op)
            channel = self.id
            try:
                made = await self.hub.aux.open_channel(self.call_id, partial(build, channel))
            except (AriError, CallError) as exc:
                await self.unless_gone(op, exc)
                if not self._was_another(channel, exc):
                    raise
            else:
                return str(made["id"])

    async def open_bridge(self, op: str, calls: "Sequence[Channel]", channels: Sequence[str] = ()) -> str:
        """A bridge of ``calls``, and of ``channels`` that serve them, which ends with this call. Raises
        CallEnded when the caller is gone meanwhile."""
        while True:
            ids = [call.id for call in calls]
            try:
                return await self.hub.aux.open_bridge(self.call_id, [*ids, *channels])
            except AriError as exc:
                await self.unless_gone(op, exc)
                if not any(call._was_another(id_, exc) for call, id_ in zip(calls, ids, strict=True)):
                    raise

    # --- work -------------------------------------------------------------------------------------------

    def background(self, work: Awaitable[Any]) -> "asyncio.Future[Any]":
        """Do it beside what the handler does; what it raises goes to the log."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def remove(self, aux: str) -> None:
        """End a channel or bridge that serves this call."""
        self.hub.aux.drop(aux)

    def _done(self, task: "asyncio.Future[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, CallEnded):
            log.error("something of call %s failed: %s", self.call_id, error, exc_info=error)


def settle(future: "asyncio.Future[Any]", result: object = None) -> None:
    if not future.done():
        future.set_result(result)


def seen(future: "asyncio.Future[Any]") -> None:
    """A wait that nobody is in any more is no fault: its exception was seen."""
    if not future.cancelled():
        future.exception()
