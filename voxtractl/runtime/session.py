"""CallSession: one call as its handler has it.

Every verb sends a command and returns when it is done; every wait is bounded and ends with CallEnded when the
other side is gone. A session belongs to the event loop of its handler; the hub calls ``deliver``, ``gone``
and ``over`` there. What a verb does on Asterisk stands in its docstring.
"""

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import suppress
from contextvars import Context, ContextVar, copy_context
from enum import StrEnum
from functools import partial
from threading import Lock, Thread
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeVar, cast
from uuid import uuid4

from voxtractl import naming
from voxtractl.ari import requests
from voxtractl.ari.client import stop_playback
from voxtractl.ari.requests import Answer, Request
from voxtractl.errors import (
    AriError,
    AriUnreachable,
    CallEnded,
    CallError,
    MediaFailed,
    QueueUnknown,
    SpeechUnavailable,
    UsageFault,
)
from voxtractl.runtime import lifecycle
from voxtractl.runtime.digits import Collected, Collector, TypeAhead
from voxtractl.runtime.lifecycle import Direction, Ended, EndedBy
from voxtractl.runtime.wording import told

if TYPE_CHECKING:
    from voxtractl.audio.leg import Leg
    from voxtractl.runtime.hub import Hub, Taker
    from voxtractl.runtime.speech import Said, Transcript

__all__ = [
    "CALL",
    "TENANT",
    "AudioStream",
    "CallSession",
    "CallState",
    "Played",
    "Queued",
    "Recorded",
    "context_of",
    "line_of",
    "tone_of",
]

log = logging.getLogger(__name__)

TENANT: Final[ContextVar[str | None]] = ContextVar("voxtractl_tenant", default=None)
CALL: Final[ContextVar[str | None]] = ContextVar("voxtractl_call", default=None)

Callback = Callable[[], object]
C = TypeVar("C", bound=Callback)
T = TypeVar("T")

LOOK_AGAIN: Final = 3.0  # seconds until Asterisk is asked whether a sound or a recording is over
SOUND_MAX: Final = 3600.0  # seconds: Asterisk tells no end of some playbacks (facts G6); a handler goes on
TONE_ENDS: Final = 1.0  # seconds for a tone that is stopped; it takes Asterisk a millisecond or two
GONE_GRACE: Final = 0.2  # seconds until the event of an end has come, after a refusal that may be due to it
END_TIMEOUT: Final = 10.0  # seconds Asterisk gets to end a call before hangup() returns all the same
SPOKEN: Final = frozenset({"number", "digits", "characters"})  # by Asterisk itself; it cannot stop them
SCHEMES: Final = SPOKEN | {"sound", "recording", "tone"}
QUEUE_EVENT: Final = "VoxtraQueue"  # templates/extensions: what tells how a queue was left


class CallState(StrEnum):
    """What a call is doing, in one word: of its handler's verbs, and of what the other side did."""

    RINGING = "ringing"
    ANSWERED = "answered"
    ON_HOLD = "on_hold"
    TRANSFERRING = "transferring"  # in a queue or elsewhere in the dialplan, or somebody is rung for it
    IN_PROGRESS = "in_progress"  # connected with another call
    COMPLETED = "completed"
    FAILED = "failed"  # a call out that nobody answered


class Played(NamedTuple):
    """How a sound ended: ``done``, ``stopped`` (by ``stop()``) or ``failed`` (Asterisk has no such file)."""

    media: str
    status: str

    @property
    def ok(self) -> bool:
        return self.status == "done"


class Recorded(NamedTuple):
    """A finished recording; ``name`` is its name among Asterisk's stored recordings."""

    name: str
    format: str
    seconds: float


class Queued(NamedTuple):
    """How a call left its queue. ``status`` is Asterisk's QUEUESTATUS (TIMEOUT, FULL, JOINEMPTY, LEAVEEMPTY
    …), ANSWERED when an agent had the call until it ended, ABANDONED when the caller hung up while
    waiting."""

    queue: str
    status: str


class _Recording(NamedTuple):
    """A recording that runs: on a snoop channel by Asterisk, or a leg that feeds a sink."""

    format: str
    done: "asyncio.Future[Recorded]"
    channel: str | None = None
    leg: "Leg | None" = None


class AudioStream:
    """What ``audio_stream()`` gives: await it for the leg, or iterate over the caller's sound."""

    def __init__(self, call: "CallSession", rate: int) -> None:
        self._call, self._rate = call, rate

    def __await__(self) -> "Generator[Any, None, Leg]":
        return self._call.open_leg(self._rate).__await__()

    async def __aiter__(self) -> "AsyncIterator[bytes]":
        leg = await self
        async for pcm in leg:
            yield pcm


class CallSession:
    """``id`` is Asterisk's channel id. ``called_number`` is the DID, ``caller_number`` who calls (or is
    called).

    ``args`` are the Stasis arguments without tenant. ``metadata`` begins as a copy of the route's; the
    handler may keep there what it likes.
    """

    def __init__(
        self,
        hub: "Hub",
        taker: "Taker",
        channel: Mapping[str, Any],
        args: Sequence[str],
        direction: Direction,
        *,
        app: str,
    ) -> None:
        self._hub = hub
        self._taker = taker
        self._loop = taker.loop
        self.id: str = channel["id"]
        self._context = context_of(taker.tenant, self.id)
        self.app = app
        self.args = tuple(args)
        self.direction = direction
        self.tenant = taker.tenant
        self.node = hub.journal.node
        self.metadata: dict[str, Any] = {}
        self.is_up = channel.get("state") == "Up"
        self.trunk = ""  # the PJSIP endpoint it was dialled over
        self.queue_status: str | None = None
        self.ended: Ended | None = None
        self._channel = channel
        caller = channel.get("caller") or {}
        self.caller_number: str = caller.get("number", "")
        self.caller_name: str = caller.get("name", "")
        self.called_number = _called(channel, self.args)
        self._is_gone = False
        self._claim = Lock()
        self.untouched = True  # no command was given to the channel yet
        self._doing: CallState | None = None  # more than ringing or answered
        self._waits: dict[str, tuple[asyncio.Future[Any], str]] = {}
        self._playing: dict[str, list[str]] = {}  # the media of each playback
        self._sounding: set[str] = set()  # playbacks that Asterisk has not said to be over
        self._quiet = asyncio.Event()  # there are none
        self._quiet.set()
        self._held = False  # it hears music on hold
        self._with: CallSession | None = None  # who it is connected with, or just about to be
        self._digits = TypeAhead()
        self._collecting: tuple[Collector, asyncio.Future[Collected]] | None = None
        self._pressed = 0.0  # when the last digit came, or the wait for one began, by the clock of the loop
        self._hooks: list[Callback] = []
        self._digit_hooks: list[Callable[[str], object]] = []
        self._over = asyncio.Event()
        self._home = asyncio.Event()  # in its app, or over; not while it is elsewhere in the dialplan
        self._home.set()
        # Whether somebody has it: a handler, or who called; None until it is given to one.
        self.attended: bool | None = True if direction is Direction.OUTBOUND else None
        self._visits = 1 if direction is Direction.INBOUND else 0  # how often it came into its app
        self._left = 0  # the visit after which it was sent into the dialplan, the last time
        self._touched = 0  # the visit in which somebody did something with it, the last time
        self._ends: list[asyncio.Future[None]] = []  # who waits for it in hangup()
        self._entered = ""  # the queue it is in, or was
        self._queue_answered = False
        self._leg: Leg | None = None
        self._bridge: str | None = None  # our own: the call and its media
        self._leg_lock = asyncio.Lock()
        self._legs: list[Leg] = []
        self._barge: asyncio.Event | None = None
        self._heard = b""  # what the caller said over the last prompt
        self._consulted: list[CallSession] = []  # calls that end with this one
        self._recordings: dict[str, _Recording] = {}
        self._stopping: dict[str, _Recording] = {}
        self._recordings_begun = 0
        self._tasks: set[asyncio.Future[Any]] = set()

    def __repr__(self) -> str:
        return f"<CallSession {self.id} {self.direction} {self.caller_number} → {self.called_number}>"

    @property
    def told(self) -> dict[str, Any]:
        """What every event tells of a call."""
        return {
            "call_id": self.id,
            "tenant": self.tenant,
            "direction": str(self.direction),
            "did": self.called_number,
            "caller": self.caller_number,
        }

    @property
    def is_gone(self) -> bool:
        """True from the first sign that the other side is gone."""
        return self._is_gone

    @property
    def caller_id(self) -> str:
        """The same as ``caller_number``."""
        return self.caller_number

    @property
    def state(self) -> CallState:
        """A str too: ``call.state == "answered"``."""
        if self._is_gone:
            failed = self.direction == Direction.OUTBOUND and not self.is_up
            return CallState.FAILED if failed else CallState.COMPLETED
        if self._doing is not None:
            return self._doing
        if self._held:
            return CallState.ON_HOLD
        return CallState.ANSWERED if self.is_up else CallState.RINGING

    @property
    def duration(self) -> float:
        """Seconds since the call was answered; 0.0 before, and what it came to when it is over."""
        if self.ended is not None:
            return self.ended.talk_seconds
        known = self._hub.table.live.get(self.id)
        return monotonic() - known.answered if known is not None and known.answered is not None else 0.0

    # --- answering and ending ---------------------------------------------------------------------------

    async def answer(self) -> None:
        """Answer the call; nothing happens when it is up, so an originated call may be answered too.

        A sound that was begun before is heard to its end first, a tone is stopped: Asterisk answers a channel
        when its sounds have ended. For a call out that still rings: wait until it is answered.
        """
        if self.is_up and not self._is_coming:
            self._check("answer")
            return
        if self.direction is Direction.OUTBOUND:
            await self._answered_by_them()
            return
        await self._until_quiet("answer")
        await self._command(requests.answer(self.id, first=self.untouched), "answer")
        self._hub.answered(self)

    @property
    def _is_coming(self) -> bool:
        """A call out that is not in the app yet."""
        return "up" in self._waits and not self._waits["up"][0].done()

    async def _answered_by_them(self) -> None:
        waiting = self._waits.get("up")
        if waiting is not None:
            await asyncio.shield(waiting[0])
        self._check("answer")

    async def hangup(self, reason: str = "normal") -> None:
        """End the call and wait until Asterisk has ended it; nothing happens when it is over.

        ``reason``: normal, busy, congestion, no_answer, rejected, or another word of Asterisk's. Raises
        UsageFault for a word that is none.
        """
        if reason not in requests.HANGUP_REASONS:
            raise UsageFault(
                f"Asterisk knows no reason {reason!r} to hang up",
                hint=f"one of {', '.join(requests.HANGUP_REASONS)}",
            )
        if self._over.is_set():
            return
        self._tell(lifecycle.HangUp(EndedBy.HANDLER, reason))
        ended: asyncio.Future[None] = (
            self._loop.create_future()
        )  # lighter than asyncio.timeout, for each call
        self._ends.append(ended)
        timer = self._loop.call_later(END_TIMEOUT, _settle, ended)
        try:
            await ended
        finally:
            timer.cancel()
        if not self._over.is_set():
            log.warning("Asterisk has not ended %s yet; the call table goes on asking", self.id)

    def on_hangup(self, callback: C) -> C:
        """Call it once when the call is over; at once when it is over already. Usable as a decorator.

        An async function runs in the handler's loop, a plain one in a thread of its own, so that a slow one
        holds up no call. What it raises goes to the log.
        """
        if self._over.is_set():
            self._loop.call_soon(self._run_hook, callback)
        else:
            self._hooks.append(callback)
        return callback

    async def wait_ended(self) -> Ended:
        """Wait for the end of the call and return it."""
        await self._over.wait()
        assert self.ended is not None  # noqa: S101  over() set it
        return self.ended

    # --- sounds -----------------------------------------------------------------------------------------

    async def play_file(self, sound: str, lang: str = "", *, wait: bool = True) -> Played:
        """Play a sound file of the node; returns when it has ended. Several: ``play("sound:a", "sound:b")``.

        ``lang`` is the language of the file, the channel's when empty. With ``wait=False`` at once. A missing
        file gives ``Played(status="failed")``, an error in the log and the event playback_failed: the caller
        stays. Raises CallEnded.
        """
        return await self._play([f"sound:{sound}"], "play_file", wait=wait, lang=lang)

    async def play_url(self, url: str, *, wait: bool = True) -> Played:
        """Play a file that Asterisk fetches by HTTP and keeps in its media cache."""
        if not url.startswith(("http://", "https://")):
            raise UsageFault(f"play_url takes http:// or https://, not {url.partition(':')[0]}:")
        return await self._play([f"sound:{url}"], "play_url", wait=wait)

    async def play_tone(self, tone: str, *, wait: bool = False) -> Played:
        """Play a tone of indications.conf (``busy``, ``ring;tonezone=fr``) or a list of tones until
        ``stop()``."""
        return await self._play([f"tone:{tone}"], "play_tone", wait=wait)

    async def play(
        self, *media: str, wait: bool = True, lang: str | None = None, timeout: float = SOUND_MAX
    ) -> Played:
        """Play what Asterisk names by a URI: ``sound:``, ``recording:``, ``number:``, ``digits:``,
        ``tone:``. After ``timeout`` seconds it is stopped."""
        return await self._play(list(media), "play", wait=wait, lang=lang, timeout=timeout)

    async def _play(
        self,
        media: list[str],
        op: str,
        *,
        wait: bool,
        lang: str | None = None,
        timeout: float = SOUND_MAX,
    ) -> Played:
        for uri in media:
            if uri.partition(":")[0] not in SCHEMES or not uri.partition(":")[2]:
                raise MediaFailed(
                    f"{op}: Asterisk cannot play {uri!r}",
                    call=self.id,
                    hint=f"one of {', '.join(sorted(SCHEMES))}",
                )
        if not media:
            raise UsageFault(f"{op} needs something to play")
        playback = await self._tone(op) if _is_tone(media) else uuid4().hex
        done = self._expect(playback, op)
        self._playing[playback] = media
        self._sounding.add(playback)
        self._quiet.clear()
        target = self._bridge if self._bridge is not None else self.id
        build = requests.play_bridge if self._bridge is not None else requests.play
        try:
            await self._command(build(target, playback, media, lang=lang or None), op)
        except BaseException as exc:
            self._forget(playback)
            if isinstance(exc, (asyncio.CancelledError, AriUnreachable)):  # it may have begun
                self._background(self._end_sound(playback, media))
            else:
                self._silent(playback)
            raise
        ended = self._watch_playback(playback, done, media, op, timeout)
        return await ended if wait else self._later(ended, Played(media[-1], "started"))

    async def _tone(self, op: str) -> str:
        """The id of the next tone; one before it that is being stopped is waited for."""
        tone = tone_of(self.id)
        if tone in self._sounding and tone not in self._playing:
            await asyncio.wait([self._expect(tone, op)], timeout=TONE_ENDS)
            self._waits.pop(tone, None)
        return tone if tone not in self._sounding else uuid4().hex

    async def _watch_playback(
        self, playback: str, done: "asyncio.Future[str]", media: list[str], op: str, timeout: float
    ) -> Played:
        try:
            async with asyncio.timeout(timeout):
                status = await done
        except TimeoutError:
            status = "stopped"
            self._check(op)
            await self._end_sound(playback, media)
            self._silent(playback)
        except asyncio.CancelledError:
            self._background(self._end_sound(playback, media))
            raise
        finally:
            self._forget(playback)
        if status == "failed":
            log.error("%s: Asterisk could not play %s (call %s)", op, ", ".join(media), self.id)
            self._hub.journal.write("playback_failed", self.told, media=", ".join(media))
        return Played(media[-1], status)

    def _later(self, work: Awaitable[Any], now: Played) -> Played:
        self._background(work)
        return now

    async def stop(self) -> None:
        """Stop every sound of this call; who waits for one gets ``stopped``.

        What Asterisk speaks itself (``digits:``, ``number:``, ``characters:``) it cannot stop: that is heard
        to its end, and the log says so.
        """
        for playback, media in list(self._playing.items()):
            waiting = self._waits.get(playback)
            if waiting is not None and not waiting[0].done():
                waiting[0].set_result("stopped")
            self._check("stop")
            await self._end_sound(playback, media)
        if self._leg is not None:
            self._leg.clear()

    async def _stop_sounds(self, *, tones: bool = False) -> None:
        """Stop what can be stopped of all that plays, or only the tones, which never end."""
        for playback, media in [] if self._is_gone else list(self._playing.items()):
            if not tones or _is_tone(media):
                await self._end_sound(playback, media)

    async def _until_quiet(self, op: str, *, at_once: bool = False, leaving: bool = False) -> None:
        """Wait until nothing plays any more; tones are stopped, ``at_once`` all that can be stopped. What
        plays in a bridge counts when the call is ``leaving`` it.

        Asterisk answers, bridges and sets a variable of a channel only when its sounds have ended (measured).
        Waiting for its answer would occupy a connection that other calls need.
        """
        await self._stop_sounds(tones=not at_once)
        while not self._quiet.is_set() and (leaving or self._bridge is None):  # else it holds up nothing
            await self._through(self._until_told_quiet(), op)
            if not self._quiet.is_set():
                await self._look_for_silence()
        self._check(op)

    async def _until_told_quiet(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_AGAIN):
                await self._quiet.wait()

    async def _look_for_silence(self) -> None:
        """Asterisk does not tell the end of each sound (facts G6), and events can be lost."""
        for playback in list(self._sounding):
            if (await self._hub.ask(requests.playback(playback))).status == 404:
                self._silent(playback)

    def _silent(self, playback: str) -> None:
        """A sound is over, or never began."""
        self._sounding.discard(playback)
        self._resolve(playback, "done")
        if not self._sounding:
            self._quiet.set()

    async def _end_sound(self, playback: str, media: list[str]) -> None:
        """Have Asterisk end a sound; nothing happens when it is over. What it cannot stop goes to the log."""
        if all(uri.partition(":")[0] in SPOKEN for uri in media):
            answer = await self._hub.ask(requests.stop_playback(playback))
        else:
            answer = await stop_playback(self._hub.ask, playback)
        if answer.status == 404:
            self._silent(playback)
        elif answer.status >= 300 and not self._is_gone:
            log.warning("call %s: Asterisk does not stop %s: %s", self.id, ", ".join(media), answer.message)

    # --- digits -----------------------------------------------------------------------------------------

    async def listen_dtmf(
        self, max_digits: int = 1, timeout: float = 5.0, *, terminator: str = "#", flush: bool = False
    ) -> Collected:
        """Digits the caller pressed: at most ``max_digits``, ended early by ``terminator``.

        ``timeout`` is in seconds, to the first digit and between digits. Digits pressed before count
        (``flush=True`` forgets them). The result is a str with ``ended_by``: max, terminator or timeout.
        Raises CallEnded at once when the caller hangs up.
        """
        self._check("listen_dtmf")
        if self._collecting is not None:
            raise CallError(
                "listen_dtmf is waiting already", call=self.id, hint="one at a time for each call"
            )
        if flush:
            self._digits.clear()
        collector = Collector(max_digits, terminator)
        while self._digits:
            done = collector.feed(self._digits.take())
            if done is not None:
                return done
        future = self._expect("digits", "listen_dtmf")
        self._collecting = (collector, future)
        try:
            self._pressed = self._loop.time()
            while True:
                rest = self._pressed + timeout - self._loop.time()
                finished, _ = await asyncio.wait([future], timeout=max(rest, 0.0))
                if finished:
                    result: Collected = future.result()
                    return result
                if self._pressed + timeout <= self._loop.time():
                    return collector.give_up("timeout")
        finally:
            self._collecting = None
            self._waits.pop("digits", None)

    async def send_dtmf(self, digits: str, *, between: int = 100, duration: int = 100) -> None:
        """Send digits to the other side; ``between`` and ``duration`` in milliseconds. Returns when they have
        been sent; ``w`` is a pause of half a second, ``W`` of a second."""
        await self._command(requests.dtmf(self.id, digits, between=between, duration=duration), "send_dtmf")
        pauses = digits.count("w") * 0.5 + digits.count("W")
        keys = len(digits) - digits.count("w") - digits.count("W")
        await self._through(asyncio.sleep(pauses + keys * (between + duration) / 1000), "send_dtmf")

    def on_dtmf(self, callback: "Callable[[str], object]") -> "Callable[[str], object]":
        """Call it with every digit that is pressed, beside ``listen_dtmf``; sync or async."""
        self._digit_hooks.append(callback)
        return callback

    def _digit(self, digit: str) -> None:
        if self._barge is not None:
            self._barge.set()
        for hook in self._digit_hooks:
            self._run_hook(partial(hook, digit))
        if self._collecting is None or self._collecting[0].done is not None:
            self._digits.feed(digit)
            return
        collector, future = self._collecting
        self._pressed = self._loop.time()
        done = collector.feed(digit)
        if done is not None and not future.done():
            future.set_result(done)

    # --- state of the line ------------------------------------------------------------------------------

    async def ring(self) -> None:
        """Let the caller hear ringing, before the call is answered."""
        await self._command(requests.ring(self.id), "ring")

    async def ring_stop(self) -> None:
        await self._command(requests.ring_stop(self.id), "ring_stop")

    async def hold(self, moh_class: str | None = None) -> None:
        """Music on hold for the other side; ``moh_class`` is a class of musiconhold.conf."""
        await self._command(requests.moh_start(self.id, moh_class), "hold")
        self._held = True

    async def unhold(self) -> None:
        await self._command(requests.moh_stop(self.id), "unhold")
        self._held = False

    async def mute(self, direction: str = "both") -> None:
        """Silence what comes from (``in``), goes to (``out``) the other side, or ``both``."""
        await self._command(requests.mute(self.id, direction), "mute")

    async def unmute(self, direction: str = "both") -> None:
        await self._command(requests.unmute(self.id, direction), "unmute")

    async def get_variable(self, name: str) -> str:
        """A channel variable or function; "" when it is not set."""
        answer = await self._command(requests.get_variable(self.id, name), "get_variable", unless=_NOT_SET)
        return "" if answer.status == 404 else str(answer.body["value"])

    async def set_variable(self, name: str, value: object) -> None:
        """Set a channel variable; values become strings as in ``originate``.

        It is set when the sounds of the call have ended; a tone is stopped for it. Before Asterisk 20.20 and
        22.10 this returns a moment before it is set.
        """
        ((key, text),) = requests.variables({name: value}).items()
        await self._until_quiet("set_variable")
        await self._command(requests.set_variable(self.id, key, text), "set_variable")

    # --- leaving ----------------------------------------------------------------------------------------

    async def continue_in_dialplan(self, context: str, extension: str = "s", priority: int = 1) -> None:
        """Hand the call to the dialplan; the session lives on until the call is really over.

        Raises CallError when the dialplan has no such place: the caller stays. A sound that plays is heard to
        its end first, a tone is stopped; the leg of its sound is closed. When the dialplan brings the call
        back into this app, the handler that still has it goes on with it, else it is handled anew; in another
        tenant's app it becomes a call of that tenant, and this session is over.
        """
        outbound = self.direction is Direction.OUTBOUND
        await self._go_on(context, extension, priority, attended=None if outbound else self.attended)

    async def _go_on(
        self, context: str, extension: str, priority: int = 1, *, attended: bool | None = True
    ) -> None:
        """Send it into the dialplan. ``attended`` says whether somebody waits for it to come back."""
        op = "continue_in_dialplan"
        request = requests.continue_in_dialplan(self.id, context, extension, priority)
        self._check(op)
        self._must_be_alone(op)
        if not await self._hub.exists(self.id, context, extension, priority):
            await self._unless_gone(op)
            place = f"{context},{extension},{priority}"
            raise CallError(f"the dialplan has no {place}", call=self.id, hint="dialplan show")
        await self._until_quiet(op, leaving=True)
        before = self.attended, self._doing
        self._check(op)
        self._tell(lifecycle.Continue())
        self._home.clear()
        # Before the command: the call may be back before its answer is.
        self._left, self._doing, self.attended = self._visits, CallState.TRANSFERRING, bool(attended)
        try:
            await self._command(request, op)
        except BaseException as exc:
            self._home.set()
            self.attended, self._doing = before
            refused = isinstance(exc, AriError) and not isinstance(exc, AriUnreachable)
            # Without an answer it may have gone: look where it is.
            self._tell(lifecycle.Stayed() if refused else lifecycle.Doubted())
            raise
        self._hub.journal.write("transferred", self.told, to=f"{context},{extension}")
        if self._left == self._visits:  # else it is back already, and may have new media
            self._leave_media()

    async def transfer_to_queue(
        self,
        queue: str,
        metadata: Mapping[str, object] | None = None,
        *,
        variables: Mapping[str, object] | None = None,
        wait: bool = True,
    ) -> Queued:
        """Put the caller into a queue of the tenant: ``support`` or ``acme-support``.

        Raises QueueUnknown when Asterisk has no such queue: the caller stays. ``variables`` are set first.
        ``metadata`` is what the agent should know: ``{"intent": "billing"}`` is ``${VOXTRA_INTENT}`` on this
        channel and on the agent's, always as text. Raises UsageFault for a key that cannot be a variable.
        Waits until the call is over, so that a handler may end with ``hangup()``, or back in the app, when a
        dialplan of your own brings it there; ``wait=False`` returns when the caller is in the queue. The
        status is also in ``queue_status`` and in the event call_ended.
        """
        # With __ every channel that is made for this one has it too.
        told = {f"__VOXTRA_{key}".upper(): str(value) for key, value in (metadata or {}).items()}
        known = requests.variables({**told, **(variables or {})})
        context, extension = await self._queue(queue)
        for name, value in known.items():
            await self.set_variable(name, value)
        self._enter(queue)
        try:
            await self._go_on(context, extension, attended=wait or self.direction is Direction.INBOUND)
        except BaseException:
            self._entered = ""
            raise
        if not wait:
            return Queued(queue, "")
        await self._home.wait()
        self._touched = self._visits
        return Queued(queue, self.queue_status or "")

    def _enter(self, queue: str) -> None:
        self._entered, self._queue_answered, self.queue_status = queue, False, None

    @property
    def queue_left(self) -> str | None:
        """How the queue was left, as far as that is known: what Asterisk said, else what was seen."""
        if not self._entered:
            return None
        return self.queue_status or ("ANSWERED" if self._queue_answered else "ABANDONED")

    async def _queue(self, queue: str) -> tuple[str, str]:
        """Context and extension of a queue; which part of acme-uk-support is the slug, Asterisk knows."""
        parts = queue.split("-")
        slugs = [self.tenant] if self.tenant else [self.app.removeprefix("voxtra-")]
        slugs += ["-".join(parts[:n]) for n in range(1, len(parts))] if not self.tenant else []
        for slug in slugs:
            if not slug or not naming.SLUG.fullmatch(slug):
                continue
            context = naming.queues_context(slug)
            if _WORD.issuperset(queue) and await self._hub.exists(self.id, context, queue):
                return context, queue
        await self._unless_gone("transfer_to_queue")
        raise QueueUnknown(
            f"there is no queue {queue!r} here", call=self.id, hint="is it in the document, and pushed?"
        )

    async def transfer(self, to: str, *, timeout: float = 30.0, context: str | None = None) -> Ended:
        """Connect the caller to a number (over the tenant's outbound rules) or an endpoint
        (``PJSIP/agent1``).

        The caller hears ringing meanwhile. Raises OriginateFailed when nobody answers: the caller stays.
        Returns when one side has hung up; both legs are ended then.
        """
        self._check("transfer")
        self._must_be_alone("transfer")
        await (self.play_tone("ring") if self.is_up else self.ring())
        self._doing = CallState.TRANSFERRING
        try:
            other = await self.consult(to, timeout=timeout, context=context)
        except BaseException:
            if self._with is None:  # another transfer was quicker
                self._doing = None
            await self._stop_sounds(tones=True)
            raise
        self._hub.journal.write("transferred", self.told, to=to)
        try:
            return await self.bridge_with(other)
        except BaseException:
            other.refuse("normal")
            raise

    transfer_to = transfer

    async def consult(self, to: str, *, timeout: float = 30.0, context: str | None = None) -> "CallSession":
        """Call somebody while the caller waits, with whatever sound you play: the first half of an attended
        transfer; the second is ``bridge_with``. The new call ends with this one until they are bridged."""
        self._check("consult")
        endpoint = to
        if "/" not in to:
            requests.dialled_number(to)
            where = context or (naming.outbound_context(self.tenant) if self.tenant else None)
            if where is None:
                raise UsageFault(
                    "transfer to a number needs a context", hint='transfer("+265…", context="…")'
                )
            if not await self._hub.exists(self.id, where, to):
                await self._unless_gone("consult")
                raise CallError(
                    f"{where} does not let this call dial {to}", call=self.id, hint="outbound.allow"
                )
            endpoint = f"Local/{to}@{where}/n"
        ringing = self._taker.call(
            endpoint, caller_id=self.caller_number or None, timeout=timeout, hub=self._hub
        )
        other = await self._through(ringing, "consult", left=_refuse)
        if self._is_gone:  # both happened before we came to know
            other.refuse("normal")
            raise CallEnded("consult", call=self.id)
        self._consulted.append(other)
        return other

    async def bridge_with(self, other: "CallSession") -> Ended:
        """Let both hear each other until one hangs up; the other is ended too. Returns the end of this
        call.

        Sounds and music on hold of both are stopped. Raises CallError when the other call is over, or was
        not answered yet, or one of the two is connected already: this one stays. Until it returns, neither
        goes into the dialplan or has its sound opened. Who gives up waiting has this call as it was before,
        and the other too.
        """
        op = "bridge_with"
        self._check(op)
        if other._is_gone or other._is_coming:
            raise self._not_here(other)
        self._must_be_alone(op)
        other._must_be_alone(op)
        self._with, other._with = other, self
        try:
            return await self._connected(other, op)
        finally:
            self._with = other._with = None

    async def _connected(self, other: "CallSession", op: str) -> Ended:
        """Connect both, and wait until one hangs up."""
        await self.answer()
        try:
            for call in (self, other):
                await call._until_quiet(op, at_once=True)
                if call._held:
                    await call.unhold()
            bridge = await self._hub.open_bridge(self.id, [self.id, other.id])
        except (AriError, CallEnded) as exc:
            await self._unless_gone(op, exc)
            try:
                await other._unless_gone(op, exc)
            except CallEnded:
                raise self._not_here(other) from exc
            raise
        self._doing = other._doing = CallState.IN_PROGRESS
        ends = [asyncio.ensure_future(self.wait_ended()), asyncio.ensure_future(other.wait_ended())]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            await asyncio.shield(self._background(self._apart(bridge, other)))
            raise
        finally:
            for end in ends:
                end.cancel()
        self._background(self._hub.remove_aux(bridge))
        await other.hangup()
        await self.hangup()
        return await self.wait_ended()

    def _must_be_alone(self, op: str) -> None:
        """Raises CallError for what would take it away from who it is connected with, and leave that one
        alone."""
        if self._with is not None:
            raise CallError(
                f"{op}: the call is connected with another call, {self._with.id}",
                call=self.id,
                hint="cancel that bridge_with or transfer first; snoop() and record_start() listen in",
            )

    def _not_here(self, other: "CallSession") -> CallError:
        what = "was not answered yet" if other._is_coming and not other._is_gone else "is over"
        return CallError(f"bridge_with: the other call, {other.id}, {what}", call=self.id)

    async def _apart(self, bridge: str, other: "CallSession") -> None:
        """Both as they were before they were connected, each in the bridge of its own media if it has one."""
        await self._hub.remove_aux(bridge)
        for call in (self, other):
            if not call._is_gone:
                call._doing = None
                if call._bridge is not None:
                    await call._command(requests.add_to_bridge(call._bridge, [call.id]), "bridge_with")

    async def _joined(self, op: str, channels: Sequence[str]) -> str:
        """A bridge of our own with these channels. Raises CallEnded when the caller is gone meanwhile."""
        try:
            return await self._hub.open_bridge(self.id, channels)
        except AriError as exc:
            await self._unless_gone(op, exc)
            raise

    # --- recording --------------------------------------------------------------------------------------

    async def record_start(
        self,
        name: str = "",
        fmt: str = "wav",
        *,
        direction: str = "both",
        max_seconds: int = 0,
        beep: bool = False,
        sink: "Callable[[bytes], object] | None" = None,
    ) -> str:
        """Record the call beside whatever else happens to it; returns the recording's name.

        A recording without ``name`` gets one of its own; ``fmt`` is a file format of Asterisk's (wav, gsm).
        The recorder listens in on a channel of its own: on the call itself no sound would play meanwhile
        (facts G6). ``direction``: both, in, out. ``sink`` gets the sound as 16-bit PCM (8 kHz mono) instead
        of a file.
        """
        self._check("record_start")
        name = name or f"{self.tenant or 'call'}-{self.id}-{self._recordings_begun}"
        if name in self._recordings:
            raise MediaFailed(f"{name} is being recorded already", call=self.id)
        if direction not in ("both", "in", "out"):
            raise UsageFault(f"record_start takes the direction both, in or out, not {direction!r}")
        self._recordings_begun += 1
        future: asyncio.Future[Recorded] = self._loop.create_future()
        future.add_done_callback(_taken)
        self._recordings[name] = recording = _Recording(fmt, future)  # the name is taken from now on
        try:
            if sink is not None:
                leg = await self.snoop(direction, rate=8000)
                done = asyncio.ensure_future(self._feed_sink(name, leg, sink))
                done.add_done_callback(_taken)
                self._recordings[name] = _Recording("pcm", done, leg=leg)
            else:
                await self._record(name, recording, direction, max_seconds, beep=beep)
        except BaseException:
            self._recordings.pop(name, None)
            raise
        return name

    async def _record(
        self, name: str, recording: _Recording, direction: str, max_seconds: int, *, beep: bool
    ) -> None:
        """Have Asterisk record into a file, on a channel that listens in."""
        snooped = await self._snooped(direction, "record_start")
        self._recordings[name] = recording._replace(channel=snooped)
        request = requests.record(
            snooped, name, recording.format, max_duration=max_seconds, if_exists="fail", beep=beep
        )
        try:
            answer = await self._hub.ask(request)
        except BaseException:
            self._background(self._hub.remove_aux(snooped))
            raise
        if answer.status >= 300:
            await self._hub.remove_aux(snooped)
            await self._unless_gone("record_start")
            raise MediaFailed(
                f"Asterisk does not record {name}: {answer.message}",
                call=self.id,
                hint="is the name taken? does its folder exist, and may Asterisk write there?",
            )

    async def record_stop(self, name: str | None = None) -> Recorded:
        """End a recording (the last one begun) and return it when Asterisk has written it."""
        if name is None:
            name = next(reversed(self._recordings), None)
        if name is None or name not in self._recordings:
            raise MediaFailed("nothing is being recorded", call=self.id)
        recording = self._recordings.pop(name)
        try:
            if recording.leg is not None:
                await recording.leg.close()
            elif not recording.done.done():
                self._stopping[name] = recording
                await self._hub.ask(requests.stop_recording(name))
            async with asyncio.timeout(10.0):
                return await recording.done
        except TimeoutError:
            raise MediaFailed(f"Asterisk did not end the recording {name}", call=self.id) from None
        finally:
            self._stopping.pop(name, None)
            if recording.channel is not None:
                await self._hub.remove_aux(recording.channel)

    async def _feed_sink(self, name: str, leg: "Leg", sink: "Callable[[bytes], object]") -> Recorded:
        """Hand every piece of sound to the sink; an async one is waited for."""
        count = 0
        async for pcm in leg:
            count += len(pcm)
            told = sink(pcm)
            if inspect.isawaitable(told):
                await told
        return Recorded(name, "pcm", count / 2 / leg.rate)

    # --- sound in our hands -----------------------------------------------------------------------------

    def audio_stream(self, rate: int = 16000) -> "AudioStream":
        """The call's sound in and out: ``leg = await call.audio_stream()``, or ``async for pcm in`` it.

        16-bit little endian mono PCM at 8000, 16000, 24000 or 48000 Hz. The leg stays open until the
        call ends or ``leg.close()``; one for each call. Raises MediaFailed.
        """
        return AudioStream(self, rate)

    async def send_audio(self, pcm: bytes) -> None:
        """Play PCM at the rate of ``audio_stream`` (16000 Hz without one); waits while much is queued."""
        leg = self._leg or await self.open_leg(16000)
        await leg.send(pcm)

    async def open_leg(self, rate: int) -> "Leg":
        """The media leg of this call, opened when there is none."""
        async with self._leg_lock:
            if self._leg is not None and not self._leg.closed:
                if self._leg.rate != rate:
                    raise MediaFailed(
                        f"the call's sound is open at {self._leg.rate} Hz",
                        call=self.id,
                        hint="close that leg first",
                    )
                return self._leg
            channel, leg = await self._media(rate, "audio_stream")
            try:
                bridge = await self._own_bridge()
                await self._command(requests.add_to_bridge(bridge, [channel]), "audio_stream")
            except BaseException:
                await leg.close()
                raise
            leg.on_close(partial(self._leg_closed, leg))
            self._leg = leg
            return leg

    async def snoop(self, spy: str = "both", *, rate: int = 8000) -> "Leg":
        """Listen in: a leg that hears the other side (``in``), what it is played (``out``) or ``both``."""
        snooped = await self._snooped(spy, "snoop")
        try:
            channel, leg = await self._media(rate, "snoop")
            try:
                bridge = await self._joined("snoop", [snooped, channel])
            except BaseException:
                await leg.close()
                raise
        except BaseException:
            self._background(self._hub.remove_aux(snooped))
            raise
        self._legs.append(leg)
        leg.on_close(partial(self._unsnooped, leg, snooped, bridge))
        return leg

    async def _snooped(self, spy: str, op: str) -> str:
        """A channel of our own that listens in."""
        return await self._aux(partial(requests.snoop, self.id, app=self.app, spy=cast("Any", spy)), op)

    def _unsnooped(self, leg: "Leg", snooped: str, bridge: str, why: str) -> None:
        """Its leg is closed: what it listened with goes too; what a call leaves, the hub removes."""
        self._legs.remove(leg)
        if not self._over.is_set():
            for aux in (snooped, bridge):
                self._background(self._hub.remove_aux(aux))

    async def _media(self, rate: int, op: str) -> tuple[str, "Leg"]:
        from voxtractl.runtime.media import open_leg

        self._check(op)
        self._taker.take_leg()
        try:
            channel, leg = await open_leg(
                self._hub,
                self.id,
                self.app,
                rate=rate,
                transport=self._taker.media,
                server=self._taker.audio_server,
                breaker=self._taker.breaker,
            )
        except BaseException:
            self._taker.give_leg()
            raise
        leg.on_close(self._taker.give_leg)
        return channel, leg

    async def _own_bridge(self) -> str:
        """The bridge of this call and its media; from then on sounds are played into it."""
        if self._bridge is None:
            self._must_be_alone("audio_stream")
            await self._until_quiet("audio_stream", at_once=True)
            self._bridge = await self._joined("audio_stream", [self.id])
        return self._bridge

    def _leg_closed(self, leg: "Leg", why: str) -> None:
        """The connection of the call's sound ended: so does the call, unless we closed it."""
        if self._leg is not leg:  # it was left behind when the call went into the dialplan
            return
        self._leg = None
        if why != "ours" and not self._over.is_set():
            kind = why.partition(":")[0]
            self._tell(lifecycle.MediaLost(cast("Any", kind if kind in ("hangup", "eof") else "error")))

    async def say(self, text: str, *, barge_in: 'bool | Literal["voice"]' = False) -> "Said":
        """Speak; returns when it has been played. With ``barge_in`` a digit ends it early, with "voice"
        speech does too, and the next ``listen`` hears it from its first word.

        Raises SpeechUnavailable when the app has no ``tts`` or it does not answer.
        """
        from voxtractl.runtime import speech

        voice = self._taker.tts
        if voice is None:
            raise SpeechUnavailable(
                "no text to speech is configured",
                call=self.id,
                hint='VoxtraApp(…, tts=PiperSpeech("voice.onnx"))',
            )
        leg = await self.open_leg(self._leg.rate if self._leg else 16000)
        stop = self._barge = asyncio.Event() if barge_in else None
        spoken = speech.VoiceBargeIn(leg.rate) if barge_in == "voice" else None
        ends: asyncio.Event | Callable[[bytes], bool] | None = stop
        if stop is not None and spoken is not None:
            ends = lambda pcm: stop.is_set() or spoken(pcm)
        try:
            said = await self._through(speech.say(leg, voice, text, barge_in=ends), "say")
        finally:
            self._barge = None
        self._heard = spoken.heard if spoken is not None and said.interrupted else b""
        return said

    async def listen(
        self, timeout: float = 10.0, *, silence: float = 0.8, most: float = 30.0
    ) -> "Transcript":
        """What the caller says: a str, "" when nobody spoke within ``timeout`` seconds.

        Ends after ``silence`` seconds of quiet, or ``most`` seconds. Raises SpeechUnavailable
        without ``stt``.
        """
        from voxtractl.runtime import speech

        ear = self._taker.stt
        if ear is None:
            raise SpeechUnavailable(
                "no speech to text is configured",
                call=self.id,
                hint="VoxtraApp(…, stt=PocketsphinxRecognizer())",
            )
        leg = await self.open_leg(self._leg.rate if self._leg else 16000)
        before, self._heard = self._heard, b""
        heard = speech.hear(leg, ear, timeout=timeout, silence=silence, most=most, before=before)
        return await self._through(heard, "listen")

    async def _through(
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
            gone = self._expect(key, op)
        except CallEnded:
            work.close()
            raise
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait([task, gone], return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                await gone
        except BaseException:
            task.add_done_callback(left or _taken)
            task.cancel()
            await asyncio.wait([task])
            raise
        finally:
            self._waits.pop(key, None)
        return await task

    # --- the hub's side ---------------------------------------------------------------------------------

    def post(self, function: Callable[..., object], *args: object) -> None:
        """Run it in the loop of this session; from the hub's loop."""
        if self._loop is self._hub.loop:
            function(*args)
        else:
            try:
                self._loop.call_soon_threadsafe(function, *args, context=self._context)
            except RuntimeError:  # the tenant's loop is closed: it was drained
                log.debug("the loop of %s is closed", self.id)

    def deliver(self, event: Any) -> None:
        """An event of this call; from the hub's loop."""
        self.post(self._read, event)

    def _read(self, event: Any) -> None:
        match event["type"]:
            case "ChannelDtmfReceived":
                self._digit(event["digit"])
            case "PlaybackFinished":
                self._resolve(event["playback"]["id"], event["playback"]["state"])
                self._silent(event["playback"]["id"])
            case "RecordingFinished" | "RecordingFailed":
                self._recorded(event["recording"], failed=event["type"] == "RecordingFailed")
            case "ChannelUserevent":
                if event.get("eventname") == QUEUE_EVENT:
                    self.queue_status = event["userevent"].get("Status") or self.queue_status
            case "Dial" if event["dialstatus"] == "ANSWER":
                self._queue_answered = True

    def adopted(self) -> None:
        """Another process had it, and may have left it with a tone."""
        self.untouched = False
        tone = tone_of(self.id)
        self._sounding.add(tone)
        self._quiet.clear()
        self._background(self._end_sound(tone, ["tone:"]))

    def resync(self) -> None:
        """Events were lost with a connection: ask whether what is waited for is over."""
        if self._sounding or self._recordings or self._stopping:
            self._background(self._look_again())

    async def _look_again(self) -> None:
        await self._look_for_silence()
        for name, recording in (*self._recordings.items(), *self._stopping.items()):
            if recording.channel is not None and not recording.done.done():
                answer = await self._hub.ask(requests.recording(name))
                if answer.status == 404:
                    self._recorded({"name": name}, failed=False)

    async def _until_recorded(self) -> None:
        """What was recorded of a call that is over, but not hung up, is told to nobody any more: ask."""
        for _ in range(3):
            await asyncio.sleep(LOOK_AGAIN / 3)
            await self._look_again()

    def _recorded(self, recording: Mapping[str, Any], *, failed: bool) -> None:
        name = recording["name"]
        found = self._recordings.get(name) or self._stopping.get(name)
        if found is None or found.done.done():
            return
        if failed:
            found.done.set_exception(MediaFailed(f"{name}: {recording.get('cause', '')}", call=self.id))
        else:
            found.done.set_result(Recorded(name, found.format, float(recording.get("duration", 0))))
        if found.channel is not None and name in self._recordings:  # it ended by itself
            self._background(self._hub.remove_aux(found.channel))

    def came(self, channel: Mapping[str, Any], args: Sequence[str]) -> None:
        """It is in the app: an originated channel, for it was answered, or one that comes back."""
        self._channel = channel
        self._visits += 1
        self._doing = None
        for playback in list(self._sounding):  # in the bridge that it left
            self._silent(playback)
        self._leave_media()
        if channel["state"] == "Up":
            self._hub.answered(self)
        self._resolve("up", None)
        self._home.set()
        self.args = tuple(args) or self.args
        if self.attended is False:
            self._again()

    def _leave_media(self) -> None:
        """It has left the bridge of its media, which costs as much as in a call."""
        if self._bridge is not None:
            self._background(self._hub.remove_aux(self._bridge))
            self._bridge = None
        if self._leg is not None:
            leg, self._leg = self._leg, None
            self._background(leg.close())

    @property
    def line(self) -> str:
        """Where in the dialplan it came into the app."""
        return line_of(self._channel)

    def _again(self) -> None:
        """It is back, and nobody has it: it is handled like one that comes."""
        if self._over.is_set():
            return
        self._digit_hooks.clear()
        self._digits.clear()
        if self.args and self.args[0]:
            self.called_number = self.args[0]
        self._claim = Lock()
        self._taker.take(self)

    def gone(self) -> None:
        """The first sign that the other side is gone: every wait ends now."""
        if self._is_gone:
            return
        self._is_gone = True
        for key, (future, op) in list(self._waits.items()):
            if not future.done() and key != "up":
                future.set_exception(CallEnded(op, call=self.id))

    def over(self, ended: Ended) -> None:
        """The call is over: hooks run, each on its own."""
        self.ended = ended
        self.queue_status = self.queue_left
        self.gone()
        self._resolve("up", ended)
        for leg in (*self._legs, *([self._leg] if self._leg else [])):
            if not leg.closed:
                self._background(leg.close())
        for other in self._consulted:
            other.refuse("normal")
        if any(
            not recording.done.done() for recording in (*self._recordings.values(), *self._stopping.values())
        ):
            self._background(self._until_recorded())
        self._over.set()
        self._home.set()
        for waiting in self._ends:
            _settle(waiting)
        hooks, self._hooks = self._hooks, []
        for hook in hooks:
            self._run_hook(hook)
        self._taker.ended(self)

    def _run_hook(self, hook: Callback) -> None:
        function = hook.func if isinstance(hook, partial) else hook
        call = getattr(function, "__call__", None)  # noqa: B004  an object with an async __call__
        if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call):
            task = self._background(self._awaited(cast("Callable[[], Awaitable[object]]", hook)))
        else:
            task = self._background(self._in_thread(hook))
        self._taker.keep(task)

    async def _awaited(self, hook: Callable[[], Awaitable[object]]) -> None:
        """Called in here: one that takes other arguments must not end who runs it."""
        try:
            await hook()
        except (SystemExit, KeyboardInterrupt):  # a user's code: either would end the loop
            log.exception("a hook of call %s failed", self.id)

    async def _in_thread(self, hook: Callback) -> None:
        """Not in asyncio's own pool: six slow hooks (2 cores) would fill it, and one that never returns would
        hold the end of the process. What it returns to be awaited (``lambda: persist(call)``) is, in here."""
        done: asyncio.Future[object] = self._loop.create_future()

        def run() -> None:
            told = None
            try:
                told = hook()
            except BaseException:  # a user's code; after sys.exit() too somebody waits
                log.exception("a hook of call %s failed", self.id)
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(_settle, done, told)

        Thread(target=copy_context().run, args=(run,), name=f"hook of {self.id}", daemon=True).start()
        told = await done
        if inspect.isawaitable(told):
            await self._awaited(lambda: told)

    def refuse(self, reason: str, *, by: EndedBy = EndedBy.HANDLER) -> None:
        """End the call without waiting for it; for the app."""
        self._tell(lifecycle.HangUp(by, reason))

    def claim(self) -> bool:
        """The first who asks has the call: its handler, or the hub that gives it back. From any thread."""
        return self._claim.acquire(blocking=False)

    def came_to(self, taker: "Taker") -> bool:
        """A call in, for this taker."""
        return self._taker is taker and self.direction is Direction.INBOUND

    def finish(self) -> None:
        """The handler is done with the call; for the app."""
        self._tell(lifecycle.HandlerReturned(self._let_go()))

    def fail(self, error: BaseException) -> None:
        """The handler raised; for the app."""
        words = told(error)
        self._hub.journal.write("handler_failed", self.told, error=words)
        self._tell(lifecycle.HandlerRaised(words, self._let_go()))

    def _let_go(self) -> int:
        """The handler has the call no more; the visit that this is about. One that sent the call on, and did
        nothing with it since it is back, does not know of that: it is handled anew."""
        self.attended = False
        if not 0 < max(self._left, self._touched) == self._left < self._visits or self._over.is_set():
            return self._visits
        visit = self._left
        self._loop.call_soon(self._again)
        return visit

    def expect_up(self) -> "asyncio.Future[Ended | None]":
        """Done with None when an originated call is answered, with its end when it was not; for the app."""
        return self._expect("up", "originate")

    # --- waiting ----------------------------------------------------------------------------------------

    def _tell(self, signal: lifecycle.Signal) -> None:
        """Tell the call table, unless this session is over and another has the channel."""
        self._hub.feed(self.id, signal, of=self)

    def _check(self, op: str) -> None:
        self._touched = self._visits
        if self._is_gone:
            raise CallEnded(op, call=self.id)

    def _expect(self, key: str, op: str) -> "asyncio.Future[Any]":
        """A future that the event of this key resolves, and the end of the call too. Subscribe, then act."""
        self._check(op)
        future: asyncio.Future[Any] = self._loop.create_future()
        future.add_done_callback(_taken)
        self._waits[key] = (future, op)
        return future

    def _resolve(self, key: str, value: object) -> None:
        waiting = self._waits.get(key)
        if waiting is not None and not waiting[0].done():
            waiting[0].set_result(value)

    def _forget(self, playback: str) -> None:
        self._waits.pop(playback, None)
        self._playing.pop(playback, None)

    async def _command(self, request: Request, op: str, *, unless: str | None = None) -> Answer:
        """Asterisk's answer to a command. Raises CallEnded when the channel is gone, AriError otherwise.
        ``unless``: how Asterisk words a 404 that is an answer."""
        self._check(op)
        self.untouched = False
        answer = await self._hub.ask(request)
        if answer.status < 300 or (answer.status == 404 and answer.message == unless):
            return answer
        if answer.status == 404:
            if not self._is_gone:
                self._tell(lifecycle.Doubted())
            raise CallEnded(op, call=self.id)
        refused = self._hub.ari.refused(request, answer)
        await self._unless_gone(op, refused)
        raise refused

    async def _aux(self, build: Callable[[str], Request], op: str) -> str:
        self._check(op)
        try:
            channel = await self._hub.open_aux(self.id, build)
        except (AriError, CallError) as exc:
            await self._unless_gone(op, exc)
            raise
        return str(channel["id"])

    async def _unless_gone(self, op: str, exc: Exception | None = None) -> None:
        """Raise CallEnded when something failed because the caller is gone. Asterisk refuses with many a word
        then, some before its event of the end has come."""
        if isinstance(exc, AriUnreachable):
            return
        key = f"{op}:{uuid4().hex}"
        try:
            await asyncio.wait([self._expect(key, op)], timeout=GONE_GRACE)
        finally:
            self._waits.pop(key, None)
        self._check(op)
        if (await self._hub.ask(requests.channel(self.id))).status == 404:
            self._tell(lifecycle.Doubted())
            raise CallEnded(op, call=self.id)

    def _background(self, work: Awaitable[Any]) -> "asyncio.Future[Any]":
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: "asyncio.Future[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, CallEnded):
            log.error("something of call %s failed: %s", self.id, error, exc_info=error)


def context_of(tenant: str | None, call_id: str) -> Context:
    """Where what is done for a call runs, so that each line of the log has both."""
    context = copy_context()
    context.run(TENANT.set, tenant)
    context.run(CALL.set, call_id)
    return context


def line_of(channel: Mapping[str, Any]) -> str:
    """The line of the dialplan that it is in."""
    dialplan = channel.get("dialplan") or {}
    return f"{dialplan.get('context')},{dialplan.get('exten')},{dialplan.get('priority')}"


def tone_of(call_id: str) -> str:
    """The id of the tone that a call hears. A tone has no end, and holds up what else is done with the call:
    whoever has the call after us must be able to stop it."""
    return f"vx-tone-{call_id}"


def _is_tone(media: Sequence[str]) -> bool:
    return any(uri.startswith("tone:") for uri in media)


def _called(channel: Mapping[str, Any], args: Sequence[str]) -> str:
    """The number that was called: the Stasis argument, then the dialled number, then the extension."""
    if args and args[0]:
        return args[0]
    dialplan = channel.get("dialplan") or {}
    return str(dialplan.get("exten", ""))


def _settle(future: "asyncio.Future[Any]", result: object = None) -> None:
    if not future.done():
        future.set_result(result)


def _refuse(called: "asyncio.Future[CallSession]") -> None:
    """Nobody waits any more for who was called."""
    if not called.cancelled() and called.exception() is None:
        called.result().refuse("normal")


def _taken(future: "asyncio.Future[Any]") -> None:
    """Its exception was seen: a wait that nobody is in any more is no fault."""
    if not future.cancelled():
        future.exception()


_NOT_SET: Final = "Provided variable was not found"  # Asterisk's 404, res/ari/resource_channels.c
_WORD: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")
