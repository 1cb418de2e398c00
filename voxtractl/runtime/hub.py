"""One Asterisk as the runtime sees it: its events become calls, its channels get commands, every call ends
once.

The hub owns the call table and the connection, and lives in one event loop. Sessions may live in another (the
supervisor gives every tenant its own, so that a handler that blocks stops its own tenant only); ``ask``,
``feed`` and ``CallSession.deliver`` are all that crosses between loops.

    event ─▶ table (lifecycle.py) ─▶ Delete, Look: a request to Asterisk
                                     Gone: the session's waits end      End: the one call_ended
          └▶ session: playbacks, digits, recordings

Rooms of their own: the websockets that events come over, what a call has beside it (auxiliary.py), where
calls are and may go (places.py), requests that are sent until they are answered (sender.py).

After a lost connection events are lost for good (measured), so the hub asks: which channels are there, which
of them are ours. What ended meanwhile gets its end now. A call that nobody here knows came meanwhile and is
taken like any other; at the start it is one that another process had, and is adopted.
"""

import asyncio
import logging
import re
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain, repeat
from time import monotonic
from typing import Any, Final
from weakref import WeakSet

from voxtractl import naming
from voxtractl.ari import requests
from voxtractl.ari.client import ARIClient
from voxtractl.ari.events import Event
from voxtractl.ari.release import MANY_APPS, Feature, Release
from voxtractl.ari.requests import Answer, Request
from voxtractl.errors import (
    AppReplaced,
    AriAuthFailed,
    AriError,
    AriUnreachable,
    RuntimeFault,
    VoxtractlError,
)
from voxtractl.runtime import lifecycle
from voxtractl.runtime.auxiliary import Auxiliaries, is_auxiliary, removal
from voxtractl.runtime.channel import FRESH, Channel
from voxtractl.runtime.journal import Journal
from voxtractl.runtime.lifecycle import CallTable, Direction, EndedBy, Signal, State
from voxtractl.runtime.places import AGAIN, CALLED, Place, Places, is_inside, unmarked
from voxtractl.runtime.sender import Sender
from voxtractl.runtime.session import CallSession, has_left_a_queue, line_of
from voxtractl.runtime.taker import Taker
from voxtractl.runtime.turns import Turns
from voxtractl.runtime.websockets import WORD, Websockets
from voxtractl.settings import Secret

__all__ = ["Hub"]

log = logging.getLogger(__name__)

RESYNC_PAUSES: Final = (0.2, 0.4, 0.8, 1.6, 3.2)  # seconds after a try that failed; the last one from then on
MANY: Final = 1000  # calls; each is in the answer to each subscription, with up to four channels of 50 bytes
REDIRECTED: Final = 23  # Q.850: redirected to a new destination
END_TIMEOUT: Final = 5.0  # seconds Asterisk gets to end the calls of a drain
# Seconds between looks at calls that should be over: somebody may have taken a subscription of theirs back.
END_LOOK: Final = 2.0
# Seconds until a channel that another has replaced is ended, for Asterisk to tell it why.
PARTING: Final = 1.0
# Seconds until Asterisk is asked again about a channel that it has not found. One that gets the place of
# another is told before it is found (4 of 22 DELETEs: 404); GET finds it at any time.
FIND_AGAIN: Final = 0.05
NEWEST: Final = Release(99, 0)  # a build that is no release
TRANSFERRED_BY: Final = "BLINDTRANSFER"  # Asterisk's variable: the channel whose far side sent it here
_EXTENSION: Final = re.compile(r"Local/([^_@][^@]*)@")  # of who is called; an attended transfer names nobody


class Hub:
    """``ari`` is the client of one Asterisk, not opened yet. ``serve`` before ``start``; both may follow
    later.

    Raises on ``start``: AriUnreachable, AriAuthFailed. ``failed`` is done with an error when the connection
    ended for good afterwards (a refused password, AppReplaced).
    """

    def __init__(self, ari: ARIClient, *, journal: Journal | None = None) -> None:
        self.ari = ari
        self.journal = journal or Journal()
        self.table = CallTable()
        self.sessions: dict[str, CallSession] = {}
        self._of: defaultdict[str | None, set[str]] = defaultdict(set)  # tenant → its calls
        self._calls: dict[str, str] = {}  # channels of calls that have had more than one → the call
        self.draining = False
        self._stopped = False
        self._ending = False  # a drain's time is over
        self.siblings = False  # other workers may move our calls to themselves
        self.in_time: Callable[[], bool] = lambda: True  # none of them has cause to, as far as we know
        self.elsewhere: Callable[[str], Sequence[str]] = lambda app: ()  # the app at other workers that live
        self._takers: dict[tuple[str, str], Taker] = {}
        self._left: dict[str, str | None] = {}  # apps that are served no more → whose they were
        self._release: Release | None = None
        self._web = Websockets(
            ari,
            many=partial(self.has, MANY_APPS),
            on_event=self._on_event,
            on_up=self._on_up,
            on_lost=self._lose,
        )
        self.aux = Auxiliaries(
            self.sessions,
            ask=self.ask,
            made=self._made,
            sweep=lambda aux: self.loop.call_soon_threadsafe(self._sweep, aux),
        )
        self._sender = Sender(ari, goes_on=lambda: self._web.hear and not self._stopped, spawn=self._spawn)
        self.places = Places(ari, ask=self.ask, insist=self._sender.insist)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.turns = Turns(ari)
        self._sending: dict[str, asyncio.Future[Any]] = {}  # the originates that have no answer yet
        self._parting: dict[str, asyncio.TimerHandle] = {}  # channels that others have replaced → their end
        self._followed: set[str] = set()  # calls that are subscribed; Asterisk keeps that while we are away
        self._talking: set[str] = set()  # calls that somebody in the dialplan has answered
        self._given_back: WeakSet[CallSession] = WeakSet()  # calls that nobody had begun with
        self._looking: asyncio.Task[None] | None = None
        self._empty: asyncio.Event | None = None  # set when the last call of a drain is over

    # --- life -------------------------------------------------------------------------------------------

    def serve(self, app: str, taker: Taker, *, slug: str = "") -> None:
        """Calls of this Stasis app go to ``taker``; with ``slug`` those that have it as their first
        argument."""
        self._takers[app, slug] = taker

    def taker(self, app: str, slug: str = "") -> Taker | None:
        """Who has been given the calls of it."""
        return self._takers.get((app, slug))

    def leave(self, app: str, *, slug: str = "") -> None:
        """New calls of the app are refused from now on; calls that are up go on."""
        taker = self._takers.pop((app, slug), None)
        if taker is not None and not slug:
            self._left[app] = taker.tenant

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise RuntimeError("the hub is not started")
        return self._loop

    def has_begun(self, app: str) -> bool:
        """The app is registered, or was until another process took it."""
        return app in self._web.registered or app in self._web.taken

    @property
    def connected(self) -> bool:
        """Events come of every app there is to serve, if any."""
        return not self._takers or (self._web.hear and not self.waiting)

    def hears(self, app: str) -> bool:
        """Events of the app come from here."""
        return self._web.hears(app)

    @property
    def taken(self) -> set[str]:
        """Apps that another process has."""
        return self._web.taken

    @property
    def failed(self) -> "asyncio.Future[None] | None":
        """Done with an error when the connection has ended for good; None before the start."""
        return self._web.failed

    @property
    def failure(self) -> VoxtractlError | None:
        """Why the connection ended for good, when it has."""
        return self._web.failure

    @property
    def has_apps(self) -> bool:
        """There is something to serve here."""
        return bool(self._takers)

    async def start(self) -> None:
        """Connect, register the apps, adopt what is there. Returns when calls can come."""
        self._loop = asyncio.get_running_loop()
        self._looking = self._looking or self._loop.create_task(self._look_for_ends())
        self._web.hope()
        await self.ari.open()
        await self.register()
        await self._resync(adopting=True)

    @property
    def waiting(self) -> set[str]:
        """Apps to serve that are not registered yet."""
        return {app for app, _ in self._takers} - self._web.registered - self._web.taken

    async def register(self) -> None:
        """Register the apps that ``serve`` added since. What was not registered when it raises AriError is
        registered the next time."""
        await self._web.register(lambda: self.waiting, lambda: self._needed)
        if self._web.missed:
            self._web.missed = False
            self._spawn(self._on_up())

    @property
    def _needed(self) -> set[str]:
        """Apps that are served, or have calls of tenants that are not any more."""
        return {app for app, _ in self._takers} | {session.app for session in self.sessions.values()}

    async def reclaim(self, *, force: bool = False) -> None:
        """Serve apps again that another process took, when it has left them; ``force``: all of them.

        Raises AriError.
        """
        taken = self._web.taken
        if not taken or self._stopped:
            return
        apps = sorted(taken)
        answers = await self.ari.ask_all([requests.application(app) for app in apps])
        free = {app for app, answer in zip(apps, answers, strict=True) if force or answer.status == 404}
        if free:
            taken -= free
            try:
                await self.register()
            except AriError:  # the next time
                taken |= free - self._web.registered
                raise
            self._web.hope()  # all may have been taken
            await self._resync(adopting=True)
            log.warning("serving again at %s: %s", self.ari.url, ", ".join(sorted(free)))

    async def readmit(self, password: Secret) -> None:
        """Serve again after the password was refused, with this one. Raises AriError: it is given up as
        before, until the next try."""
        refused = self._web.failed
        if not isinstance(self.failure, AriAuthFailed) or self._stopped:
            return
        self.ari.renew(password)
        await self.ari.request(requests.ping())
        await self._web.end()
        self._followed.clear()
        self._web.hope()
        try:
            await self.register()
            await self._resync(adopting=True)
        except AriError:
            self._web.failed = refused
            raise
        log.warning("serving again at %s", self.ari.url)

    async def stop(self) -> None:
        """End the connection; a second stop does nothing. Calls that are up stay up: drain first. Those that
        came too late to be heard of take the fallback."""
        self._stopped = True
        if self._looking is not None:
            self._looking.cancel()
        connected = self._web.hear
        for channel in list(self._parting):
            self._part(channel)
        if self._tasks and connected:  # what is left of ended calls is being removed
            await asyncio.wait(set(self._tasks), timeout=END_TIMEOUT)
        await self._web.close()
        if connected:
            await self._hand_on_unheard()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self.ari.close()

    async def _hand_on_unheard(self) -> None:
        """Between the last event we read and the end of our apps in Asterisk a call may have come: 1 of 224
        that came while the process ended (measured)."""
        self.draining = True
        try:
            async with asyncio.timeout(END_TIMEOUT):
                await self._find(await self.ari.request(requests.channels()), adopting=False)
                if self._tasks:
                    await asyncio.wait(set(self._tasks))
        except (AriError, TimeoutError) as exc:
            why = str(exc) or f"no answer within {END_TIMEOUT:.0f} s"
            log.warning("%s: calls that came at the very end may be left there: %s", self.ari.url, why)

    async def drain(self, seconds: float, *, by: EndedBy = EndedBy.OPERATOR) -> int:
        """Let calls finish for so long, then end the rest; returns how many had to be ended.

        New calls take the fallback of their dialplan meanwhile. Who cancels it drains again, with less time.
        """
        self.draining = True
        await self._emptied(seconds)
        self._ending = True
        rest = list(self.table.live)
        for call_id in rest:
            self.feed(call_id, lifecycle.HangUp(by, "normal"))
        await self._emptied(END_TIMEOUT)
        for call_id in list(self.table.live):  # Asterisk does not answer: the process must not hang on it
            self.feed(call_id, lifecycle.Missing())
        return len(rest)

    async def _emptied(self, seconds: float) -> None:
        """Wait until no call is left, so long at most."""
        if self.table.live:
            self._empty = asyncio.Event()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._empty.wait()

    # --- what crosses between loops ---------------------------------------------------------------------

    async def ask(self, request: Request, *, timeout: float | None = None) -> Answer:
        """Asterisk's answer, from whatever loop."""
        if asyncio.get_running_loop() is self._loop:
            return await self.ari.ask(request, timeout=timeout)
        async with self.turns.take(request, timeout) as left:
            answer: Answer = await self._over(self.ari.ask(request, timeout=left))
        return answer

    async def _over(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run it in the hub's loop and wait for it in this one."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.loop))

    def feed(self, call_id: str, signal: Signal, *, of: Channel | None = None) -> None:
        """Tell the call table; from whatever thread. Not when it comes ``of`` a session that has the call no
        more."""
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            here = False
        if here:
            self._feed(call_id, signal, of)
        else:
            self.loop.call_soon_threadsafe(self._feed, call_id, signal, of)

    def _feed(self, call_id: str, signal: Signal, of: Channel | None = None) -> None:
        if of is not None and not ((session := self.sessions.get(call_id)) and session.has(of)):
            return
        for action in self.table.feed(call_id, signal, monotonic()):
            match action:
                case lifecycle.Delete(call_id, reason):
                    self._delete(call_id, reason)
                case lifecycle.Look(call_id):
                    channel = self._channel_of(call_id)
                    looked = partial(self._looked, call_id, channel)
                    self._sender.send_and_read(requests.channel(channel), looked)
                case lifecycle.Gone(call_id):
                    if session := self.sessions.get(call_id):
                        session.post(session.gone)
                case lifecycle.End(ended):
                    self._end(ended)

    def _delete(self, call_id: str, reason: str) -> None:
        sending = self._sending.get(call_id)
        known = self.table.live.get(call_id)
        unsure = known is not None and (self._web.unheard or known.looking or not self.in_time())
        if self.siblings and sending is None and unsure:
            self._spawn(self._delete_ours(call_id, reason))
        elif sending is None:
            self._send_delete(call_id, reason)
        else:  # a DELETE over the websocket overtakes a POST over HTTP, and its 404 would be believed
            sending.add_done_callback(lambda _: self._delete(call_id, reason))

    async def _delete_ours(self, call_id: str, reason: str) -> None:
        """End it, unless another worker has it by now."""
        answer = await self._sender.insist(requests.channel(self._channel_of(call_id)))
        if answer is not None and answer.status == 200:
            with suppress(AriError):  # then it is ended: none may stay up with nobody
                await self._unless_moved(answer.body)
        if call_id in self.sessions:
            self._send_delete(call_id, reason)

    def _send_delete(self, call_id: str, reason: str) -> None:
        hangup = requests.hangup(self._channel_of(call_id), reason)
        self._sender.send(hangup, partial(self._deleted, call_id))

    async def _look_for_ends(self) -> None:
        before: set[str] = set()
        while True:
            await asyncio.sleep(END_LOOK)
            calls = self.table.live.values()
            ending = {call.call_id for call in calls if call.state is State.ENDING and not call.looking}
            for call_id in before & ending:
                self._feed(call_id, lifecycle.Doubted())
            before = ending

    def _end(self, ended: lifecycle.Ended) -> None:
        session = self.sessions.pop(ended.call_id, None)
        self._followed.discard(ended.call_id)
        self._talking.discard(ended.call_id)
        if session is None:
            return
        self._of[session.tenant].discard(session.id)
        if session.channel_id != session.id:
            self._calls = {channel: call for channel, call in self._calls.items() if call != session.id}
        for aux in self.aux.disown(ended.call_id):
            self._sweep(aux)
        self.journal.write(
            "call_ended",
            session.told,
            disposition=str(ended.disposition),
            cause=ended.cause,
            tech_cause=ended.tech_cause,
            ended_by=str(ended.ended_by),
            seconds=round(ended.seconds, 3),
            talk_seconds=round(ended.talk_seconds, 3),
            queue_status=session.queue_end(),
            detail=ended.detail,
        )
        session.post(session.over, ended)
        if self._empty is not None and not self.table.live:
            self._empty.set()

    # --- calls ------------------------------------------------------------------------------------------

    def open(self, session: CallSession, *, up: bool, begin: str = "call_started") -> None:
        """Enter a call into the table, before anything of it can happen; ``begin`` is the event of it."""
        self.sessions[session.id] = session
        self._of[session.tenant].add(session.id)
        self.table.open(session.id, session.direction, monotonic(), up=up)
        self.journal.write(begin, session.told)

    def calls_of(self, tenant: str | None) -> Set[str]:
        """The ids of the tenant's calls that are here, whichever code of it has them."""
        return self._of.get(tenant, frozenset())

    async def originate(self, session: CallSession, **how: Any) -> None:
        """Enter the call and send its originate, from whatever loop. Raises AriError or UsageFault."""
        if asyncio.get_running_loop() is self._loop:
            await self._originate(session, how)
        else:
            await self._over(self._originate(session, how))

    async def _originate(self, session: CallSession, how: Mapping[str, Any]) -> None:
        if session.refused:  # from another thread, before this one came to it: nobody waits any more
            return
        if session.app in self._web.taken:
            raise AppReplaced(
                f"another process has the Stasis app {session.app!r}: it would get the call",
                where=self.ari.url,
                hint="end the other process",
            )
        if self._stopped or self._ending:
            raise RuntimeFault("the runtime is being stopped: it calls nobody any more")
        if not self._web.hears(session.app):  # Asterisk would call, and drop who answers
            raise AriUnreachable(
                "the event connection is down, and nobody was called",
                method="POST",
                path="/channels",
                where=self.ari.url,
                hint="it comes back by itself when Asterisk does; then try again",
            )
        how = {**how, "app_args": self._marks(session)}
        requests.originate(channel_id=session.id, **how)  # what cannot be asked for is no call
        self.open(session, up=False)
        # In a task of its own: who gives up the call must not take back a request that may be on its way.
        sending = asyncio.ensure_future(self.ari.originate(channel_id=session.id, **how))
        self._sending[session.id] = sending
        sending.add_done_callback(partial(self._originated, session.id))
        await asyncio.shield(sending)

    def _marks(self, session: CallSession) -> list[str]:
        """Stasis arguments of a call out."""
        slug = [session.tenant] if session.tenant and (session.app, "") not in self._takers else []
        number = session.called_number  # a word only: not every way back knows how a comma is escaped
        return [CALLED, *slug, *([number] if number.isascii() and number.lstrip("+").isalnum() else [])]

    def _originated(self, call_id: str, sending: "asyncio.Future[Any]") -> None:
        del self._sending[call_id]
        error = None if sending.cancelled() else sending.exception()
        if isinstance(error, AriUnreachable):
            self._feed(call_id, lifecycle.HangUp(EndedBy.LOST))  # without an answer it may ring
        elif error is not None:
            self._feed(call_id, lifecycle.Refused(str(error)))
        elif sending.cancelled():
            self._feed(call_id, lifecycle.Missing())

    def _doubt(self, call_id: str, _: "asyncio.Future[Any]") -> None:
        """Its originate is answered, and its events may have been lost before that."""
        self._feed(call_id, lifecycle.Doubted())

    def _deleted(self, call_id: str, answer: Answer) -> None:
        if answer.status == 404:
            self._soon(partial(self._feed, call_id, lifecycle.Doubted()))

    def _soon(self, step: Callable[[], object]) -> None:
        self.loop.call_later(FIND_AGAIN, lambda: self._stopped or step())

    def _looked(self, call_id: str, channel: str, answer: Answer) -> None:
        if answer.status == 404:
            same = channel == self._channel_of(call_id)  # it may have another by now
            self._feed(call_id, lifecycle.Missing() if same else lifecycle.Doubted())
        else:
            self._present(call_id, answer.body if answer.status == 200 else {})

    def _present(self, call_id: str, channel: Mapping[str, Any]) -> None:
        """Asterisk has it. One that was to leave, and is still in the app, was never sent on, or is back. One
        that has left, and is in an app all the same, may have been moved."""
        self._feed(call_id, lifecycle.Present())
        known = self.table.live.get(call_id)
        if known is not None and known.state is State.LEFT and is_inside(channel):
            self._spawn(self._unless_moved(channel))
            return
        if known is None or known.state is not State.LEAVING or not is_inside(channel):
            return
        session = self.sessions[call_id]
        if line_of(channel) != session.line or session.was_sent_on:  # it has come back
            return
        if session in self._given_back:
            self._spawn(self.places.to_fallback(session.channel_id, session.tenant))
        else:
            self._feed(call_id, lifecycle.Stayed())

    async def _unless_moved(self, *channels: Mapping[str, Any]) -> None:
        """Calls that another worker has moved to itself while it thought this one dead are over here."""
        if not self.siblings:  # it is a question for each call
            return
        for channel, app, _ in await self.places.of(channels):
            session = self.call_of(channel["id"])
            if session is None or app == session.app or app in self._web.registered:
                continue
            if line_of(channel) != session.line:  # it has come there by itself
                continue
            log.warning("call %s was moved to the Stasis app %s: it goes on there", session.id, app)
            self._feed(session.id, lifecycle.Lost())

    def _follow(self, session: CallSession) -> None:
        if session.id in self.sessions:
            self._sender.send(self._subscription(session), partial(self._subscribed, session))

    def _subscribed(self, session: CallSession, answer: Answer) -> None:
        if answer.status >= 300:
            self._feed(session.id, lifecycle.Doubted())
            if session.is_fresh:
                self._soon(partial(self._follow, session))
        elif session.id in self.sessions:
            self._followed.add(session.id)

    def _subscription(self, session: CallSession) -> Request:
        return requests.subscribe(
            session.app, [f"channel:{session.channel_id}"], many=len(self.sessions) > MANY
        )

    async def has(self, feature: Feature) -> bool:
        """This Asterisk has it, by its version; one that does not tell its version has it. From whatever
        loop."""
        if self._release is None:
            try:
                told = await self._made(requests.info())
            except AriError as exc:  # what is asked of it next will say why
                log.warning("%s does not tell its version: %s", self.ari.url, exc)
                return True
            self._release = Release.of(str(told.get("system", {}).get("version", ""))) or NEWEST
        return self._release.has(feature)

    async def _made(self, request: Request) -> Mapping[str, Any]:
        """The body of Asterisk's answer, from whatever loop."""
        answer = await self.ask(request)
        if answer.status >= 300:
            raise self.ari.refused(request, answer)
        body: Mapping[str, Any] = answer.body
        return body

    def _sweep(self, aux: str) -> None:
        """Remove a channel or bridge of our own."""
        self._spawn(self._remove(aux))

    async def _remove(self, aux: str) -> None:
        for request in removal(aux):
            await self._sender.insist(request)

    # --- events -----------------------------------------------------------------------------------------

    def _on_event(self, event: Event) -> None:
        reader = _READERS.get(event["type"])
        if reader is not None:
            reader(self, event)

    def _on_start(self, event: Any) -> None:
        channel = event["channel"]
        call_id = channel["id"]
        if is_auxiliary(call_id):
            self.aux.entered(call_id)
        elif event["application"] in self._web.taken:
            pass  # told late: who has the app now finds it there
        elif "replace_channel" in event:
            self._replaced(event["replace_channel"], event["application"], channel)
        elif (session := self.call_of(call_id)) is not None:
            self._arrived(session, event["application"], channel, event["args"])
        elif self._knows(call_id):
            self._feed(call_id, lifecycle.Started())  # believed to be over; the table knows what to do
        else:
            self._begin(event["application"], channel, event["args"])

    def _replaced(self, old: Mapping[str, Any], app: str, channel: Mapping[str, Any]) -> None:
        """The far side has transferred a call to somebody else by itself (REFER), and its place, in whatever
        bridge, is another channel's from now on: it is the call, which goes on. The one before would stay in
        the app until the far side ends it. A channel that was a call of ours in the dialplan is that one no
        more: who talked to it there has put the two together."""
        before = old["id"]
        session, other = self.call_of(before), self.call_of(channel["id"])
        if other is not None:
            self._feed(other.id, lifecycle.WentOn(app))
        if session is None:  # it ended meanwhile
            self._part(channel["id"])
            return
        self._parting[before] = self.loop.call_later(PARTING, self._part, before)
        self._calls[before] = self._calls[channel["id"]] = session.id
        session.replaced(channel)
        self._followed.discard(session.id)
        self._follow(session)
        to = _EXTENSION.match(channel["name"])
        self.journal.write("transferred", session.told, to=to[1] if to else "")
        whose = _whose(channel, other)
        if self.table.live[session.id].state is State.ENDING:
            self._delete(session.id, "normal")
        elif whose not in (None, _whose(old, session), _trunk_of(old)):
            self._end_foreign(session)  # an INVITE with Replaces, say, which Asterisk takes from everybody
        elif self.table.live[session.id].away:
            session.post(session.left_behind)

    def _on_attended_transfer(self, event: Any) -> None:
        """Whoever names a call of another tenant in a REFER is obeyed by Asterisk."""
        legs = event["transferer_first_leg"], event["transferer_second_leg"]
        sessions = [self.sessions.get(self._calls.get(leg["id"], leg["id"])) for leg in legs]
        whose = {_whose(leg, session) for leg, session in zip(legs, sessions, strict=True)} - {None}
        for session in sessions if len(whose) > 1 and event["result"] == "Success" else ():
            if session is not None and self.table.live[session.id].state is not State.ENDING:
                self._end_foreign(session)

    def _end_foreign(self, session: CallSession) -> None:
        """None of a tenant's calls goes to who has another tenant's trunk."""
        log.warning("call %s is ended: it was connected with one of another tenant", session.id)
        self._feed(session.id, lifecycle.HangUp(EndedBy.ASTERISK, "normal"))

    def _part(self, channel: str) -> None:
        """End a channel that is no call any more."""
        timer = self._parting.pop(channel, None)
        if timer is not None:
            timer.cancel()
        self._spawn(self._end_channel(channel))

    async def _end_channel(self, channel: str) -> None:
        """One that Asterisk does not find may have got the place of another just now: look, as often as that
        can take."""
        for _ in range(round(FRESH / FIND_AGAIN)):
            answer = await self._sender.insist(requests.hangup(channel, "normal"))
            if answer is None or answer.status != 404:
                return
            found = await self._sender.insist(requests.channel(channel))
            if found is None or found.status == 404:
                return
            await asyncio.sleep(FIND_AGAIN)

    def _arrived(self, session: CallSession, app: str, channel: Mapping[str, Any], args: list[str]) -> None:
        """A call that is known here is in an app: it was answered, or the dialplan has brought it there, to
        the tenant whose call it is or to another."""
        taker, rest = self._taker(app, args)
        mine = taker is None or taker.tenant == session.tenant if session.tenant else app == session.app
        away = self.table.live[session.id].away
        if away and not mine:
            self._feed(session.id, lifecycle.WentOn(app))
            self._begin(app, channel, args)
        elif away and session.attended is False and taker is not None and taker.blocked:
            self._spawn(self.places.to_fallback(channel["id"], session.tenant))  # nobody has it, nor can
        elif away and session.id in self._talking:
            self._talking.discard(session.id)
            self._spawn(self._arrived_from(session, app, channel, args))
        else:
            self._came(session, channel, rest)

    async def _arrived_from(
        self, session: CallSession, app: str, channel: Mapping[str, Any], args: list[str]
    ) -> None:
        """It talked to somebody in the dialplan. Who has transferred it to a number (REFER) is done with it,
        and so is the handler that gave it to them: a new call of that number. Else the dialplan brings it
        back, and its handler has it again."""
        answer = await self._sender.insist(requests.get_variable(channel["id"], TRANSFERRED_BY))
        if self.sessions.get(session.id) is not session or not self.table.live[session.id].away:
            return  # it is over meanwhile
        if answer is not None and answer.status == 200 and answer.body["value"]:
            await self._sender.insist(requests.set_variable(channel["id"], TRANSFERRED_BY, ""))
            self._feed(session.id, lifecycle.WentOn(app))
            self._begin(app, channel, args)
        else:
            self._came(session, channel, self._taker(app, args)[1])

    def _came(self, session: CallSession, channel: Mapping[str, Any], rest: list[str]) -> None:
        self._given_back.discard(session)
        self._feed(session.id, lifecycle.Started())
        session.post(session.came, channel, rest)

    def _taker(self, app: str, args: list[str]) -> tuple[Taker | None, list[str]]:
        """Who gets the call, and its arguments without the tenant's slug and what marks it."""
        args = unmarked(args)
        taker = self._takers.get((app, ""))
        if taker is not None:
            return taker, args
        taker = self._takers.get((app, args[0])) if args else None
        return taker, args[1:]

    def _begin(self, app: str, channel: Mapping[str, Any], args: list[str]) -> None:
        """A new call, or one that another process had. Its first argument says so (it was moved here when its
        worker died, or is a call out that was answered when its process was gone), or where it comes from:
        it was in a queue when its process ended."""
        given = unmarked(args)
        taker, rest = self._taker(app, given)
        if taker is None or taker.blocked or self.draining:
            slug = taker.tenant if taker else self._left.get(app) or (given[0] if given else None)
            self._spawn(self._hand_on(Place(channel, app, args), slug))
            return
        with self._or_fallback(channel["id"], taker.tenant):
            if given != args or has_left_a_queue(line_of(channel)):
                self._adopt(app, taker, channel, args, rest)
                return
            session = self._enter(app, taker, channel, rest, "call_started")
            if rest:
                session.post(taker.take, session)
            else:
                self._spawn(self._take_by_dnid(taker, session))

    @contextmanager
    def _or_fallback(self, call_id: str, slug: str | None) -> Iterator[None]:
        """Whatever fails while a call is taken (no file for the tenant's loop, say): it does not stay in the
        app with nobody there."""
        try:
            yield
        except Exception:
            log.exception("call %s could not be taken and goes to its fallback", call_id)
            self._spawn(self.places.to_fallback(call_id, slug))
            if call_id in self.sessions:
                self._feed(call_id, lifecycle.Lost())

    def _adopt(
        self, app: str, taker: Taker, channel: Mapping[str, Any], args: list[str], rest: list[str]
    ) -> None:
        """A call that another process had; that one told its begin. ``rest``: its arguments without what
        marks it."""
        direction = Direction.OUTBOUND if CALLED in args[:2] else Direction.INBOUND
        session = self._enter(app, taker, channel, rest, "call_adopted", direction)
        session.post(session.adopted)
        session.post(taker.adopt, session)

    def _enter(
        self,
        app: str,
        taker: Taker,
        channel: Mapping[str, Any],
        args: list[str],
        begin: str,
        direction: Direction = Direction.INBOUND,
    ) -> CallSession:
        """A channel that is in the app becomes a call."""
        session = taker.session_type(self, taker, channel, args, direction, app=app)
        # So that the end is told also after the call left the app (measured). Not every id can be subscribed.
        subscription = self._subscription(session)
        self.open(session, up=channel["state"] == "Up", begin=begin)
        self._feed(session.id, lifecycle.Started())
        self._sender.send(subscription, partial(self._subscribed, session))
        return session

    async def _take_by_dnid(self, taker: Taker, session: CallSession) -> None:
        """A dialplan of somebody's own that passes no number: ask which one was dialled (measured)."""
        with self._or_fallback(session.id, session.tenant):
            answer = await self._sender.insist(requests.get_variable(session.id, "CALLERID(dnid)"))
            if answer is not None and answer.status == 200 and answer.body.get("value"):
                session.called_number = answer.body["value"]
            if self.sessions.get(session.id) is session:  # else it is over meanwhile
                session.post(taker.take, session)

    def give_back(self, taker: Taker) -> None:
        """Calls in that its handlers have not begun with take the fallback: its loop does not turn."""
        for session in list(self.sessions.values()):
            if session.came_to(taker) and session.claim():
                self._given_back.add(session)
                self._feed(session.id, lifecycle.Continue())
                self._spawn(self.places.to_fallback(session.channel_id, taker.tenant))

    async def _hand_on(self, place: Place, slug: str | None) -> None:
        """A call we take no more: another worker gets it as it came, else the fallback."""
        others = self.elsewhere(place.app)
        if others and not self.draining and await self.places.was_moved(place):
            others = ()  # who sent it here cannot take it either: it would go to and fro
        for other in others:
            if await self.places.move(place, other, place.args):
                return
        await self.places.to_fallback(place.channel["id"], slug)

    def call_of(self, channel: str) -> CallSession | None:
        """The call that is this channel now."""
        session = self.sessions.get(self._calls.get(channel, channel))
        return session if session is None or session.channel_id == channel else None

    def _channel_of(self, call_id: str) -> str:
        """The channel that is this call now."""
        session = self.sessions.get(call_id)
        return call_id if session is None else session.channel_id

    def _knows(self, channel: str) -> bool:
        """It is a call here, or was one."""
        return channel in self._calls or self.table.known(channel)

    def _on_end(self, event: Any) -> None:
        session = self.call_of(event["channel"]["id"])
        taker = self._takers.get((event["application"], ""))
        if session is not None and taker is not None and taker.tenant != session.tenant:
            return  # it left the tenant it came from, and that is told after its begin here
        if session is not None:
            self._feed(session.id, lifecycle.LeftStasis())

    def _on_hangup_request(self, event: Any) -> None:
        session = self.call_of(event["channel"]["id"])
        if session is not None:
            cause, tech = event.get("cause", 0), event.get("tech_cause", 0)
            self._feed(session.id, lifecycle.HangupRequested(cause, tech, bool(event.get("soft"))))

    def _on_destroyed(self, event: Any) -> None:
        session = self.call_of(event["channel"]["id"])
        if session is not None:
            self._feed(session.id, lifecycle.Destroyed(event.get("cause", 0), event.get("tech_cause", 0)))
        else:
            self.aux.destroyed(event)

    def _on_dial(self, event: Any) -> None:
        called = self.call_of(event["peer"]["id"])
        if called is not None:
            self._feed(called.id, lifecycle.Dialled(event["dialstatus"]))
            if event.get("forward"):  # the other side asked to call somebody else (SIP 302)
                self._feed(called.id, lifecycle.HangupRequested(REDIRECTED))
        caller = self.call_of((event.get("caller") or {}).get("id", ""))
        if caller is not None:
            caller.deliver(event)  # somebody was dialled for it: an agent of its queue
            if event["dialstatus"] == "ANSWER" and self.table.live[caller.id].away:
                self._talking.add(caller.id)

    def _on_state(self, event: Any) -> None:
        channel = event["channel"]
        session = self.call_of(channel["id"])
        if session is not None and channel["state"] == "Up":
            self.answered(session)

    def answered(self, session: CallSession) -> None:
        """Asterisk says the call is up: by an event or by its answer to ours, whichever comes first; from
        whatever loop."""
        session.is_up = True
        if asyncio.get_running_loop() is self._loop:
            self._answered(session)
        else:
            self.loop.call_soon_threadsafe(self._answered, session)

    def _answered(self, session: CallSession) -> None:
        known = self.table.live.get(session.id)
        if known is not None and known.answered is None:
            self._feed(session.id, lifecycle.Answered())
            self.journal.write("call_answered", session.told)

    def _on_channel_event(self, event: Any) -> None:
        if event["eventname"] == WORD:
            self._web.heard(event["application"])
            return
        session = self.call_of(event["channel"]["id"])
        if session is not None:
            session.deliver(event)

    def _on_digit(self, event: Any) -> None:
        session = self.call_of(event["channel"]["id"])
        # Another app of ours may hear them too; and what is pressed in the dialplan is not for the handler.
        mine = session is not None and event["application"] == session.app
        if session is not None and mine and not self.table.live[session.id].away:
            self.journal.write("dtmf", session.told, digit=event["digit"])
            session.deliver(event)

    def _on_target_event(self, event: Any) -> None:
        """Playbacks and recordings name what they belong to as ``channel:ID`` or ``bridge:ID``."""
        thing = event["playback"] if "playback" in event else event["recording"]
        target = thing["target_uri"].partition(":")[2]
        session = self.aux.call_of(self._calls.get(target, target))
        if session is not None:
            session.deliver(event)

    # --- the connection ---------------------------------------------------------------------------------

    def _lose(self, apps: Sequence[str]) -> None:
        """Nothing is told any more of the calls of these apps."""
        for session in list(self.sessions.values()):
            if session.app in apps:
                self.aux.disown(session.id)
                self._feed(session.id, lifecycle.Lost())

    async def _on_up(self) -> None:
        """Connected again. Until this has succeeded calls that ended meanwhile are not known to be over."""
        log.info("connected to %s again", self.ari.url)
        self._release = None  # it may be another one
        for pause in chain(RESYNC_PAUSES, repeat(RESYNC_PAUSES[-1])):
            try:
                await self._web.filter(sorted(self._web.registered))
                await self._resync(adopting=False)
            except Exception as exc:
                ours = exc if not isinstance(exc, AriError) else None  # a fault of ours has a traceback
                log.warning("the calls could not be compared with Asterisk: %s", exc, exc_info=ours)
                await asyncio.sleep(pause)
            else:
                return

    async def _resync(self, *, adopting: bool) -> None:
        """Compare the table with Asterisk: subscribe first, then look, so that nothing falls between.

        ``adopting``: another process had the calls nobody here knows. Raises AriError.
        """
        live = list(self.sessions.values())
        await self.ari.ask_all([self._subscription(s) for s in live if s.id not in self._followed])
        sending = dict(self._sending)  # as it is before the list: it may be made, and answered, after that
        channels = {row["id"]: row for row in await self.ari.request(requests.channels())}
        await self._unless_moved(*(channels[s.channel_id] for s in live if s.channel_id in channels))
        for session in live:
            if session.id in sending:
                sending[session.id].add_done_callback(partial(self._doubt, session.id))
            elif session.channel_id in channels:
                self._present(session.id, channels[session.channel_id])
                session.post(session.resync)
            else:
                self._feed(session.id, lifecycle.Lost())
        await self._come_back([channels[s.channel_id] for s in live if s.channel_id in channels])
        await self._find(channels.values(), adopting=adopting)
        self._web.unheard = False
        await self.places.ask_each(
            (row["id"], requests.destroy_bridge(row["id"]))
            for row in await self.places.bridges()
            if self.aux.is_stray(row["id"]) and row["name"] in self._web.registered
        )

    async def _come_back(self, channels: Iterable[Mapping[str, Any]]) -> None:
        """Calls of ours whose StasisStart was lost: they were answered, or came back from the dialplan."""
        for place in await self.places.of(row for row in channels if self._may_come(self.call_of(row["id"]))):
            session = self.call_of(place.channel["id"])
            if session is not None and place.app in self._web.registered and self._may_come(session):
                self._arrived(session, place.app, place.channel, place.args)

    def _may_come(self, session: CallSession | None) -> bool:
        known = self.table.live.get(session.id) if session is not None else None
        return known is not None and (known.away or known.visits == 0)

    async def _find(self, channels: Iterable[Mapping[str, Any]], *, adopting: bool) -> None:
        """Take those of these channels that are in our apps and that nobody here knows, and end those that a
        call had of its own. Raises AriError. What Asterisk does not answer for is looked for again later."""
        strange = {row["id"]: row for row in channels if is_inside(row) and not self._knows(row["id"])}
        places = await self.places.of(strange.values())
        strays = []
        for place in places:
            call_id = place.channel["id"]
            if place.app not in self._web.registered or self._knows(call_id):
                continue
            if not is_auxiliary(call_id):
                self._found(*place, adopting=adopting)
            elif self.aux.is_stray(call_id):
                strays.append(call_id)
        told = await self.places.ask_each((aux, requests.hangup(aux, "normal")) for aux in strays)
        silent = strange.keys() - {place.channel["id"] for place in places} | set(strays) - told.keys()
        if silent and not self._stopped:
            self.loop.call_later(AGAIN, self._find_again, silent, adopting)

    def _find_again(self, silent: set[str], adopting: bool) -> None:
        if not self._stopped:
            self._spawn(self._find_silent(silent, adopting=adopting))

    async def _find_silent(self, silent: set[str], *, adopting: bool) -> None:
        rows = await self.ari.request(requests.channels())
        await self._find([row for row in rows if row["id"] in silent], adopting=adopting)

    def _found(self, channel: Mapping[str, Any], app: str, args: list[str], *, adopting: bool) -> None:
        """A call that waits in one of our apps and that nobody here knows."""
        call_id = channel["id"]
        taker, rest = self._taker(app, args)
        if not adopting and _has_place(channel, args):
            self._part(call_id)  # whose place was told while nobody heard it: that call is over
        elif adopting and taker is not None and not taker.blocked:
            with self._or_fallback(call_id, taker.tenant):
                self._adopt(app, taker, channel, args, rest)
        else:
            self._begin(app, channel, args)

    # --- tasks ------------------------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            level = logging.WARNING if isinstance(error, VoxtractlError) else logging.ERROR
            log.log(level, "a step of a call failed: %s", error, exc_info=error)


def _has_place(channel: Mapping[str, Any], args: list[str]) -> bool:
    """It has the place of another channel, after a transfer of the far side, and is no call that comes: the
    dialplan, where calls come from, runs the second half of a Local channel."""
    name = channel.get("name", "")
    first_half = name.startswith("Local/") and name.endswith(";1") and not args
    return first_half or name.startswith("Local/_attended@")


def _whose(channel: Mapping[str, Any], session: CallSession | None) -> str | None:
    """The tenant whose call it is. Of two tenants at one carrier one has the calls of both on its trunk."""
    return session.tenant if session is not None and session.tenant else _trunk_of(channel)


def _trunk_of(channel: Mapping[str, Any]) -> str | None:
    """The tenant over whose own trunk it runs."""
    slug = channel.get("accountcode", "")
    return slug if slug and channel["name"].startswith(f"PJSIP/{naming.trunk_endpoint(slug)}-") else None


_READERS: Final = {
    "BridgeAttendedTransfer": Hub._on_attended_transfer,
    "StasisStart": Hub._on_start,
    "StasisEnd": Hub._on_end,
    "ChannelHangupRequest": Hub._on_hangup_request,
    "ChannelDestroyed": Hub._on_destroyed,
    "ChannelStateChange": Hub._on_state,
    "Dial": Hub._on_dial,
    "ChannelDtmfReceived": Hub._on_digit,
    "ChannelUserevent": Hub._on_channel_event,
    "PlaybackFinished": Hub._on_target_event,
    "RecordingFinished": Hub._on_target_event,
    "RecordingFailed": Hub._on_target_event,
}
