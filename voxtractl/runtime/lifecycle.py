"""The call table: what is known of every call, and its one end.

No I/O and no clock in here: signals and times come in, actions go out.

Asterisk tells the end of a call in several ways, in any order, some of them never; the table decides once.

    NEW      opened; nothing of it was seen yet
    RINGING  in the app, or ringing; not answered
    UP       answered
    LEAVING  /continue was sent, StasisEnd has not come yet
    LEFT     in the dialplan; it lives on until it is really over
    ENDING   a sign of the end was seen or given; Asterisk still has the channel
    ENDED    over, and told; only its id is remembered

What each signal does in each state stands in TRANSITIONS. A signal that is absent there moves nothing: it is
late, or it is told twice. Who ended the call is who gave the first sign:

    our own HangUp                      handler, operator or limit, as recorded before the DELETE goes out
    a hangup request of the far side    caller (of an outbound call: who was called)
    a soft hangup that is not ours      asterisk: the console, AMI, TIMEOUT(absolute), the dialplan's end
    the media connection                asterisk, unless the far side's hangup request follows
    our own HangUp after a 404          the same: a handler that is told of the end ends itself
    no request at all                   asterisk when it was in the dialplan or ringing out, else caller
    Asterisk refused to begin it        asterisk
    Asterisk has it no more, unheard    lost; also when the media connection ended before
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

from voxtractl.errors import CallError
from voxtractl.runtime.disposition import BY_CAUSE, BY_REASON, CAUSE_OF, Disposition, disposition_of

__all__ = [
    "RECENT_MAX",
    "TRANSITIONS",
    "Action",
    "Answered",
    "Call",
    "CallTable",
    "Continue",
    "Delete",
    "Destroyed",
    "Dialled",
    "Direction",
    "Doubted",
    "End",
    "Ended",
    "EndedBy",
    "Gone",
    "HandlerRaised",
    "HandlerReturned",
    "HangUp",
    "HangupRequested",
    "LeftStasis",
    "Look",
    "Lost",
    "MediaLost",
    "Missing",
    "Move",
    "Present",
    "Refused",
    "Signal",
    "Started",
    "State",
    "Stayed",
    "WentOn",
]

RECENT_MAX: Final = 10_000  # ids of ended calls; at 100 calls/s late signals of 100 s are known as such


class Direction(StrEnum):
    INBOUND = "inbound"
    OUTBOUND = "outbound"


class EndedBy(StrEnum):
    """Who ended a call. ``caller`` is the far side: of an outbound call, who was called."""

    CALLER = "caller"
    HANDLER = "handler"
    OPERATOR = "operator"
    ASTERISK = "asterisk"
    LIMIT = "limit"
    LOST = "lost"


class State(StrEnum):
    NEW = "new"
    RINGING = "ringing"
    UP = "up"
    LEAVING = "leaving"
    LEFT = "left"
    ENDING = "ending"
    ENDED = "ended"


# --- signals: what came in ----------------------------------------------------------------------------------
# Not named tuples: two of those are equal when their fields are, and Started() would equal Missing().


@dataclass(frozen=True, slots=True)
class Started:
    """StasisStart: it is in the app, for the first time or again."""


@dataclass(frozen=True, slots=True)
class Dialled:
    """A Dial event about this channel; ``status`` is its dialstatus."""

    status: str


@dataclass(frozen=True, slots=True)
class Answered:
    """Asterisk says it is up."""


@dataclass(frozen=True, slots=True)
class HangupRequested:
    """ChannelHangupRequest. When ``soft``, ``cause`` is no Q.850 cause but a flag of Asterisk's own
    (main/channel.c, ast_softhangup): 32 when somebody asked for it, 16 when the dialplan has ended; that
    one follows every call of a dialplan, whoever hung up."""

    cause: int = 0
    tech_cause: int = 0
    soft: bool = False


@dataclass(frozen=True, slots=True)
class LeftStasis:
    """StasisEnd: hung up or continued, and it does not say which."""


@dataclass(frozen=True, slots=True)
class Destroyed:
    """ChannelDestroyed: over for certain."""

    cause: int = 0
    tech_cause: int = 0


@dataclass(frozen=True, slots=True)
class HangUp:
    """We want it to end; ``reason`` is a word of Asterisk's: normal, busy, congestion, rejected …"""

    by: EndedBy
    reason: str = "normal"


@dataclass(frozen=True, slots=True)
class Continue:
    """We are about to send it into the dialplan."""


@dataclass(frozen=True, slots=True)
class Stayed:
    """Asterisk refused to send it into the dialplan: it is still in the app."""


@dataclass(frozen=True, slots=True)
class MediaLost:
    """Its AudioSocket ended, and not by us."""

    why: Literal["hangup", "eof", "error"]


@dataclass(frozen=True, slots=True)
class HandlerReturned:
    """Nobody attends to it any more. ``visit``: how often it had come into the app when that was true; a call
    that has come back since is another handler's. 0 holds always."""

    visit: int = 0


@dataclass(frozen=True, slots=True)
class HandlerRaised:
    """Its handler failed with ``error``; ``visit`` as of HandlerReturned."""

    error: str
    visit: int = 0


@dataclass(frozen=True, slots=True)
class WentOn:
    """The dialplan has brought it into another app, where it is a call of its own."""

    app: str


@dataclass(frozen=True, slots=True)
class Doubted:
    """Asterisk answered 404 to a command: it may be gone, or what the command was about."""


@dataclass(frozen=True, slots=True)
class Missing:
    """Asterisk was asked, and has no such channel."""


@dataclass(frozen=True, slots=True)
class Present:
    """Asterisk was asked, and has it."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Asterisk refused to begin it, with these words; for calls out."""

    why: str


@dataclass(frozen=True, slots=True)
class Lost:
    """It is gone, and how was not heard: events were lost, or another process has its app now."""


Signal = (
    Started
    | Dialled
    | Answered
    | HangupRequested
    | LeftStasis
    | Destroyed
    | HangUp
    | Continue
    | Stayed
    | MediaLost
    | HandlerReturned
    | HandlerRaised
    | WentOn
    | Doubted
    | Missing
    | Present
    | Refused
    | Lost
)


# --- actions: what is to be done ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ended:
    """How a call ended. Times are those that came in: ``answered`` is None when nobody did."""

    call_id: str
    direction: Direction
    disposition: Disposition
    cause: int  # Q.850; 16 for an ordinary hangup that came without a cause, 0 when nobody knows
    tech_cause: int  # the SIP code, 0 when there was none
    ended_by: EndedBy
    started: float
    answered: float | None
    ended: float
    # What ended it when that is not ordinary: the handler's error, the media connection, Asterisk's refusal.
    detail: str = ""
    dialled: bool = False  # a Dial event came: Asterisk had something to dial

    @property
    def undialled(self) -> bool:
        """Asterisk gave it up before it dialled, and told no cause: it had no RTP port for PJSIP (measured),
        or the context of a Local channel has no such extension."""
        told = self.cause or self.tech_cause or self.dialled or self.detail or self.answered is not None
        return self.direction is Direction.OUTBOUND and self.ended_by is EndedBy.ASTERISK and not told

    @property
    def seconds(self) -> float:
        """From the first to the last that we know of it."""
        return self.ended - self.started

    @property
    def talk_seconds(self) -> float:
        """From the answer to the end; 0.0 when there was none."""
        return 0.0 if self.answered is None else self.ended - self.answered


@dataclass(frozen=True, slots=True)
class Delete:
    """Send DELETE; feed Doubted when the answer is 404. It may be asked for again after Present."""

    call_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Look:
    """GET the channel and feed Missing or Present."""

    call_id: str


@dataclass(frozen=True, slots=True)
class Gone:
    """The other side is gone: what waits for it ends now. Once, before or with End."""

    call_id: str


@dataclass(frozen=True, slots=True)
class End:
    """The call is over. Once, always the last action of a call."""

    ended: Ended


Action = Delete | Look | Gone | End


# --- the table ----------------------------------------------------------------------------------------------


class Move(NamedTuple):
    """The next state and what is asked for. A move to RINGING of a call that was answered leads to UP."""

    to: State
    asks: tuple[type[Action], ...] = ()


_STOP: Final = {
    HangupRequested: Move(State.ENDING, (Gone,)),
    HangUp: Move(State.ENDING, (Delete,)),
    Destroyed: Move(State.ENDED, (Gone, End)),
    Missing: Move(State.ENDED, (Gone, End)),
    Refused: Move(State.ENDED, (Gone, End)),
    Lost: Move(State.ENDED, (Gone, End)),
}
_HERE: Final = {
    **_STOP,
    Continue: Move(State.LEAVING),
    LeftStasis: Move(State.LEFT, (Look,)),  # not sent by us: hung up, or moved by somebody else
    MediaLost: Move(State.ENDING, (Delete,)),
    HandlerReturned: Move(State.ENDING, (Delete,)),
    HandlerRaised: Move(State.ENDING, (Delete,)),
}

TRANSITIONS: Final[Mapping[State, Mapping[type[Signal], Move]]] = MappingProxyType(
    {
        State.NEW: {
            **_HERE,
            Started: Move(State.RINGING),
            Dialled: Move(State.RINGING),
            Answered: Move(State.UP),
            Doubted: Move(State.NEW, (Look,)),
        },
        State.RINGING: {
            **_HERE,
            Answered: Move(State.UP),
            Doubted: Move(State.RINGING, (Look,)),
        },
        State.UP: {
            **_HERE,
            Doubted: Move(State.UP, (Look,)),
        },
        State.LEAVING: {
            **_STOP,
            LeftStasis: Move(State.LEFT),
            Started: Move(State.RINGING),  # there and back; StasisEnd was lost
            Stayed: Move(State.RINGING),
            WentOn: Move(State.ENDED, (Gone, End)),
            Doubted: Move(State.LEAVING, (Look,)),
        },
        State.LEFT: {
            **_STOP,
            Started: Move(State.RINGING),
            WentOn: Move(State.ENDED, (Gone, End)),
            Doubted: Move(State.LEFT, (Look,)),
        },
        State.ENDING: {
            HangupRequested: Move(State.ENDING, (Gone,)),
            Doubted: Move(State.ENDING, (Look,)),  # it went before it was subscribed: nobody tells its end
            Present: Move(State.ENDING, (Delete,)),  # it should be gone: the DELETE or its answer was lost
            Destroyed: Move(State.ENDED, (Gone, End)),
            Missing: Move(State.ENDED, (Gone, End)),
            Refused: Move(State.ENDED, (Gone, End)),
            Lost: Move(State.ENDED, (Gone, End)),
        },
        State.ENDED: {},
    }
)


@dataclass(slots=True)
class Call:
    """What is known of a call that is not over. Read it; only the table writes."""

    call_id: str
    direction: Direction
    started: float
    state: State = State.NEW
    answered: float | None = None
    rang: bool = False
    dialled: bool = False
    dial_status: str = ""
    cause: int = 0
    tech_cause: int = 0
    by: EndedBy | None = None
    reason: str | None = None  # of our own hangup, when that was the first sign of the end
    detail: str = ""
    gone: bool = False
    looking: bool = False  # a StasisEnd or a 404 said that it may be gone
    unsure: bool = False  # the first sign may follow from the end itself: the far side's request tells more
    handler_over: HandlerReturned | HandlerRaised | None = None  # while it was LEAVING
    visits: int = 0  # how often it came into the app

    @property
    def away(self) -> bool:
        """It is elsewhere in the dialplan, or on its way there."""
        return self.state in {State.LEAVING, State.LEFT}


class CallTable:
    """Every call that is not over, and the ids of those that were."""

    def __init__(self) -> None:
        self._live: dict[str, Call] = {}
        self._recent: dict[str, bool] = {}  # id → Asterisk itself said that it is over

    @property
    def live(self) -> Mapping[str, Call]:
        """The calls that are not over, by their ids."""
        return MappingProxyType(self._live)

    def known(self, call_id: str) -> bool:
        """True for a call that is not over, and for one that was among the last 10,000 to end; not for one
        that was lost."""
        return call_id in self._live or call_id in self._recent

    def open(self, call_id: str, direction: Direction, now: float, *, up: bool = False) -> Call:
        """Enter a call, before anything of it can happen; ``up`` when it is answered already.

        Raises CallError when the id is that of a call that is not over.
        """
        if call_id in self._live:
            raise CallError("there is such a call already", call=call_id, hint="ids of calls are not reused")
        self._recent.pop(call_id, None)
        call = Call(call_id, direction, now)
        if up:
            call.state, call.answered = State.UP, now
        self._live[call_id] = call
        return call

    def feed(self, call_id: str, signal: Signal, now: float) -> tuple[Action, ...]:
        """What is to be done about a signal; nothing for a call that is unknown or over.

        ``now`` is in seconds of whatever clock; it must not run backwards.
        """
        call = self._live.get(call_id)
        if call is None:
            return self._late(call_id, signal)
        if isinstance(signal, (HandlerReturned, HandlerRaised)) and 0 < signal.visit < call.visits:
            return ()
        _learn(call, signal, now)
        if isinstance(signal, Dialled):
            if signal.status == "ANSWER":
                return self.feed(call_id, Answered(), now)
            if not call.rang:
                return ()
        move = TRANSITIONS[call.state].get(type(signal))
        if move is None:
            return ()
        _blame(call, signal)
        call.state = State.UP if move.to is State.RINGING and call.answered is not None else move.to
        actions = tuple(action for ask in move.asks for action in _ACT[ask](call, now))
        if call.state is State.ENDED:
            del self._live[call_id]
            if not isinstance(signal, Lost):  # it may go on elsewhere, and come back from there
                self._remember(call_id, certain=isinstance(signal, Destroyed | Refused | WentOn))
        if isinstance(signal, Stayed) and call.handler_over is not None:
            return (*actions, *self.feed(call_id, call.handler_over, now))
        return actions

    def _late(self, call_id: str, signal: Signal) -> tuple[Action, ...]:
        # We believed a 404, but the originate was still on its way: nobody would ever end this channel.
        if isinstance(signal, Started) and self._recent.get(call_id) is False:
            return (Delete(call_id, "normal"),)
        return ()

    def _remember(self, call_id: str, *, certain: bool) -> None:
        self._recent[call_id] = certain
        if len(self._recent) > RECENT_MAX:
            del self._recent[next(iter(self._recent))]


def _learn(call: Call, signal: Signal, now: float) -> None:
    """Facts that hold in every state."""
    call.dialled = call.dialled or isinstance(signal, Dialled)
    match signal:
        case Answered():
            call.answered = now if call.answered is None else call.answered
        case Dialled("RINGING" | "PROGRESS"):
            call.rang = True
        case Dialled(status) if status not in {"", "ANSWER", "PROCEEDING"}:
            call.dial_status = status
        case Present():
            call.looking = False
        case Started():
            call.looking, call.handler_over = False, None
            call.visits += 1
        case HandlerReturned() | HandlerRaised() if call.state is State.LEAVING:
            call.handler_over = signal


def _blame(call: Call, signal: Signal) -> None:
    """Keep who gave the first sign of the end, and the causes; asked only for signals that move the call."""
    match signal:
        case HangUp(by, reason):
            _ours(call, by, reason)
        case HandlerReturned():
            _ours(call, EndedBy.HANDLER, "normal")
        case HandlerRaised(error):
            _ours(call, EndedBy.HANDLER, "failure", error)
        case WentOn(app):
            _ours(call, EndedBy.ASTERISK, "normal", f"it went on to the Stasis app {app}")
        case MediaLost(why):
            _ours(call, EndedBy.ASTERISK, "normal", f"media: {why}")
            call.unsure = True
        case HangupRequested(cause, tech_cause, soft):
            if soft:
                call.by = call.by or EndedBy.ASTERISK
            else:
                call.cause, call.tech_cause = cause or call.cause, tech_cause or call.tech_cause
                if call.by is None or call.unsure:
                    call.by, call.reason, call.detail = _far_side(call), None, ""
            call.unsure = False
        case Destroyed(cause, tech_cause):
            call.cause, call.tech_cause = cause or call.cause, tech_cause or call.tech_cause
            call.by = call.by or _unasked(call)
        case Missing() if call.looking and (call.by is None or call.unsure):
            # It left the app by itself; its hangup request is on the way.
            call.by, call.reason, call.detail = EndedBy.CALLER, None, ""
        case Missing():
            call.by = call.by or EndedBy.LOST
        case Refused(why) if call.by is None:
            call.by, call.detail = EndedBy.ASTERISK, why
        case Lost() if call.by is None or call.unsure:  # the media connection ended with all else
            call.by, call.reason, call.detail = EndedBy.LOST, None, ""


def _ours(call: Call, by: EndedBy, reason: str, detail: str = "") -> None:
    call.by, call.reason, call.detail = by, reason, detail
    call.unsure = call.looking  # a 404 said that it may be gone, and ended the handler


def _far_side(call: Call) -> EndedBy:
    """Who asked for the end in the name of the other side: Asterisk, when it had not dialled it."""
    heard = call.dialled or call.answered is not None or call.cause or call.tech_cause
    return EndedBy.CALLER if heard or call.direction is Direction.INBOUND else EndedBy.ASTERISK


def _unasked(call: Call) -> EndedBy:
    """Who ended a call that is over without a hangup request."""
    if call.state in {State.LEAVING, State.LEFT} and not call.looking:
        return EndedBy.ASTERISK
    if call.direction is Direction.OUTBOUND and call.answered is None:
        return EndedBy.ASTERISK
    return EndedBy.CALLER


def _delete(call: Call, now: float) -> tuple[Action, ...]:
    return (Delete(call.call_id, call.reason or "normal"),)


def _look(call: Call, now: float) -> tuple[Action, ...]:
    call.looking = True
    return (Look(call.call_id),)


def _gone(call: Call, now: float) -> tuple[Action, ...]:
    if call.gone:
        return ()
    call.gone = True
    return (Gone(call.call_id),)


def _end(call: Call, now: float) -> tuple[Action, ...]:
    by = call.by or EndedBy.LOST
    cause = call.cause
    if (
        not cause
        and by is not EndedBy.LOST
        and (call.direction is Direction.INBOUND or call.answered is not None)
    ):
        # Of an end of ours that nobody heard: what we asked for. A far BYE is told as cause 0, "Unknown"
        # (measured); it is the most ordinary end there is.
        cause = CAUSE_OF.get(call.reason or "normal", 16)
    return (
        End(
            Ended(
                call.call_id,
                call.direction,
                _disposition(call, by),
                cause,
                call.tech_cause,
                by,
                call.started,
                call.answered,
                now,
                call.detail,
                call.dialled,
            )
        ),
    )


_ACT: Final[Mapping[type[Action], Callable[[Call, float], tuple[Action, ...]]]] = {
    Delete: _delete,
    Look: _look,
    Gone: _gone,
    End: _end,
}

_TIMED_OUT: Final = frozenset({"no_answer", "timeout"})


def _disposition(call: Call, by: EndedBy) -> Disposition:
    if call.direction is Direction.INBOUND and call.answered is None:
        if by is EndedBy.CALLER:
            # Busy() in the dialplan makes the caller hang up; a caller who gives up leaves no such cause.
            return BY_CAUSE.get(call.cause, Disposition.CANCELLED)
        if call.reason is not None:
            return BY_REASON.get(call.reason, Disposition.FAILED)
    elif call.answered is None and by is EndedBy.LOST:
        return Disposition.FAILED  # it may have rung, been busy, or been answered: nobody heard
    elif call.answered is None and call.reason in _TIMED_OUT:
        return Disposition.NO_ANSWER  # it was our own clock that gave it up
    return disposition_of(
        answered=call.answered is not None,
        cause=call.cause,
        tech_cause=call.tech_cause,
        dial_status=call.dial_status,
        rang=call.rang,
        cancelled=call.reason is not None,
    )
