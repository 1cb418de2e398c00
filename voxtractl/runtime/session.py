"""CallSession: one call as its handler has it.

Every verb sends a command and returns when it is done; every wait is bounded and ends with CallEnded when the
other side is gone. A session belongs to the event loop of its handler; the hub calls ``deliver``, ``gone``
and ``over`` there. What a verb does on Asterisk stands in its docstring.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import Context, ContextVar, copy_context
from enum import StrEnum
from functools import partial
from math import ceil, isnan
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeVar

from voxtractl import naming
from voxtractl.ari import requests
from voxtractl.errors import (
    AriError,
    AriUnreachable,
    CallEnded,
    CallError,
    OriginateFailed,
    QueueUnknown,
    SpeechUnavailable,
    UsageFault,
)
from voxtractl.runtime import hooks, lifecycle
from voxtractl.runtime.channel import Channel, seen, settle
from voxtractl.runtime.digits import Collected, Collector, TypeAhead
from voxtractl.runtime.lifecycle import Direction, Ended, EndedBy
from voxtractl.runtime.media import AudioStream, Media
from voxtractl.runtime.recordings import Recorded, Recordings
from voxtractl.runtime.sounds import SOUND_MAX, Played, Sounds
from voxtractl.runtime.wording import told

if TYPE_CHECKING:
    from voxtractl.audio.leg import Leg
    from voxtractl.runtime.hub import Hub
    from voxtractl.runtime.speech import Said, Transcript
    from voxtractl.runtime.taker import Taker

__all__ = [
    "CALL",
    "NODE",
    "TENANT",
    "CallSession",
    "CallState",
    "Queued",
    "context_of",
    "has_left_a_queue",
    "line_of",
]

log = logging.getLogger(__name__)

TENANT: Final[ContextVar[str | None]] = ContextVar("voxtractl_tenant", default=None)
CALL: Final[ContextVar[str | None]] = ContextVar("voxtractl_call", default=None)
NODE: Final[ContextVar[str | None]] = ContextVar("voxtractl_node", default=None)  # of the call

C = TypeVar("C", bound=hooks.Hook)

END_TIMEOUT: Final = 10.0  # seconds Asterisk gets to end a call before hangup() returns all the same
RING_LOOK: Final = 0.2  # seconds until a channel that was not answered yet is sent on once more
RING_LOOKS: Final = 50
# What the queues of templates/extensions tell and are told:
QUEUE_EVENT: Final = "VoxtraQueue"  # how one was left
QUEUE_BACK: Final = "VOXTRA_QUEUE_BACK"  # the worker whose handler gets back whom no agent answers, if any
QUEUE_NUMBER: Final = "VOXTRA_QUEUE_NUMBER"  # the number that was called
QUEUE_WAIT: Final = "VOXTRA_QUEUE_WAIT"  # seconds at most
QUEUE_WAIT_MAX: Final = 1e9  # seconds; Asterisk reads 32 bits of it
UP: Final = "up"  # the wait for a call out to be in the app


class CallState(StrEnum):
    """What a call is doing, in one word: of its handler's verbs, and of what the other side did."""

    RINGING = "ringing"
    ANSWERED = "answered"
    ON_HOLD = "on_hold"
    TRANSFERRING = "transferring"  # in a queue or elsewhere in the dialplan, or somebody is rung for it
    IN_PROGRESS = "in_progress"  # connected with another call
    COMPLETED = "completed"
    FAILED = "failed"  # a call out that nobody answered


class Queued(NamedTuple):
    """How a call left its queue. ``status`` is Asterisk's QUEUESTATUS (TIMEOUT, FULL, JOINEMPTY, LEAVEEMPTY
    …), ANSWERED when an agent had the call until it ended, ABANDONED when the caller hung up while
    waiting."""

    queue: str
    status: str


class CallSession:
    """``id`` is the id of the call's first channel, and as a rule its only one. ``called_number`` is the DID,
    ``caller_number`` who calls (or is called).

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
        self._context = context_of(taker.tenant, self.id, hub.journal.node)
        self.app = app
        self.args = tuple(args)
        self.direction = direction
        self.tenant = taker.tenant
        self.node = hub.journal.node
        self.line = line_of(channel)  # where in the dialplan it came into the app
        self.metadata: dict[str, Any] = {}
        self.trunk = ""  # the PJSIP endpoint it was dialled over
        self.queue_status: str | None = None
        self.ended: Ended | None = None
        caller = channel.get("caller") or {}
        self.caller_number: str = caller.get("number", "")
        self.caller_name: str = caller.get("name", "")
        told = {
            "call_id": self.id,
            "tenant": self.tenant,
            "direction": str(direction),
            "did": _called(channel, self.args),
            "caller": self.caller_number,
        }
        visits = 1 if direction is Direction.INBOUND else 0
        self._channel = Channel(hub, self._loop, self.id, told, visits=visits)
        self.is_up = channel.get("state") == "Up"
        self._sounds = Sounds(self._channel)
        self._media = Media(self._channel, self._sounds, taker, app)
        self._recordings = Recordings(self._channel, self._media, f"{self.tenant or 'call'}-{self.id}")
        self._claim = Lock()
        self._doing: CallState | None = None  # more than ringing or answered
        self._held = False  # it hears music on hold
        self._music: str | None = None  # of this class
        self._digits = TypeAhead()
        self._collecting: tuple[Collector, asyncio.Future[Collected]] | None = None
        self._pressed = 0.0  # when the last digit came, or the wait for one began, by the clock of the loop
        self._hooks: list[hooks.Hook] = []
        self._digit_hooks: list[Callable[[str], object]] = []
        self._over = asyncio.Event()
        self._home = asyncio.Event()  # in its app, or over; not while it is elsewhere in the dialplan
        self._home.set()
        # Whether somebody has it: a handler, or who called; None until it is given to one.
        self.attended: bool | None = True if direction is Direction.OUTBOUND else None
        self.refused = False  # nobody wants it any more
        self._left = 0  # the visit after which it was sent into the dialplan, the last time
        self._sent: tuple[str, Callable[[str], requests.Request], str] | None = None  # which channel, and how
        self._ends: list[asyncio.Future[None]] = []  # who waits for it in hangup()
        self._entered = ""  # the queue it is in, or was
        self._queue_answered = False
        self._barge: asyncio.Event | None = None
        self._heard = b""  # what the caller said over the last prompt
        self._consulted: list[CallSession] = []  # calls that end with this one

    def __repr__(self) -> str:
        return f"<CallSession {self.id} {self.direction} {self.caller_number} → {self.called_number}>"

    @property
    def channel_id(self) -> str:
        """Asterisk's channel that the call has now: another one when the far side has transferred the call to
        somebody else by itself (REFER)."""
        return self._channel.id

    @property
    def is_fresh(self) -> bool:
        """That channel has just got the place of another, and Asterisk may not find it yet."""
        return self._channel.is_fresh

    def has(self, channel: Channel) -> bool:
        """It is this one's; for the hub."""
        return self._channel is channel

    @property
    def told(self) -> Mapping[str, Any]:
        """What every event tells of a call."""
        return self._channel.told

    @property
    def called_number(self) -> str:
        """The DID; of a call out, the number that is called."""
        return str(self._channel.told["did"])

    @called_number.setter
    def called_number(self, number: str) -> None:
        self._channel.told["did"] = number

    @property
    def is_up(self) -> bool:
        """It was answered."""
        return self._channel.is_up

    @is_up.setter
    def is_up(self, is_up: bool) -> None:
        self._channel.is_up = is_up

    @property
    def is_gone(self) -> bool:
        """True from the first sign that the other side is gone."""
        return self._channel.is_gone

    @property
    def caller_id(self) -> str:
        """The same as ``caller_number``."""
        return self.caller_number

    @property
    def state(self) -> CallState:
        """A str too: ``call.state == "answered"``."""
        if self.is_gone:
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
            self._channel.check("answer")
            return
        if self.direction is Direction.OUTBOUND:
            await self._answered_by_them()
            return
        await self._sounds.until_quiet("answer")
        await self._channel.command(partial(requests.answer, first=self._channel.untouched), "answer")
        self._hub.answered(self)

    @property
    def _is_coming(self) -> bool:
        """A call out that is not in the app yet."""
        return self._channel.waiting(UP) is not None

    async def _answered_by_them(self) -> None:
        waiting = self._channel.waiting(UP)
        if waiting is not None:
            await asyncio.shield(waiting)
        self._channel.check("answer")

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
        self._channel.tell(lifecycle.HangUp(EndedBy.HANDLER, reason))
        # Lighter than asyncio.timeout, for each call.
        ended: asyncio.Future[None] = self._loop.create_future()
        self._ends.append(ended)
        timer = self._loop.call_later(END_TIMEOUT, settle, ended)
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
        hooks.must_be_callable("on_hangup", callback)
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
        """Play a sound file of the node (``sound:`` before its name is no part of it); returns when it has
        ended. Several: ``play("sound:a", "sound:b")``.

        ``lang`` is the language of the file, the channel's when empty. With ``wait=False`` at once. A missing
        file gives ``Played(status="failed")``, an error in the log and the event playback_failed: the caller
        stays. Raises CallEnded.
        """
        _must_be_name("play_file", sound)
        return await self._sounds.play(
            [f"sound:{sound.removeprefix('sound:')}"], "play_file", wait=wait, lang=lang
        )

    async def play_url(self, url: str, *, wait: bool = True) -> Played:
        """Play a file that Asterisk fetches by HTTP and keeps in its media cache."""
        if not url.startswith(("http://", "https://")):
            raise UsageFault(f"play_url takes http:// or https://, not {url.partition(':')[0]}:")
        return await self._sounds.play([f"sound:{url}"], "play_url", wait=wait)

    async def play_tone(self, tone: str, *, wait: bool = False) -> Played:
        """Play a tone of indications.conf (``busy``, ``ring;tonezone=fr``) or a list of tones until
        ``stop()``, or until something else is played."""
        return await self._sounds.play([f"tone:{tone}"], "play_tone", wait=wait)

    async def play(
        self, *media: str, wait: bool = True, lang: str = "", timeout: float = SOUND_MAX
    ) -> Played:
        """Play what Asterisk names by a URI: ``sound:``, ``recording:``, ``number:``, ``digits:``,
        ``tone:``. After ``timeout`` seconds it is stopped."""
        _must_be_seconds("play", timeout=timeout)
        return await self._sounds.play(list(media), "play", wait=wait, lang=lang, timeout=timeout)

    async def stop(self) -> None:
        """Stop every sound of this call; who waits for one gets ``stopped``.

        What Asterisk speaks itself (``digits:``, ``number:``, ``characters:``) it cannot stop: that is heard
        to its end, and the log says so.
        """
        await self._sounds.stop()
        self._media.clear()

    # --- digits -----------------------------------------------------------------------------------------

    async def listen_dtmf(
        self, max_digits: int = 1, timeout: float = 5.0, *, terminator: str = "#", flush: bool = False
    ) -> Collected:
        """Digits the caller pressed: at most ``max_digits``, ended early by ``terminator``.

        ``timeout`` is in seconds, to the first digit and between digits. Digits pressed before count
        (``flush=True`` forgets them), and so do those of a wait that was cancelled. The result is a str with
        ``ended_by``: max, terminator or timeout. Raises CallEnded at once when the caller hangs up.
        """
        self._channel.check("listen_dtmf")
        _must_be_seconds("listen_dtmf", timeout=timeout)
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
        future = self._channel.expect("digits", "listen_dtmf")
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
        except asyncio.CancelledError:
            self._digits.give_back(collector.fed)
            raise
        finally:
            self._collecting = None
            self._channel.forget("digits")

    async def send_dtmf(self, digits: str, *, between: int = 100, duration: int = 100) -> None:
        """Send digits to the other side; ``between`` and ``duration`` in milliseconds. Returns when they have
        been sent; ``w`` is a pause of half a second, ``W`` of a second."""
        await self._channel.command(
            partial(requests.dtmf, digits=digits, between=between, duration=duration), "send_dtmf"
        )
        pauses = digits.count("w") * 0.5 + digits.count("W")
        keys = len(digits) - digits.count("w") - digits.count("W")
        await self._channel.through(asyncio.sleep(pauses + keys * (between + duration) / 1000), "send_dtmf")

    def on_dtmf(self, callback: "Callable[[str], object]") -> "Callable[[str], object]":
        """Call it with every digit that is pressed, beside ``listen_dtmf``; sync or async."""
        hooks.must_be_callable("on_dtmf", callback)
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
        await self._in_turn(requests.ring, "ring")

    async def ring_stop(self) -> None:
        """Silence again; nothing happens when it does not ring."""
        await self._in_turn(requests.ring_stop, "ring_stop")

    async def hold(self, moh_class: str | None = None) -> None:
        """Music on hold for the other side; ``moh_class`` is a class of musiconhold.conf. A sound that is
        played meanwhile is heard in its place, and the music again when it has ended."""
        self._held, self._music = True, moh_class  # also when it is given up: Asterisk may have done it
        await self._in_turn(partial(requests.moh_start, music=moh_class), "hold")

    async def unhold(self) -> None:
        """End the music on hold; nothing happens when there is none."""
        held, self._held = self._held, False
        try:
            await self._in_turn(requests.moh_stop, "unhold")
        except BaseException:
            self._held = held
            raise

    async def _music_again(self) -> None:
        """A sound has ended, and with it the music, which Asterisk does not begin again."""
        connected = self._channel.other is not None
        if self._held and self._sounds.quiet and self._home.is_set() and not connected and not self.is_gone:
            await self._channel.in_turn(self._hub.ask(requests.moh_start(self.channel_id, self._music)))

    async def mute(self, direction: str = "both") -> None:
        """Silence what comes from (``in``), goes to (``out``) the other side, or ``both``."""
        await self._in_turn(partial(requests.mute, direction=direction), "mute")

    async def unmute(self, direction: str = "both") -> None:
        """Let it be heard again, with the words of ``mute``."""
        await self._in_turn(partial(requests.unmute, direction=direction), "unmute")

    async def _in_turn(self, build: "Callable[[str], requests.Request]", op: str) -> None:
        await self._channel.in_turn(self._channel.command(build, op))

    async def get_variable(self, name: str) -> str:
        """A channel variable or function; "" when it is not set."""
        answer = await self._channel.command(
            partial(requests.get_variable, name=name), "get_variable", unless=requests.NOT_SET
        )
        return "" if answer.status == 404 else str(answer.body["value"])

    async def set_variable(self, name: str, value: object) -> None:
        """Set a channel variable; values become strings as in ``originate``.

        It is set when the sounds of the call have ended; a tone is stopped for it. Before Asterisk 20.20 and
        22.10 this returns a moment before it is set.
        """
        ((key, text),) = requests.variables({name: value}).items()
        await self._sounds.until_quiet("set_variable")
        await self._channel.command(partial(requests.set_variable, name=key, value=text), "set_variable")

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
        self,
        context: str,
        extension: str,
        priority: int = 1,
        *,
        attended: bool | None = True,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """Send it into the dialplan. ``attended`` says whether somebody waits for it to come back;
        ``variables`` are set by who sends it, of several at once."""
        op = "continue_in_dialplan"
        build = partial(
            requests.continue_in_dialplan, context=context, extension=extension, priority=priority
        )
        build(self.channel_id)  # what cannot be asked for is told at once
        self._channel.check(op)
        self._channel.must_be_alone(op)
        if not await self._hub.places.exists(self.channel_id, context, extension, priority):
            await self._channel.unless_gone(op)
            place = f"{context},{extension},{priority}"
            raise CallError(f"the dialplan has no {place}", call=self.id, hint="dialplan show")
        await self._sounds.until_quiet(op, leaving=True)
        self._channel.check(op)
        # Who gives up does not take back a command that may be on its way: what becomes of it is known first.
        going = self._leave(build, op, f"{context},{extension}", attended=attended, variables=variables)
        leaving = asyncio.ensure_future(going)
        leaving.add_done_callback(seen)
        try:
            await asyncio.shield(leaving)
        except asyncio.CancelledError:
            await asyncio.wait([leaving])
            raise

    async def _leave(
        self,
        build: Callable[[str], requests.Request],
        op: str,
        to: str,
        *,
        attended: bool | None,
        variables: Mapping[str, str] | None,
    ) -> None:
        if not self._home.is_set():
            raise self._channel.elsewhere(op)  # another one was quicker, and waits for it
        before = self.attended, self._doing
        self._sent = None
        self._channel.tell(lifecycle.Continue())
        self._home.clear()
        # Before the command: the call may be back before its answer is.
        self._left, self._doing, self.attended = self._channel.visits, CallState.TRANSFERRING, bool(attended)
        try:
            for name, value in (variables or {}).items():
                await self._channel.command(partial(requests.set_variable, name=name, value=value), op)
            await self._send_on(build, op)
        except BaseException as exc:
            self._home.set()
            self.attended, self._doing = before
            refused = isinstance(exc, AriError) and not isinstance(exc, AriUnreachable)
            # Without an answer it may have gone: look where it is.
            self._channel.tell(lifecycle.Stayed() if refused else lifecycle.Doubted())
            raise
        self._channel.write("transferred", to=to)
        if self._left == self._channel.visits:  # else it is back already, and may have new media
            self._media.left()

    async def _send_on(self, build: Callable[[str], requests.Request], op: str) -> None:
        """Of two channels, when one gets the place of the other meanwhile (REFER), the later one too."""
        to = ""
        self._sent = None

        def noted(channel: str) -> requests.Request:
            nonlocal to
            to = channel
            return build(channel)

        looks = 0
        while to != self.channel_id:
            try:
                await self._channel.command(noted, op)
            except AriError as exc:  # 412: whom the far side has named still rings
                looks += 1
                if exc.status != 412 or looks > RING_LOOKS:
                    raise
                to = ""
                await asyncio.sleep(RING_LOOK)
        self._sent = to, build, op

    @property
    def was_sent_on(self) -> bool:
        """Asterisk has obeyed the command that sends it into the dialplan, the last one."""
        return self._sent is not None

    def left_behind(self) -> None:
        """Another channel got its place while it was sent into the dialplan, and is still in the app."""
        if self._sent is not None and self._sent[0] != self.channel_id:
            self._channel.background(self._send_after(*self._sent[1:]))

    async def _send_after(self, build: Callable[[str], requests.Request], op: str) -> None:
        try:
            await self._send_on(build, op)
        except AriError:
            self.refuse("normal")  # nobody has it, here or there
            raise

    async def transfer_to_queue(
        self,
        queue: str,
        metadata: Mapping[str, object] | None = None,
        *,
        variables: Mapping[str, object] | None = None,
        timeout: float | None = None,
        wait: bool = True,
    ) -> Queued:
        """Put the caller into a queue of the tenant: ``support`` or ``acme-support``.

        Raises QueueUnknown when Asterisk has no such queue: the caller stays. ``variables`` are set first.
        ``metadata`` is what the agent should know: ``{"intent": "billing"}`` is ``${VOXTRA_INTENT}`` on this
        channel and on the agent's, always as text. Raises UsageFault for a key that cannot be a variable.

        Waits until the call is over, so that a handler may end with ``hangup()``, or until the caller is back
        because no agent answered: the queue is full, ``timeout`` seconds have passed (None: no limit), or
        whatever ends a wait in it. The handler goes on with the call then. ``wait=False`` returns when the
        caller is in the queue, and a caller whom no agent answers is hung up. The status is also in
        ``queue_status`` and in the event call_ended.
        """
        if timeout is not None:
            _must_be_seconds("transfer_to_queue", timeout=timeout)
        self._channel.must_be_here("transfer_to_queue")
        # With __ every channel that is made for this one has it too.
        told = {f"__VOXTRA_{key}".upper(): str(value) for key, value in (metadata or {}).items()}
        known = requests.variables({**told, **(variables or {})})
        limit = "" if timeout is None or timeout > QUEUE_WAIT_MAX else ceil(max(timeout, 1))
        how = {
            QUEUE_WAIT: limit,
            QUEUE_BACK: _worker(self.app) if wait else "",
            QUEUE_NUMBER: self.called_number,
        }
        context, extension = await self._queue(queue)
        for name, value in known.items():
            await self.set_variable(name, value)
        self._enter(queue)
        try:
            attended = wait or self.direction is Direction.INBOUND
            await self._go_on(context, extension, attended=attended, variables=requests.variables(how))
        except BaseException:
            if self._doing is not CallState.TRANSFERRING:  # else it is there, and the wait was given up
                self._entered = ""
            raise
        if not wait:
            return Queued(queue, "")
        await self._home.wait()
        self._channel.touched = self._channel.visits
        if self.queue_status is None and has_left_a_queue(self.line):  # it was told while nobody heard it
            with suppress(CallEnded):
                self.queue_status = await self.get_variable("QUEUESTATUS") or None
        return Queued(queue, self.queue_status or "")

    def _enter(self, queue: str) -> None:
        self._entered, self._queue_answered, self.queue_status = queue, False, None

    @property
    def queue_left(self) -> str | None:
        """How the queue was left, as far as that is known: what Asterisk said, else what was seen. None when
        none was entered, or the caller waits in it."""
        if not self.is_gone and not self._home.is_set() and not self._queue_answered:
            return self.queue_status
        return self.queue_end()

    def queue_end(self) -> str | None:
        """How the queue was left by a call that is over; for the hub."""
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
            if _WORD.issuperset(queue) and await self._hub.places.exists(self.channel_id, context, queue):
                return context, queue
        await self._channel.unless_gone("transfer_to_queue")
        raise QueueUnknown(
            f"there is no queue {queue!r} here", call=self.id, hint="is it in the document, and pushed?"
        )

    async def transfer(self, to: str, *, timeout: float = 30.0, context: str | None = None) -> Ended:
        """Connect the caller to a number (over the tenant's outbound rules) or an endpoint
        (``PJSIP/agent1``).

        The caller hears ringing meanwhile. Raises OriginateFailed when nobody answers, or who answered is
        gone before they are connected (``failed``, with the cause of that end): the caller stays. Returns
        when one side has hung up; both legs are ended then.
        """
        self._channel.check("transfer")
        self._channel.must_be_alone("transfer")
        self._channel.must_be_here("transfer")
        await (self.play_tone("ring") if self.is_up else self.ring())
        self._doing = CallState.TRANSFERRING
        try:
            other = await self.consult(to, timeout=timeout, context=context)
            return await self._connect(other, to)
        except BaseException:
            if self._channel.other is None:  # another transfer was quicker
                self._doing = None
            await self._sounds.stop_tones()
            raise

    async def _connect(self, other: "CallSession", to: str) -> Ended:
        """The second half of a transfer."""
        try:
            if not other.is_gone:
                self._channel.write("transferred", to=to)
            return await self.bridge_with(other)
        except BaseException as exc:
            other.refuse("normal")
            if not isinstance(exc, CallError) or self.is_gone or not other.is_gone:
                raise
            ended = await self._channel.through(other.wait_ended(), "transfer")
            raise OriginateFailed(
                f"{to} answered, and was gone before it was connected",
                disposition="failed",
                cause=ended.cause,
                tech_cause=ended.tech_cause,
                call=other.id,
            ) from exc

    transfer_to = transfer

    async def consult(self, to: str, *, timeout: float = 30.0, context: str | None = None) -> "CallSession":
        """Call somebody while the caller waits, with whatever sound you play: the first half of an attended
        transfer; the second is ``bridge_with``. The new call ends with this one until they are bridged."""
        self._channel.check("consult")
        endpoint = to
        if "/" not in to:
            requests.dialled_number(to)
            where = context or (naming.outbound_context(self.tenant) if self.tenant else None)
            if where is None:
                raise UsageFault(
                    "transfer to a number needs a context", hint='transfer("+265…", context="…")'
                )
            if not await self._hub.places.exists(self.channel_id, where, to):
                await self._channel.unless_gone("consult")
                raise CallError(
                    f"{where} does not let this call dial {to}", call=self.id, hint="outbound.allow"
                )
            endpoint = f"Local/{to}@{where}/n"
        ringing = self._taker.call(
            endpoint, caller_id=self.caller_number or None, timeout=timeout, hub=self._hub
        )
        other = await self._channel.through(ringing, "consult", left=_refuse)
        if self.is_gone:  # both happened before we came to know
            other.refuse("normal")
            raise CallEnded("consult", call=self.id)
        self._consulted.append(other)
        return other

    async def bridge_with(self, other: "CallSession") -> Ended:
        """Let both hear each other until one hangs up; the other is ended too. Returns the end of this
        call.

        Sounds and music on hold of both are stopped. Raises CallError when the other call is over, or was
        not answered yet, or is at another node, or one of the two is connected already: this one stays. Until
        it returns, neither goes into the dialplan or has its sound opened. Who gives up waiting has this call
        as it was before, and the other too.
        """
        op = "bridge_with"
        self._channel.check(op)
        if other.is_gone or other._is_coming or other is self or other._hub is not self._hub:
            raise self._not_here(other)
        for channel in (self._channel, other._channel):
            channel.must_be_alone(op)
            channel.must_be_here(op)
        one, two = self._channel, other._channel
        one.other, two.other = two, one
        try:
            return await self._connected(other, op)
        finally:
            one.other = two.other = None

    async def _connected(self, other: "CallSession", op: str) -> Ended:
        """Connect both, and wait until one hangs up."""
        await self.answer()
        try:
            for call in (self, other):
                await call._sounds.until_quiet(op, at_once=True)
                if call._held:
                    await call.unhold()
            bridge = await self._until_one_ends(other)
        except (AriError, CallEnded) as exc:
            await self._channel.unless_gone(op, exc)
            try:
                await other._channel.unless_gone(op, exc)
            except CallEnded:
                raise self._not_here(other) from exc
            raise
        self._channel.remove(bridge)
        await other.hangup()
        await self.hangup()
        return await self.wait_ended()

    async def _until_one_ends(self, other: "CallSession") -> str:
        """Both in a bridge until one hangs up; returns it. When that fails, or is given up, both are as they
        were."""
        both = self._channel.open_bridge("bridge_with", [self._channel, other._channel])
        joining = asyncio.ensure_future(both)
        ends = [asyncio.ensure_future(self.wait_ended()), asyncio.ensure_future(other.wait_ended())]
        try:
            bridge = await asyncio.shield(joining)
            self._doing = other._doing = CallState.IN_PROGRESS
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            await asyncio.wait([self._channel.background(self._apart(joining, other))])
            raise
        finally:
            for end in ends:
                end.cancel()
        return bridge

    def _not_here(self, other: "CallSession") -> CallError:
        if other is self:
            what = "is this one"
        elif other._hub is not self._hub:
            what = f"is at the node {other.node}, this one at {self.node}"
        elif other._is_coming and not other.is_gone:
            what = "was not answered yet"
        else:
            what = "is over"
        return CallError(f"bridge_with: the other call, {other.id}, {what}", call=self.id)

    async def _apart(self, joining: "asyncio.Future[str]", other: "CallSession") -> None:
        """Both as they were before they were connected, each in the bridge of its own media if it has one.

        They leave their common bridge before it ends: Asterisk may lose a call that is put elsewhere while it
        leaves a bridge that has ended (2 of 200).
        """
        await asyncio.wait([joining])
        try:
            for call in (self, other):
                call._doing = None
                own = call._channel.bridge
                if own is not None and not call.is_gone:
                    with suppress(CallEnded):
                        await call._channel.command(partial(_into, own), "bridge_with")
        finally:
            with suppress(AriError, CallEnded):  # then there is none
                await self._hub.aux.remove(joining.result())

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
        (measured). ``direction``: both, in, out. ``sink`` gets the sound as 16-bit PCM (8 kHz mono) instead
        of a file.
        """
        return await self._recordings.start(
            name, fmt, direction=direction, max_seconds=max_seconds, beep=beep, sink=sink
        )

    async def record_stop(self, name: str | None = None) -> Recorded:
        """End a recording (the last one begun) and return it when Asterisk has written it."""
        return await self._recordings.stop(name)

    # --- sound in our hands -----------------------------------------------------------------------------

    def audio_stream(self, rate: int = 16000) -> AudioStream:
        """The call's sound in and out: ``leg = await call.audio_stream()``, or ``async for pcm in`` it.

        16-bit little endian mono PCM at 8000, 16000, 24000 or 48000 Hz. The leg stays open until the
        call ends or ``leg.close()``; one for each call. Raises MediaFailed.
        """
        return AudioStream(partial(self.open_leg, rate))

    async def send_audio(self, pcm: bytes) -> None:
        """Play PCM at the rate of ``audio_stream`` (16000 Hz without one); waits while much is queued."""
        await (await self._media.leg()).send(pcm)

    async def open_leg(self, rate: int) -> "Leg":
        """The media leg of this call, opened when there is none."""
        return await self._media.leg(rate)

    async def snoop(self, spy: str = "both", *, rate: int = 8000) -> "Leg":
        """Listen in: a leg that hears the other side (``in``), what it is played (``out``) or ``both``."""
        return await self._media.snoop(spy, rate=rate)

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
        leg = await self._media.leg()
        stop = self._barge = asyncio.Event() if barge_in else None
        spoken = speech.VoiceBargeIn(leg.rate) if barge_in == "voice" else None
        ends: asyncio.Event | Callable[[bytes], bool] | None = stop
        if stop is not None and spoken is not None:
            ends = lambda pcm: stop.is_set() or spoken(pcm)
        try:
            said = await self._channel.through(speech.say(leg, voice, text, barge_in=ends), "say")
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

        _must_be_seconds("listen", timeout=timeout, silence=silence, most=most)
        ear = self._taker.stt
        if ear is None:
            raise SpeechUnavailable(
                "no speech to text is configured",
                call=self.id,
                hint="VoxtraApp(…, stt=PocketsphinxRecognizer())",
            )
        leg = await self._media.leg()
        before, self._heard = self._heard, b""
        heard = speech.hear(leg, ear, timeout=timeout, silence=silence, most=most, before=before)
        return await self._channel.through(heard, "listen")

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
                self._sounds.finished(event["playback"]["id"], event["playback"]["state"])
                if self._held:
                    self._channel.background(self._music_again())
            case "RecordingFinished" | "RecordingFailed":
                self._recordings.finished(event["recording"], failed=event["type"] == "RecordingFailed")
            case "ChannelUserevent":
                if event.get("eventname") == QUEUE_EVENT:
                    self.queue_status = event["userevent"].get("Status") or self.queue_status
            case "Dial" if event["dialstatus"] == "ANSWER":
                self._queue_answered = True

    def adopted(self) -> None:
        """Another process had it."""
        self._channel.untouched = False
        self._channel.visits = 1
        self._sounds.adopted()

    def resync(self) -> None:
        """Events were lost with a connection: ask whether what is waited for is over."""
        self._sounds.resync()
        self._recordings.resync()

    def came(self, channel: Mapping[str, Any], args: Sequence[str]) -> None:
        """It is in the app: an originated channel, for it was answered, or one that comes back."""
        self.line = line_of(channel)
        self._channel.visits += 1
        self._doing = None
        self._sounds.left()
        self._media.left()
        if channel["state"] == "Up":
            self._hub.answered(self)
        self._channel.resolve(UP, None)
        self._home.set()
        from_queue = has_left_a_queue(self.line)
        self.args = self.args if from_queue else tuple(args) or self.args
        if self.attended is False and from_queue:
            self.refuse("normal")  # who put it there does not wait for it any more
        elif self.attended is False:
            self._again()

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

    def replaced(self, channel: Mapping[str, Any]) -> None:
        """Another channel has its place; from the hub's loop, so that whatever comes next is asked of this
        one."""
        self._channel.replaced(channel["id"])
        self.line = line_of(channel)
        self.post(self._sounds.replaced)

    def gone(self) -> None:
        """The first sign that the other side is gone: every wait ends now."""
        if not self.is_gone:
            self._channel.end(but=UP)

    def over(self, ended: Ended) -> None:
        """The call is over: hooks run, each on its own."""
        self.ended = ended
        self.queue_status = self.queue_end()
        self.gone()
        self._channel.resolve(UP, ended)
        self._media.over()
        for other in self._consulted:
            other.refuse("normal")
        self._recordings.over()
        self._over.set()
        self._home.set()
        for waiting in self._ends:
            settle(waiting)
        for hook in self._hooks:
            self._run_hook(hook)
        self._hooks.clear()
        self._taker.ended(self)

    def _run_hook(self, hook: hooks.Hook) -> None:
        self._taker.keep(self._channel.background(hooks.run(hook, self.id)))

    def refuse(self, reason: str, *, by: EndedBy = EndedBy.HANDLER) -> None:
        """End the call without waiting for it; for the app. What is not begun yet is not begun."""
        self.refused = True
        self._channel.tell(lifecycle.HangUp(by, reason))

    def claim(self) -> bool:
        """The first who asks has the call: its handler, or the hub that gives it back. From any thread."""
        return self._claim.acquire(blocking=False)

    def came_to(self, taker: "Taker") -> bool:
        """A call in, for this taker."""
        return self._taker is taker and self.direction is Direction.INBOUND

    def finish(self) -> None:
        """The handler is done with the call; for the app."""
        self._channel.tell(lifecycle.HandlerReturned(self._let_go()))

    def fail(self, error: BaseException) -> None:
        """The handler raised; for the app."""
        words = told(error)
        self._channel.write("handler_failed", error=words)
        self._channel.tell(lifecycle.HandlerRaised(words, self._let_go()))

    def _let_go(self) -> int:
        """The handler has the call no more; the visit that this is about. One that sent the call on, and did
        nothing with it since it is back, does not know of that: it is handled anew."""
        self.attended = False
        if (
            not 0 < max(self._left, self._channel.touched) == self._left < self._channel.visits
            or self._over.is_set()
            or has_left_a_queue(self.line)
        ):
            return self._channel.visits
        visit = self._left
        self._loop.call_soon(self._again)
        return visit

    def expect_up(self) -> "asyncio.Future[Ended | None]":
        """Done with None when an originated call is answered, with its end when it was not; for the app."""
        return self._channel.expect(UP, "originate")


def context_of(tenant: str | None, call_id: str, node: str | None) -> Context:
    """Where what is done for a call runs, so that each line of the log has both, and its node is asked."""
    context = copy_context()
    context.run(TENANT.set, tenant)
    context.run(CALL.set, call_id)
    context.run(NODE.set, node)
    return context


def line_of(channel: Mapping[str, Any]) -> str:
    """The line of the dialplan that it is in."""
    dialplan = channel.get("dialplan") or {}
    return f"{dialplan.get('context')},{dialplan.get('exten')},{dialplan.get('priority')}"


def has_left_a_queue(line: str) -> bool:
    """It comes from a queue in which no agent has answered."""
    return line.startswith(f"{naming.queues_context(naming.SHARED)},")


def _worker(app: str) -> str:
    """The number of the worker whose app it is: a process that is the only one is 1."""
    number = app.rpartition("-")[2]
    return number if number.isdecimal() else "1"


def _called(channel: Mapping[str, Any], args: Sequence[str]) -> str:
    """The number that was called: the Stasis argument, then the dialled number, then the extension."""
    if args and args[0]:
        return args[0]
    dialplan = channel.get("dialplan") or {}
    return str(dialplan.get("exten", ""))


def _must_be_name(op: str, sound: object) -> None:
    if not isinstance(sound, str) or not sound:
        raise UsageFault(f"{op} takes the name of a sound, not {sound!r}")


def _must_be_seconds(op: str, **given: object) -> None:
    """Raises UsageFault for what is no time to wait. NaN would mix up all timers of the loop."""
    for name, value in given.items():
        if not isinstance(value, int | float) or (isinstance(value, float) and isnan(value)):
            raise UsageFault(f"{op} takes seconds as its {name}, not {value!r}")


def _into(bridge: str, channel: str) -> requests.Request:
    return requests.add_to_bridge(bridge, [channel])


def _refuse(called: "asyncio.Future[CallSession]") -> None:
    """Nobody waits any more for who was called."""
    if not called.cancelled() and called.exception() is None:
        called.result().refuse("normal")


_WORD: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")
