"""Calls that go into the dialplan and come back, as the hub sees them, before an Asterisk of a few lines. The
real one: tests/live/test_calls_orders.py."""

import asyncio
import gc
from collections.abc import Mapping
from typing import Any

import pytest

from tests.unit.runtime.test_nodes import Asterisk, Taker, in_stasis, until
from voxtractl.ari import requests
from voxtractl.ari.requests import Answer, Request
from voxtractl.errors import AriAuthFailed, AriUnreachable, CallEnded, MediaFailed
from voxtractl.runtime import auxiliary, lifecycle, turns, websockets
from voxtractl.runtime import hub as hub_module
from voxtractl.runtime.hub import Hub
from voxtractl.runtime.lifecycle import Direction, State
from voxtractl.runtime.places import MOVED
from voxtractl.runtime.session import CallSession

HERE = in_stasis("call")["dialplan"]


def started(app: str = "voxtra-acme", **dialplan: Any) -> dict[str, Any]:
    channel = {"id": "call", "state": "Up", "caller": {"number": "1"}, "dialplan": HERE | dialplan}
    return {"type": "StasisStart", "application": app, "args": ["+265999000001"], "channel": channel}


def of_call(kind: str, app: str = "voxtra-acme", **more: Any) -> dict[str, Any]:
    return {"type": kind, "application": app, "channel": {"id": "call"}, **more}


async def served(
    asterisk: Asterisk | None = None,
) -> tuple[Asterisk, Hub, list[Mapping[str, Any]]]:
    """A hub with two tenants, and a call of acme's that is up."""
    asterisk, told = asterisk or Asterisk(), list[Mapping[str, Any]]()
    hub = Hub(asterisk)  # type: ignore[arg-type]
    hub.journal.sinks.append(told.append)
    beta = Taker("nothing")
    beta.tenant = "beta"
    hub.serve("voxtra-acme", Taker("nothing"))  # type: ignore[arg-type]
    hub.serve("voxtra-beta", beta)  # type: ignore[arg-type]
    await hub.start()
    hub._on_event(started())  # type: ignore[arg-type]
    hub.feed("call", lifecycle.Answered())
    return asterisk, hub, told


def leaves(hub: Hub) -> None:
    hub.feed("call", lifecycle.Continue())
    hub._on_event(of_call("StasisEnd"))  # type: ignore[arg-type]


async def test_a_digit_counts_once_and_not_while_the_call_is_in_the_dialplan() -> None:
    _, hub, told = await served()

    def pressed() -> int:
        for app in ("voxtra-acme", "voxtra-other"):  # both are subscribed
            hub._on_event(of_call("ChannelDtmfReceived", app, digit="1", duration_ms=80))  # type: ignore[arg-type]
        return sum(event["event"] == "dtmf" for event in told)

    assert pressed() == 1
    leaves(hub)
    assert pressed() == 1
    hub._on_event(started())  # type: ignore[arg-type]
    assert pressed() == 2
    await hub.stop()


def replaced(before: str, by: str) -> dict[str, Any]:
    """The far side has transferred the call: another channel gets the place of one."""
    channel = {**started()["channel"], "id": by, "name": "Local/+265999000002@from-trunk-00000001;1"}
    return {**started(), "args": [], "channel": channel, "replace_channel": {"id": before}}


def ended(asterisk: Asterisk) -> list[str]:
    """The channels it was told to end."""
    asked = [request for request in asterisk.asked if request.method == "DELETE"]
    return [request.path.removeprefix("/channels/") for request in asked if "/channels/" in request.path]


async def test_a_call_goes_on_over_the_channel_that_replaces_its_own() -> None:
    asterisk, hub, told = await served()
    for before, by in (("call", "second"), ("second", "third")):
        hub._on_event(replaced(before, by))  # type: ignore[arg-type]
        for kind in ("ChannelHangupRequest", "StasisEnd", "ChannelDestroyed"):
            hub._on_event({**of_call(kind), "channel": {"id": before}})  # type: ignore[arg-type]
        assert hub.table.live["call"].state is State.UP
        assert hub.call_of(before) is None
        assert hub.call_of(by) is hub.sessions["call"]
    hub._on_event(of_call("ChannelDtmfReceived", digit="1") | {"channel": {"id": "third"}})  # type: ignore[arg-type]
    asterisk.channels = [in_stasis("third"), in_stasis("second")]  # this one's telephone is slow to hang up
    await hub._resync(adopting=False)
    assert hub.sessions.keys() == {"call"}
    assert [event["event"] for event in told[1:]] == ["transferred", "transferred", "dtmf"]
    assert {event["call_id"] for event in told} == {"call"}
    assert told[1]["to"] == "+265999000002"
    hub.feed("call", lifecycle.HangUp(lifecycle.EndedBy.HANDLER, "normal"))
    await until(lambda: ended(asterisk) == ["third"])
    hub._on_event({**of_call("ChannelDestroyed", cause=17), "channel": {"id": "third"}})  # type: ignore[arg-type]
    assert (told[-1]["event"], told[-1]["cause"]) == ("call_ended", 17)
    assert hub._calls == {}
    await hub.stop()
    assert sorted(ended(asterisk)) == ["call", "second", "third"]
    assert hub._parting == {}


async def test_a_channel_that_replaces_one_of_a_call_that_is_over_is_ended() -> None:
    asterisk, hub, told = await served()
    hub._on_event(of_call("ChannelHangupRequest", cause=16))  # type: ignore[arg-type]
    hub._on_event(replaced("call", "second"))  # type: ignore[arg-type]
    await until(lambda: ended(asterisk) == ["second"])
    hub._on_event({**of_call("ChannelDestroyed", cause=16), "channel": {"id": "second"}})  # type: ignore[arg-type]
    assert told[-1]["event"] == "call_ended"
    hub._on_event(replaced("call", "third"))  # type: ignore[arg-type]
    await until(lambda: ended(asterisk)[-1] == "third")
    assert [event["event"] for event in told].count("call_started") == 1
    await hub.stop()


@pytest.mark.parametrize("half", ["+265999000001@from-trunk-00000001;1", "_attended@transfer-00000001;2"])
async def test_what_got_the_place_of_a_call_while_nobody_heard_it_is_no_call_in(half: str) -> None:
    asterisk, hub, told = await served()
    place = in_stasis("second")
    asterisk.channels = [place | {"name": f"Local/{half}"}]
    if half.endswith(";1"):  # as it came there: by no line of the dialplan
        place["dialplan"]["app_data"] = "voxtra-acme"
    await hub._resync(adopting=False)
    await until(lambda: ended(asterisk) == ["second"])
    assert [event["event"] for event in told] == ["call_started", "call_ended"]
    assert told[-1]["ended_by"] == "lost"
    await hub.stop()


async def test_who_a_call_talks_to_in_the_dialplan_may_connect_it_with_a_second_call() -> None:
    """The agent of a queue, say, who asks a colleague first."""
    _, hub, told = await served()
    leaves(hub)
    second = started()
    second["channel"] = {**second["channel"], "id": "second"}
    hub._on_event(second)  # type: ignore[arg-type]
    event = replaced("second", "call")
    event["channel"]["name"] = "PJSIP/acme-trunk-00000001"
    hub._on_event(event)  # type: ignore[arg-type]
    (end,) = [event for event in told if event["event"] == "call_ended"]
    assert (end["call_id"], end["ended_by"]) == ("call", "asterisk")
    assert hub.sessions.keys() == {"second"}
    assert hub.call_of("call") is hub.sessions["second"]
    hub._on_event(of_call("ChannelDestroyed"))  # type: ignore[arg-type]
    assert not hub.sessions
    assert hub._calls == {}
    await hub.stop()


def over_trunk(of: str, channel: str) -> dict[str, Any]:
    """As much of a channel over the own trunk of a tenant as tells that."""
    return {**started()["channel"], "id": channel, "accountcode": of, "name": f"PJSIP/{of}-trunk-00000001"}


@pytest.mark.parametrize(("whose", "goes_on"), [("acme", True), ("beta", False)])
async def test_a_call_whose_place_is_taken_over_the_trunk_of_another_tenant_is_ended(
    whose: str, goes_on: bool
) -> None:
    asterisk, hub, _ = await served()
    hub._on_event({**replaced("call", "second"), "channel": over_trunk(whose, "second")})  # type: ignore[arg-type]
    assert (hub.table.live["call"].state is State.UP) == goes_on
    if not goes_on:
        await until(lambda: ended(asterisk) == ["second"])
    await hub.stop()


async def test_what_takes_the_place_of_a_call_that_is_being_ended_is_ended_whoever_it_is() -> None:
    asterisk, hub, _ = await served()
    hub.feed("call", lifecycle.HangUp(lifecycle.EndedBy.HANDLER, "normal"))
    hub._on_event({**replaced("call", "second"), "channel": over_trunk("beta", "second")})  # type: ignore[arg-type]
    await until(lambda: ended(asterisk) == ["call", "second"])
    await hub.stop()


@pytest.mark.parametrize(
    ("app", "trunk", "result", "goes_on"),
    [
        ("voxtra-beta", "beta", "Success", False),
        ("voxtra-beta", "beta", "Fail", True),
        (
            "voxtra-acme",
            "beta",
            "Success",
            True,
        ),  # two tenants at one carrier, whose calls come over one trunk
    ],
)
async def test_an_attended_transfer_connects_no_calls_of_two_tenants(
    app: str, trunk: str, result: str, goes_on: bool
) -> None:
    asterisk, hub, _ = await served()
    hub._on_event({**started(app), "channel": over_trunk(trunk, "second")})  # type: ignore[arg-type]
    event = {
        "type": "BridgeAttendedTransfer",
        "transferer_first_leg": over_trunk("acme", "call"),
        "transferer_second_leg": over_trunk(trunk, "second"),
        "result": result,
    }
    hub._on_event(event)  # type: ignore[arg-type]
    assert {call.state is State.UP for call in hub.table.live.values()} == {goes_on}
    if not goes_on:
        await until(lambda: sorted(ended(asterisk)) == ["call", "second"])
    await hub.stop()


async def test_a_channel_that_is_missed_while_it_is_replaced_is_not_the_end_of_the_call() -> None:
    _, hub, _ = await served()
    hub._on_event(replaced("call", "second"))  # type: ignore[arg-type]
    hub._looked("call", "call", Answer(404))  # was asked before that
    assert hub.table.live["call"].state is State.UP
    await hub.stop()


class InItsMidst(Asterisk):
    """It has told that a channel got the place of another, and does not find it for ``misses`` commands."""

    misses = 2

    async def ask(self, request: Request, *, timeout: float | None = None) -> Answer:
        about = f"{request.path} {dict(request.query).get('eventSource', '')}"
        if "second" not in about or request.method == "GET" or not self.misses:
            return await super().ask(request)
        self.misses -= 1
        self.asked.append(request)
        return Answer(422 if request.method == "POST" else 404)


@pytest.mark.parametrize("ends", ["ours", "theirs", "it was over"])
async def test_a_channel_that_asterisk_does_not_find_in_the_midst_of_a_swap_is_there(ends: str) -> None:
    """A DELETE that met 404 was believed, and the channel stayed up with nobody."""
    asterisk = InItsMidst()
    _, hub, told = await served(asterisk)
    event = replaced("call", "second")
    if ends == "theirs":
        event["channel"] = over_trunk("beta", "second")
    if ends == "it was over":
        hub._on_event(of_call("ChannelDestroyed"))  # type: ignore[arg-type]
    hub._on_event(event)  # type: ignore[arg-type]
    if ends == "ours":
        await until(lambda: "call" in hub._followed)  # its end is told, wherever it goes
        asterisk.misses = 1
        hub.feed("call", lifecycle.HangUp(lifecycle.EndedBy.HANDLER, "normal"))
    await until(lambda: len(ended(asterisk)) > 1)
    assert set(ended(asterisk)) == {"second"}
    if ends != "it was over":
        assert told[-1]["event"] != "call_ended"
    await hub.stop()


async def test_the_end_in_the_app_of_the_tenant_before_may_be_told_late() -> None:
    _, hub, _ = await served()
    hub.feed("call", lifecycle.Continue())
    hub._on_event(started("voxtra-beta"))  # type: ignore[arg-type]
    states = []
    for app in ("voxtra-acme", "voxtra-beta"):
        hub._on_event(of_call("StasisEnd", app))  # type: ignore[arg-type]
        states.append(hub.table.live["call"].state)
    assert states == [State.UP, State.LEFT]
    await hub.stop()


async def test_another_tenants_app_makes_it_that_tenants_call() -> None:
    _, hub, told = await served()
    leaves(hub)
    first = hub.sessions["call"]
    hub._on_event(started("voxtra-beta"))  # type: ignore[arg-type]
    second = hub.sessions["call"]
    assert [(event["event"], event["tenant"]) for event in told] == [
        ("call_started", "acme"),
        ("call_ended", "acme"),
        ("call_started", "beta"),
    ]
    assert first.ended is not None
    first.finish()  # its handler comes to its end only now
    first.refuse("normal")
    await asyncio.sleep(0)
    assert hub.table.live["call"].state is State.UP
    assert hub.sessions["call"] is second
    assert (hub.calls_of("acme"), hub.calls_of("beta"), hub.calls_of("nobody")) == (set(), {"call"}, set())
    hub.feed("call", lifecycle.Destroyed())
    assert hub.calls_of("beta") == set()
    await hub.stop()


async def test_a_call_that_comes_back_to_a_blocked_loop_takes_the_fallback() -> None:
    asterisk, hub, _ = await served()
    session = hub.sessions["call"]
    leaves(hub)
    session.attended = False
    session._taker.blocked = True
    hub._on_event(started())  # type: ignore[arg-type]
    await until(lambda: asterisk.sent_on("call"))
    assert hub.table.live["call"].state is State.LEFT
    await hub.stop()


@pytest.mark.parametrize(
    ("place", "state"),
    [
        ({}, State.UP),  # it was never sent on
        ({"app_name": "Queue"}, State.LEAVING),  # StasisEnd will come, or was lost
        ({"context": "home", "exten": "s"}, State.UP),  # there and back
    ],
)
async def test_after_a_cut_the_line_of_the_dialplan_says_whether_it_left(
    place: dict[str, Any], state: State
) -> None:
    asterisk, hub, _ = await served()
    hub.feed("call", lifecycle.Continue())
    asterisk.channels = [{"id": "call", "state": "Up", "dialplan": HERE | place}]
    await hub._resync(adopting=False)
    await asyncio.sleep(0)
    assert hub.table.live["call"].state is state
    assert hub.table.live["call"].visits == (2 if "context" in place else 1)
    await hub.stop()


async def test_a_refused_password_ends_every_stream_of_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websockets, "APPS_BYTES", 1)
    asterisk, hub, _ = await served()
    first, second = asterisk.streams
    first.failure = AriAuthFailed("wrong password", method="GET", path="/channels", status=401)
    first.more["on_down"]("wrong password")
    assert second.failure is first.failure
    await hub.stop()


async def test_a_call_out_that_is_made_after_the_channels_were_listed_is_not_lost() -> None:
    asterisk, hub, told = await served()
    listed = asyncio.Event()

    async def originate(**_: Any) -> None:
        await listed.wait()

    async def ask_slowly(request: Request, **_: Any) -> Any:
        answer = await Asterisk.request(asterisk, request)
        if request.path == "/channels":  # the list is long: the call is made while it is on its way
            listed.set()
            await until(lambda: not hub._sending)
        return answer

    asterisk.originate = originate  # type: ignore[attr-defined]
    asterisk.request = ask_slowly  # type: ignore[method-assign]
    channel = {"id": "out", "state": "Down"}
    taker = hub.taker("voxtra-acme")
    assert taker is not None
    out = CallSession(hub, taker, channel, ["1"], Direction.OUTBOUND, app="voxtra-acme")
    sent = asyncio.create_task(hub.originate(out, endpoint="Local/1", app="voxtra-acme"))
    await until(lambda: hub._sending)
    await hub._resync(adopting=False)
    await sent
    assert "out" in hub.table.live
    await until(
        lambda: any(request.path == "/channels/out" for request in asterisk.asked)
    )  # it is looked for
    assert [event["event"] for event in told].count("call_ended") == 1  # of the one that is not listed
    await hub.stop()


async def test_who_waits_for_a_channel_of_a_call_that_ends_is_told_at_once() -> None:
    """And not after the time that a channel gets to come, as if Asterisk had made none."""
    _, hub, _ = await served()
    waits = asyncio.create_task(hub.aux.open_channel("call", requests.channel))
    await until(lambda: hub.aux._coming)
    await asyncio.sleep(0.01)
    hub.feed("call", lifecycle.Destroyed())
    with pytest.raises(CallEnded):
        await asyncio.wait_for(waits, 4)
    await hub.stop()


async def test_a_channel_that_does_not_come_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its StasisStart may be lost with the connection."""
    monkeypatch.setattr(auxiliary, "AUX_TIMEOUT", 0.05)
    _, hub, _ = await served()
    with pytest.raises(MediaFailed, match="did not come"):
        await hub.aux.open_channel("call", requests.channel)
    await hub.stop()


async def test_what_a_channel_meets_when_its_call_has_ended_is_the_end_of_the_call() -> None:
    """The hub ends the channel with the call: who connects its sound just then finds none."""
    _, hub, _ = await served()

    async def connects(_: Mapping[str, Any]) -> None:
        hub.feed("call", lifecycle.Destroyed())
        raise MediaFailed("no sound from Asterisk: it knows no such connection")

    with pytest.raises(CallEnded):
        await hub.aux.open_channel("call", requests.channel, connects)
    await hub.stop()


@pytest.mark.parametrize("status", [200, 400])
async def test_a_channel_that_is_given_up_is_ended_when_asterisk_has_answered_for_it(status: int) -> None:
    asterisk, hub, _ = await served()
    asked, answers = asyncio.Event(), asyncio.Event()
    ended: list[str] = []
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))

    async def ask(request: Request, **_: Any) -> Answer:
        if request.path.startswith("/channels/vx-aux-"):
            if request.method == "DELETE":
                ended.append(request.path)
            else:
                asked.set()
                await answers.wait()
                return Answer(status, {"message": "Channel not found"})
        return await Asterisk.ask(asterisk, request)

    asterisk.ask = ask  # type: ignore[method-assign]
    opening = asyncio.create_task(hub.aux.open_channel("call", requests.channel))
    await asked.wait()
    opening.cancel()
    await asyncio.wait([opening])
    for _ in range(10):
        await asyncio.sleep(0)
    assert not ended
    answers.set()
    await until(lambda: ended)
    assert not hub.aux._making
    await hub.stop()
    gc.collect()
    assert not faults


async def test_a_call_that_another_worker_had_meanwhile_comes_back_with_its_own_number() -> None:
    """This one stood still, was taken for dead, and takes the call back when the other one is."""
    _, hub, _ = await served()
    session = hub.sessions["call"]
    hub._on_event(of_call("StasisEnd"))  # type: ignore[arg-type]
    session.finish()
    back = started()
    back["args"] = [MOVED, "+265999000001"]
    hub._on_event(back)  # type: ignore[arg-type]
    await asyncio.sleep(0)
    assert session.args == ("+265999000001",)
    assert session.called_number == "+265999000001"
    await hub.stop()


async def test_a_call_that_was_never_sent_on_is_found_where_it_is() -> None:
    """Over the websocket too, where the body of an answer that nobody waits for is not read."""
    asterisk, hub, _ = await served()

    def post(request: Request, told: Any) -> bool:
        told(Answer(200))
        return True

    async def ask(request: Request, **more: Any) -> Answer:
        if request.path == "/channels/call":
            return Answer(200, in_stasis("call"))
        return await Asterisk.ask(asterisk, request)

    asterisk.post, asterisk.ask = post, ask  # type: ignore[method-assign]
    hub.feed("call", lifecycle.Continue())
    hub.feed("call", lifecycle.HandlerReturned())
    hub.feed("call", lifecycle.Doubted())
    await until(lambda: hub.table.live["call"].state is State.ENDING)  # as its handler left it
    await hub.stop()


async def test_a_call_that_ends_before_its_number_is_known_is_taken_by_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who took it then would have it for ever."""
    _, hub, _ = await served()
    taken: list[CallSession] = []
    monkeypatch.setattr(hub.taker("voxtra-acme"), "take", taken.append)
    for call_id in ("ends", "stays"):
        event = started() | {"args": []}
        event["channel"]["id"] = call_id
        hub._on_event(event)  # type: ignore[arg-type]
    hub.feed("ends", lifecycle.Destroyed())
    await until(lambda: taken)
    await asyncio.sleep(0.01)
    assert [call.id for call in taken] == ["stays"]
    await hub.stop()


async def test_a_call_that_is_told_after_its_app_was_taken_is_left_to_who_took_it() -> None:
    """Asterisk may tell it on a websocket that goes on for other apps; whoever took the app finds it."""
    asterisk, hub, told = await served()
    asterisk.streams[0].more["on_taken"]("voxtra-beta")
    event = started("voxtra-beta")
    event["channel"]["id"] = "late"
    hub._on_event(event)  # type: ignore[arg-type]
    assert "late" not in hub.sessions
    assert [event["event"] for event in told] == ["call_started"]
    await hub.stop()


async def test_a_request_does_not_wait_for_its_turn_longer_than_for_its_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Behind slow ones of the same tenant it would wait as long as all of them."""
    monkeypatch.setattr(turns, "SHARE", 1)
    asterisk, hub, _ = await served()
    answers = asyncio.Event()

    async def slow(request: Request, **more: Any) -> Answer:
        await answers.wait()
        return Answer(200)

    monkeypatch.setattr(asterisk, "ask", slow)

    async def tenant() -> None:
        first = asyncio.create_task(hub.ask(requests.channels(), timeout=3600))
        await asyncio.sleep(0)
        with pytest.raises(AriUnreachable, match="slow requests on their way"):
            await hub.ask(requests.channels(), timeout=0.05)
        hub.loop.call_soon_threadsafe(answers.set)
        await first
        assert (await hub.ask(requests.channels(), timeout=3600)).status == 200

    await asyncio.wait_for(asyncio.to_thread(asyncio.run, tenant()), 20)
    monkeypatch.undo()
    await hub.stop()


async def test_an_asterisk_that_is_silent_at_the_very_end_is_told_as_such(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asterisk, hub, _ = await served()

    async def silent(request: Request, **more: Any) -> Answer:
        await asyncio.sleep(3600)
        return Answer(200)

    monkeypatch.setattr(asterisk, "request", silent)
    monkeypatch.setattr(hub_module, "END_TIMEOUT", 0.01)
    await hub.stop()
    assert "calls that came at the very end may be left there: no answer within 0 s" in caplog.text
