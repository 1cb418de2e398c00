"""The event websockets of one Asterisk: which of our apps is on which, and what becomes of it.

    waiting ──register──▶ registered ──another process──▶ taken ──register──▶ …
                          └─ its websocket has ended ──▶ waiting

A websocket has up to 400 apps. The first carries requests too, and stays for that. Tenants come and go for
months, and each that comes brings a websocket; over STREAMS_MAX of them are brought together on one
(docs/decisions/0007).

An app may be registered and deaf: Asterisk takes down a websocket that has ended in a thread of its own, app
by app, and one that is registered again meanwhile may go down with it (one or two of 390 apps, after 4 of 12
cuts). Nothing tells; its calls take the fallback. So each app is sent a word, which must come back, else its
websocket is made again.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Final
from urllib.parse import quote

from voxtractl.ari import requests
from voxtractl.ari.client import ARIClient
from voxtractl.ari.events import Event
from voxtractl.ari.stream import EventStream
from voxtractl.errors import AppReplaced, AriAuthFailed, AriError, VoxtractlError

__all__ = ["WORD", "Websockets"]

log = logging.getLogger(__name__)

APPS_MAX: Final = 400  # of one websocket
APPS_ONCE: Final = 127  # of one before MANY_APPS
APPS_BYTES: Final = 3800  # of their names: Asterisk reads a request line of 4095 bytes (measured)
STREAMS_MAX: Final = 8  # websockets of a node; each is a connection of Asterisk's sessionlimit
MOVE_SECONDS: Final = 5.0  # for Asterisk to part with the old websockets of apps; a millisecond was measured
# Then they are read on for so long: a thread of Asterisk that was about to tell them of a call does so all
# the same. Without, one call of 3,000 that came while apps were moved had no begin or no end here (measured).
PART_SECONDS: Final = 1.0
WORD: Final = "voxtractl-heard"  # the event that must come back
RENEWALS: Final = 3  # of a websocket in a row
AGAIN: Final = 1.0  # seconds until a check that Asterisk did not answer is tried again
SHOWN: Final = 3  # apps in the log
# Events nobody here reads; a call costs 15 events without this (measured on 22.10).
UNREAD: Final = [
    "ChannelCallerId",
    "ChannelConnectedLine",
    "ChannelDialplan",
    "ChannelTalkingStarted",
    "ChannelTalkingFinished",
    "ChannelToneDetected",
    "ChannelVarset",
    "DeviceStateChanged",
    "EndpointStateChange",
    "BridgeCreated",
    "ContactStatusChange",
    "PeerStatusChange",
    "PlaybackStarted",
    "PlaybackContinuing",
    "RecordingStarted",
]


class Websockets:
    """``on_event`` gets every event, in order for each app; ``on_up`` runs when a connection is back;
    ``on_lost`` gets apps whose calls are nothing of ours any more. ``many`` tells whether Asterisk takes more
    than APPS_ONCE apps at once.

    ``failed`` is done with an error when all is over: AriAuthFailed, or AppReplaced when others have all.
    """

    def __init__(
        self,
        ari: ARIClient,
        *,
        many: Callable[[], Awaitable[bool]],
        on_event: Callable[[Event], None],
        on_up: Callable[[], Awaitable[None]],
        on_lost: Callable[[Sequence[str]], None],
    ) -> None:
        self.streams: list[EventStream] = []  # the first also carries requests
        self.registered: set[str] = set()
        self.taken: set[str] = set()  # apps that another process has
        # For the hub to clear, when it has compared its calls with Asterisk:
        self.unheard = False  # events were lost
        self.missed = False  # and no websocket comes back that would tell it to
        self.failed: asyncio.Future[None] | None = None
        self._ari, self._many = ari, many
        self._on_event, self._on_up, self._on_lost = on_event, on_up, on_lost
        self._move: _Move | None = None
        self._words: dict[str, asyncio.Future[None]] = {}  # of the apps that are checked
        self._checks: dict[EventStream, asyncio.Task[None]] = {}
        self._renewed: Counter[EventStream] = Counter()
        self._one_at_a_time = asyncio.Lock()
        self._closed = False

    @property
    def hear(self) -> bool:
        """Events come of every app that is registered."""
        return bool(self.streams) and all(stream.connected for stream in self.streams)

    def hears(self, app: str) -> bool:
        """Events come of this app."""
        return any(stream.connected and app in stream.apps for stream in self.streams)

    @property
    def failure(self) -> VoxtractlError | None:
        """Why all is over, when it is."""
        if self.failed is None or not self.failed.done() or self.failed.cancelled():
            return None
        error = self.failed.exception()
        return error if isinstance(error, VoxtractlError) else None

    def hope(self) -> None:
        """Nothing has failed yet, or it is tried again."""
        if self.failed is None or self.failed.done():
            self.failed = asyncio.get_running_loop().create_future()

    async def register(self, waiting: Callable[[], set[str]], needed: Callable[[], set[str]]) -> None:
        """Register the apps that are ``waiting``; some hundreds share a websocket. ``needed`` are all that
        are served or have calls. Raises AriError: what was not registered is waiting still.

        One at a time: two would take the same apps from each other.
        """
        async with self._one_at_a_time:
            apps = sorted(waiting())
            many = len(apps) <= APPS_ONCE or await self._many()
            for some in _shares(apps, APPS_MAX if many else APPS_ONCE):
                stream = self._stream(some, self._on_event)
                await self._begin(stream)
                self.registered.update(some)
                self._check(stream)
                await self.filter(some)
            if len(self.streams) > STREAMS_MAX:
                await self._gather(needed())

    async def filter(self, apps: Sequence[str]) -> None:
        """Tell Asterisk which events nobody reads. Raises AriError."""
        for answer in await self._ari.ask_all([requests.event_filter(app, UNREAD) for app in apps]):
            if answer.status >= 300 and answer.status != 404:  # it is not there yet, or deaf
                log.warning("Asterisk does not filter events: %s", answer.message)

    async def end(self) -> None:
        """End all websockets, so that all apps are waiting."""
        self.registered.clear()
        await self._end()

    async def close(self) -> None:
        """End all websockets for good, also one that is on its way; ``registered`` stays, for a last look."""
        self._closed = True
        if self._move is not None:
            self._move.cut()
        await self._end()
        if self.failed is not None and not self.failed.done():
            self.failed.set_result(None)

    async def _end(self) -> None:
        self._ari.attach(None)
        for check in self._checks.values():
            check.cancel()
        streams, self.streams = self.streams, []
        await asyncio.gather(*(stream.close() for stream in streams))

    # --- deaf apps ----------------------------------------------------------------------------------------

    def heard(self, app: str) -> None:
        """Its word has come back."""
        word = self._words.pop(app, None)
        if word is not None and not word.done():
            word.set_result(None)

    def _check(self, stream: EventStream) -> None:
        before = self._checks.pop(stream, None)
        if before is not None:
            before.cancel()
        self._checks[stream] = check = asyncio.create_task(self._renew_if_deaf(stream))
        check.add_done_callback(partial(self._checked, stream))

    def _checked(self, stream: EventStream, check: "asyncio.Task[None]") -> None:
        if self._checks.get(stream) is check:
            del self._checks[stream]

    async def _renew_if_deaf(self, stream: EventStream) -> None:
        for pause in (0.0, stream.patience + 1.0):  # by then a handshake that was given up is over
            await asyncio.sleep(pause)
            deaf = await self._deaf(stream)
            if deaf:
                deaf &= await self._deaf(stream)
            if not stream.connected:  # there is another check when it is back
                return
            deaf &= set(stream.apps)
            if not deaf:
                continue
            some = ", ".join(sorted(deaf)[:SHOWN])
            reason = f"Asterisk tells nothing of {len(deaf)} apps ({some}{' …' if len(deaf) > SHOWN else ''})"
            if self._renewed[stream] < RENEWALS:
                self._renewed[stream] += 1
                stream.again(reason)
            else:
                log.error("%s: %s, over %d new websockets either", self._ari.url, reason, RENEWALS)
            return
        del self._renewed[stream]

    async def _deaf(self, stream: EventStream) -> set[str]:
        """Its apps of which nothing is heard, while it is connected."""
        loop = asyncio.get_running_loop()
        while stream.connected:
            words = {app: self._words.setdefault(app, loop.create_future()) for app in stream.apps}
            try:
                answers = await self._ari.ask_all([requests.user_event(WORD, app) for app in words])
            except AriError as exc:  # requests go over another connection
                log.debug("%s: the apps of a websocket cannot be checked yet: %s", self._ari.url, exc)
                await asyncio.sleep(AGAIN)
                continue
            gone = {app for app, answer in zip(words, answers, strict=True) if answer.status == 404}
            if words and not gone:
                await asyncio.wait(words.values(), timeout=stream.patience)
            return gone or {app for app, word in words.items() if not word.done()}
        return set()

    # --- on fewer websockets ------------------------------------------------------------------------------

    async def _gather(self, needed: set[str]) -> None:
        """Bring the apps of many websockets together on one. Raises AriError when some were lost: they are
        waiting."""
        most = APPS_MAX if await self._many() else APPS_ONCE
        apps: list[str] = []
        old: list[EventStream] = []
        for stream in sorted(self.streams[1:], key=lambda stream: len(stream.apps)):
            more = [app for app in stream.apps if app in needed]
            if stream.connected and len(list(_shares(apps + more, most))) <= 1:
                apps += more
                old.append(stream)
        if len(old) == 1 and apps:  # nothing would be won
            return
        for stream in old:
            stream.parting = True
        self._move = move = _Move(apps, self._on_event)
        try:
            if apps:
                stream = self._stream(apps, move.on_event)
                await self._begin(stream)
                await move.over()
                self._check(stream)
        except AriError as exc:
            if await self._cut(old, move):
                raise
            log.warning("%s keeps %d websockets: %s", self._ari.url, len(self.streams), exc)
            return
        finally:
            self._move = None
            move.end()
        if apps:
            await asyncio.sleep(PART_SECONDS)
        self.missed |= move.gone != set(apps) or not all(stream.connected for stream in old)
        for stream in old:
            if stream in self.streams:  # else all was ended meanwhile
                self.streams.remove(stream)
                self.registered -= set(stream.apps) - set(apps)
                await stream.close()
        if not self._closed:
            await self.filter(apps)

    async def _cut(self, old: Sequence[EventStream], move: "_Move") -> bool:
        """The new websocket did not come; whether apps have none at all now."""
        cut = [stream for stream in old if stream in self.streams and not (stream.connected and stream.apps)]
        lost = move.gone.union(*(stream.apps for stream in cut))
        self.streams = [stream for stream in self.streams if stream not in cut]
        self.registered -= lost
        self.missed |= bool(lost)
        for stream in old:
            stream.parting = False
        for stream in cut:
            await stream.close()
        return bool(lost)

    # --- one websocket ------------------------------------------------------------------------------------

    def _stream(self, apps: list[str], on_event: Callable[[Event], None]) -> EventStream:
        async def on_up() -> None:
            self._check(stream)
            await self._on_up()

        stream = self._ari.stream(
            apps, on_event=on_event, on_up=on_up, on_down=self._on_down, on_taken=self._on_taken
        )
        return stream

    async def _begin(self, stream: EventStream) -> None:
        await stream.start()
        if self._closed:
            await stream.close()
            return
        self.streams.append(stream)
        if len(self.streams) == 1:
            self._ari.attach(stream)

    def _on_down(self, reason: str) -> None:
        if self._move is not None:
            self._move.cut()
        taken = [stream for stream in self.streams if isinstance(stream.failure, AppReplaced)]
        for stream in taken:  # others have all of its apps; the rest goes on
            self.streams.remove(stream)
            self._ari.attach(self.streams[0] if self.streams else None)
        self.unheard |= not taken
        failures = [s.failure for s in self.streams or taken if s.failure is not None]
        if failures and not taken:
            log.error("%s is given up, and its calls are over here: %s", self._ari.url, reason)
            self._on_lost([app for stream in self.streams if stream.failure for app in stream.apps])
        elif failures or not taken:
            log.warning("the event connection to %s is down: %s", self._ari.url, reason)
        for failure in failures:
            if isinstance(failure, AriAuthFailed):  # told to one of them; the others go on to send calls
                for stream in self.streams:
                    stream.fail(failure)
        if failures and self.failed is not None and not self.failed.done():
            self.failed.set_exception(failures[0])
            self.failed.exception()  # seen: who started the app by hand may not ask

    def _on_taken(self, app: str) -> None:
        """Another process has this app, so it adopts its calls: here they are over, there they go on."""
        if self._move is not None and self._move.left(app):
            return
        log.error("another process took the Stasis app %s at %s: its calls go there", app, self._ari.url)
        self.registered.discard(app)
        self.taken.add(app)
        self._on_lost([app])


class _Move:
    """Apps go from some websockets of ours to a new one, whose events wait until the old ones have told their
    last: no call may end before it began.

    Asterisk ends the part of an old one with ApplicationReplaced, behind all that it was told before; what a
    thread of it tells later than that is taken as it comes.
    """

    def __init__(self, apps: Sequence[str], on_event: Callable[[Event], None]) -> None:
        self.gone: set[str] = set()  # from the old ones
        self._apps = set(apps)
        self._on_event = on_event
        self._held: list[Event] | None = []  # None when the move is over
        self._over = asyncio.Event()

    def left(self, app: str) -> bool:
        """An old one has told its last of this app; False when it is none of the move."""
        if app not in self._apps or app in self.gone:
            return False
        self.gone.add(app)
        if self.gone == self._apps:
            self._over.set()
        return True

    def cut(self) -> None:
        """A websocket was lost, and what it had to tell."""
        self._over.set()

    async def over(self) -> None:
        """Return when all apps have left the old ones, or a websocket was lost, or in MOVE_SECONDS."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), MOVE_SECONDS)

    def on_event(self, event: Event) -> None:
        """What the new one tells."""
        if self._held is None:
            self._on_event(event)
        else:
            self._held.append(event)

    def end(self) -> None:
        held, self._held = self._held or [], None
        for event in held:
            try:
                self._on_event(event)
            except Exception:
                log.exception("an event of type %s was not handled", event["type"])


def _shares(apps: Sequence[str], most: int) -> Iterator[list[str]]:
    """The apps, as many to a websocket as its request line takes."""
    share: list[str] = []
    size = 0
    for app in apps:
        more = len(quote(app, safe="")) + 1
        if share and (len(share) == most or size + more > APPS_BYTES):
            yield share
            share, size = [], 0
        share.append(app)
        size += more
    if share:
        yield share
