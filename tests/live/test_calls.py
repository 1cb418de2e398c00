"""VoxtraApp and CallSession against the real Asterisk: routes, verbs, ends. The far side is Asterisk
itself."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

import pytest

from tests.live.conftest import NodeDocument
from tests.live.pbx import ACME, BETA, Pbx, nothing, pushed, serving, until
from voxtractl import VoxtraApp
from voxtractl.ari import requests
from voxtractl.errors import (
    CallEnded,
    CallError,
    LimitReached,
    MediaFailed,
    OriginateFailed,
    QueueUnknown,
    RuntimeFault,
    UsageFault,
)
from voxtractl.lab import Lab
from voxtractl.runtime.lifecycle import Ended, EndedBy
from voxtractl.runtime.session import CallSession
from voxtractl.runtime.sounds import tone_of

SOUND = "hello-world"  # 1.4 s, of the lab's English core sounds


@pytest.fixture
async def pbx(lab: Lab, node_document: NodeDocument) -> AsyncIterator[Pbx]:
    async with pushed(lab, node_document) as pbx:
        yield pbx


# --- the snippet everybody reads first --------------------------------------------------------------------


async def test_the_documented_handler_plays_listens_and_hands_the_caller_to_a_queue(pbx: Pbx) -> None:
    app = VoxtraApp(**pbx.account, app_name="voxtra-acme")
    seen: list[dict[str, Any]] = []
    app.on_event(lambda event: seen.append(dict(event)))
    cleaned = asyncio.Event()

    @app.route(extension=ACME)
    async def acme_inbound(call: CallSession) -> None:
        @call.on_hangup
        async def cleanup() -> None:
            cleaned.set()

        await call.answer()
        await call.play_file(SOUND)
        digit = await call.listen_dtmf(timeout=5)
        if digit == "1":
            await call.transfer_to_queue("acme-support")
        else:
            await call.play_file("vm-nobodyavail")
        await call.hangup()

    await app.start()
    try:
        pbx.call(ACME, "far-dtmf", "1")
        await asyncio.wait_for(cleaned.wait(), 20)
    finally:
        await app.stop()
    names = [event["event"] for event in seen]
    assert names == ["call_started", "call_answered", "dtmf", "transferred", "call_ended"]
    assert seen[3]["to"] == "voxtra-acme-queues,acme-support"
    assert seen[4]["did"] == ACME
    await pbx.empty()


# --- routes -----------------------------------------------------------------------------------------------


async def test_a_call_goes_to_the_route_of_its_number(pbx: Pbx) -> None:
    app = VoxtraApp(**pbx.account, app_name="voxtra-acme")
    met: asyncio.Queue[tuple[str, str, Any]] = asyncio.Queue()

    @app.route(number=ACME, metadata={"menu": "sales"})
    async def exact(call: CallSession) -> None:
        met.put_nowait(("exact", call.called_number, call.metadata["menu"]))

    @app.route(extension="_+265X.")
    async def pattern(call: CallSession) -> None:
        met.put_nowait(("pattern", call.called_number, call.caller_number))

    async with serving(pbx, nothing, "voxtra-beta") as (beta, seen):
        await app.start()
        try:
            pbx.call(ACME)
            assert await asyncio.wait_for(met.get(), 5) == ("exact", ACME, "sales")
            pbx.call(BETA)
            assert (await asyncio.wait_for(seen.call, 5)).called_number == BETA
            assert seen.call.result().caller_number == "+265700000001"
        finally:
            await app.stop()
        del beta


async def test_a_call_without_a_route_is_refused_at_once(pbx: Pbx) -> None:
    app = VoxtraApp(**pbx.account, app_name="voxtra-acme")
    ends: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    app.on_event(lambda event: ends.put_nowait(dict(event)) if event["event"] == "call_ended" else None)
    await app.start()
    try:
        far = pbx.call(ACME)
        assert (await asyncio.wait_for(ends.get(), 5))["ended_by"] == "handler"
        await until(lambda: not far.up)
    finally:
        await app.stop()


async def test_a_dialplan_that_passes_no_number_is_asked_which_one_was_dialled(pbx: Pbx) -> None:
    top = pbx.lab.config_dir / "extensions.conf"
    top.write_text("[foreign]\nexten => _+X.,1,Stasis(voxtra-foreign)\n" + top.read_text())
    assert pbx.ari("PUT", "asterisk/modules/pbx_config.so")[0] == 204
    async with serving(pbx, nothing, "voxtra-foreign") as (_, seen):
        pbx.ari(
            "POST",
            "channels",
            endpoint="Local/+49301234@foreign/n",
            context="far-wait",
            extension="s",
            priority="1",
        )
        assert (await asyncio.wait_for(seen.call, 5)).called_number == "+49301234"


# --- sounds and digits ------------------------------------------------------------------------------------


async def test_a_sound_is_waited_for_a_missing_one_is_told_and_the_caller_stays(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> list[str]:
        await call.answer()
        started = await call.play_file(SOUND, wait=False)
        good = await call.play_file(f"sound:{SOUND}")
        bad = await call.play_file("no-such-sound")
        again = await call.play("digits:1", "sound:" + SOUND)
        return [started.status, good.status, bad.status, again.status]

    async with serving(pbx, handler) as (_, seen):
        pbx.call()
        assert await asyncio.wait_for(seen.result, 15) == ["started", "done", "failed", "done"]
        assert "playback_failed" in seen.names()
        assert (await seen.ended()).ended_by == EndedBy.HANDLER


async def test_what_asterisk_has_no_word_for_is_refused_before_it_is_asked(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> None:
        await call.answer()
        with pytest.raises(MediaFailed, match="cannot play"):
            await call.play("nosuch:thing")
        with pytest.raises(UsageFault):
            await call.play_url("file:///etc/passwd")
        with pytest.raises(UsageFault):
            await call.set_variable("bad name", 1)

    async with serving(pbx, handler) as (_, seen):
        pbx.call()
        await asyncio.wait_for(seen.result, 5)


async def test_stop_ends_a_sound_that_is_waited_for(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> str:
        await call.answer()
        playing = asyncio.ensure_future(call.play(*[f"sound:{SOUND}"] * 10))
        await asyncio.sleep(0.2)
        await call.stop()
        return (await playing).status

    async with serving(pbx, handler) as (_, seen):
        pbx.call()
        assert await asyncio.wait_for(seen.result, 5) == "stopped"


async def test_a_stop_of_what_asterisk_speaks_itself_is_told_and_harms_nobody(
    pbx: Pbx, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(call: CallSession) -> list[str]:
        await call.answer()
        speaking = asyncio.ensure_future(call.play("digits:12345"))
        await asyncio.sleep(0.2)
        await call.stop()
        return [(await speaking).status, (await call.play_file("beep")).status]

    async with serving(pbx, handler) as (_, seen):
        pbx.call()
        assert await asyncio.wait_for(seen.result, 20) == ["stopped", "done"]
    assert "Asterisk does not stop digits:12345: Could not stop playback" in caplog.text


async def test_a_tone_plays_until_it_is_stopped(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> list[str]:
        await call.play_tone("ring")
        await call.answer()  # ends the tone: Asterisk would wait for it
        await call.play_tone("busy")
        await call.stop()
        return [(await call.play_file(SOUND)).status]

    async with serving(pbx, handler) as (_, seen):
        pbx.call()
        assert await asyncio.wait_for(seen.result, 10) == ["done"]


async def test_what_is_played_next_ends_a_tone(pbx: Pbx) -> None:
    """Asterisk would begin it after the tone, which has no end."""

    def hears(call: CallSession, tone: str) -> bool:
        status, text = pbx.ari("GET", f"playbacks/{tone_of(call.id)}")
        told = json.loads(text)
        return status == 200 and (told["media_uri"], told["state"]) == (f"tone:{tone}", "playing")

    async def handler(call: CallSession) -> list[str]:
        await call.answer()
        ringing = asyncio.create_task(call.play_tone("ring", wait=True))
        await until(lambda: hears(call, "ring"))
        await call.play_tone("busy")
        await until(lambda: hears(call, "busy"))
        return [(await call.play_file(SOUND)).status, (await ringing).status]

    async with serving(pbx, handler) as (_, seen):
        pbx.call()
        assert await asyncio.wait_for(seen.result, 10) == ["done", "done"]
        assert "playback_failed" not in seen.names()


async def test_digits_end_by_number_by_terminator_and_by_silence(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> list[tuple[str, str]]:
        await call.answer()
        got = [
            await call.listen_dtmf(3, 5),
            await call.listen_dtmf(9, 5),
            await call.listen_dtmf(1, 0.2),
        ]
        return [(str(one), one.ended_by) for one in got]

    async with serving(pbx, handler) as (_, seen):
        pbx.call(ACME, "far-dtmf", "12345#")
        expected = [("123", "max"), ("45", "terminator"), ("", "timeout")]
        assert await asyncio.wait_for(seen.result, 15) == expected


async def test_the_time_to_the_next_digit_begins_with_the_last_one(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> tuple[str, float]:
        pressed: list[float] = []

        @call.on_dtmf
        async def press(digit: str) -> None:
            pressed.append(time.monotonic())

        await call.answer()
        digits = str(await call.listen_dtmf(4, timeout=2))
        return digits, time.monotonic() - pressed[0]

    async with serving(pbx, handler) as (_, seen):
        pbx.call(ACME, "far-dtmf", "1")  # after 0.3 s
        digits, seconds = await asyncio.wait_for(seen.result, 15)
        assert digits == "1"
        assert seconds > 1.9


async def test_digits_pressed_before_the_question_answer_it(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> tuple[str, str]:
        await call.answer()
        await call.play_file(SOUND)  # longer than the far side types
        first = await call.listen_dtmf(2, 1)
        return str(first), str(await call.listen_dtmf(1, 1, flush=True))

    async with serving(pbx, handler) as (_, seen):
        pbx.call(ACME, "far-dtmf", "789")
        assert await asyncio.wait_for(seen.result, 15) == ("78", "")


async def test_digits_of_a_wait_that_was_cancelled_answer_the_next_one(pbx: Pbx) -> None:
    cancelled = asyncio.Event()

    async def handler(call: CallSession) -> str:
        pressed: asyncio.Queue[str] = asyncio.Queue()

        @call.on_dtmf
        async def press(digit: str) -> None:
            pressed.put_nowait(digit)

        await call.answer()
        listening = asyncio.create_task(call.listen_dtmf(4, 10))
        for _ in "12":
            await pressed.get()
        listening.cancel()
        await asyncio.wait([listening])
        cancelled.set()
        return await call.listen_dtmf(4, 10)

    async with serving(pbx, handler) as (_, seen):
        far = pbx.call(ACME, "far-dtmf", "12")
        await asyncio.wait_for(cancelled.wait(), 15)
        far.goes("far-dtmf", "3#")
        assert await asyncio.wait_for(seen.result, 15) == "123"


# --- the line ---------------------------------------------------------------------------------------------


async def test_what_ends_a_state_of_the_line_does_nothing_without_it(pbx: Pbx) -> None:
    async with serving(pbx, nothing) as (app, _):
        call = await app.originate("Local/s@far-wait/n")
        for verb in (call.ring_stop, call.unhold, call.unmute, call.stop):
            await verb()
            await verb()
        assert call.state == "answered"
        assert (await call.play_file("hello-world")).ok
        await call.hangup()


async def test_every_verb_of_the_line_is_taken_by_asterisk(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> str:
        await call.ring()
        await call.ring_stop()
        await call.answer()
        await call.answer()
        await call.hold()
        await call.unhold()
        await call.mute()
        await call.unmute()
        await call.mute("in")
        await call.unmute("in")
        await call.send_dtmf("12#")
        await call.set_variable("MY_NAME", 'a;b,"c"\\ ${X}')
        assert await call.get_variable("NOT_SET") == ""
        await call.set_variable("CALLERID(name)", "Jane")
        set_to = ""
        for _ in range(100):  # before 20.20 and 22.10 it is set later
            if (set_to := await call.get_variable("CALLERID(name)")) == "Jane":
                break
            await asyncio.sleep(0.01)
        assert set_to == "Jane"
        return await call.get_variable("MY_NAME")

    async with serving(pbx, handler) as (_, seen):
        pbx.call()
        assert await asyncio.wait_for(seen.result, 10) == 'a;b,"c"\\ ${X}'


# --- ends -------------------------------------------------------------------------------------------------


async def leaves(call: CallSession) -> None:
    await call.answer()


async def hangs_up(call: CallSession) -> None:
    await call.answer()
    await call.hangup()
    await call.hangup()


async def raises(call: CallSession) -> None:
    await call.answer()
    raise ZeroDivisionError("a fault of the handler")


async def continues(call: CallSession) -> None:
    await call.answer()
    await call.continue_in_dialplan("far-soon")


async def does_two_things(call: CallSession) -> None:
    await call.answer()
    async with asyncio.TaskGroup() as both:
        both.create_task(call.listen_dtmf(timeout=30))
        both.create_task(call.play_file(SOUND))


async def does_two_things_badly(call: CallSession) -> None:
    async with asyncio.TaskGroup() as both:
        both.create_task(does_two_things(call))
        both.create_task(raises(call))


@pytest.mark.parametrize(
    ("handler", "far", "by"),
    [
        (leaves, "far-wait", EndedBy.HANDLER),
        (hangs_up, "far-wait", EndedBy.HANDLER),
        (raises, "far-wait", EndedBy.HANDLER),
        (nothing, "far-soon", EndedBy.CALLER),
        (does_two_things, "far-soon", EndedBy.CALLER),
        (does_two_things_badly, "far-wait", EndedBy.HANDLER),
        (continues, "far-wait", EndedBy.ASTERISK),
    ],
)
async def test_every_way_to_end_ends_once(pbx: Pbx, handler: Any, far: str, by: EndedBy) -> None:
    async with serving(pbx, handler) as (app, seen):
        hooks: list[str] = []
        pbx.call(ACME, far)
        call = await asyncio.wait_for(seen.call, 5)
        call.on_hangup(lambda: hooks.append("sync"))

        @call.on_hangup
        async def late() -> None:
            hooks.append("async")

        ended = await seen.ended()
        await until(lambda: len(hooks) == 2)
        call.on_hangup(lambda: hooks.append("after"))
        await until(lambda: "after" in hooks)
        assert ended.ended_by == by
        assert ended.disposition == "answered"
        fails = handler in (raises, does_two_things_badly)
        assert ended.cause == (38 if fails else 16)
        assert app.calls == {}
        await pbx.empty()
        assert seen.names().count("call_ended") == 1
        assert seen.names().count("handler_failed") == int(fails)
        assert seen.names()[0] == "call_started"


async def plays_and_listens(call: CallSession) -> None:
    await call.answer()
    async with asyncio.TaskGroup() as group:
        group.create_task(call.play(*["sound:" + SOUND] * 5))
        group.create_task(call.listen_dtmf(timeout=30))


async def waits_for_what_it_cancelled(call: CallSession) -> None:
    await call.answer()
    playing = asyncio.create_task(call.play_file(SOUND))
    await asyncio.sleep(0)
    playing.cancel()
    await playing


@pytest.mark.parametrize(
    ("handler", "far", "cause", "error"),
    [
        (plays_and_listens, "far-soon", 16, None),
        (waits_for_what_it_cancelled, "far-wait", 38, "CancelledError: "),
    ],
)
async def test_the_end_is_no_fault_of_a_handler_and_all_else_that_it_raises_is_one(
    pbx: Pbx, handler: Any, far: str, cause: int, error: str | None
) -> None:
    async with serving(pbx, handler) as (app, seen):
        pbx.call(ACME, far)
        assert (await seen.ended()).cause == cause
        await until(lambda: not app.busy)
        faults = [event["error"] for event in seen.events if event["event"] == "handler_failed"]
        assert faults == ([] if error is None else [error])


async def test_how_the_queue_was_left_is_told(pbx: Pbx) -> None:
    """A queue without agents holds one caller; the next finds it full. An agent's caller was answered."""
    app = VoxtraApp(**pbx.account, app_name="voxtra-acme")
    left: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
    queues = iter(["nobody", "nobody", "support"])

    @app.default()
    async def handler(call: CallSession) -> None:
        await call.answer()
        queued = await call.transfer_to_queue(next(queues), variables={"REASON": "test"})
        left.put_nowait((queued.queue, queued.status))

    ends: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    app.on_event(lambda event: ends.put_nowait(dict(event)) if event["event"] == "call_ended" else None)
    await app.start()
    try:
        waiting = pbx.call()
        await until(lambda: "1 calls" in pbx.lab.cli("queue show acme-nobody"))
        pbx.call()
        assert await asyncio.wait_for(left.get(), 10) == ("nobody", "FULL")
        told = [await asyncio.wait_for(ends.get(), 10)]
        waiting.hangup()
        assert await asyncio.wait_for(left.get(), 10) == ("nobody", "ABANDONED")
        pbx.call()
        assert await asyncio.wait_for(left.get(), 10) == ("support", "ANSWERED")
        told += [await asyncio.wait_for(ends.get(), 10) for _ in range(2)]
        assert [one["queue_status"] for one in told] == ["FULL", "ABANDONED", "ANSWERED"]
        assert [one["ended_by"] for one in told] == ["handler", "caller", "asterisk"]
    finally:
        await app.stop()


async def test_a_caller_whom_no_agent_has_answered_comes_back_to_the_handler(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> list[str]:
        await call.answer()
        queued = await call.transfer_to_queue("nobody", timeout=1)
        return [queued.status, call.state, (await call.play_file("beep")).status]

    async with serving(pbx, handler) as (_, seen):
        pbx.call()
        assert await asyncio.wait_for(seen.result, 10) == ["TIMEOUT", "answered", "done"]
        await seen.ended()
        assert [(end["queue_status"], end["ended_by"]) for end in seen.ends()] == [("TIMEOUT", "handler")]
        assert seen.names() == ["call_started", "call_answered", "transferred", "call_ended"]


@pytest.mark.parametrize("waits", [False, True])
async def test_a_caller_comes_back_to_nobody_who_does_not_wait(pbx: Pbx, waits: bool) -> None:
    """Neither to a handler that did not want to wait, nor to one that has given up and is over."""
    begun = 0

    async def handler(call: CallSession) -> None:
        nonlocal begun
        begun += 1
        await call.answer()
        with suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                await call.transfer_to_queue("nobody", timeout=1.5, wait=waits)

    async with serving(pbx, handler) as (_, seen):
        pbx.call()
        await seen.ended()
        assert [end["queue_status"] for end in seen.ends()] == ["TIMEOUT"]
        assert begun == 1


async def test_who_has_given_up_waiting_for_a_queue_may_have_the_caller_again(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> list[str]:
        await call.answer()
        with suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                await call.transfer_to_queue("nobody", timeout=1.5)
        waits = str(call.state)
        await until(lambda: call.state == "answered")
        return [waits, (await call.play_file("beep")).status]

    async with serving(pbx, handler) as (_, seen):
        pbx.call()
        assert await asyncio.wait_for(seen.result, 10) == ["transferring", "done"]


@pytest.mark.parametrize("seconds", [float("nan"), "60"])
async def test_the_longest_time_in_a_queue_is_in_seconds(pbx: Pbx, seconds: Any) -> None:
    async def handler(call: CallSession) -> str:
        await call.answer()
        with pytest.raises(UsageFault, match="seconds as its timeout"):
            await call.transfer_to_queue("nobody", timeout=seconds)
        return str(call.state)

    async with serving(pbx, handler) as (_, seen):
        pbx.call()
        assert await asyncio.wait_for(seen.result, 10) == "answered"


async def test_a_caller_who_waits_in_a_queue_has_not_left_it(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> list[str | None]:
        await call.answer()
        await call.transfer_to_queue("nobody", wait=False, timeout=1e12)  # Asterisk reads 32 bits of it
        await until(lambda: "1 calls" in pbx.lab.cli("queue show acme-nobody"))
        await asyncio.sleep(1.5)
        waits = call.queue_left
        await call.hangup()
        return [waits, call.queue_left]

    async with serving(pbx, handler) as (_, seen):
        pbx.call()
        assert await asyncio.wait_for(seen.result, 10) == [None, "ABANDONED"]
        assert seen.ends()[0]["queue_status"] == "ABANDONED"


async def test_an_unknown_queue_raises_and_the_caller_stays(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> str:
        await call.answer()
        for queue in ("acme-sales", "beta-support", "support,1,1", "x" * 200):
            with pytest.raises(QueueUnknown):
                await call.transfer_to_queue(queue)
        with pytest.raises(CallError, match="no far-wait,nowhere"):
            await call.continue_in_dialplan("far-wait", "nowhere")
        return (await call.play_file(SOUND)).status

    async with serving(pbx, handler) as (_, seen):
        pbx.call()
        assert await asyncio.wait_for(seen.result, 10) == "done"


VERBS: dict[str, Callable[[CallSession], Awaitable[Any]]] = {
    "play_file": lambda call: call.play_file(SOUND),
    "play_tone": lambda call: call.play_tone("busy", wait=True),
    "listen_dtmf": lambda call: call.listen_dtmf(timeout=20),
    "hold": lambda call: call.hold(),
    "mute": lambda call: call.mute(),
    "send_dtmf": lambda call: call.send_dtmf("1"),
    "ring": lambda call: call.ring(),
    "get_variable": lambda call: call.get_variable("X"),
    "set_variable": lambda call: call.set_variable("X", 1),
    "continue_in_dialplan": lambda call: call.continue_in_dialplan("far-wait"),
    "transfer_to_queue": lambda call: call.transfer_to_queue("support"),
    "transfer": lambda call: call.transfer("Local/s@far-rings"),
    "audio_stream": lambda call: call.open_leg(8000),
    "record_start": lambda call: call.record_start(),
    "snoop": lambda call: call.snoop(),
}


@pytest.mark.parametrize("verb", VERBS)
async def test_a_verb_ends_when_the_caller_goes_and_is_refused_afterwards(pbx: Pbx, verb: str) -> None:
    """The caller hangs up while the verb waits, or has gone before it is asked."""

    async def handler(call: CallSession) -> None:
        try:
            await call.answer()
            while True:  # a verb that does not wait is asked until the caller is gone
                await VERBS[verb](call)
                await asyncio.sleep(0.05)  # Asterisk carries out one after another
                if verb in ("continue_in_dialplan", "transfer_to_queue"):
                    await call.wait_ended()
                if verb in ("audio_stream", "snoop", "record_start"):
                    await call.wait_ended()
        except CallEnded:
            pass
        with pytest.raises(CallEnded):
            await VERBS[verb](call)

    async with serving(pbx, handler) as (_, seen):
        pbx.call(ACME, "far-soon")
        await asyncio.wait_for(seen.result, 15)
        call = seen.call.result()
        ends = [event for event in seen.events if event["event"] == "call_ended"]
        assert sum(end["call_id"] == call.id for end in ends) <= 1


async def test_a_slow_hook_delays_no_other_call(pbx: Pbx) -> None:
    import threading

    slow = threading.Event()

    async def handler(call: CallSession) -> None:
        call.on_hangup(slow.wait)
        await call.answer()

    async with serving(pbx, handler) as (app, seen):
        pbx.call()
        await seen.ended()
        ends: asyncio.Queue[str] = asyncio.Queue()
        app.on_event(lambda event: ends.put_nowait(event["event"]))
        pbx.call(BETA)  # nobody serves beta: the dialplan's fallback
        pbx.call()
        while await asyncio.wait_for(ends.get(), 5) != "call_ended":
            pass
        slow.set()


# --- calls out --------------------------------------------------------------------------------------------


async def test_an_originated_call_is_answered_and_works_like_any_other(pbx: Pbx) -> None:
    async with serving(pbx, nothing) as (app, seen):
        call = await app.originate("Local/12#@far-dtmf/n", caller_id="+265888000001", timeout=10)
        await call.answer()
        assert str(await call.listen_dtmf(9, 5)) == "12"
        assert (await call.play_file(SOUND)).ok
        await call.hangup()
        ended = await call.wait_ended()
        assert (ended.direction, ended.disposition, ended.ended_by) == ("outbound", "answered", "handler")
        assert seen.names() == ["call_started", "call_answered", "dtmf", "dtmf", "dtmf", "call_ended"]


@pytest.mark.parametrize(
    ("endpoint", "disposition"),
    [
        ("Local/s@far-busy/n", "busy"),
        ("Local/s@far-congestion/n", "congestion"),
        ("Local/s@far-rings/n", "no_answer"),
        ("Local/nobody@far-wait/n", "failed"),
        ("PJSIP/nobody", "failed"),
        ("Nothing/at-all", "failed"),
    ],
)
async def test_a_call_nobody_answers_says_why(pbx: Pbx, endpoint: str, disposition: str) -> None:
    async with serving(pbx, nothing) as (app, seen):
        with pytest.raises(OriginateFailed) as caught:
            await app.originate(endpoint, timeout=1)
        assert caught.value.disposition == disposition
        await until(lambda: "call_ended" in seen.names())
        assert seen.names() == ["call_started", "call_ended"]
        assert app.calls == {}


async def test_what_asterisk_refuses_to_call_was_not_lost_and_what_it_is_not_asked_is_no_call(
    pbx: Pbx,
) -> None:
    async with serving(pbx, nothing) as (app, seen):
        with pytest.raises(OriginateFailed):
            await app.originate("PJSIP/nobody")
        await until(seen.ends)
        (end,) = seen.ends()
        assert (end["ended_by"], "was refused with 500" in end["detail"]) == ("asterisk", True)
        app.max_channels = 1
        for wrong in ({"timeout": 0}, {"variables": {"A B": 1}}, {"caller_id": "1\n2"}):
            with pytest.raises(UsageFault):
                await app.originate("Local/s@far-wait/n", **wrong)
        assert seen.names() == ["call_started", "call_ended"]
        assert app.calls == {}


@pytest.mark.parametrize(
    ("caller_id", "name"), [("+265888000001", ""), ('"Acme, Ltd" <+265888000001>', "Acme, Ltd")]
)
async def test_who_calls_is_a_number_also_when_it_goes_out_with_a_name(
    pbx: Pbx, caller_id: str, name: str
) -> None:
    async with serving(pbx, nothing) as (app, seen):
        call = await app.originate("Local/s@far-wait/n", caller_id=caller_id)
        assert await call.get_variable("CONNECTEDLINE(all)") == f'"{name}" <+265888000001>'
        assert (call.caller_number, call.caller_name) == ("+265888000001", name)
        await call.hangup()
        assert {event["caller"] for event in seen.events} == {"+265888000001"}


async def test_a_ringing_call_is_had_at_once_and_can_be_ended(pbx: Pbx) -> None:
    async with serving(pbx, nothing) as (app, _):
        call = await app.originate("Local/s@far-rings/n", timeout=30, wait=False)
        await call.hangup()
        ended = await call.wait_ended()
        assert (ended.disposition, ended.ended_by) == ("cancelled", "handler")


async def test_limits_refuse_before_anything_is_dialled_and_space_what_goes_out(pbx: Pbx) -> None:
    async with serving(pbx, nothing) as (app, seen):
        app.max_channels = 1
        call = await app.originate("Local/s@far-wait/n")
        with pytest.raises(LimitReached, match="1 calls up"):
            await app.originate("Local/s@far-wait/n")
        assert seen.names() == ["call_started", "call_answered"]
        app.media_legs = 1
        leg = await call.open_leg(8000)
        with pytest.raises(LimitReached, match="media legs"):
            await call.snoop()
        await leg.close()
        await (await call.snoop()).close()
        await call.hangup()
        app.max_channels, app.calls_per_second = None, 20.0
        started = asyncio.get_running_loop().time()
        calls = await asyncio.gather(*(app.originate("Local/s@far-wait/n") for _ in range(5)))
        assert asyncio.get_running_loop().time() - started >= 4 / 20
        await asyncio.gather(*(call.hangup() for call in calls))


async def test_giving_up_on_an_originate_leaves_nothing_ringing(pbx: Pbx) -> None:
    async with serving(pbx, nothing) as (app, seen):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await app.originate("Local/s@far-rings/n", timeout=30)
        await pbx.empty()
        await until(lambda: seen.ends())
        assert seen.names() == ["call_started", "call_ended"]


async def test_a_call_into_the_dialplan_carries_its_variables(pbx: Pbx) -> None:
    async with serving(pbx, nothing) as (app, _):
        channel = await app.ari.originate(
            endpoint="Local/s@far-wait/n",
            app=None,
            context="far-variables",
            extension="s",
            caller_id="+265888000001",
            variables={"MY_CALL_ID": "abc-123", "MY_RECORD": True},
        )
        assert channel.id
        seen: Callable[[], str] = lambda: pbx.ari("GET", "asterisk/variable", variable="SEEN")[1]
        await until(lambda: "abc-123/1" in seen())
        with pytest.raises(UsageFault):
            await app.ari.originate(endpoint="Local/s@far-wait", app="x", context="far-wait", extension="s")
        with pytest.raises(UsageFault):
            await app.ari.originate(
                endpoint="Local/s@far-wait", context="from-trunk", extension="5&Local/777"
            )
        for row in pbx.channels():
            pbx.ari("DELETE", f"channels/{row['id']}")


# --- connecting calls -------------------------------------------------------------------------------------


async def test_a_transfer_connects_the_caller_and_ends_with_either(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> str:
        await call.answer()
        return str((await call.transfer("Local/s@far-soon/n")).disposition)

    async with serving(pbx, handler) as (_, seen):
        pbx.call()
        assert await asyncio.wait_for(seen.result, 10) == "answered"
        await until(lambda: seen.names().count("call_ended") == 2)
        await pbx.empty()


async def test_a_transfer_nobody_answers_leaves_the_caller_here(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> str:
        await call.answer()
        with pytest.raises(OriginateFailed) as caught:
            await call.transfer("Local/s@far-busy/n")
        assert caught.value.disposition == "busy"
        return (await call.play_file(SOUND)).status

    async with serving(pbx, handler) as (_, seen):
        pbx.call()
        assert await asyncio.wait_for(seen.result, 10) == "done"


async def test_two_calls_are_bridged_and_hear_each_other(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> int:
        await call.answer()
        other = await call.consult("Local/s@far-tone/n")
        leg = await call.snoop("out")
        bridged = asyncio.ensure_future(call.bridge_with(other))
        loud = 0
        async for pcm in leg:
            loud += max(pcm) > 0
            if loud > 20:
                break
        await other.hangup()
        await bridged
        return loud

    async with serving(pbx, handler) as (_, seen):
        pbx.call()
        assert await asyncio.wait_for(seen.result, 15) > 20


# --- life -------------------------------------------------------------------------------------------------


async def test_stop_ends_what_is_up_runs_the_hooks_and_may_be_called_twice(pbx: Pbx) -> None:
    app = VoxtraApp(**pbx.account, app_name="voxtra-acme")
    hooked: list[CallSession] = []
    ends: list[Ended] = []

    @app.default()
    async def handler(call: CallSession) -> None:
        await call.answer()

        @call.on_hangup
        async def hook() -> None:
            ends.append(await call.wait_ended())

        hooked.append(call)
        await call.listen_dtmf(timeout=30)

    await app.start()
    await app.start()
    for _ in range(3):
        pbx.call()
    await until(lambda: len(hooked) == 3)
    await app.stop()
    await app.stop()
    assert [end.ended_by for end in ends] == [EndedBy.OPERATOR] * 3
    await pbx.empty()
    with pytest.raises(RuntimeFault, match="not started"):
        await app.originate("Local/s@far-wait")


async def test_who_hears_of_events_may_be_async_and_is_waited_for(pbx: Pbx) -> None:
    app = VoxtraApp(**pbx.account, app_name="voxtra-acme")
    heard: list[str] = []

    @app.on_event
    async def note(event: Mapping[str, Any]) -> None:
        answer = await app.ari.request(requests.info())
        heard.append(f"{event['event']} {answer['system']['version'][:2]}")

    app.default()(nothing)
    await app.start()
    pbx.call()
    await until(lambda: len(heard) == 2)
    await app.stop()
    version = pbx.lab.version[:2]
    assert heard == [f"{name} {version}" for name in ("call_started", "call_answered", "call_ended")]


async def test_hooks_of_the_app_frame_its_calls(pbx: Pbx) -> None:
    ran: list[str] = []

    async def handler(call: CallSession) -> list[str]:
        states = [str(call.state)]
        await call.answer()
        states.append(call.state)
        assert call.caller_id == call.caller_number
        call.metadata["asked"] = call.metadata.get("asked", 0) + 1
        await asyncio.sleep(0.3)
        assert 0.2 < call.duration < 5
        return [*states, str(call.metadata["asked"])]

    app = VoxtraApp(**pbx.account, app_name="voxtra-beta")
    app.on_startup(lambda: ran.append("up"))
    app.on_shutdown(lambda: ran.append(f"down, {len(app.calls)} calls"))
    app.route(BETA, metadata={"menu": "sales"})(nothing)
    async with serving(pbx, handler) as (other, seen):
        await app.start()
        assert ran == ["up"]
        pbx.call(BETA)
        await until(lambda: [call.state for call in app.calls.values()] == ["answered"])
        await app.stop()
        await app.stop()
        assert ran == ["up", "down, 0 calls"]
        for _ in range(2):  # no call sees the metadata of another
            pbx.call()
            assert await asyncio.wait_for(seen.result, 10) == ["ringing", "answered", "1"]
            call = seen.call.result()
            ended = await seen.ended()
            assert (call.state, call.duration) == ("completed", ended.talk_seconds)
            seen.call, seen.result = (asyncio.get_running_loop().create_future() for _ in range(2))
        busy = await other.originate("Local/s@far-busy/n", wait=False)
        await busy.wait_ended()
        assert (busy.state, busy.duration) == ("failed", 0.0)


async def test_nobody_is_called_before_the_app_is_served(pbx: Pbx) -> None:
    app = VoxtraApp(**pbx.account, app_name="voxtra-acme")
    dialler: list[asyncio.Task[CallSession]] = []

    @app.on_startup
    async def too_early() -> None:
        with pytest.raises(RuntimeFault, match="not served yet"):
            await app.originate("Local/s@far-wait/n")
        dialler.append(asyncio.create_task(app.originate("Local/s@far-wait/n")))  # waits until it can
        await asyncio.sleep(0.2)
        assert app.calls == {}

    await app.start()
    call = await asyncio.wait_for(dialler[0], 10)
    assert call.is_up
    await call.hangup()
    await app.stop()


async def test_an_app_whose_startup_hook_fails_is_not_started(pbx: Pbx) -> None:
    name = "voxtra-unstarted"  # of no other test: Asterisk lists an app a moment longer than it is there

    def listed() -> bool:
        return pbx.ari("GET", f"applications/{name}")[0] == 200

    seen: list[bool] = []
    app = VoxtraApp(**pbx.account, app_name=name)
    app.on_startup(lambda: seen.append(listed()))
    app.on_startup(lambda: 1 / 0)
    app.on_shutdown(lambda: pytest.fail("it was never up"))
    with pytest.raises(ZeroDivisionError):
        await app.start()
    assert seen == [False]
    assert not listed()
    await app.stop()


def test_a_handler_that_is_not_async_is_refused_when_it_is_named() -> None:
    app = VoxtraApp()
    with pytest.raises(UsageFault, match="not an async function"):
        app.default()(lambda call: None)  # type: ignore[type-var]
