"""The call table: sequences as the real Asterisk gave them, and every order and repetition of signals."""

from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxtractl.errors import CallError
from voxtractl.runtime.lifecycle import (
    RECENT_MAX,
    TRANSITIONS,
    Action,
    Answered,
    CallTable,
    Continue,
    Delete,
    Destroyed,
    Dialled,
    Direction,
    Doubted,
    End,
    Ended,
    EndedBy,
    Gone,
    HandlerRaised,
    HandlerReturned,
    HangUp,
    HangupRequested,
    LeftStasis,
    Look,
    Lost,
    MediaLost,
    Missing,
    Present,
    Refused,
    Signal,
    Started,
    State,
    Stayed,
    WentOn,
)

IN, OUT = Direction.INBOUND, Direction.OUTBOUND
CALL = "5f9c"

RING, ANSWER = (Dialled(""), Dialled("RINGING")), (Dialled("ANSWER"),)
FAR_BYE = HangupRequested()
OUR_SOFT = HangupRequested(cause=32, soft=True)
DIALPLAN_END = HangupRequested(cause=16, soft=True)  # Asterisk's last word on every call that has a dialplan
TERMINAL = (Destroyed, Missing, Refused, Lost)


def run(direction: Direction, *signals: Signal, up: bool = False) -> tuple[list[Action], CallTable]:
    """All actions of one call, whose signals come a second apart from 100.0 on."""
    table = CallTable()
    table.open(CALL, direction, 100.0, up=up)
    actions: list[Action] = []
    for number, signal in enumerate(signals):
        actions += table.feed(CALL, signal, 101.0 + number)
    return actions, table


def end_of(actions: list[Action]) -> Ended:
    """The one end."""
    (ended,) = [action.ended for action in actions if isinstance(action, End)]
    return ended


class Told(NamedTuple):
    disposition: str
    ended_by: str
    cause: int
    tech_cause: int = 0
    asked: str = ""  # the other actions, by their first letters
    detail: str = ""


# A whole call on each line: what Asterisk and we did, in the order seen, and what is told of it.
CALLS: dict[str, tuple[Direction, tuple[Signal, ...], Told]] = {
    "inbound: the far side hangs up": (
        IN,
        (Started(), Answered(), FAR_BYE, LeftStasis(), DIALPLAN_END, Destroyed()),
        Told("answered", "caller", 16, asked="G"),
    ),
    "inbound: StasisEnd overtakes the hangup request": (
        IN,
        (Started(), Answered(), LeftStasis(), FAR_BYE, Destroyed()),
        Told("answered", "caller", 16, asked="LG"),
    ),
    "inbound: the caller gives up while it rings": (
        IN,
        (Started(), FAR_BYE, LeftStasis(), Destroyed()),
        Told("cancelled", "caller", 16, asked="G"),
    ),
    "inbound: the handler hangs up": (
        IN,
        (Started(), Answered(), HangUp(EndedBy.HANDLER), OUR_SOFT, LeftStasis(), Destroyed(16)),
        Told("answered", "handler", 16, asked="DG"),
    ),
    "inbound: our DELETE is told as StasisEnd first": (
        IN,
        (Started(), Answered(), HangUp(EndedBy.OPERATOR), LeftStasis(), OUR_SOFT, Destroyed(16)),
        Told("answered", "operator", 16, asked="DG"),
    ),
    "inbound: the handler hangs up, the caller too": (
        IN,
        (Started(), Answered(), HangUp(EndedBy.HANDLER), FAR_BYE, Missing()),
        Told("answered", "handler", 16, asked="DG"),
    ),
    "inbound: the caller hangs up, then the handler": (
        IN,
        (Started(), Answered(), FAR_BYE, HangUp(EndedBy.HANDLER), HandlerReturned(), Destroyed()),
        Told("answered", "caller", 16, asked="G"),
    ),
    "inbound: refused as busy": (
        IN,
        (
            Started(),
            HangUp(EndedBy.HANDLER, "busy"),
            OUR_SOFT,
            LeftStasis(),
            DIALPLAN_END,
            Destroyed(17, 486),
        ),
        Told("busy", "handler", 17, 486, asked="DG"),
    ),
    "inbound: refused over a limit": (
        IN,
        (Started(), HangUp(EndedBy.LIMIT, "congestion"), OUR_SOFT, LeftStasis(), Destroyed(34, 503)),
        Told("congestion", "limit", 34, 503, asked="DG"),
    ),
    "inbound: the number is nobody's": (
        IN,
        (Started(), HangUp(EndedBy.HANDLER, "unallocated"), OUR_SOFT, Destroyed(1, 404)),
        Told("failed", "handler", 1, 404, asked="DG"),
    ),
    "inbound: not answered, and the handler returns": (
        IN,
        (Started(), HandlerReturned(), OUR_SOFT, LeftStasis(), Destroyed(16)),
        Told("rejected", "handler", 16, asked="DG"),
    ),
    "inbound: the handler fails": (
        IN,
        (Started(), Answered(), HandlerRaised("ValueError: x"), OUR_SOFT, LeftStasis(), Destroyed(38)),
        Told("answered", "handler", 38, asked="DG", detail="ValueError: x"),
    ),
    "inbound: a limit of ours": (
        IN,
        (Started(), Answered(), HangUp(EndedBy.LIMIT), OUR_SOFT, LeftStasis(), Destroyed(16)),
        Told("answered", "limit", 16, asked="DG"),
    ),
    "inbound: hung up on the console": (
        IN,
        (Started(), Answered(), OUR_SOFT, LeftStasis(), Destroyed(16)),
        Told("answered", "asterisk", 16, asked="G"),
    ),
    "inbound: into a queue, and the caller hangs up there": (
        IN,
        (Started(), Answered(), Continue(), LeftStasis(), HandlerReturned(), FAR_BYE, Destroyed(16)),
        Told("answered", "caller", 16, asked="G"),
    ),
    "inbound: into a queue, the handler returned before StasisEnd, and the dialplan ends it": (
        IN,
        (Started(), Answered(), Continue(), HandlerReturned(), LeftStasis(), Destroyed(16)),
        Told("answered", "asterisk", 16, asked="G"),
    ),
    "inbound: into the dialplan and back": (
        IN,
        (Started(), Answered(), Continue(), LeftStasis(), Started(), HandlerReturned(), Destroyed(16)),
        Told("answered", "handler", 16, asked="DG"),
    ),
    "inbound: into the dialplan unanswered, which says busy": (
        IN,
        (Started(), Continue(), LeftStasis(), FAR_BYE, DIALPLAN_END, Destroyed(17)),
        Told("busy", "caller", 17, asked="G"),
    ),
    "inbound: into the dialplan, answered there a moment later, and ended by its Hangup()": (
        IN,
        (Started(), Continue(), Answered(), LeftStasis(), DIALPLAN_END, Destroyed(16)),
        Told("answered", "asterisk", 16, asked="G"),
    ),
    "inbound: TIMEOUT(absolute) is over": (
        IN,
        (Started(), Answered(), LeftStasis(), DIALPLAN_END, Destroyed()),
        Told("answered", "asterisk", 16, asked="LG"),
    ),
    "inbound: /continue is refused, and the handler has failed of it": (
        IN,
        (Started(), Answered(), Continue(), HandlerRaised("Conflict: no"), Stayed(), Destroyed(38)),
        Told("answered", "handler", 38, asked="DG", detail="Conflict: no"),
    ),
    "inbound: /continue is refused, and the handler goes on": (
        IN,
        (Started(), Continue(), Stayed(), Answered(), HandlerReturned(), Destroyed(16)),
        Told("answered", "handler", 16, asked="DG"),
    ),
    "inbound: somebody else moves it into the dialplan": (
        IN,
        (Started(), Answered(), LeftStasis(), Present(), HandlerReturned(), Destroyed(16)),
        Told("answered", "asterisk", 16, asked="LG"),
    ),
    "inbound: StasisEnd, and it is gone": (
        IN,
        (Started(), Answered(), LeftStasis(), Missing()),
        Told("answered", "caller", 16, asked="LG"),
    ),
    "inbound: a command gets 404, and the call is gone": (
        IN,
        (Started(), Answered(), Doubted(), Missing(), FAR_BYE, Destroyed()),
        Told("answered", "caller", 16, asked="LG"),
    ),
    "inbound: a command gets 404, and the call is there": (
        IN,
        (Started(), Answered(), Doubted(), Present(), HandlerReturned(), Destroyed(16)),
        Told("answered", "handler", 16, asked="LDG"),
    ),
    "inbound: over while we were disconnected": (
        IN,
        (Started(), Answered(), Missing()),
        Told("answered", "lost", 0, asked="G"),
    ),
    "inbound: Asterisk restarts": (
        IN,
        (Started(), Lost()),
        Told("failed", "lost", 0, asked="G"),
    ),
    "inbound: our DELETE got lost with the connection": (
        IN,
        (Started(), Answered(), HangUp(EndedBy.OPERATOR), Present(), Missing()),
        Told("answered", "operator", 16, asked="DDG"),
    ),
    "inbound: the media ends first, because the far side hung up": (
        IN,
        (Started(), Answered(), MediaLost("hangup"), FAR_BYE, LeftStasis(), Destroyed()),
        Told("answered", "caller", 16, asked="DG"),
    ),
    "inbound: the media fails": (
        IN,
        (Started(), Answered(), MediaLost("error"), OUR_SOFT, LeftStasis(), FAR_BYE, Destroyed(16)),
        Told("answered", "asterisk", 16, asked="DG", detail="media: error"),
    ),
    "inbound: the far side hangs up, and a 404 ends the handler before that is told": (
        IN,
        (Started(), Answered(), Doubted(), HandlerReturned(), FAR_BYE, LeftStasis(), Destroyed()),
        Told("answered", "caller", 16, asked="LDG"),
    ),
    "inbound: a 404 ends the handler, and no other sign comes before the look": (
        IN,
        (Started(), Answered(), Doubted(), HandlerReturned(), Missing()),
        Told("answered", "caller", 16, asked="LDG"),
    ),
    "inbound: a 404 was about something else, and then the handler ends": (
        IN,
        (
            Started(),
            Answered(),
            Doubted(),
            Present(),
            HandlerReturned(),
            OUR_SOFT,
            LeftStasis(),
            Destroyed(16),
        ),
        Told("answered", "handler", 16, asked="LDG"),
    ),
    "inbound: the media of a call that left is not missed": (
        IN,
        (Started(), Answered(), Continue(), LeftStasis(), MediaLost("eof"), FAR_BYE, Destroyed(16)),
        Told("answered", "caller", 16, asked="G"),
    ),
    "outbound: answered, and the far side hangs up": (
        OUT,
        (*RING, Answered(), Started(), *ANSWER, FAR_BYE, LeftStasis(), Destroyed(16)),
        Told("answered", "caller", 16, asked="G"),
    ),
    "outbound: busy over SIP": (
        OUT,
        (*RING, HangupRequested(17, 486), Destroyed(17, 486), Dialled("BUSY")),
        Told("busy", "caller", 17, 486, asked="G"),
    ),
    "outbound: busy behind a Local channel": (
        OUT,
        (Dialled(""), Dialled("BUSY"), Destroyed()),
        Told("busy", "asterisk", 0, asked="G"),
    ),
    "outbound: no such extension": (
        OUT,
        (Destroyed(),),
        Told("failed", "asterisk", 0, asked="G"),
    ),
    "outbound: nobody takes it": (
        OUT,
        (*RING, Destroyed(19, 480)),
        Told("no_answer", "asterisk", 19, 480, asked="G"),
    ),
    "outbound: the trunk is silent": (
        OUT,
        (Dialled(""), Destroyed(19, 480)),
        Told("failed", "asterisk", 19, 480, asked="G"),
    ),
    "outbound: declined": (
        OUT,
        (*RING, HangupRequested(21, 603), Dialled("NOANSWER"), Destroyed(21, 603)),
        Told("rejected", "caller", 21, 603, asked="G"),
    ),
    "outbound: the cause comes with the request only": (
        OUT,
        (*RING, HangupRequested(17, 486), Destroyed()),
        Told("busy", "caller", 17, 486, asked="G"),
    ),
    "outbound: refused by the dialplan behind a Local channel, before the Dial is told": (
        OUT,
        (HangupRequested(21), Dialled(""), Dialled("NOANSWER"), Destroyed(21)),
        Told("rejected", "caller", 21, asked="G"),
    ),
    "outbound: congestion behind a Local channel": (
        OUT,
        (Dialled(""), Dialled("CONGESTION"), Destroyed()),
        Told("congestion", "asterisk", 0, asked="G"),
    ),
    "outbound: we cancel it": (
        OUT,
        (*RING, HangUp(EndedBy.OPERATOR), OUR_SOFT, Dialled("NOANSWER"), Destroyed(16)),
        Told("cancelled", "operator", 16, asked="DG"),
    ),
    "outbound: our own clock gives it up": (
        OUT,
        (*RING, HangUp(EndedBy.LIMIT, "no_answer"), OUR_SOFT, Destroyed(19)),
        Told("no_answer", "limit", 19, asked="DG"),
    ),
    "outbound: answered in the moment we cancel": (
        OUT,
        (*RING, HangUp(EndedBy.HANDLER), Answered(), OUR_SOFT, Destroyed(16)),
        Told("answered", "handler", 16, asked="DG"),
    ),
    "outbound: create and dial, in the app before it is dialled": (
        OUT,
        (Started(), *RING, HangupRequested(17, 486), LeftStasis(), Destroyed(17, 486)),
        Told("busy", "caller", 17, 486, asked="G"),
    ),
    "inbound: ended by us before it was subscribed, so that Asterisk tells no end": (
        IN,
        (Started(), HangUp(EndedBy.HANDLER, "busy"), Doubted(), Missing()),
        Told("busy", "handler", 17, asked="DLG"),
    ),
    "outbound: no RTP port, so Asterisk dials nobody": (
        OUT,
        (HangupRequested(0), Destroyed(0)),
        Told("failed", "asterisk", 0, asked="G"),
    ),
    "inbound: Asterisk died with the media connection open": (
        IN,
        (Started(), Answered(), MediaLost("eof"), Lost()),
        Told("answered", "lost", 0, asked="DG"),
    ),
    "inbound: the media connection ended, and the connection to Asterisk after it": (
        IN,
        (Started(), Answered(), MediaLost("error"), OUR_SOFT, Lost()),
        Told("answered", "asterisk", 16, asked="DG", detail="media: error"),
    ),
    "inbound: the dialplan brings it to another tenant": (
        IN,
        (Started(), Answered(), Continue(), LeftStasis(), WentOn("voxtra-beta"), Destroyed(16)),
        Told("answered", "asterisk", 16, asked="G", detail="it went on to the Stasis app voxtra-beta"),
    ),
    "inbound: its handler returned, and it comes back to be handled anew": (
        IN,
        (
            *(Started(), Answered(), Continue(), HandlerReturned(1), LeftStasis(), Started()),
            *(HandlerReturned(1), HandlerRaised("late", 1), HandlerReturned(2), Destroyed(16)),
        ),
        Told("answered", "handler", 16, asked="DG"),
    ),
    "outbound: lost while it rang": (
        OUT,
        (*RING, Missing()),
        Told("failed", "lost", 0, asked="G"),
    ),
    "outbound: Asterisk has no such trunk": (
        OUT,
        (Refused("Allocation failed"),),
        Told("failed", "asterisk", 0, asked="G", detail="Allocation failed"),
    ),
    "outbound: given up, and Asterisk has no such trunk": (
        OUT,
        (HangUp(EndedBy.HANDLER), Refused("Allocation failed")),
        Told("cancelled", "handler", 0, asked="DG"),
    ),
    "outbound: whether its originate arrived is not known": (
        OUT,
        (HangUp(EndedBy.LOST), Missing()),
        Told("failed", "lost", 0, asked="DG"),
    ),
}


@pytest.mark.parametrize(("direction", "signals", "told"), CALLS.values(), ids=list(CALLS))
def test_a_call_as_asterisk_tells_it(direction: Direction, signals: tuple[Signal, ...], told: Told) -> None:
    actions, table = run(direction, *signals)
    ended = end_of(actions)
    asked = "".join(type(action).__name__[0] for action in actions if not isinstance(action, End))
    assert Told(ended.disposition, ended.ended_by, ended.cause, ended.tech_cause, asked, ended.detail) == told
    assert (ended.call_id, ended.direction) == (CALL, direction)
    assert dict(table.live) == {}


def test_times_are_those_that_came_in() -> None:
    actions, _ = run(IN, Started(), Answered(), Answered(), FAR_BYE, Destroyed(16))
    ended = end_of(actions)
    assert (ended.started, ended.answered, ended.ended) == (100.0, 102.0, 105.0)
    assert (ended.seconds, ended.talk_seconds) == (5.0, 3.0)


@pytest.mark.parametrize(
    ("signals", "undialled"),
    [
        ((HangupRequested(0), Destroyed(0)), True),
        ((Destroyed(0),), True),
        ((Destroyed(34),), False),  # it says why
        ((Refused("a body too large"),), False),  # so does that
        ((*RING, HangupRequested(0), Destroyed(0)), False),
        ((Lost(),), False),  # nobody knows
        ((HangUp(EndedBy.HANDLER), Destroyed(0)), False),
    ],
)
def test_what_asterisk_gave_up_before_it_dialled(signals: tuple[Signal, ...], undialled: bool) -> None:
    assert end_of(run(OUT, *signals)[0]).undialled is undialled
    assert not end_of(run(IN, *signals)[0]).undialled


def test_a_call_that_nobody_answered_has_no_talk() -> None:
    ended = end_of(run(IN, Started(), Destroyed())[0])
    assert (ended.answered, ended.talk_seconds) == (None, 0.0)


def test_a_call_that_is_up_when_it_is_opened_counts_from_there() -> None:
    ended = end_of(run(IN, Started(), Destroyed(), up=True)[0])
    assert (ended.disposition, ended.answered, ended.talk_seconds) == ("answered", 100.0, 2.0)


@pytest.mark.parametrize(
    ("signals", "state"),
    [
        ((), State.NEW),
        ((Started(),), State.RINGING),
        ((Dialled(""),), State.NEW),
        ((Dialled("RINGING"),), State.RINGING),
        ((Dialled("PROGRESS"), Dialled("ANSWER")), State.UP),
        ((Answered(), Started()), State.UP),
        ((Started(), Continue()), State.LEAVING),
        ((Started(), Answered(), Continue(), Stayed()), State.UP),
        ((Started(), Continue(), Stayed()), State.RINGING),
        ((Started(), Continue(), LeftStasis()), State.LEFT),
        ((Started(), Answered(), Continue(), Started()), State.UP),
        ((Started(), Continue(), LeftStasis(), Answered()), State.LEFT),
        ((Started(), Answered(), Continue(), LeftStasis(), Started()), State.UP),
        ((Started(), HangUp(EndedBy.HANDLER), LeftStasis()), State.ENDING),
        ((Started(), Answered(), WentOn("voxtra-beta")), State.UP),
    ],
)
def test_states(signals: tuple[Signal, ...], state: State) -> None:
    _, table = run(IN, *signals)
    assert table.live[CALL].state is state


def test_the_delete_carries_the_reason() -> None:
    for signal, reason in (
        (HangUp(EndedBy.HANDLER, "busy"), "busy"),
        (HandlerReturned(), "normal"),
        (HandlerRaised("x"), "failure"),
        (MediaLost("eof"), "normal"),
    ):
        actions, _ = run(IN, Started(), signal)
        assert actions == [Delete(CALL, reason)]


def test_an_unknown_call_asks_for_nothing() -> None:
    table = CallTable()
    assert table.feed("nobody", Destroyed(16), 1.0) == ()
    assert table.feed("nobody", Started(), 1.0) == ()
    assert not table.known("nobody")


def test_a_call_is_opened_once() -> None:
    table = CallTable()
    table.open(CALL, IN, 1.0)
    with pytest.raises(CallError) as caught:
        table.open(CALL, IN, 2.0)
    assert caught.value.call == CALL


def test_a_channel_that_comes_after_it_was_not_to_be_found_is_ended() -> None:
    """The originate was still on its way when its DELETE got 404: nobody else would end the channel."""
    actions, table = run(OUT, HangUp(EndedBy.HANDLER), Missing())
    assert end_of(actions).disposition == "cancelled"
    assert table.feed(CALL, Answered(), 9.0) == ()
    assert table.feed(CALL, Started(), 9.0) == (Delete(CALL, "normal"),)


def test_a_late_start_of_a_call_that_was_destroyed_is_nothing() -> None:
    _, table = run(IN, Started(), Destroyed())
    assert table.feed(CALL, Started(), 9.0) == ()


def test_a_call_that_was_lost_may_come_back() -> None:
    _, table = run(IN, Started(), Lost())
    assert not table.known(CALL)
    assert table.feed(CALL, Started(), 9.0) == ()


def test_the_memory_of_ended_calls_is_bounded_and_keeps_the_last() -> None:
    table = CallTable()
    for number in range(RECENT_MAX + 5):
        table.open(str(number), IN, 1.0)
        table.feed(str(number), Destroyed(), 2.0)
    known = [number for number in range(RECENT_MAX + 5) if table.known(str(number))]
    assert known == list(range(5, RECENT_MAX + 5))


def test_live_cannot_be_written() -> None:
    _, table = run(IN)
    with pytest.raises(TypeError):
        del table.live[CALL]  # type: ignore[attr-defined]


# --- every order and repetition -----------------------------------------------------------------------------

CAUSES = st.sampled_from([0, 16, 17, 19, 34])
SIGNALS: st.SearchStrategy[Signal] = st.one_of(
    st.just(Started()),
    st.builds(Dialled, st.sampled_from(["", "RINGING", "PROGRESS", "ANSWER", "BUSY", "NOANSWER"])),
    st.just(Answered()),
    st.builds(HangupRequested, CAUSES, st.sampled_from([0, 486]), st.booleans()),
    st.just(LeftStasis()),
    st.builds(Destroyed, CAUSES, st.sampled_from([0, 486])),
    st.builds(HangUp, st.sampled_from(list(EndedBy)), st.sampled_from(["normal", "busy", "no_answer"])),
    st.just(Continue()),
    st.just(Stayed()),
    st.builds(MediaLost, st.sampled_from(["hangup", "eof", "error"])),
    st.builds(HandlerReturned, st.integers(0, 2)),
    st.builds(HandlerRaised, st.just("x"), st.integers(0, 2)),
    st.builds(WentOn, st.just("voxtra-beta")),
    st.just(Doubted()),
    st.just(Missing()),
    st.just(Present()),
    st.builds(Refused, st.just("500")),
    st.just(Lost()),
)


def over_at(direction: Direction, signals: list[Signal], *, up: bool) -> int | None:
    """Which signal ended the call."""
    ended = (n for n in range(len(signals)) if CALL not in run(direction, *signals[: n + 1], up=up)[1].live)
    return next(ended, None)


@settings(max_examples=500)
@given(direction=st.sampled_from(Direction), up=st.booleans(), signals=st.lists(SIGNALS, max_size=14))
def test_every_order_ends_once(direction: Direction, up: bool, signals: list[Signal]) -> None:
    actions, table = run(direction, *signals, up=up)
    ends = [n for n, action in enumerate(actions) if isinstance(action, End)]
    gones = [n for n, action in enumerate(actions) if isinstance(action, Gone)]
    terminal = over_at(direction, signals, up=up)
    if terminal is None:
        assert not any(isinstance(signal, TERMINAL) for signal in signals)
    else:
        assert isinstance(signals[terminal], (*TERMINAL, WentOn))
    assert len(ends) == (0 if terminal is None else 1)
    assert len(gones) <= 1
    assert (CALL in table.live) == (terminal is None)
    assert table.known(CALL) == (terminal is None or not isinstance(signals[terminal], Lost))
    if terminal is None:
        return
    assert len(gones) == 1
    assert gones[0] < ends[0]
    # Nothing after the end but the DELETE of a channel that was missing and comes all the same.
    after = actions[ends[0] + 1 :]
    if isinstance(signals[terminal], Destroyed | WentOn):
        assert after == []
    assert after == [Delete(CALL, "normal")] * len(after)
    assert len(after) <= sum(isinstance(signal, Started) for signal in signals[terminal + 1 :])
    # What comes later changes nothing of what was told.
    until, _ = run(direction, *signals[: terminal + 1], up=up)
    assert until == actions[: ends[0] + 1]
    ended = end_of(actions)
    answered = up or any(s in {Answered(), Dialled("ANSWER")} for s in signals[:terminal])
    assert (ended.disposition == "answered") == answered
    assert ended.seconds == terminal + 1
    assert 0.0 <= ended.talk_seconds <= ended.seconds


@given(
    direction=st.sampled_from(Direction),
    before=st.lists(st.sampled_from([Started(), Answered(), *RING]), max_size=4),
    by=st.sampled_from([EndedBy.HANDLER, EndedBy.OPERATOR, EndedBy.LIMIT]),
    after=st.lists(SIGNALS, max_size=10),
)
def test_our_own_end_stays_ours_whatever_follows(
    direction: Direction, before: list[Signal], by: EndedBy, after: list[Signal]
) -> None:
    actions, _ = run(direction, *before, HangUp(by), *after, Destroyed(16))
    assert end_of(actions).ended_by is by
    assert actions[0] == Delete(CALL, "normal")


@given(signals=st.lists(SIGNALS.filter(lambda s: not isinstance(s, (*TERMINAL, WentOn))), max_size=14))
def test_a_call_whose_handler_is_over_is_ended_unless_it_left(signals: list[Signal]) -> None:
    """No call is left up: whatever happened, the end is asked for, under way, or the dialplan's."""
    actions, table = run(IN, Started(), *signals, HandlerReturned())
    state = table.live[CALL].state
    assert state in {State.ENDING, State.LEAVING, State.LEFT}
    if state is State.ENDING:
        assert any(isinstance(action, Delete | Gone) for action in actions)
    if state is State.LEAVING:
        assert any(isinstance(action, Delete) for action in table.feed(CALL, Stayed(), 200.0))


def test_the_table_says_for_every_state_what_ends_it() -> None:
    assert set(TRANSITIONS) == set(State)
    for state, moves in TRANSITIONS.items():
        if state is not State.ENDED:
            assert all(moves[terminal].to is State.ENDED for terminal in TERMINAL)
            assert all(moves[terminal].asks == (Gone, End) for terminal in TERMINAL)
        asked_to_look = {signal for signal, move in moves.items() if Look in move.asks}
        assert asked_to_look <= {LeftStasis, Doubted}
