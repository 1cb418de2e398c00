"""Verbs in unusual orders, given up, or at the moment when the other side goes; on the real Asterisk.

After each test no channel and no bridge is left, and each call has ended once (``serving`` looks).
"""

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any, cast

import pytest

from tests.live.conftest import NodeDocument, needs_media
from tests.live.pbx import ACME, Far, Pbx, nothing, pushed, serving, until
from tests.tools.proxy import proxy
from tests.tools.sound import loudness
from voxtractl import VoxtraApp
from voxtractl.ari.client import ARIClient
from voxtractl.ari.requests import Answer, Request
from voxtractl.errors import (
    AriUnreachable,
    CallEnded,
    CallError,
    LimitReached,
    OriginateFailed,
    RuntimeFault,
    UsageFault,
)
from voxtractl.lab import Lab
from voxtractl.runtime.event_loop import new_tenant_loop
from voxtractl.runtime.hub import Hub
from voxtractl.runtime.lifecycle import EndedBy
from voxtractl.runtime.session import CallSession
from voxtractl.runtime.sounds import Played, Sounds

SOUND = "sound:hello-world"  # 1.4 s
LONG = [SOUND] * 20
MORE = """
[far-late]
exten => s,1,Wait(1)
 same => n,Answer()
 same => n,Wait(60)
[far-collects]
exten => s,1,Answer()
 same => n,Read(GOT,,10,,1,10)
 same => n,Set(GLOBAL(GOT)=${GOT})
 same => n,Wait(60)
[reads]
exten => s,1,Read(PIN,,4,,1,3)
 same => n,Stasis(voxtra-acme,again)
 same => n,Hangup()
[home-later]
exten => s,1,Wait(1)
 same => n,Stasis(voxtra-acme,again)
 same => n,Hangup()
[home-from-queue]
exten => s,1,UserEvent(VoxtraQueue,Status: TIMEOUT)
 same => n,Stasis(voxtra-acme,again)
 same => n,Hangup()
[home-again]
exten => s,1,Stasis(voxtra-acme,again)
 same => n,Hangup()
"""


@pytest.fixture
async def pbx(lab: Lab, node_document: NodeDocument) -> AsyncIterator[Pbx]:
    async with pushed(lab, node_document) as pbx:
        top = lab.config_dir / "extensions.conf"
        if "[far-late]" not in (text := top.read_text()):
            before, mark, after = text.partition("; >>> voxtractl")
            top.write_text(f"{before}\n{MORE}\n{mark}{after}")
            assert pbx.ari("PUT", "asterisk/modules/pbx_config.so")[0] == 204
        yield pbx


async def run(pbx: Pbx, handler: Callable[[CallSession], Awaitable[object]], far: str = "far-wait") -> object:
    """What the handler of one call gives."""
    async with serving(pbx, handler) as (_, seen):
        pbx.call(ACME, far)
        return await asyncio.wait_for(seen.result, 30)


async def heard(call: CallSession, seconds: float = 0.6) -> float:
    """How loud it is what the other side of the call is played."""
    leg = await call.snoop("out")
    pcm = b""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            async for frame in leg:
                pcm += frame
    await leg.close()
    return loudness(pcm[-8000:])


# --- the end ----------------------------------------------------------------------------------------------


async def test_a_reason_that_asterisk_does_not_know_is_refused_and_the_call_can_still_be_ended(
    pbx: Pbx,
) -> None:
    async def handler(call: CallSession) -> str:
        await call.answer()
        with pytest.raises(UsageFault, match="user_busy"):
            await call.hangup("user_busy")
        state = str(call.state)
        await call.hangup("busy")
        return state

    assert await run(pbx, handler) == "answered"


async def test_a_hook_that_only_returns_something_to_await_is_run_to_its_end(pbx: Pbx) -> None:
    cleaned: list[str] = []

    async def persist(what: str) -> None:
        await asyncio.sleep(0)
        cleaned.append(what)

    class Cleanup:
        async def __call__(self) -> None:
            await persist("object")

    async def handler(call: CallSession) -> None:
        call.on_hangup(lambda: persist("lambda"))
        call.on_hangup(Cleanup())

    await run(pbx, handler)
    assert sorted(cleaned) == ["lambda", "object"]


async def test_a_hook_that_takes_other_arguments_harms_nothing_but_itself(pbx: Pbx) -> None:
    ran: list[str] = []

    async def handler(call: CallSession) -> str:
        @call.on_hangup  # type: ignore[type-var]
        async def cleanup(call: CallSession) -> None: ...

        @call.on_hangup
        async def second() -> None:
            ran.append("second")

        @call.on_dtmf  # type: ignore[arg-type]
        async def pressed() -> None: ...

        await call.answer()
        return await call.listen_dtmf(timeout=3)

    async with serving(pbx, handler) as (app, seen):
        pbx.call(ACME, "far-dtmf", "5")
        assert await asyncio.wait_for(seen.result, 10) == "5"
        await until(lambda: ran == ["second"] and not app.calls)


# --- leaving and coming back ------------------------------------------------------------------------------


async def test_a_call_that_comes_back_is_handled_anew(pbx: Pbx) -> None:
    visits: list[tuple[str, ...]] = []
    back = asyncio.Event()

    async def handler(call: CallSession) -> None:
        visits.append(call.args)
        if call.args != ("again",):
            await call.answer()
            await call.continue_in_dialplan("home-again")
            return
        back.set()
        await call.play(SOUND)
        await call.hangup()

    async with serving(pbx, handler) as (_, seen):
        pbx.call()
        await asyncio.wait_for(back.wait(), 10)
        assert (await seen.ended()).ended_by == EndedBy.HANDLER
        assert visits == [(ACME,), ("again",)]
        assert seen.names().count("call_started") == 1


async def test_calls_that_come_back_at_once_are_all_handled_anew(pbx: Pbx) -> None:
    """They are back before the answer to the command that sent them on is read."""
    met: list[str] = []

    async def handler(call: CallSession) -> None:
        if call.args != ("again",):
            await call.answer()
            await call.continue_in_dialplan("home-again")
            return
        met.append(call.id)
        await call.play(SOUND)

    async with serving(pbx, handler) as (_, seen):
        for _ in range(20):
            pbx.call()
        await until(lambda: len(seen.ends()) == 20)
        assert len(met) == len(set(met)) == 20
        assert {end["ended_by"] for end in seen.ends()} == {"handler"}


async def test_digits_pressed_in_the_dialplan_are_not_the_handlers(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> None:
        if call.args != ("again",):
            await call.answer()
            await call.continue_in_dialplan("reads")
            return
        second.set_result(f"{await call.get_variable('PIN')}/{await call.listen_dtmf(4, timeout=1)}")

    second: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    async with serving(pbx, handler) as (_, seen):
        far = pbx.call()
        await until(lambda: any(row["dialplan"]["app_name"] == "Read" for row in pbx.channels()))
        far.goes("far-dtmf", "1234")
        assert await asyncio.wait_for(second, 15) == "1234/"
        assert "dtmf" not in seen.names()


async def test_a_sound_in_the_bridge_of_its_media_holds_nobody_up_when_it_is_back(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> str:
        if call.args != ("again",):
            await call.answer()
            await call.audio_stream(8000)
            await call.play(SOUND, SOUND, wait=False)
            await call.continue_in_dialplan("home-later")
            return ""
        async with asyncio.timeout(5):
            await call.set_variable("X", 1)
        back.set_result(await call.get_variable("X"))
        return ""

    back: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    async with serving(pbx, handler):
        pbx.call()
        assert await asyncio.wait_for(back, 20) == "1"


async def test_a_call_out_that_the_dialplan_brings_back_is_handled(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> tuple[str, ...]:
        await call.play(SOUND)
        return call.args

    async with serving(pbx, handler) as (app, seen):
        call = await app.originate("Local/s@far-wait/n")
        await call.continue_in_dialplan("home-later")
        assert await asyncio.wait_for(seen.result, 15) == ("again",)


async def test_a_handler_that_still_has_the_call_goes_on_when_it_is_back(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> object:
        await call.answer()
        await call.audio_stream(8000)
        await call.continue_in_dialplan("home-again")
        await call._home.wait()
        leg = await call.audio_stream(16000)  # another one: the first was left behind
        return leg.rate, (await call.play(SOUND)).status

    assert await run(pbx, handler) == (16000, "done")


@pytest.mark.parametrize(
    ("place", "error"),
    [
        (("far-wait", "s", 99), CallError),
        (("far-wait", "nobody", 1), CallError),
        (("far-wait", "s,1", 1), UsageFault),
    ],
)
async def test_a_place_that_is_none_is_refused_and_the_caller_stays(
    pbx: Pbx, place: tuple[str, str, int], error: type[Exception]
) -> None:
    async def handler(call: CallSession) -> str:
        await call.answer()
        with pytest.raises(error):
            await call.continue_in_dialplan(*place)
        return (await call.play(SOUND)).status

    assert await run(pbx, handler) == "done"


async def test_a_connection_that_is_cut_while_a_call_is_sent_on_leaves_no_call_up(pbx: Pbx) -> None:
    """Whether the command arrived is not known: the call is in the dialplan, or ends with its handler."""

    async def handler(call: CallSession) -> None:
        await call.answer()
        await ready.wait()
        between.freeze()
        asyncio.get_running_loop().call_later(0.2, between.cut)
        asyncio.get_running_loop().call_later(0.4, between.thaw)
        await call.continue_in_dialplan("far-wait")

    ready = asyncio.Event()
    async with (
        proxy(pbx.lab.http_port) as between,
        serving(pbx, handler, ari_url=between.url) as (_, seen),
    ):
        pbx.call()
        call = await asyncio.wait_for(seen.call, 10)
        await until(lambda: call.is_up)
        ready.set()
        with pytest.raises(AriUnreachable):
            await asyncio.wait_for(seen.result, 20)
        assert (await seen.ended()).ended_by == EndedBy.HANDLER


async def test_a_tone_does_not_keep_a_caller_from_the_queue(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> str:
        await call.answer()
        await call.play_tone("ring")
        await call.set_variable("NOTE", "1")
        await call.play_tone("ring")
        async with asyncio.timeout(10):
            return (await call.transfer_to_queue("support", {"intent": "sales"})).status

    assert await run(pbx, handler) == "ANSWERED"


async def test_a_tone_right_after_a_transfer_that_failed_keeps_nobody(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> None:
        await call.answer()
        for _ in range(15):
            with suppress(OriginateFailed):
                await call.transfer("Local/s@far-busy/n")
            await call.play_tone("busy")
            async with asyncio.timeout(8):
                await call.set_variable("X", 1)

    await run(pbx, handler)


async def test_the_media_of_a_call_ends_when_it_goes_into_a_queue(pbx: Pbx) -> None:
    """It would cost 50 frames a second, and a place of max_media_legs, for as long as the agent speaks."""

    async def handler(call: CallSession) -> None:
        await call.answer()
        await call.audio_stream(8000)
        left = asyncio.ensure_future(call.transfer_to_queue("support"))
        await until(lambda: agents() and not any("AudioSocket" in row["name"] for row in pbx.channels()))
        assert app.usage.take_leg(1)
        app.give_leg()
        assert not left.done()
        for agent in agents():
            Far(pbx, agent).hangup()
        await left

    def agents() -> list[str]:
        """Who speaks with a caller."""
        rows = [row for row in pbx.channels() if row["dialplan"]["context"] == "far-agent"]
        return [row["id"] for row in rows if row["state"] == "Up"]

    pbx.ari("POST", "asterisk/variable", variable="AGENT_STAYS", value="1")
    try:
        async with serving(pbx, handler) as (app, seen):
            pbx.call()
            await asyncio.wait_for(seen.result, 30)
            assert [end["queue_status"] for end in seen.ends()] == ["ANSWERED"]
    finally:
        pbx.ari("POST", "asterisk/variable", variable="AGENT_STAYS", value="")


async def test_who_gives_up_as_the_call_goes_into_a_queue_knows_that_it_went(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> tuple[str, str | None]:
        await call.answer()
        await call.audio_stream(8000)
        going = asyncio.create_task(call.transfer_to_queue("support"))
        while call.state != "transferring":  # noqa: ASYNC110  the very turn of the loop
            await asyncio.sleep(0)
        going.cancel()  # the command is on its way
        await asyncio.wait([going])
        assert going.cancelled()
        state = str(call.state)
        await until(lambda: not call._hub.aux._calls)  # its media has ended
        for verb in (
            call.play_file("beep"),
            call.hold(),
            call.audio_stream(),
            call.transfer("Local/s@far-soon"),
            call.transfer_to_queue("support"),
        ):
            with pytest.raises(CallError, match="elsewhere in the dialplan"):
                await verb
        await call.wait_ended()
        return state, call.queue_status

    async with serving(pbx, handler) as (_, seen):
        pbx.call()
        assert await asyncio.wait_for(seen.result, 20) == ("transferring", "ANSWERED")
        assert "transferred" in seen.names()


async def test_of_two_who_put_a_call_into_a_queue_one_waits_for_it_and_one_is_told(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> list[str]:
        await call.answer()
        both = (call.transfer_to_queue("support") for _ in range(2))
        first, second = await asyncio.gather(*both, return_exceptions=True)
        return [str(getattr(first, "status", first)), str(second)]

    status, refused = cast("list[str]", await run(pbx, handler))
    assert status == "ANSWERED"
    assert "elsewhere in the dialplan" in refused


async def test_of_two_who_put_a_call_into_a_queue_the_first_says_how_long(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> list[str]:
        await call.answer()
        both = call.transfer_to_queue("nobody", timeout=1), call.transfer_to_queue("support", wait=False)
        first, second = await asyncio.gather(*both, return_exceptions=True)
        return [str(getattr(first, "status", first)), str(second), str(call.state)]

    status, refused, state = cast("list[str]", await run(pbx, handler))
    assert (status, state) == ("TIMEOUT", "answered")
    assert "elsewhere in the dialplan" in refused


async def test_how_the_last_queue_was_left_is_told_not_the_one_before(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> tuple[str | None, str]:
        await call.answer()
        await call.continue_in_dialplan("home-from-queue")
        await call._home.wait()
        before = call.queue_status
        return before, (await call.transfer_to_queue("support")).status

    async with serving(pbx, handler) as (_, seen):
        pbx.call()
        assert await asyncio.wait_for(seen.result, 30) == ("TIMEOUT", "ANSWERED")
        assert [end["queue_status"] for end in seen.ends()] == ["ANSWERED"]


# --- sounds, holding, connecting --------------------------------------------------------------------------


async def test_what_asterisk_speaks_itself_is_waited_for_when_it_was_given_up(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> str:
        await call.answer()
        with suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                await call.play("digits:12345678901234567890")  # over ten seconds
        await call.set_variable("X", "1")
        return await call.get_variable("X")

    assert await run(pbx, handler) == "1"


async def test_a_long_sound_is_stopped_when_the_caller_is_connected(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> bool:
        await call.answer()
        await call.play(*LONG, wait=False)
        other = await call.consult("Local/s@far-tone/n")
        began = time.monotonic()
        bridged = asyncio.ensure_future(call.bridge_with(other))
        await until(lambda: call.state == "in_progress")
        soon = time.monotonic() - began < 5
        loud = await heard(call)
        await other.hangup()
        await bridged
        return soon and loud > 1000

    assert await run(pbx, handler)


async def test_a_long_sound_is_stopped_when_the_sound_comes_into_our_hands(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> float:
        await call.answer()
        await call.play(*LONG, wait=False)
        async with asyncio.timeout(5):
            return (await call.audio_stream(8000)).rate

    assert await run(pbx, handler) == 8000


@pytest.mark.parametrize("given_up", [False, True])
async def test_a_caller_on_hold_hears_who_he_is_connected_with(pbx: Pbx, given_up: bool) -> None:
    async def handler(call: CallSession) -> bool:
        await call.answer()
        holding = asyncio.create_task(call.hold())
        if given_up:
            await asyncio.sleep(0)  # it is on its way
            holding.cancel()
        await asyncio.wait([holding])
        assert holding.cancelled() == given_up
        assert call.state == "on_hold"
        other = await call.consult("Local/s@far-tone/n")
        bridged = asyncio.ensure_future(call.bridge_with(other))
        await until(lambda: call.state == "in_progress")
        loud = await heard(call)
        await other.hangup()
        await bridged
        return loud > 1000

    assert await run(pbx, handler)


async def test_music_on_hold_ends_with_a_transfer_too(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> tuple[bool, bool]:
        await call.answer()
        await call.audio_stream(8000)
        await call.hold()
        with suppress(OriginateFailed):
            await call.transfer("Local/s@far-busy/n")
        held = call.state == "on_hold"
        moved = asyncio.ensure_future(call.transfer("Local/s@far-wait/n"))
        await until(lambda: call.state == "in_progress")
        quiet = await heard(call) < 100
        moved.cancel()
        await asyncio.wait([moved])
        return held, quiet

    assert await run(pbx, handler) == (True, True)


async def test_who_gives_up_a_bridge_has_both_calls_as_before(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> list[object]:
        await call.answer()
        await call.audio_stream(8000)
        other = await call.consult("Local/s@far-wait/n")
        with suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                await call.bridge_with(other)
        told: list[object] = [str(call.state), str(other.state)]
        await call.play(*LONG, wait=False)
        told.append(await heard(call) > 100)
        await other.hangup()
        return told

    assert await run(pbx, handler) == ["answered", "answered", True]


async def test_who_gives_up_a_bridge_as_it_is_made_has_both_calls_as_before(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> None:
        await call.answer()
        other = await call.consult("Local/s@far-wait/n")
        await call.audio_stream(8000)
        await other.audio_stream(8000)
        between.hold(b"addChannel")
        joined = asyncio.create_task(call.bridge_with(other))
        await between.held.wait()
        joined.cancel()
        between.release()
        await asyncio.wait([joined])
        await until(lambda: len(pbx.bridges()) == 2)  # Asterisk forgets one a moment after it has said so
        there = {row["id"]: row["channels"] for row in pbx.bridges()}
        for one in (call, other):
            bridge = one._channel.bridge
            assert bridge is not None
            assert one.id in there[bridge]
        await other.hangup()

    async with (
        proxy(pbx.lab.http_port) as between,
        serving(pbx, handler, ari_url=between.url) as (_, seen),
    ):
        pbx.call()
        await asyncio.wait_for(seen.result, 30)


async def test_who_is_parted_has_left_the_bridge_before_it_ends(
    pbx: Pbx, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def handler(call: CallSession) -> list[list[str]]:
        await call.answer()
        other = await call.consult("Local/s@far-wait/n")
        await call.audio_stream(8000)
        await other.audio_stream(8000)
        joined = asyncio.create_task(call.bridge_with(other))
        await until(lambda: call.state == "in_progress")
        left: list[list[str]] = []
        aux = call._hub.aux
        remove = aux.remove

        async def look(bridge: str) -> None:
            left.extend(row["channels"] for row in pbx.bridges() if row["id"] == bridge)
            await remove(bridge)

        monkeypatch.setattr(aux, "remove", look)
        joined.cancel()
        await asyncio.wait([joined])
        await other.hangup()
        return left

    assert await run(pbx, handler) == [[]]


async def test_a_transfer_that_is_given_up_ends_who_was_called(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> int:
        await call.answer()
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await call.transfer("Local/s@far-wait/n")
        await until(lambda: len(app.calls) == 1)
        return len(app.calls)

    async with serving(pbx, handler) as (app, seen):
        pbx.call()
        assert await asyncio.wait_for(seen.result, 20) == 1


async def test_a_transfer_that_is_given_up_before_they_are_connected_is_none(
    pbx: Pbx, monkeypatch: pytest.MonkeyPatch
) -> None:
    connects = asyncio.Event()

    async def for_ever(*_: object, **__: object) -> None:
        connects.set()
        await asyncio.Event().wait()

    async def handler(call: CallSession) -> str:
        await call.answer()
        transfer = asyncio.create_task(call.transfer("Local/s@far-wait/n"))
        monkeypatch.setattr(Sounds, "until_quiet", for_ever)
        await connects.wait()
        transfer.cancel()
        await asyncio.wait([transfer])
        return str(call.state)

    assert await run(pbx, handler) == "answered"


async def test_who_answers_in_the_moment_when_it_is_given_up_is_ended_too(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> None:
        await call.answer()
        loop = asyncio.get_running_loop()
        for turns in range(6):  # of the loop, between the answer and the end of patience
            before = set(app.calls)
            task = asyncio.create_task(call.consult("Local/s@far-late/n"))
            await until(lambda: set(app.calls) - before)  # noqa: B023
            (other,) = (app.calls[one] for one in set(app.calls) - before)

            def wait(left: int, task: "asyncio.Task[CallSession]" = task) -> None:
                loop.call_soon(wait, left - 1, task) if left else task.cancel()

            answered = other._channel.waiting("up")
            assert answered is not None
            answered.add_done_callback(lambda _: wait(turns))  # noqa: B023
            await asyncio.wait([task])
            if not task.cancelled():
                await task.result().hangup()
            async with asyncio.timeout(5):
                await other.wait_ended()

    async with serving(pbx, handler) as (app, seen):
        pbx.call()
        await asyncio.wait_for(seen.result, 30)


async def test_who_answers_when_the_caller_goes_is_ended_too(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> None:
        await call.answer()
        asyncio.get_running_loop().call_later(0.45, time.sleep, 1.5)  # both come to be known at once
        await call.transfer("Local/s@far-late/n")

    def late(far: Far) -> None:
        time.sleep(1.15)
        far.hangup()

    async with serving(pbx, handler) as (app, seen):
        far = pbx.call()
        call = await asyncio.wait_for(seen.call, 10)
        await until(lambda: call.is_up)
        hangs_up = asyncio.create_task(asyncio.to_thread(late, far))
        with pytest.raises(CallEnded):
            await asyncio.wait_for(seen.result, 20)
        await hangs_up
        await until(lambda: not app.calls)
        await pbx.empty()


async def test_a_call_that_is_over_or_rings_cannot_be_connected_and_the_caller_stays(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> str:
        await call.answer()
        with pytest.raises(CallError, match="is this one"):
            await asyncio.wait_for(call.bridge_with(call), 5)
        gone = await app.originate("Local/s@far-soon/n")
        await gone.wait_ended()
        with pytest.raises(CallError, match="is over"):
            await call.bridge_with(gone)
        rings = await app.originate("Local/s@far-rings/n", wait=False)
        with pytest.raises(CallError, match="not answered"):
            await call.bridge_with(rings)
        await rings.hangup()
        return (await call.play(SOUND)).status

    async with serving(pbx, handler) as (app, seen):
        pbx.call()
        assert await asyncio.wait_for(seen.result, 20) == "done"


async def test_nothing_takes_a_call_away_from_who_it_is_connected_with(pbx: Pbx) -> None:
    """That one would be alone in the bridge, up and with nobody."""

    async def handler(call: CallSession) -> tuple[bool, str]:
        await call.answer()
        other = await call.consult("Local/s@far-tone/n")
        third = await call.consult("Local/s@far-wait/n")
        connected = asyncio.ensure_future(call.bridge_with(other))
        await until(lambda: call.state == "in_progress")
        for verb in (
            call.audio_stream(8000),
            other.continue_in_dialplan("far-wait"),
            call.transfer_to_queue("support"),
            call.bridge_with(third),
            third.bridge_with(other),
            call.transfer("Local/s@far-wait/n"),
        ):
            with pytest.raises(CallError, match="connected with another"):
                await verb
        loud = await heard(call) > 1000
        connected.cancel()
        await asyncio.wait([connected])
        await third.hangup()
        await call.continue_in_dialplan("home-again")
        await call._home.wait()
        return loud, str(call.state)

    assert await run(pbx, handler) == (True, "answered")


async def test_of_two_transfers_at_once_the_first_to_be_answered_has_the_caller(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> tuple[bool, str]:
        await call.answer()
        late = asyncio.ensure_future(call.transfer("Local/s@far-late/n"))
        first = asyncio.ensure_future(call.transfer("Local/s@far-tone/n"))
        with pytest.raises(CallError, match="connected with another"):
            await late
        await until(lambda: len(app.calls) == 2)
        told = await heard(call) > 1000, str(call.state)
        first.cancel()
        await asyncio.wait([first])
        return told

    async with serving(pbx, handler) as (app, seen):
        pbx.call()
        assert await asyncio.wait_for(seen.result, 30) == (True, "in_progress")


async def test_a_ringing_call_can_be_waited_for(pbx: Pbx) -> None:
    async with serving(pbx, nothing) as (app, _):
        call = await app.originate("Local/s@far-late/n", wait=False)
        await call.answer()
        assert (await call.play(SOUND)).ok
        lost = await app.originate("Local/s@far-busy/n", wait=False)
        with pytest.raises(CallEnded):
            await lost.answer()


async def test_digits_are_sent_when_the_verb_returns(pbx: Pbx) -> None:
    async with serving(pbx, nothing) as (app, _):
        call = await app.originate("Local/s@far-collects/n")
        await asyncio.sleep(0.3)
        await call.send_dtmf("12345w67890")
        await until(
            lambda: pbx.ari("GET", "asterisk/variable", variable="GOT")[1] == '{"value":"1234567890"}'
        )
        await call.hangup()


# --- given up ---------------------------------------------------------------------------------------------


async def test_an_originate_that_is_given_up_at_once_leaves_nothing_ringing(pbx: Pbx) -> None:
    async with serving(pbx, nothing) as (app, seen):
        for _ in range(60):
            task = asyncio.create_task(app.originate("Local/s@far-rings/n", timeout=30))
            await asyncio.sleep(random.uniform(0, 0.003))
            task.cancel()
            await asyncio.wait([task])
        await pbx.empty()
        await until(lambda: not app.calls)
        assert len(seen.ends()) == seen.names().count("call_started")


@pytest.mark.parametrize("seen", [True, False])
async def test_an_originate_that_is_given_up_in_another_thread_leaves_nothing_ringing(
    pbx: Pbx, seen: bool
) -> None:
    """Given up in the thread of its tenant while that of the hub is about to begin it, or has not seen it."""
    hub = Hub(ARIClient(*pbx.account.values()))
    app = VoxtraApp(app_name="voxtra-acme")
    tenant = new_tenant_loop()
    thread = threading.Thread(target=tenant.run_forever, daemon=True)
    thread.start()
    app.attach([hub], lambda: tenant, tenant="acme")
    hub.serve("voxtra-acme", app)
    await hub.start()

    async def give_up() -> bool:
        hub.loop.call_soon_threadsafe(time.sleep, 0.1)
        ringing = asyncio.create_task(app.originate("Local/s@far-rings/n"))
        await asyncio.sleep(0.05)
        if seen:
            hub.loop.call_soon_threadsafe(time.sleep, 0.3)  # after this it is begun
            await asyncio.sleep(0.2)
        ringing.cancel()
        await asyncio.wait([ringing])
        return ringing.cancelled()

    given_up = asyncio.run_coroutine_threadsafe(give_up(), tenant)
    assert await asyncio.wait_for(asyncio.wrap_future(given_up), 10)
    await until(lambda: not hub.table.live, most=5)
    await pbx.empty()
    assert not app.calls
    await hub.stop()
    tenant.call_soon_threadsafe(tenant.stop)
    thread.join()
    tenant.close()


async def test_a_sound_that_is_given_up_at_once_does_not_go_on(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> None:
        await call.answer()
        for _ in range(40):
            task = asyncio.create_task(call.play(*LONG))
            await asyncio.sleep(random.uniform(0, 0.003))
            task.cancel()
            await asyncio.wait([task])
        async with asyncio.timeout(8):  # Asterisk sets it when the channel is quiet
            await call.set_variable("QUIET", 1)

    await run(pbx, handler)


@pytest.mark.parametrize("how", ["given up", "stopped"])
async def test_the_end_of_a_sound_does_not_overtake_it(pbx: Pbx, how: str) -> None:
    """Over HTTP each goes its own way, and Asterisk may come to the end first."""

    async def handler(call: CallSession) -> None:
        await call.answer()
        call._hub.ari.attach(None)  # as before 20.14 and 22.4
        between.hold(b"/play/")
        playing = asyncio.create_task(call.play(*LONG))
        await between.held.wait()
        if how == "given up":
            playing.cancel()
        ending = asyncio.create_task(call.stop())
        for _ in range(3):  # what was sent before it is answered
            await call.get_variable("X")
        assert not call._sounds.quiet
        between.release()
        await asyncio.wait([playing, ending])
        async with asyncio.timeout(8):
            await call._sounds.until_quiet("play")
        assert await heard(call) < 50

    async with (
        proxy(pbx.lab.http_port) as between,
        serving(pbx, handler, ari_url=between.url) as (_, seen),
    ):
        pbx.call()
        await asyncio.wait_for(seen.result, 30)


async def test_what_listened_in_is_gone_when_its_leg_is_closed(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> None:
        await call.answer()
        channels = len(pbx.channels())
        for _ in range(3):
            await call.record_start(sink=lambda pcm: None)
            await call.record_stop()
            leg = await call.snoop()
            await leg.close()
        for _ in range(10):
            with suppress(TimeoutError):
                async with asyncio.timeout(random.uniform(0, 0.03)):
                    leg = await call.snoop()
                    await leg.close()
        await until(lambda: len(pbx.channels()) == channels and not pbx.bridges())

    await run(pbx, handler, "far-tone")  # Asterisk lets go of a silent channel when it ends (audiohook.c)


async def test_a_media_channel_that_is_given_up_before_it_is_made_is_removed(pbx: Pbx) -> None:
    """Asterisk hears of its end over the websocket before it is asked for it over HTTP, and a channel that
    waits for our connection waits for ever."""
    needs_media(pbx.lab, "websocket")

    async def handler(call: CallSession) -> None:
        await call.answer()
        channels = len(pbx.channels())
        between.hold(b"externalMedia")
        opening = asyncio.create_task(call.open_leg(16000))
        await between.held.wait()
        opening.cancel()
        await asyncio.wait([opening])
        for _ in range(3):  # what was sent before it is answered
            await call.get_variable("X")
        between.release()
        await (await call.open_leg(16000)).close()
        await until(lambda: len(pbx.channels()) == channels)

    async with (
        proxy(pbx.lab.http_port) as between,
        serving(pbx, handler, ari_url=between.url, media="websocket") as (_, seen),
    ):
        pbx.call()
        await asyncio.wait_for(seen.result, 30)


async def test_a_recording_that_ended_by_itself_keeps_no_channel(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> str:
        await call.answer()
        channels = len(pbx.channels())
        name = await call.record_start(max_seconds=1)
        await until(lambda: len(pbx.channels()) == channels)
        assert (await call.record_stop()).name == name
        return name

    name = await run(pbx, handler, "far-tone")
    assert pbx.ari("DELETE", f"recordings/stored/{name}")[0] == 204


@pytest.mark.parametrize("over", ["whatever there is", "HTTP"])
async def test_a_recording_that_is_given_up_as_it_begins_is_none_and_its_name_is_free(
    pbx: Pbx, over: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def handler(call: CallSession) -> int:
        await call.answer()
        ari = call._hub.ari
        if over == "HTTP":
            ari.attach(None)  # as before 20.14 and 22.4
        ask, asked = ari.ask, asyncio.Event()

        async def watched(request: Request, *, timeout: float | None = None) -> Answer:
            if request.path.endswith("/record"):
                asyncio.get_running_loop().call_soon(asked.set)
            return await ask(request, timeout=timeout)

        monkeypatch.setattr(ari, "ask", watched)
        given_up = 0
        for i in range(30):
            name = f"given-up-{i}"
            asked.clear()
            task = asyncio.create_task(call.record_start(name))
            await asked.wait()
            if i % 2:  # else at once: on a busy machine Asterisk answers before a sleep ends
                await asyncio.sleep(random.uniform(0, 0.001))
            task.cancel()
            await asyncio.wait([task])
            if task.cancelled():
                given_up += 1
                assert pbx.ari("GET", f"recordings/stored/{name}")[0] == 404
                await call.record_start(name)
            assert (await call.record_stop()).name == name
            assert pbx.ari("DELETE", f"recordings/stored/{name}")[0] == 204
        return given_up

    assert await run(pbx, handler, "far-tone")


async def media(call: CallSession) -> None:
    await (await call.audio_stream(8000)).close()


async def snooped(call: CallSession) -> None:
    await (await call.snoop()).close()


async def recorded(call: CallSession) -> None:
    await call.record_start()
    await call.record_stop()


async def fed(call: CallSession) -> None:
    await call.record_start(sink=lambda pcm: None)
    await call.record_stop()


async def named(call: CallSession) -> None:
    assert await call.get_variable("CALLERID(num)")


VERBS: dict[str, Callable[[CallSession], Awaitable[object]]] = {
    "mute": CallSession.mute,
    "ring": CallSession.ring,
    "get_variable": named,
    "set_variable": lambda call: call.set_variable("X", 1),
    "audio_stream": media,
    "snoop": snooped,
    "record_start": recorded,
    "sink": fed,
}


@pytest.mark.parametrize("verb", VERBS)
async def test_a_caller_who_goes_at_whatever_moment_ends_the_verb_as_such(pbx: Pbx, verb: str) -> None:
    met: list[str] = []

    async def handler(call: CallSession) -> None:
        try:
            await call.answer()
            while True:
                await VERBS[verb](call)
        except Exception as exc:
            met.append(type(exc).__name__)
            raise

    async with serving(pbx, handler) as (app, seen):
        for _ in range(12):
            far = pbx.call()
            await until(lambda: any(call.is_up for call in app.calls.values()))
            await asyncio.sleep(random.uniform(0.02, 0.09))
            await asyncio.to_thread(far.hangup)
            await until(lambda: not app.calls)
        await until(lambda: len(met) == 12)
        assert {end["ended_by"] for end in seen.ends()} == {"caller"}
    assert set(met) == {"CallEnded"}
    for row in pbx.ari("GET", "recordings/stored")[1].split('"name":"')[1:]:
        pbx.ari("DELETE", f"recordings/stored/{row.partition(chr(34))[0]}")


# --- limits and stop --------------------------------------------------------------------------------------


async def test_the_most_calls_are_kept_to_also_when_they_wait_for_their_turn(pbx: Pbx) -> None:
    async with serving(pbx, nothing) as (app, _):
        app.max_channels, app.calls_per_second = 1, 20
        found = await asyncio.gather(
            *(app.originate("Local/s@far-wait/n") for _ in range(4)), return_exceptions=True
        )
        assert sorted(type(one).__name__ for one in found) == ["CallSession", *["LimitReached"] * 3]
        assert len(app.calls) == 1
        assert LimitReached in {type(one) for one in found}


async def test_who_gives_up_waiting_for_a_turn_leaves_it_to_others(pbx: Pbx) -> None:
    async with serving(pbx, nothing) as (app, seen):
        app.calls_per_second = 0.5
        batch = [asyncio.create_task(app.originate("Local/s@far-wait/n")) for _ in range(200)]
        await until(lambda: seen.names() == ["call_started", "call_answered"])
        for task in batch[1:]:
            task.cancel()
        async with asyncio.timeout(60):  # and not 400 s
            await app.originate("Local/s@far-wait/n")


async def test_a_call_that_finishes_while_the_app_stops_may_be_transferred(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> str:
        await call.answer()
        answered.set()
        await asyncio.sleep(0.5)
        return str((await call.transfer("Local/s@far-soon/n")).disposition)

    answered = asyncio.Event()
    async with serving(pbx, handler) as (app, seen):
        pbx.call()
        await asyncio.wait_for(answered.wait(), 10)
        await app.stop(drain=10)
        assert seen.result.result() == "answered"


async def test_calls_that_wait_for_their_turn_are_not_begun_after_stop(pbx: Pbx) -> None:
    async with serving(pbx, nothing) as (app, seen):
        app.calls_per_second = 0.1
        tasks = [asyncio.create_task(app.originate("Local/s@far-wait/n")) for _ in range(3)]
        await until(lambda: tasks[0].done())
        await app.stop()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(one) for one in found].count(RuntimeFault) == 2
        assert not app.calls
        assert len(seen.ends()) == 1


async def test_a_sound_that_ended_while_we_were_away_is_over(
    pbx: Pbx, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def handler(call: CallSession) -> str:
        await call.answer()
        name = await call.record_start(max_seconds=1)
        begun.append(f"recordings/live/{name}")
        status = (await call.play(SOUND)).status
        async with asyncio.timeout(5):
            await call.record_stop()
        return f"{status} {name}"

    begun: list[str] = []  # what Asterisk has said that it does
    watch = Sounds._watch

    async def watched(sounds: Sounds, playback: str, *how: Any) -> Played:
        begun.append(f"playbacks/{playback}")
        return await watch(sounds, playback, *how)

    monkeypatch.setattr(Sounds, "_watch", watched)
    async with (
        proxy(pbx.lab.http_port) as between,
        serving(pbx, handler, ari_url=between.url) as (_, seen),
    ):
        pbx.call()
        await until(lambda: len(begun) == 2)
        between.freeze()
        between.cut()
        await until(lambda: [pbx.ari("GET", one)[0] for one in begun] == [404, 404])  # both are over
        between.thaw()
        status, name = (await asyncio.wait_for(seen.result, 15)).split()
        assert status == "done"
    assert pbx.ari("DELETE", f"recordings/stored/{name}")[0] == 204
