"""What the documentation promises of calls, over a real trunk: SIP and RTP on the wire, a carrier at the
other end, the tenant's own dialplan and trunk as they were pushed."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from tests.live.conftest import release
from tests.live.exchange import Dialog, Exchange, exchange
from tests.live.pbx import ACME, BETA, Pbx, nothing, serving, until
from tests.live.trunk import OURS, TRUNK, fate, line, number
from tests.tools.sound import loudness, pitch, tone
from tests.tools.spoken import UNDERSTOOD
from voxtractl import naming
from voxtractl.ari.release import SIP_CODES
from voxtractl.ari.requests import Request
from voxtractl.audio.g711 import pcm_to_ulaw
from voxtractl.errors import CallEnded, OriginateFailed
from voxtractl.lab import Lab
from voxtractl.runtime.hub import Hub
from voxtractl.runtime.session import CallSession
from voxtractl.runtime.sounds import tone_of
from voxtractl.runtime.speech import PiperSpeech, PocketsphinxRecognizer

__all__ = ["line"]  # the fixture


async def over(dialog: Dialog) -> None:
    await asyncio.wait_for(dialog.over.wait(), 15)


# --- calls out --------------------------------------------------------------------------------------------


async def test_a_call_out_is_answered_says_a_sentence_and_is_hung_up(line: tuple[Pbx, Exchange]) -> None:
    pbx, there = line
    voice, ear = PiperSpeech(variation=0.0), PocketsphinxRecognizer()
    async with serving(pbx, nothing, tts=voice) as (app, seen):
        call = await app.originate(endpoint=f"PJSIP/{number(200)}@{TRUNK}", caller_id=OURS, timeout=10)
        (dialog,) = there.dialogs.values()
        assert (dialog.number, dialog.caller) == (number(200), OURS)
        await call.answer()  # it is
        await call.say(UNDERSTOOD[1])
        await call.hangup()
        await over(dialog)
        assert dialog.got[-2:] == ["ACK", "BYE"]
        ended = await call.wait_ended()
        assert (ended.disposition, ended.ended_by, ended.cause) == ("answered", "handler", 16)
        assert seen.names() == ["call_started", "call_answered", "call_ended"]
    try:
        heard = (await ear.transcribe(dialog.heard, 8000)).lower()
    finally:
        await ear.close()
    assert {"morning", "name"} <= set(heard.replace(",", "").split()), heard


@pytest.mark.parametrize(
    ("status", "disposition"),
    [
        (486, "busy"),
        (600, "busy"),
        (603, "rejected"),
        (403, "rejected"),
        (404, "failed"),
        (480, "no_answer"),
        (500, "failed"),
        (503, "congestion"),
    ],
)
async def test_a_call_that_is_refused_says_why_with_the_carriers_own_code(
    line: tuple[Pbx, Exchange], status: int, disposition: str
) -> None:
    pbx, there = line
    async with serving(pbx, nothing) as (app, seen):
        with pytest.raises(OriginateFailed) as caught:
            await app.originate(f"PJSIP/{number(status)}@{TRUNK}", timeout=10)
        told = status if release(pbx.lab).has(SIP_CODES) else 0
        assert (caught.value.disposition, caught.value.tech_cause) == (disposition, told)
        assert there.dialled() == [number(status)]
        await until(lambda: "call_ended" in seen.names())


async def test_a_call_out_that_is_redirected_to_us_is_not_begun_again(line: tuple[Pbx, Exchange]) -> None:
    pbx, there = line
    async with serving(pbx, nothing) as (app, seen):
        with pytest.raises(OriginateFailed) as caught:
            await app.originate(f"PJSIP/{number(302)}@{TRUNK}", timeout=10)
        assert (caught.value.disposition, caught.value.cause) == ("failed", 23)
        await until(lambda: "call_ended" in seen.names())
        await pbx.empty()
        assert seen.names() == ["call_started", "call_ended"]
        assert there.dialled() == [number(302)]


async def test_a_transfer_to_who_forwards_to_us_does_not_go_round(line: tuple[Pbx, Exchange]) -> None:
    pbx, there = line

    async def handler(call: CallSession) -> tuple[str, int]:
        await call.answer()
        with pytest.raises(OriginateFailed) as caught:
            await call.transfer(number(302), context=naming.outbound_context("acme"))
        return caught.value.disposition, caught.value.cause

    async with serving(pbx, handler) as (_, seen):
        await there.call(ACME)
        assert await asyncio.wait_for(seen.result, 10) == ("failed", 23)
        assert there.dialled() == [number(302)]


async def test_a_call_nobody_answers_is_cancelled_on_the_wire(line: tuple[Pbx, Exchange]) -> None:
    pbx, there = line
    async with serving(pbx, nothing) as (app, _):
        with pytest.raises(OriginateFailed) as caught:
            await app.originate(f"PJSIP/{number(0)}@{TRUNK}", timeout=1)
        assert caught.value.disposition == "no_answer"
        (dialog,) = there.dialogs.values()
        await over(dialog)
        assert "CANCEL" in dialog.got


async def test_a_batch_keeps_to_its_concurrency_and_dials_every_number_once(
    line: tuple[Pbx, Exchange],
) -> None:
    pbx, there = line
    numbers = [number(status, last) for last in range(10) for status in (200, 200, 486, 503)]
    numbers += [number(0, last) for last in range(5)]
    failed: Counter[str] = Counter()
    async with serving(pbx, nothing) as (app, seen):
        at_once = asyncio.Semaphore(10)

        async def dial(to: str) -> None:
            async with at_once:
                try:
                    call = await app.originate(endpoint=f"PJSIP/{to}@{TRUNK}", caller_id=OURS, timeout=4)
                    await call.answer()
                    await call.play_file("beep")
                    await call.hangup()
                except OriginateFailed as error:
                    failed[error.disposition] += 1

        assert len(set(numbers)) == 35
        await asyncio.gather(*(dial(to) for to in dict.fromkeys(numbers)))
        assert there.most == 10
        assert Counter(there.dialled()) == Counter(set(numbers))
        assert failed == {"busy": 10, "congestion": 10, "no_answer": 5}
        await until(lambda: len(seen.ends()) == 35)
        await until(lambda: all(dialog.over.is_set() for dialog in there.dialogs.values()))


async def test_a_call_into_the_dialplan_is_dialled_and_carries_its_variables(
    line: tuple[Pbx, Exchange],
) -> None:
    pbx, there = line
    id = uuid4().hex  # the global variable it is seen in outlives a test
    async with serving(pbx, nothing) as (app, _):
        await app.ari.originate(
            endpoint=f"PJSIP/{number(200)}@{TRUNK}",
            app=None,
            context="far-variables",
            extension="s",
            caller_id=OURS,
            variables={"MY_CALL_ID": id, "MY_RECORD": 1},
        )
        await until(lambda: f"{id}/1" in pbx.ari("GET", "asterisk/variable", variable="SEEN")[1])
        (dialog,) = there.dialogs.values()
        dialog.hang_up()
        await pbx.empty()


# --- calls in ---------------------------------------------------------------------------------------------


async def test_a_caller_hears_the_prompt_presses_a_key_and_reaches_the_queue(
    line: tuple[Pbx, Exchange],
) -> None:
    pbx, there = line

    async def handler(call: CallSession) -> tuple[str, str, str]:
        await call.answer()
        await call.play_file("hello-world")
        digit = await call.listen_dtmf(timeout=10)
        if digit == "1":
            await call.transfer_to_queue("acme-support")
        else:
            await call.hangup()
        return str(digit), call.called_number, call.caller_number

    async with serving(pbx, handler) as (_, seen):
        dialog = await there.call(ACME)
        await asyncio.wait_for(dialog.answered.wait(), 10)
        assert dialog.status == 200
        await until(lambda: loudness(dialog.heard) > 100)
        dialog.press("1")  # while it plays: it answers the question that follows
        assert await asyncio.wait_for(seen.result, 15) == ("1", ACME, "+265700000001")
        await over(dialog)  # the agent hangs up after a second
        ended = await seen.ended()
        assert ended.disposition == "answered"
        assert seen.ends()[0]["queue_status"] == "ANSWERED"


def heard_pitch(pcm: bytes, rate: int) -> float:
    """Hertz of the loud part without its first and last 20 ms: resamplers ring around a tone."""
    size = rate // 50 * 2
    parts = [pcm[at : at + size] for at in range(0, len(pcm), size)]
    return pitch(b"".join([part for part in parts if loudness(part) > 1000][1:-1]), rate)


async def test_sound_goes_both_ways_between_the_caller_and_the_handler(line: tuple[Pbx, Exchange]) -> None:
    pbx, there = line

    async def handler(call: CallSession) -> float:
        await call.answer()
        leg = await call.audio_stream(16000)
        sending = asyncio.create_task(leg.send(tone(700, 1.0, 16000)))
        heard = b""
        async for pcm in leg:
            heard += pcm if heard or loudness(pcm) > 1000 else b""
            if len(heard) >= 16000:  # 0.5 s
                break
        await sending
        await leg.drained()
        await call.hangup()
        return heard_pitch(heard, 16000)

    async with serving(pbx, handler) as (_, seen):
        dialog = await there.call(ACME)
        assert dialog.voice is not None
        dialog.voice.says = pcm_to_ulaw(tone(400, 1.0, 8000))
        assert await asyncio.wait_for(seen.result, 15) == pytest.approx(400, abs=10)
        await over(dialog)
        assert heard_pitch(dialog.heard, 8000) == pytest.approx(700, abs=10)


async def test_who_is_not_answered_yet_hears_the_handler_too(line: tuple[Pbx, Exchange]) -> None:
    pbx, there = line

    async def handler(call: CallSession) -> str:
        await call.ring()
        leg = await call.audio_stream(16000)
        await leg.send(tone(700, 1.0, 16000))
        await leg.drained()
        state = str(call.state)
        await call.answer()
        await call.hangup()
        return state

    async with serving(pbx, handler) as (_, seen):
        dialog = await there.call(ACME)
        assert await asyncio.wait_for(seen.result, 15) == "ringing"
        await over(dialog)
        assert dialog.got == ["100", "180", "183", "200", "BYE"]
        assert heard_pitch(dialog.heard, 8000) == pytest.approx(700, abs=10)


@pytest.mark.parametrize(
    ("reason", "status"), [("busy", 486), ("congestion", 503), ("rejected", 403), ("unallocated", 404)]
)
async def test_a_refused_caller_is_told_on_the_wire(
    line: tuple[Pbx, Exchange], reason: str, status: int
) -> None:
    pbx, there = line

    async def handler(call: CallSession) -> None:
        await call.hangup(reason)

    async with serving(pbx, handler):
        dialog = await there.call(ACME)
        await over(dialog)
        assert dialog.status == status


async def test_music_on_hold_goes_on_after_a_sound_and_after_a_transfer_that_failed(
    line: tuple[Pbx, Exchange],
) -> None:
    pbx, there = line

    async def handler(call: CallSession) -> str:
        await call.answer()
        (dialog,) = there.dialogs.values()
        assert dialog.voice is not None
        voice = dialog.voice

        async def hears_music() -> None:
            before = len(voice.heard)
            await until(lambda: len(voice.heard) > before + 2000)  # a quarter of a second

        await call.hold()
        await hears_music()
        await call.play_file("beep")
        await hears_music()
        with pytest.raises(OriginateFailed):
            await call.transfer(f"PJSIP/{number(486)}@{TRUNK}")
        await hears_music()
        state = str(call.state)
        await call.unhold()
        await call.play_file("beep")
        return f"{state} {call.state}"

    async with serving(pbx, handler) as (_, seen):
        await there.call(ACME)
        assert await asyncio.wait_for(seen.result, 60) == "on_hold answered"


# --- the far side transfers it ----------------------------------------------------------------------------


async def transferred(line: tuple[Pbx, Exchange], call: CallSession) -> Any:
    """A handler that connects the caller with somebody over the trunk."""
    await call.answer()
    return await call.transfer(f"PJSIP/{number(200)}@{TRUNK}", timeout=10)


async def connected(pbx: Pbx, there: Exchange) -> Dialog:
    """Whom the node called, when the two are connected."""
    await until(lambda: [row for row in pbx.bridges() if len(row["channels"]) == 2])
    return next(dialog for dialog in there.dialogs.values() if dialog.invite)


async def test_who_was_called_transfers_the_caller_to_another_number_of_the_tenant(
    line: tuple[Pbx, Exchange],
) -> None:
    pbx, there = line
    calls: list[CallSession] = []

    async def handler(call: CallSession) -> str | None:
        calls.append(call)
        if len(calls) == 1:
            await transferred(line, call)
            return None
        await call.answer()
        pressed = await call.listen_dtmf(timeout=10)
        await call.wait_ended()
        return pressed

    async with serving(pbx, handler) as (app, seen):
        caller = await there.call(ACME)
        desk = await connected(pbx, there)
        desk.refer(ACME)
        await until(lambda: desk.notified and desk.notified[-1] == "200 OK")
        await until(lambda: len(calls) == 2 and calls[1].is_up)
        called = next(event["call_id"] for event in seen.events if event["direction"] == "outbound")
        await until(lambda: called not in {row["id"] for row in pbx.channels()})  # without a BYE of its own
        assert len(app.calls) == 3  # the caller, who was called and is now another channel, and the new call
        caller.press("7")
        await until(lambda: "dtmf" in seen.names())
        caller.hang_up()
        await until(lambda: not app.calls)
    told = {event["call_id"]: event for event in seen.events if event["event"] == "transferred"}
    assert told.keys() == {calls[0].id, called}
    assert told[called]["to"] == ACME
    digits = [event for event in seen.events if event["event"] == "dtmf"]
    assert {(event["call_id"], event["digit"]) for event in digits} >= {(calls[1].id, "7")}
    ends = {event["call_id"]: event for event in seen.ends()}
    assert ends.keys() == {calls[0].id, called, calls[1].id}
    assert {event["disposition"] for event in ends.values()} == {"answered"}


async def test_a_caller_transfers_what_talks_to_it_to_somebody_else(line: tuple[Pbx, Exchange]) -> None:
    pbx, there = line
    calls: list[CallSession] = []

    async def handler(call: CallSession) -> float | None:
        calls.append(call)
        await call.answer()
        leg = await call.audio_stream(8000)
        if len(calls) == 1:  # gives back what it hears, whoever that is
            async for pcm in leg:
                await leg.send(pcm)
            return None
        await asyncio.sleep(0.5)
        sending = asyncio.create_task(leg.send(tone(400, 2.0, 8000)))
        heard = b""
        async for pcm in leg:
            heard += pcm if heard or loudness(pcm) > 1000 else b""
            if len(heard) >= 8000:
                break
        sending.cancel()
        await call.hangup()
        return heard_pitch(heard, 8000)

    results: list[Any] = []

    async def kept(call: CallSession) -> None:
        results.append(await handler(call))

    async with serving(pbx, kept) as (app, seen):
        caller = await there.call(ACME)
        await asyncio.wait_for(caller.answered.wait(), 10)
        await until(lambda: [row for row in pbx.bridges() if len(row["channels"]) == 2])
        caller.refer(ACME)
        await until(lambda: caller.notified and caller.notified[-1] == "200 OK")
        caller.hang_up()
        await until(lambda: not app.calls)
        assert [one for one in results if one is not None] == [pytest.approx(400, abs=10)]
    assert len(seen.ends()) == seen.names().count("call_started") == 2
    assert calls[0].channel_id != calls[0].id
    assert calls[0].ended is not None


async def test_a_call_that_was_transferred_can_be_heard_recorded_and_spoken_to(
    line: tuple[Pbx, Exchange],
) -> None:
    pbx, there = line
    calls: list[CallSession] = []

    async def handler(call: CallSession) -> float:
        calls.append(call)
        await call.answer()
        leg = await call.audio_stream(8000)
        if len(calls) > 1:  # whom the caller is gone to
            await leg.send(tone(400, 10.0, 8000))
        await until(lambda: call.channel_id != call.id)
        heard = bytearray()
        await call.record_start(sink=heard.extend)
        await until(lambda: loudness(bytes(heard[-8000:-4000])) > 1000)
        assert (await call.record_stop()).format == "pcm"
        name = await call.record_start()
        assert (await call.record_stop(name)).name == name
        await leg.close()
        assert not (await call.audio_stream(16000)).closed
        return heard_pitch(bytes(heard[-8000:]), 8000)

    async with serving(pbx, handler) as (app, seen):
        caller = await there.call(ACME)
        await until(lambda: [row for row in pbx.bridges() if len(row["channels"]) == 2])
        caller.refer(ACME)
        assert await asyncio.wait_for(seen.result, 20) == pytest.approx(400, abs=10)
        caller.hang_up()
        await until(lambda: not app.calls)


async def test_who_a_call_talks_to_in_the_dialplan_connects_it_with_a_second_call(
    line: tuple[Pbx, Exchange],
) -> None:
    """The agent of a queue, say, who asks a colleague first."""
    pbx, there = line
    calls: list[CallSession] = []
    pbx.lab.cli(f"dialplan add extension s,1,Dial,PJSIP/{number(200)}@{TRUNK} into far-agents")

    async def handler(call: CallSession) -> Any:
        calls.append(call)
        await call.answer()
        if len(calls) > 1:
            return await listens(call)
        await call.continue_in_dialplan("far-agents")
        return await call.wait_ended()

    async with serving(pbx, handler) as (app, seen):
        caller = await there.call(ACME)
        agent = await connected(pbx, there)
        asks = await there.call(ACME, caller="+265700000002")
        await asyncio.wait_for(asks.answered.wait(), 10)
        await until(lambda: len(calls) == 2 and calls[1].is_up)
        agent.refer(ACME, to=asks)
        assert (await asyncio.wait_for(seen.result, 10)).ended_by == "asterisk"  # its place is in the second
        caller.press("8")
        await until(lambda: "dtmf" in seen.names())
        caller.hang_up()
        await until(lambda: not app.calls)
    pbx.lab.cli("dialplan remove context far-agents")
    told = [event for event in seen.events if event["event"] == "dtmf"]
    assert [(event["call_id"], event["digit"]) for event in told] == [(calls[1].id, "8")]


@pytest.fixture
def phone(line: tuple[Pbx, Exchange]) -> Iterator[None]:
    """The queue nobody has a telephone over the trunk in it."""
    pbx, _ = line
    pbx.lab.cli("queue add member PJSIP/acme-trunk to acme-nobody")
    yield
    pbx.lab.cli("queue remove member PJSIP/acme-trunk from acme-nobody")


@pytest.mark.usefixtures("phone")
async def test_an_agent_transfers_a_caller_to_another_number_of_the_tenant(
    line: tuple[Pbx, Exchange],
) -> None:
    """It is handled there; the handler that put it into the queue has done with it, and hung up on it."""
    pbx, there = line
    calls: list[CallSession] = []

    async def handler(call: CallSession) -> Any:
        calls.append(call)
        await call.answer()
        if len(calls) == 1:
            left = await call.transfer_to_queue("nobody")
            await call.hangup()
            return left.status
        pressed = await call.listen_dtmf(timeout=10)
        await call.wait_ended()
        return pressed

    async with serving(pbx, handler) as (app, seen):
        caller = await there.call(ACME)
        agent = await connected(pbx, there)
        agent.refer(ACME)
        assert await asyncio.wait_for(seen.result, 10) == "ANSWERED"
        await until(lambda: len(calls) == 2 and calls[1].is_up)
        caller.press("7")
        await until(lambda: "dtmf" in seen.names())
        caller.hang_up()
        await until(lambda: not app.calls)
    ends = [(event["ended_by"], event["queue_status"]) for event in seen.ends()]
    assert ends == [("asterisk", "ANSWERED"), ("caller", None)]
    assert seen.names().count("call_started") == 2


@pytest.mark.usefixtures("phone")
async def test_an_agent_transfers_a_caller_to_another_queue_where_no_time_is_set(
    line: tuple[Pbx, Exchange],
) -> None:
    pbx, there = line

    async def handler(call: CallSession) -> None:
        await call.answer()
        await call.transfer_to_queue("nobody", timeout=4)

    pbx.lab.cli("dialplan add extension 555,1,Goto,voxtra-acme-queues,support,1 into voxtra-acme-transfer")
    pbx.lab.cli("queue pause member Local/s@far-agent queue acme-support")
    try:
        async with serving(pbx, handler) as (app, _):
            caller = await there.call(ACME)
            agent = await connected(pbx, there)
            agent.refer("555")
            waits = "acme-support,,,,"
            await until(lambda: any(row["dialplan"]["app_data"] == waits for row in pbx.channels()))
            caller.hang_up()
            await until(lambda: not app.calls)
    finally:
        pbx.lab.cli("queue unpause member Local/s@far-agent queue acme-support")
        pbx.lab.cli("dialplan remove extension 555@voxtra-acme-transfer")


@pytest.mark.parametrize("late", [False, True], ids=["told before", "told after"])
async def test_a_call_that_is_transferred_while_it_is_put_into_a_queue_goes_there(
    line: tuple[Pbx, Exchange], monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """The channel before went there, and the call stayed in the app with nobody, for good."""
    pbx, there = line
    calls: list[CallSession] = []
    sent: list[str] = []
    left: list[str] = []
    ask, on_event = Hub.ask, Hub._on_event

    async def meets(self: Hub, request: Request, **how: Any) -> Any:
        if request.path.endswith("/continue"):
            sent.append(request.path)
            if len(sent) == 1:
                (caller,) = there.dialogs.values()
                caller.refer(ACME)
                await until(lambda: late or calls[0].channel_id != calls[0].id)
                await asyncio.sleep(0.05)
        return await ask(self, request, **how)

    def told(self: Hub, event: Any) -> None:
        if late and sent:
            self.loop.call_later(0.15, on_event, self, event)
        else:
            on_event(self, event)

    monkeypatch.setattr(Hub, "ask", meets)
    monkeypatch.setattr(Hub, "_on_event", told)

    async def handler(call: CallSession) -> Any:
        calls.append(call)
        if len(calls) > 1:
            await asyncio.sleep(1)  # it rings for so long, and cannot be sent on
            return await listens(call)
        await call.answer()
        await call.audio_stream(8000)
        left.append((await call.transfer_to_queue("support")).status)
        return None

    async with serving(pbx, handler) as (app, seen):
        await there.call(ACME)
        await until(lambda: left and not app.calls)
    assert left == ["ANSWERED"]
    assert len(sent) >= 2
    assert len(seen.ends()) == 2


async def test_an_attended_transfer_of_the_far_side_goes_on_in_the_second_call(
    line: tuple[Pbx, Exchange],
) -> None:
    pbx, there = line
    calls: list[CallSession] = []

    async def handler(call: CallSession) -> None:
        calls.append(call)
        if len(calls) == 1:
            await transferred(line, call)
        else:
            await call.answer()
            while digits := await call.listen_dtmf(timeout=10):
                await call.send_dtmf(digits)

    async with serving(pbx, handler) as (app, seen):
        caller = await there.call(ACME)
        desk = await connected(pbx, there)
        asks = await there.call(ACME, caller="+265700000002")
        await asyncio.wait_for(asks.answered.wait(), 10)
        asks.press("1")
        await until(lambda: "dtmf" in seen.names())
        desk.refer(ACME, to=asks)
        await until(lambda: desk.notified and desk.notified[-1] == "200 OK")
        for dialog in (desk, asks):
            dialog.hang_up()
        second = calls[1]
        assert len(calls) == 2  # nobody begins anew
        caller.press("8")
        await until(lambda: {(e["call_id"], e.get("digit")) for e in seen.events} >= {(second.id, "8")})
        assert not second.is_gone
        caller.hang_up()
        await until(lambda: not app.calls)
    assert len(seen.ends()) == seen.names().count("call_started") == 3


async def test_a_carrier_that_may_not_transfer_is_refused_and_the_call_goes_on(
    line: tuple[Pbx, Exchange],
) -> None:
    pbx, there = line
    pbx.config.write_text(pbx.config.read_text().replace("allow_transfer = true\n", ""))
    await asyncio.to_thread(pbx.voxtractl, "dialplan", "push", "--yes")
    async with serving(pbx, lambda call: transferred(line, call)) as (_, seen):
        caller = await there.call(ACME)
        desk = await connected(pbx, there)
        desk.refer(ACME)
        await until(lambda: "603" in desk.got)
        assert [len(row["channels"]) for row in pbx.bridges()] == [2]
        caller.hang_up()
        await asyncio.wait_for(seen.result, 10)
    assert len(seen.ends()) == 2


BETA_DIALS = """
[tenants.beta.trunk]
host = "127.0.0.10"
port = {port}
[tenants.beta.outbound]
caller_ids = ["+265888000002"]
allow = ["+265"]
"""


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    "to", [f"{number(200)}%40voxtra-beta-outbound%2Fn", f"{BETA}%40from-trunk%2Fn", BETA]
)
async def test_a_transfer_of_the_far_side_reaches_nothing_of_another_tenant(
    line: tuple[Pbx, Exchange], lab: Lab, to: str, shared: bool
) -> None:
    """A number may have an @ in it, and what is behind it was the context that Asterisk went on in: whoever
    was called dialled over the trunk of another tenant."""
    pbx, there = line
    async with exchange("127.0.0.10", lab.sip_port, fate) as theirs:
        beta = BETA_DIALS.format(port=theirs.port)
        if shared:  # a carrier of two tenants: its calls arrive where everybody's do
            beta = beta.replace("127.0.0.10", "127.0.0.9")
        pbx.config.write_text(pbx.config.read_text() + beta)
        await asyncio.to_thread(pbx.voxtractl, "dialplan", "push", "--yes")
        beta_app = serving(pbx, nothing, "voxtra-beta")
        async with serving(pbx, lambda call: transferred(line, call)) as (_, seen), beta_app as (_, others):
            caller = await there.call(ACME)
            desk = await connected(pbx, there)
            desk.refer(f"sip:{to}@127.0.0.1")
            await until(lambda: len(desk.notified) == 2)
            assert desk.notified[-1].startswith("404")
            assert [len(row["channels"]) for row in pbx.bridges()] == [2]  # the call goes on
            caller.hang_up()
            await asyncio.wait_for(seen.result, 10)
        assert theirs.dialled() == []
        assert others.events == []
    assert len(seen.ends()) == 2


@pytest.mark.parametrize("how", ["invite", "refer"])
async def test_nobody_takes_the_place_of_a_call_over_the_trunk_of_another_tenant(
    line: tuple[Pbx, Exchange], lab: Lab, how: str
) -> None:
    """Asterisk lets everybody do so who knows the names of its dialog: it is ended then."""
    pbx, there = line
    async with exchange("127.0.0.10", lab.sip_port, fate) as theirs:
        text = pbx.config.read_text() + BETA_DIALS.format(port=theirs.port)
        pbx.config.write_text(
            text.replace('host = "127.0.0.10"', 'host = "127.0.0.10"\nallow_transfer = true')
        )
        await asyncio.to_thread(pbx.voxtractl, "dialplan", "push", "--yes")
        beta_app = serving(pbx, lambda call: call.transfer(f"PJSIP/{number(200)}@beta-trunk"), "voxtra-beta")
        async with serving(pbx, listens) as (app, seen), beta_app as (others, _):
            caller = await there.call(ACME)
            await asyncio.wait_for(caller.answered.wait(), 10)
            if how == "invite":
                taken = await theirs.call(BETA, instead=caller.name)
                await over(taken)
            else:
                await theirs.call(BETA)
                thief = await connected(pbx, theirs)
                thief.refer(ACME, to=caller)
                await until(lambda: not others.calls)
                thief.hang_up()
            await until(lambda: not app.calls)
    (ended,) = seen.ends()
    # Of a REFER both apps hear in time, or the one ends its half and the other sees that.
    assert ended["ended_by"] in {"asterisk"} | ({"caller"} if how == "refer" else set())


async def test_a_carrier_puts_another_call_in_the_place_of_its_own(line: tuple[Pbx, Exchange]) -> None:
    """Call pickup, or a telephone exchange that moves a call to another line of its own."""
    pbx, there = line

    async def handler(call: CallSession) -> str:
        await call.answer()
        return await call.listen_dtmf(timeout=10)

    async with serving(pbx, handler) as (app, seen):
        caller = await there.call(ACME)
        await asyncio.wait_for(caller.answered.wait(), 10)
        await asyncio.wait_for(seen.call, 10)
        other = await there.call(ACME, caller="+265700000002", instead=caller.name)
        await over(caller)
        other.press("7")
        assert await asyncio.wait_for(seen.result, 10) == "7"
        await until(lambda: not app.calls)
    assert [event["ended_by"] for event in seen.ends()] == ["handler"]


async def test_commands_in_the_very_moment_in_which_a_caller_is_replaced_are_for_who_is_there(
    line: tuple[Pbx, Exchange],
) -> None:
    """Asterisk tells of who takes its place before it finds that one. The end of the call is heard, too, when
    it is in the dialplan by then, for its subscription is such a command."""
    pbx, there = line

    async def handler(call: CallSession) -> None:
        await call.answer()
        taken = False
        while not taken:  # once more when it is: what was set before that stays with the channel before
            taken = call.channel_id != call.id
            await asyncio.gather(*(call.set_variable("AT_WORK", at) for at in range(4)))
        assert await call.get_variable("AT_WORK")
        await call.continue_in_dialplan("far-wait")

    async with serving(pbx, handler) as (app, seen):
        for _ in range(5):
            caller = await there.call(ACME)
            await asyncio.wait_for(caller.answered.wait(), 10)
            other = await there.call(ACME, caller="+265700000002", instead=caller.name)
            await over(caller)
            await until(lambda: [row["dialplan"]["context"] for row in pbx.channels()] == ["far-wait"])
            await asyncio.wait_for(seen.result, 10)
            other.hang_up()
            await until(lambda: not app.calls)


async def test_who_takes_the_place_of_a_caller_hears_its_tone_and_whoever_has_the_call_then_can_stop_it(
    line: tuple[Pbx, Exchange],
) -> None:
    pbx, there = line

    async def handler(call: CallSession) -> None:
        await call.answer()
        await call.play_tone("ring")
        await call.wait_ended()

    async with serving(pbx, handler) as (app, seen):
        caller = await there.call(ACME)
        await asyncio.wait_for(caller.answered.wait(), 10)
        call = await asyncio.wait_for(seen.call, 10)
        await until(lambda: pbx.ari("GET", f"playbacks/{tone_of(call.id)}")[0] == 200)
        other = await there.call(ACME, caller="+265700000002", instead=caller.name)
        await over(caller)
        await until(lambda: call.channel_id != call.id)
        await until(lambda: pbx.ari("GET", f"playbacks/{tone_of(call.channel_id)}")[0] == 200)
        await until(lambda: loudness(other.heard[-8000:]) > 500)
        assert pbx.ari("GET", f"playbacks/{tone_of(call.id)}")[0] == 404
        other.hang_up()
        await until(lambda: not app.calls)


async def test_a_transfer_of_the_far_side_to_nobody_is_refused_and_the_call_goes_on(
    line: tuple[Pbx, Exchange],
) -> None:
    pbx, there = line
    async with serving(pbx, lambda call: transferred(line, call)) as (_, seen):
        caller = await there.call(ACME)
        desk = await connected(pbx, there)
        desk.refer("12345")
        await until(lambda: "404 Not Found" in desk.notified)
        assert [len(row["channels"]) for row in pbx.bridges()] == [2]  # the call goes on
        caller.hang_up()
        await asyncio.wait_for(seen.result, 10)
    assert len(seen.ends()) == 2


async def test_who_transfers_and_hangs_up_at_once_leaves_no_call_up(line: tuple[Pbx, Exchange]) -> None:
    pbx, there = line
    calls: list[CallSession] = []

    async def handler(call: CallSession) -> None:
        calls.append(call)
        await (transferred(line, call) if len(calls) % 2 else nothing(call))

    async with serving(pbx, handler) as (app, seen):
        for n in range(1, 21):
            there.dialogs.clear()
            caller = await there.call(ACME)
            desk = await connected(pbx, there)
            desk.refer(ACME)
            desk.hang_up()
            await until(lambda: len(calls) == 2 * n)  # noqa: B023  it is asked here and now
            caller.hang_up()
            await until(lambda: not app.calls)
            await pbx.empty()
    assert len(seen.ends()) == seen.names().count("call_started") == 60


# --- who ends it ------------------------------------------------------------------------------------------


async def listens(call: CallSession) -> Any:
    await call.answer()
    with pytest.raises(CallEnded):
        await call.listen_dtmf(timeout=60)


async def rings(call: CallSession) -> Any:
    await call.ring()
    await call.wait_ended()


@pytest.mark.parametrize(
    ("handler", "disposition", "says"), [(listens, "answered", "BYE"), (rings, "cancelled", "CANCEL")]
)
async def test_a_caller_who_hangs_up_ends_the_call_at_once(
    line: tuple[Pbx, Exchange], handler: Any, disposition: str, says: str
) -> None:
    pbx, there = line
    async with serving(pbx, handler) as (_, seen):
        dialog = await there.call(ACME)
        await asyncio.wait_for(seen.call, 10)
        if says == "BYE":
            await asyncio.wait_for(dialog.answered.wait(), 10)
        else:
            await until(lambda: "180" in dialog.got)
        dialog.hang_up()
        ended = await seen.ended()
        assert (ended.disposition, ended.ended_by) == (disposition, "caller")
        await asyncio.wait_for(seen.result, 10)


async def test_who_was_called_hangs_up(line: tuple[Pbx, Exchange]) -> None:
    pbx, _ = line
    async with serving(pbx, nothing) as (app, _):
        call = await app.originate(f"PJSIP/{number(200, 99999)}@{TRUNK}", timeout=10)
        ended = await asyncio.wait_for(call.wait_ended(), 10)
        assert (ended.disposition, ended.ended_by, ended.cause) == ("answered", "caller", 16)


async def test_a_transfer_to_who_hangs_up_at_once_leaves_the_caller_here(
    line: tuple[Pbx, Exchange], monkeypatch: pytest.MonkeyPatch
) -> None:
    pbx, _ = line
    consult = CallSession.consult

    async def late(self: CallSession, to: str, **how: Any) -> CallSession:
        other = await consult(self, to, **how)
        await other.wait_ended()  # it goes between the answer and the bridge
        return other

    monkeypatch.setattr(CallSession, "consult", late)

    async def handler(call: CallSession) -> tuple[Any, ...]:
        await call.answer()
        with pytest.raises(OriginateFailed) as caught:
            await call.transfer(f"PJSIP/{number(200, 99998)}@{TRUNK}")
        state = str(call.state)
        await until(lambda: not call._sounds._playing)  # no ringing is heard any more
        return caught.value.disposition, caught.value.cause, state

    async with serving(pbx, handler) as (_, seen):
        pbx.call()
        assert await asyncio.wait_for(seen.result, 20) == ("failed", 16, "answered")
        assert "transferred" not in seen.names()


async def test_a_carrier_that_vanishes_leaves_no_call_when_we_stop(line: tuple[Pbx, Exchange]) -> None:
    pbx, there = line
    async with serving(pbx, listens) as (_, seen):
        dialog = await there.call(ACME)
        await asyncio.wait_for(dialog.answered.wait(), 10)
        await asyncio.wait_for(seen.call, 10)
        await there.close()  # it answers our BYE no more
    assert seen.ends()[0]["ended_by"] == "operator"
