"""What goes wrong while calls are up, on the real Asterisk: connections, processes, handlers, media, callers.

After each test no call is left in Asterisk or in the app, and each has ended once (``serving`` looks).
"""

import asyncio
import io
import signal
import subprocess
import sys
import time
import wave
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from math import sin, tau
from pathlib import Path
from struct import pack, unpack
from typing import Any

import pytest

from tests.live.conftest import LabFactory, NodeDocument, needs, needs_media, release
from tests.live.pbx import ACME, Far, Pbx, nothing, pushed, serving, until
from tests.tools.proxy import proxy
from voxtractl import VoxtraApp
from voxtractl.ari.release import REQUESTS, Feature, Release
from voxtractl.ari.requests import Answer, Request
from voxtractl.errors import (
    AppReplaced,
    AriAuthFailed,
    AriUnreachable,
    CallEnded,
    MediaFailed,
    OriginateFailed,
    SpeechUnavailable,
)
from voxtractl.lab import Lab
from voxtractl.runtime import hub, sounds
from voxtractl.runtime.channel import CALLED_OFF
from voxtractl.runtime.hub import Hub
from voxtractl.runtime.lifecycle import EndedBy
from voxtractl.runtime.places import Places
from voxtractl.runtime.session import CallSession
from voxtractl.runtime.speech import Transcript
from voxtractl.settings import Secret

# A context like that of a node without tenants' files: for labs that are killed.
PLAIN = """[plain]
exten => _+X.,1,Stasis(voxtra-acme,${EXTEN})
 same => n,Set(GLOBAL(SERVED)=${STASISSTATUS})
"""

# 20.20.1 and 22.10.1, to be exact.
ASKED_AGAIN = Feature("a look at the password with each request over the event websocket", {20: 20, 22: 10})


@pytest.fixture
async def pbx(lab: Lab, node_document: NodeDocument) -> AsyncIterator[Pbx]:
    async with pushed(lab, node_document) as pbx:
        yield pbx


@pytest.fixture
async def own_pbx(own_lab: LabFactory, tmp_path: Path) -> Pbx:
    """An Asterisk to kill; calls come by the context ``plain``."""
    pbx = Pbx(await asyncio.to_thread(own_lab), tmp_path)
    pbx.write_far_contexts(PLAIN)
    return pbx


async def in_time(what: Awaitable[Any], seconds: float = 20.0) -> Any:
    return await asyncio.wait_for(what, seconds)


# --- the connection ---------------------------------------------------------------------------------------


async def test_an_app_starts_beside_more_channels_than_a_websocket_message_holds(own_pbx: Pbx) -> None:
    """Over the websocket the list of them is the end of Asterisk (docs/decisions/0007)."""
    lab, rows = own_pbx.lab, 1240

    def fill() -> None:
        for _ in range(rows // 2):
            own_pbx.call("s", trunk="far-wait")

    await asyncio.to_thread(fill)
    before = lab.pid
    app = VoxtraApp(**own_pbx.account, app_name="voxtra-acme")
    await app.start()
    try:
        await app._hubs[0]._resync(adopting=False)  # by now the websocket is known to take requests
        assert len(own_pbx.channels()) >= rows
        assert lab.pid == before
    finally:
        await app.stop()


async def test_a_cut_subscribes_no_call_again_and_their_ends_are_told(pbx: Pbx) -> None:
    """Each answer names all calls of the app: so many calls, so long a list, so many times."""
    asked: list[Request] = []

    async def handler(call: CallSession) -> None:
        await call.answer()
        await call.continue_in_dialplan("far-wait", "s")

    async with (
        proxy(pbx.lab.http_port) as between,
        serving(pbx, handler, ari_url=between.url) as (app, seen),
    ):
        hub = app._hubs[0]
        far = pbx.call()
        call = await in_time(seen.call)
        await in_time(seen.result)
        await until(lambda: call.id in hub._followed)
        ask_all = hub.ari.ask_all

        async def watched(wanted: Sequence[Request], *, patience: float | None = None) -> list[Answer]:
            asked.extend(wanted)
            return await ask_all(wanted, patience=patience)

        hub.ari.ask_all = watched  # type: ignore[method-assign]
        connections = between.connections
        between.cut()
        await until(lambda: asked and hub.connected and between.connections > connections)
        far.hangup()
        assert (await seen.ended()).ended_by is EndedBy.CALLER
    assert not [request for request in asked if request.path.endswith("/subscription")]
    assert not hub._followed


async def test_a_cut_connection_leaves_the_call_up_and_its_verbs_at_work(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> str:
        await call.answer()
        return str(await call.listen_dtmf(timeout=60))

    async with (
        proxy(pbx.lab.http_port) as between,
        serving(pbx, handler, ari_url=between.url) as (app, seen),
    ):
        far = pbx.call()
        call = await in_time(seen.call)
        await until(lambda: call.is_up)
        for value in "abc":
            between.cut()
            while call.metadata.get("CUT") != value:
                with suppress(AriUnreachable):  # it was on its way when the connection was cut
                    await call.set_variable("CUT", value)
                    call.metadata["CUT"] = await call.get_variable("CUT")
        await until(lambda: app._hubs[0].connected)
        assert far.up
        far.goes("far-dtmf", "7")
        assert await in_time(seen.result) == "7"
        assert (await seen.ended()).ended_by == EndedBy.HANDLER


async def test_an_asterisk_that_cannot_tell_its_version_is_asked_again(pbx: Pbx) -> None:
    async with proxy(pbx.lab.http_port) as between, serving(pbx, nothing, ari_url=between.url) as (app, _):
        hub = app._hubs[0]
        far_future = Feature("what no release has", {20: 999, 22: 999})
        between.freeze()
        between.cut()
        asked = asyncio.create_task(hub.has(far_future))
        while not asked.done():  # whatever connection it tries
            between.cut()
            await asyncio.sleep(0.05)
        assert asked.result() is True  # what needs it will be refused by Asterisk itself, with its reason
        between.thaw()
        await until(lambda: hub.connected)
        assert await hub.has(far_future) is False


async def test_a_call_that_ended_while_we_were_away_ends_here_once(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> None:
        await call.answer()
        with pytest.raises(CallEnded):
            await call.listen_dtmf(timeout=60)

    async with (
        proxy(pbx.lab.http_port) as between,
        serving(pbx, handler, ari_url=between.url) as (_, seen),
    ):
        far = pbx.call()
        call = await in_time(seen.call)
        await until(lambda: call.is_up)
        between.freeze()
        between.cut()
        far.hangup()
        await until(lambda: not pbx.channels())
        between.thaw()
        await in_time(seen.result)
        assert (await seen.ended()).ended_by == EndedBy.LOST
        await until(lambda: seen.names()[-1] == "call_ended")
        assert seen.names() == ["call_started", "call_answered", "call_ended"]


async def test_a_call_whose_start_was_lost_with_the_connection_is_handled_like_any_other(pbx: Pbx) -> None:
    async with (
        proxy(pbx.lab.http_port) as between,
        serving(pbx, nothing, ari_url=between.url) as (_, seen),
    ):
        between.freeze()  # Asterisk has the connection still, so its app is there
        far = pbx.call()
        await until(lambda: any(row["dialplan"]["app_name"] == "Stasis" for row in pbx.channels()))
        between.cut()
        between.thaw()
        call = await in_time(seen.call)
        await until(lambda: call.is_up)
        assert call.called_number == ACME
        far.hangup()
        assert (await seen.ended()).ended_by == EndedBy.CALLER
        await until(lambda: seen.names()[-1] == "call_ended")
        assert seen.names() == ["call_started", "call_answered", "call_ended"]


async def test_a_caller_who_comes_back_from_a_queue_while_nothing_is_heard_is_there_afterwards(
    pbx: Pbx,
) -> None:
    async def handler(call: CallSession) -> list[str]:
        await call.answer()
        queued = await call.transfer_to_queue("nobody", timeout=1)
        return [queued.status, call.state]

    async with (
        proxy(pbx.lab.http_port) as between,
        serving(pbx, handler, ari_url=between.url) as (_, seen),
    ):
        pbx.call()
        await until(lambda: "1 calls" in pbx.lab.cli("queue show acme-nobody"))
        between.freeze()  # Asterisk has the connection still, so its app is there
        await until(lambda: any(row["dialplan"]["app_name"] == "Stasis" for row in pbx.channels()))
        between.cut()
        between.thaw()
        assert await in_time(seen.result) == ["TIMEOUT", "answered"]
        await seen.ended()
        assert [end["queue_status"] for end in seen.ends()] == ["TIMEOUT"]


async def test_a_caller_who_was_in_two_queues_while_nothing_was_heard_is_back(
    pbx: Pbx, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asterisk has it in the line of the dialplan where it was before."""
    heard, on_event = True, Hub._on_event

    def told(self: Hub, event: Any) -> None:
        if heard:
            on_event(self, event)

    monkeypatch.setattr(Hub, "_on_event", told)

    async def handler(call: CallSession) -> list[str]:
        nonlocal heard
        await call.answer()
        first = await call.transfer_to_queue("nobody", timeout=1)
        heard = False
        return [first.status, (await call.transfer_to_queue("nobody", timeout=1)).status, call.state]

    async with serving(pbx, handler) as (app, seen):
        pbx.call()
        await until(lambda: not heard)
        await until(lambda: "1 calls" in pbx.lab.cli("queue show acme-nobody"))
        await until(lambda: any(row["dialplan"]["app_name"] == "Stasis" for row in pbx.channels()))
        heard = True
        await app._hubs[0]._resync(adopting=False)
        assert await in_time(seen.result) == ["TIMEOUT", "TIMEOUT", "answered"]


async def test_while_nothing_is_heard_nobody_is_called(pbx: Pbx) -> None:
    """Asterisk would call all the same, and drop who answers."""
    async with (
        proxy(pbx.lab.http_port) as between,
        serving(pbx, nothing, ari_url=between.url) as (app, seen),
    ):
        hub = app._hubs[0]
        between.freeze()  # it is connected again, and gets no answer
        between.cut()
        await until(lambda: not hub._web.hear)
        app.max_channels = 1
        for _ in range(2):  # and its place is given back
            with pytest.raises(OriginateFailed) as caught:
                await app.originate("Local/s@far-wait/n")
            assert (caught.value.disposition, "nobody was called" in caught.value.message) == ("failed", True)
        assert (seen.names(), app.calls) == ([], {})
        between.thaw()
        await until(lambda: hub._web.hear)
        call = await app.originate("Local/s@far-wait/n")
        await call.hangup()


async def test_a_call_out_that_was_answered_while_we_were_away_is_not_told_as_one_that_nobody_took(
    pbx: Pbx,
) -> None:
    async with (
        proxy(pbx.lab.http_port) as between,
        serving(pbx, nothing, ari_url=between.url) as (app, seen),
    ):
        ringing = asyncio.create_task(app.originate("Local/s@far-rings/n", timeout=30))
        await until(lambda: any(known.rang for known in app._hubs[0].table.live.values()))
        between.cut()
        for row in pbx.channels():  # what Asterisk does with who answers while nobody is in the app
            pbx.ari("DELETE", f"channels/{row['id']}")
        with pytest.raises(OriginateFailed, match="nobody heard") as caught:
            await in_time(ringing)
        assert caught.value.disposition == "failed"
        await until(seen.ends)
        assert (seen.ends()[0]["disposition"], seen.ends()[0]["ended_by"]) == ("failed", "lost")


@pytest.mark.parametrize("media", ["audiosocket", "websocket"])
async def test_a_call_with_its_media_in_our_hands_is_lost_with_asterisk(own_pbx: Pbx, media: str) -> None:
    needs_media(own_pbx.lab, media)

    async def handler(call: CallSession) -> None:
        await call.answer()
        await call.open_leg(8000)
        call.metadata["open"] = True
        await call.wait_ended()

    async with serving(own_pbx, handler, media=media) as (_, seen):
        own_pbx.call(trunk="plain")
        call = await in_time(seen.call)
        await until(lambda: call.metadata)
        own_pbx.lab.kill()
        await asyncio.to_thread(own_pbx.lab.start)
        ended = await in_time(call.wait_ended(), 30)
        assert (ended.ended_by, ended.detail) == (EndedBy.LOST, "")


async def test_calls_of_a_killed_asterisk_end_once_and_new_ones_come(own_pbx: Pbx) -> None:
    hooked: list[str] = []

    async def handler(call: CallSession) -> None:
        call.on_hangup(lambda: hooked.append(call.id))
        await call.answer()
        with pytest.raises(CallEnded):
            await call.listen_dtmf(timeout=60)

    async with serving(own_pbx, handler) as (app, seen):
        for _ in range(3):
            own_pbx.call(trunk="plain")
        await until(lambda: seen.names().count("call_answered") == 3)
        own_pbx.lab.kill()
        await asyncio.to_thread(own_pbx.lab.start)
        await until(lambda: len(seen.ends()) == 3, most=30)
        assert [end["ended_by"] for end in seen.ends()] == ["lost"] * 3
        await until(lambda: len(hooked) == 3)
        assert app.calls == {}
        far = own_pbx.call(trunk="plain")
        await until(lambda: seen.names().count("call_answered") == 4)
        far.hangup()
        await until(lambda: len(seen.ends()) == 4)
        assert seen.ends()[-1]["ended_by"] == "caller"


async def test_a_refused_password_is_told_at_once(pbx: Pbx) -> None:
    app = VoxtraApp(**{**pbx.account, "ari_password": "wrong"}, timeout=3600)
    with pytest.raises(AriAuthFailed, match="wrong name or password"):
        await in_time(app.start())
    await app.stop()


async def test_a_password_that_is_changed_meanwhile_leaves_new_calls_to_their_fallback(own_pbx: Pbx) -> None:
    """Asterisk sends events on, and refuses every command. With the new one the app is served again."""
    lab = own_pbx.lab
    if release(lab).has(REQUESTS):
        needs(lab, ASKED_AGAIN)
    app = VoxtraApp(**own_pbx.account, app_name="voxtra-acme")
    served: asyncio.Future[CallSession] = asyncio.get_running_loop().create_future()

    @app.default()
    async def default(call: CallSession) -> None:
        if app._hubs[0].connected:
            served.set_result(call)
        await nothing(call)

    events: list[tuple[str, str]] = []
    app.on_event(lambda event: events.append((event["event"], event.get("ended_by", ""))))
    await app.start()
    hub = app._hubs[0]
    failed = hub.failed
    assert failed is not None
    conf = lab.config_dir / "ari.conf"
    before = conf.read_text()
    conf.write_text(before.replace(lab.ari_password.reveal(), "another"))
    lab.cli("module reload res_ari.so")
    call = f"channel originate Local/{ACME}@plain/n application Wait 60"
    lab.cli(call)
    with pytest.raises(AriAuthFailed, match="wrong name or password"):
        await in_time(asyncio.shield(failed))
    lab.cli(call)
    await until(lambda: "SERVED=FAILED" in lab.cli("dialplan show globals"))
    with pytest.raises(AriAuthFailed):
        await hub.readmit(lab.ari_password)
    await hub.readmit(Secret("another"))
    assert hub.connected
    # The call of before, which nobody could end.
    await until(lambda: events[-2:] == [("call_adopted", ""), ("call_ended", "lost")])
    served = asyncio.get_running_loop().create_future()
    lab.cli(call)
    await (await in_time(served)).hangup()
    await app.stop()
    conf.write_text(before)
    lab.cli("module reload res_ari.so")
    await own_pbx.empty()


async def test_another_process_with_the_same_app_gets_the_calls_and_none_is_killed(pbx: Pbx) -> None:
    adopted: asyncio.Future[CallSession] = asyncio.get_running_loop().create_future()
    second = VoxtraApp(**pbx.account, app_name="voxtra-acme")

    @second.on_adopt
    async def adopt(call: CallSession) -> None:
        adopted.set_result(call)
        await call.wait_ended()

    async with serving(pbx, nothing) as (first, seen):
        far = pbx.call()
        call = await in_time(seen.call)
        await until(lambda: call.is_up)
        hub = first._hubs[0]
        assert hub.failed is not None
        await second.start()
        try:
            with pytest.raises(AppReplaced, match="voxtra-acme"):
                await in_time(asyncio.shield(hub.failed))
            assert (await seen.ended()).ended_by == EndedBy.LOST
            with pytest.raises(CallEnded):
                await call.play_file("hello-world")
            await first.stop()
            same = await in_time(adopted)
            assert (same.id, same.called_number) == (call.id, ACME)
            assert (await same.play_file("hello-world")).ok
            far.hangup()
            assert (await in_time(same.wait_ended())).ended_by == EndedBy.CALLER
        finally:
            await second.stop()


async def test_calls_of_an_app_that_was_taken_and_is_left_behind_are_adopted_again(pbx: Pbx) -> None:
    """The second process is killed: nobody else will ever have its calls. A tone holds nothing up."""
    adopted: asyncio.Future[CallSession] = asyncio.get_running_loop().create_future()
    status: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    second = VoxtraApp(**pbx.account, app_name="voxtra-acme")

    @second.on_adopt
    async def rings(call: CallSession) -> None:
        await call.play_tone("ring")
        adopted.set_result(call)
        await call.wait_ended()

    async with serving(pbx, nothing) as (first, seen):

        @first.on_adopt
        async def again(call: CallSession) -> None:
            await call.play_tone("ring")
            await asyncio.sleep(0.2)
            await call.stop()
            status.set_result((await call.play_file("hello-world")).status)

        far = pbx.call()
        call = await in_time(seen.call)
        await until(lambda: call.is_up)
        await second.start()
        await in_time(adopted)
        await asyncio.sleep(0.2)  # the tone begins
        await second._hubs[0]._web.streams[0].close()
        await first._hubs[0].reclaim(force=True)
        assert await in_time(status) == "done"
        await until(lambda: not far.up)
        await second.stop()


# --- our own process --------------------------------------------------------------------------------------

SCRIPT = """\
import logging
import sys
from voxtractl import VoxtraApp

{log}
app = VoxtraApp({ari_url!r}, {ari_user!r}, {ari_password!r}, app_name="voxtra-acme")

def tell(text):
    sys.stdout.write(text + "\\n")  # whole lines: print() of several threads mixes them
    sys.stdout.flush()

app.on_event(lambda event: tell(event["event"] + " " + event.get("ended_by", "")))

@app.default()
async def handler(call):
    @call.on_hangup
    async def hook():
        tell("hook")
    call.on_hangup(lambda: tell("plain hook"))
    await call.answer()
    await call.open_leg(8000)
    await call.record_start()
    tell("ready")
    {last}

app.run(drain={drain})
"""


class Script:
    """A handler file of somebody that runs by itself."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self.process, self._output = process, output

    @property
    def said(self) -> list[str]:
        return self._output.read_text().splitlines()

    async def says(self, line: str, times: int = 1) -> None:
        """Wait until it has said lines that begin so, or has ended without."""

        def told() -> bool:
            return sum(said.startswith(line) for said in self.said) >= times

        await until(lambda: told() or self.process.poll() is not None)
        assert told(), self.said

    async def ended(self) -> int:
        await until(lambda: self.process.poll() is not None, most=20)
        return int(self.process.returncode)


@contextmanager
def script(
    pbx: Pbx,
    folder: Path,
    first: str = "",
    last: str = "await call.listen_dtmf(timeout=60)",
    *,
    log: str = 'logging.basicConfig(level=logging.INFO, format="%(message)s")',
    drain: float = 0.0,
) -> Iterator[Script]:
    file, output = folder / "app.py", folder / "output"
    file.write_text(first + SCRIPT.format(**pbx.account, log=log, last=last, drain=drain))
    with output.open("wb") as stream:
        process = subprocess.Popen([sys.executable, str(file)], stdout=stream, stderr=subprocess.STDOUT)
    try:
        yield Script(process, output)
    finally:
        process.kill()
        process.wait()


async def three_calls(pbx: Pbx, running: Script) -> list[Far]:
    # Not GET /applications: it may still list the app of a process that was killed just before.
    await running.says("serving voxtra-acme")
    fars = [pbx.call() for _ in range(3)]
    await running.says("ready", 3)
    return fars


async def test_sigterm_leaves_no_call_and_runs_the_hooks(pbx: Pbx, tmp_path: Path) -> None:
    with script(pbx, tmp_path) as running:
        await three_calls(pbx, running)
        running.process.send_signal(signal.SIGTERM)
        assert await running.ended() == 0, running.said
        await pbx.empty()
        said = running.said
        assert [said.count(what) for what in ("hook", "plain hook", "call_ended operator")] == [3, 3, 3]


async def test_a_program_that_configured_no_logging_is_shown_what_happens(pbx: Pbx, tmp_path: Path) -> None:
    with script(pbx, tmp_path, last='raise ValueError("of the handler")', log="", drain=5) as running:
        await until(lambda: any("info    serving voxtra-acme on http://" in line for line in running.said))
        far = pbx.call()
        await until(lambda: not far.up)
        running.process.send_signal(signal.SIGTERM)
        assert await running.ended() == 0, running.said
        said = "\n".join(running.said)
        assert "ValueError: of the handler" in said
        assert "info    draining: calls get 5 s" in said


async def test_a_handler_that_swallows_every_cancel_does_not_hold_the_process(
    pbx: Pbx, tmp_path: Path
) -> None:
    stubborn = """while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            tell("no")"""
    with script(pbx, tmp_path, "import asyncio\n", stubborn) as running:
        await three_calls(pbx, running)
        running.process.send_signal(signal.SIGTERM)
        assert await running.ended() == 0, running.said
        await pbx.empty()
        assert running.said.count("call_ended operator") == 3
        assert any("goes on although it was cancelled" in line for line in running.said)


async def test_a_second_sigterm_ends_the_drain(pbx: Pbx, tmp_path: Path) -> None:
    with script(pbx, tmp_path, drain=3600) as running:
        fars = await three_calls(pbx, running)
        running.process.send_signal(signal.SIGTERM)
        await running.says("draining")
        late = pbx.call()
        await until(lambda: not late.up)
        assert all(far.up for far in fars)
        running.process.send_signal(signal.SIGTERM)
        assert await running.ended() == 0, running.said
        await pbx.empty()
        assert running.said.count("call_ended operator") == 3
        assert running.said.count("hook") == 3


async def test_calls_of_a_killed_process_are_adopted_and_its_own_channels_removed(
    pbx: Pbx, tmp_path: Path
) -> None:
    with script(pbx, tmp_path) as running:
        fars = await three_calls(pbx, running)
        running.process.kill()
        running.process.wait()
    assert any(row["id"].startswith("vx-aux-") for row in pbx.channels())
    assert any(row["id"].startswith("vx-aux-") for row in pbx.bridges())
    adopted: list[CallSession] = []
    app = VoxtraApp(**pbx.account, app_name="voxtra-acme")
    events: list[dict[str, Any]] = []
    app.on_event(lambda event: events.append(dict(event)))

    @app.on_adopt
    async def adopt(call: CallSession) -> None:
        adopted.append(call)
        await call.wait_ended()

    await app.start()
    try:
        await until(lambda: len(adopted) == 3)
        assert [call.called_number for call in adopted] == [ACME] * 3
        assert all(call.is_up for call in adopted)
        await until(lambda: not pbx.bridges())
        for call in adopted:
            assert (await call.play_file("hello-world")).ok
        # Asterisk tells of a dead snoop channel until its call gets a frame or ends (measured).
        await until(lambda: not any(row["id"].startswith("vx-aux-") for row in pbx.channels()))
        for far in fars:
            far.hangup()
        await until(lambda: sum(event["event"] == "call_ended" for event in events) == 3)
        for call in adopted:
            told = [event["event"] for event in events if event["call_id"] == call.id]
            assert told == ["call_adopted", "call_ended"]
            assert (await call.wait_ended()).ended_by == EndedBy.CALLER
    finally:
        await app.stop()


CALLS_OUT = """\
for _ in range(2):
        await app.originate("Local/s@far-rings/n", timeout=60, wait=False)
    tell("calling")
    await call.wait_ended()"""


async def test_a_call_out_of_a_killed_process_is_adopted_when_it_is_answered(
    pbx: Pbx, tmp_path: Path
) -> None:
    """And is no call in: who was called would hear the greeting for callers."""
    with script(pbx, tmp_path, last=CALLS_OUT) as running:
        await running.says("serving voxtra-acme")
        caller = pbx.call()
        await running.says("calling")
    caller.hangup()

    def called() -> list[str]:
        """Not the AudioSocket of the dead process: before 20.14 and 22.4 it stays until the next one runs."""
        return [row["id"] for row in pbx.channels() if not row["id"].startswith("vx-aux-")]

    await until(lambda: len(called()) == 4)
    first, second = [Far(pbx, channel) for channel in called() if channel.endswith(";2")]
    adopted: list[CallSession] = []

    async def adopt(call: CallSession) -> None:
        adopted.append(call)
        await call.wait_ended()

    async with serving(pbx, nothing) as (app, seen):
        first.goes("far-wait", "s")
        await until(seen.ends)
        assert seen.names() == ["call_adopted", "call_ended"]  # as nobody adopts
        assert (seen.events[0]["direction"], seen.events[0]["did"]) == ("outbound", "s")
        assert seen.ends()[0]["ended_by"] == "lost"
        app.on_adopt(adopt)
        second.goes("far-wait", "s")
        await until(lambda: adopted)
        second.hangup()
        assert (await in_time(adopted[0].wait_ended())).ended_by == EndedBy.CALLER


async def test_a_process_whose_app_was_taken_says_so_and_leaves_its_calls_up(
    pbx: Pbx, tmp_path: Path
) -> None:
    with script(pbx, tmp_path, drain=3600) as running:
        fars = await three_calls(pbx, running)
        adopted: list[CallSession] = []
        app = VoxtraApp(**pbx.account, app_name="voxtra-acme")

        @app.on_adopt
        async def adopt(call: CallSession) -> None:
            adopted.append(call)
            await call.wait_ended()

        await app.start()
        try:
            assert await running.ended() == 1
            what, where, hint = running.said[-3:]
            assert "another process took the Stasis app" in what
            assert where == f"where: {pbx.lab.ari_url}"
            assert hint.startswith("hint:  end one of the two")
            assert running.said.count("hook") == 3
            await until(lambda: len(adopted) == 3)
            assert all(far.up for far in fars)
            assert (await adopted[0].play_file("hello-world")).ok
        finally:
            await app.stop()


# --- handlers ---------------------------------------------------------------------------------------------


async def test_a_handler_that_blocks_delays_and_loses_nothing(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> str:
        await call.answer()
        time.sleep(1)  # noqa: ASYNC251  the fault
        return str(await call.listen_dtmf(timeout=10))

    async with serving(pbx, handler) as (_, seen):
        pbx.call(ACME, "far-dtmf", "5")
        assert await in_time(seen.result) == "5"


async def test_a_handler_that_catches_the_end_and_asks_again_for_ever_holds_nobody(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> None:
        await call.answer()
        for _ in range(2 * CALLED_OFF):  # it would be for ever
            with suppress(CallEnded):
                await call.listen_dtmf(timeout=10)

    async with serving(pbx, handler) as (_, seen):
        pbx.call(ACME, "far-soon")
        assert (await seen.ended()).ended_by == EndedBy.CALLER
        await until(lambda: "handler_failed" in seen.names())
        pbx.call()
        await until(lambda: seen.names().count("call_answered") == 2)


async def waits_for_ever(call: CallSession) -> None:
    await call.answer()
    await asyncio.Event().wait()


async def refuses_to_stop(call: CallSession) -> None:
    await call.answer()
    for _ in range(2):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0.1)


async def does_not_answer(call: CallSession) -> None:
    pass


@pytest.mark.parametrize("handler", [waits_for_ever, refuses_to_stop])
async def test_a_handler_that_never_ends_holds_neither_the_end_nor_stop(pbx: Pbx, handler: Any) -> None:
    async with serving(pbx, handler) as (_, seen):
        pbx.call(ACME, "far-soon")
        assert (await seen.ended()).ended_by == EndedBy.CALLER
        pbx.call()
        await until(lambda: seen.names().count("call_answered") == 2)


@pytest.mark.parametrize("who", ["handler", "caller"])
async def test_a_call_whose_end_is_never_told_ends_all_the_same(
    pbx: Pbx, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    """Somebody has taken the subscription back, say."""
    monkeypatch.setattr(hub, "END_LOOK", 0.2)
    async with serving(pbx, nothing) as (app, seen):
        call = await app.originate("Local/s@far-wait/n")
        app_name, source = "voxtra-acme", f"channel:{call.id}"
        status, text = pbx.ari("DELETE", f"applications/{app_name}/subscription", eventSource=source)
        assert status == 200, text
        if who == "caller":
            pbx.ari("DELETE", f"channels/{call.id};2")
        else:
            await call.hangup()
        ended = await in_time(call.wait_ended())
        assert (ended.disposition, ended.ended_by) == ("answered", who)
        await until(lambda: not app.calls)
        assert len(seen.ends()) == 1


async def test_a_handler_that_returns_without_an_answer_ends_the_call(pbx: Pbx) -> None:
    async with serving(pbx, does_not_answer) as (_, seen):
        far = pbx.call()
        ended = await seen.ended()
        assert (ended.ended_by, ended.answered) == (EndedBy.HANDLER, None)
        await until(lambda: not far.up)


async def test_what_was_called_for_a_caller_ends_with_the_caller(pbx: Pbx) -> None:
    """A handler that fails between the two halves of an attended transfer."""

    async def handler(call: CallSession) -> None:
        await call.answer()
        await call.consult("Local/s@far-wait/n")
        raise ZeroDivisionError

    async with serving(pbx, handler) as (_, seen):
        pbx.call()
        await until(lambda: len(seen.ends()) == 2)
        await pbx.empty()


# --- many -------------------------------------------------------------------------------------------------


async def originate(pbx: Pbx, app: VoxtraApp, far: str) -> str | None:
    """A call into from-trunk over HTTP, as ``Pbx.call`` does it, but many at once; its id."""
    made = await app.ari.originate(
        endpoint=f"Local/{ACME}@from-trunk/n", context=far, extension="s", caller_id="+265700000001"
    )
    return made.id


async def test_three_hundred_calls_at_once(pbx: Pbx) -> None:
    met: list[str] = []
    go = asyncio.Event()

    async def handler(call: CallSession) -> None:
        met.append(call.id)
        await call.answer()
        await go.wait()

    async with serving(pbx, handler) as (app, seen):
        await in_time(asyncio.gather(*(originate(pbx, app, "far-wait") for _ in range(300))), 60)
        await until(lambda: seen.names().count("call_answered") == 300, most=30)
        assert len(app.calls) == 300
        go.set()
        await until(lambda: len(seen.ends()) == 300, most=30)
        assert len(set(met)) == 300
        assert {end["disposition"] for end in seen.ends()} == {"answered"}


async def test_a_thousand_calls_ended_by_every_way_end_a_thousand_times(pbx: Pbx) -> None:
    number = iter(range(10_000))
    busy: list[str] = []

    async def handler(call: CallSession) -> None:
        way = next(number) % 6
        if way != 5:
            await call.answer()
        match way:
            case 0:
                await call.hangup()
            case 1:
                await call.listen_dtmf(timeout=30)  # the caller goes
            case 2:
                raise ZeroDivisionError("on purpose")
            case 3:
                await call.continue_in_dialplan("far-soon")
            case 4:
                await call.hangup("busy")

    async def dial(app: VoxtraApp, far: str) -> None:
        try:
            call = await app.originate(f"Local/s@{far}/n", timeout=20)
        except OriginateFailed:
            busy.append(far)
        else:
            await call.hangup()

    async with serving(pbx, handler) as (app, seen):
        slots = asyncio.Semaphore(60)

        async def one(index: int) -> None:
            async with slots:
                match index % 4:
                    case 0:
                        await dial(app, "far-busy")
                    case 1:
                        await dial(app, "far-wait")
                    case _:
                        await originate(pbx, app, "far-soon")

        await in_time(asyncio.gather(*(one(index) for index in range(1000))), 60)
        assert busy == ["far-busy"] * 250
        await until(lambda: len(seen.ends()) == 1000, most=30)
        assert len({end["call_id"] for end in seen.ends()}) == 1000
        assert {end["ended_by"] for end in seen.ends()} >= {"caller", "handler", "asterisk"}
        assert "lost" not in {end["ended_by"] for end in seen.ends()}


# --- sounds, speech, recordings ---------------------------------------------------------------------------


async def test_a_sound_whose_end_is_never_told_is_bounded(pbx: Pbx, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sounds, "SCHEMES", sounds.SCHEMES | {"nosuch"})

    async def handler(call: CallSession) -> list[str]:
        await call.answer()
        unknown = await call.play("nosuch:thing", timeout=0.5)
        return [unknown.status, (await call.play_file("hello-world")).status]

    async with serving(pbx, handler) as (_, seen):
        pbx.call()
        assert await in_time(seen.result) == ["stopped", "done"]


class Hum:
    """Speaks a tone of so many seconds, and hears whatever it is given as one word."""

    rate = 16000

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def synthesize(self, text: str) -> AsyncIterator[bytes]:
        for _ in range(int(self.seconds * 50)):
            yield b"\x00\x20\x00\xe0" * 160

    async def transcribe(self, pcm: bytes, rate: int) -> Transcript:
        await asyncio.Event().wait()
        raise AssertionError


async def says(call: CallSession) -> None:
    await call.say("a long story")


async def listens(call: CallSession) -> None:
    await call.listen(timeout=60)


async def records(call: CallSession) -> None:
    await call.record_start()
    call.metadata["begun"] = True
    await call.wait_ended()
    await call.record_stop()


async def records_into_a_sink(call: CallSession) -> None:
    await call.record_start(sink=lambda pcm: None)
    call.metadata["begun"] = True
    await call.wait_ended()
    await call.record_stop()


@pytest.mark.parametrize("media", ["audiosocket", "websocket"])
@pytest.mark.parametrize("verb", [says, listens])
async def test_speech_ends_when_the_caller_goes(
    pbx: Pbx, media: str, verb: Callable[[CallSession], Awaitable[None]]
) -> None:
    needs_media(pbx.lab, media)

    async def handler(call: CallSession) -> None:
        await call.answer()
        with pytest.raises(CallEnded):
            await verb(call)

    hum = Hum(30)
    async with serving(pbx, handler, tts=hum, stt=hum, media=media) as (_, seen):
        far = pbx.call()
        await until(lambda: any(row["id"].startswith("vx-aux-") for row in pbx.channels()))
        far.hangup()
        await in_time(seen.result)
        assert (await seen.ended()).ended_by == EndedBy.CALLER


async def test_without_a_provider_speech_says_what_to_configure(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> None:
        await call.answer()
        with pytest.raises(SpeechUnavailable):
            await call.say("hello")
        with pytest.raises(SpeechUnavailable):
            await call.listen()

    async with serving(pbx, handler) as (_, seen):
        pbx.call()
        await in_time(seen.result)


async def test_a_recording_is_a_file_of_asterisk_with_what_was_heard(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> tuple[str, float]:
        await call.answer()
        name = await call.record_start("acme-proof")
        with pytest.raises(MediaFailed, match="being recorded already"):
            await call.record_start("acme-proof")
        await asyncio.sleep(1.5)  # of the tone
        done = await call.record_stop()
        assert done.name == name
        with pytest.raises(MediaFailed, match="does not record"):
            await call.record_start("acme-proof")
        return name, done.seconds

    async with serving(pbx, handler) as (app, seen):
        pbx.call(ACME, "far-tone")
        name, seconds = await in_time(seen.result)
        from voxtractl.ari import requests

        answer = await app.ari.ask(requests.stored_file(name))
        assert answer.status == 200
        with wave.open(io.BytesIO(answer.content)) as found:
            length = found.getnframes() / found.getframerate()
            loud = max(found.readframes(found.getnframes()))
        assert 1.0 < length < 4.0
        assert abs(length - seconds) <= 1.0  # Asterisk tells whole seconds
        assert loud > 0
        assert pbx.ari("DELETE", f"recordings/stored/{name}")[0] == 204


async def test_recordings_without_a_name_get_one_each(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> list[str]:
        await call.answer()
        names = [await call.record_start(), await call.record_start()]
        await call.record_stop()
        names.append(await call.record_start())
        await call.record_stop()
        await call.record_stop(names[0])
        return names

    async with serving(pbx, handler) as (_, seen):
        pbx.call()
        names = await in_time(seen.result)
        assert len(set(names)) == 3
        for name in names:
            assert pbx.ari("DELETE", f"recordings/stored/{name}")[0] == 204


async def test_a_sink_gets_the_sound_of_the_call(pbx: Pbx) -> None:
    pieces: list[bytes] = []
    some = asyncio.Event()

    def sink(pcm: bytes) -> None:
        pieces.append(pcm)
        if len(pieces) > 40:
            some.set()

    async def handler(call: CallSession) -> float:
        await call.answer()
        await call.record_start(sink=sink, direction="in")
        await some.wait()
        return (await call.record_stop()).seconds

    async with serving(pbx, handler) as (_, seen):
        pbx.call(ACME, "far-tone")
        seconds = await in_time(seen.result)
        assert seconds == sum(map(len, pieces)) / 16000
        assert any(any(pcm) for pcm in pieces)


@pytest.mark.parametrize("verb", [records, records_into_a_sink])
async def test_a_recording_ends_with_the_caller(
    pbx: Pbx, verb: Callable[[CallSession], Awaitable[None]]
) -> None:
    async def handler(call: CallSession) -> None:
        await call.answer()
        await verb(call)

    async with serving(pbx, handler) as (_, seen):
        far = pbx.call()
        call = await in_time(seen.call)
        await until(lambda: call.metadata)
        far.hangup()
        await in_time(seen.result)
        assert (await seen.ended()).ended_by == EndedBy.CALLER


# --- media ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("media", ["audiosocket", "websocket"])
@pytest.mark.parametrize("rate", [8000, 16000])
async def test_what_is_sent_comes_back_from_a_far_echo(pbx: Pbx, media: str, rate: int) -> None:
    needs_media(pbx.lab, media)

    async def handler(call: CallSession) -> int:
        await call.answer()
        leg = await call.audio_stream(rate)
        assert leg is await call.audio_stream(rate)
        with pytest.raises(MediaFailed, match="open at"):
            await call.audio_stream(48000)
        sending = asyncio.create_task(call.send_audio(b"\x00\x20\x00\x20\x00\xe0\x00\xe0" * (rate // 4)))
        loud = 0
        async for pcm in call.audio_stream(rate):
            loud += any(pcm)
            if loud >= 25:
                break
        await sending
        return loud

    async with serving(pbx, handler, media=media) as (_, seen):
        pbx.call(ACME, "far-echo")
        assert await in_time(seen.result) == 25
        assert (await seen.ended()).ended_by == EndedBy.HANDLER


@pytest.mark.parametrize("rate", [16000, 48000])
async def test_an_older_asterisk_is_given_8_khz_and_the_handler_its_own_rate(pbx: Pbx, rate: int) -> None:
    tone = b"".join(pack("<h", int(8000 * sin(tau * 1000 * n / rate))) for n in range(rate))

    async def handler(call: CallSession) -> float:
        call._hub._release = Release(20, 16)
        await call.answer()
        await call.audio_stream(rate)
        assert any("AudioSocket" in row["name"] for row in pbx.channels())
        sending = asyncio.create_task(call.send_audio(tone * 3))
        heard = b""
        async for pcm in call.audio_stream(rate):
            heard += pcm if heard or any(pcm) else b""
            if len(heard) > 2 * rate:
                break
        sending.cancel()
        samples = unpack(f"<{len(heard) // 2}h", heard)[rate // 4 :]
        rises: int = sum(a < 0 <= b for a, b in pairwise(samples))
        return rises / (len(samples) / rate)

    async with serving(pbx, handler) as (_, seen):
        pbx.call(ACME, "far-echo")
        assert abs(await in_time(seen.result) - 1000) < 20
        assert (await seen.ended()).ended_by == EndedBy.HANDLER


async def test_an_older_asterisk_has_no_media_websocket(pbx: Pbx) -> None:
    async def handler(call: CallSession) -> list[str]:
        call._hub._release = Release(20, 17)
        await call.answer()
        told = []
        for _ in range(4):  # it is no fault of the node: its breaker stays out of it
            with pytest.raises(MediaFailed, match="JSON messages") as caught:
                await call.audio_stream(8000)
            told.append(str(caught.value.hint))
        return told

    async with serving(pbx, handler, media="websocket") as (_, seen):
        pbx.call(ACME)
        assert all("audiosocket" in hint for hint in await in_time(seen.result))


@pytest.mark.parametrize("media", ["audiosocket", "websocket"])
async def test_a_call_ends_once_with_its_media_connection(pbx: Pbx, media: str) -> None:
    needs_media(pbx.lab, media)

    async def handler(call: CallSession) -> None:
        await call.answer()
        leg = await call.audio_stream(8000)
        assert await leg.receive()
        call.metadata["heard"] = True
        with pytest.raises(CallEnded):
            await call.listen_dtmf(timeout=60)

    async with serving(pbx, handler, media=media) as (_, seen):
        pbx.call(ACME, "far-tone")
        call = await in_time(seen.call)
        await until(lambda: call.metadata)
        own = next(row["id"] for row in pbx.channels() if row["id"].startswith("vx-aux-"))
        assert pbx.ari("DELETE", f"channels/{own}")[0] == 204
        await in_time(seen.result)
        ended = await seen.ended()
        assert (ended.ended_by, ended.detail[:5]) == (EndedBy.ASTERISK, "media")


async def test_when_asterisk_makes_no_media_channels_a_breaker_opens(own_pbx: Pbx) -> None:
    assert own_pbx.ari("DELETE", "asterisk/modules/chan_audiosocket.so")[0] == 204

    async def handler(call: CallSession) -> list[str]:
        await call.answer()
        told: list[str] = []
        for _ in range(4):
            with pytest.raises(MediaFailed) as caught:
                await call.audio_stream(8000)
            told.append(str(caught.value))
        return told

    async with serving(own_pbx, handler) as (_, seen):
        own_pbx.call(trunk="plain")
        told = await in_time(seen.result, 30)
        assert all("opened no media channel" in text for text in told[:3])
        assert "none is asked for" in told[3]
        await seen.ended()
        await own_pbx.empty()


@pytest.mark.parametrize("why", ["served no more", "blocked"])
async def test_a_call_on_its_way_to_the_fallback_does_not_stay_after_a_cut(
    pbx: Pbx, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    async with (
        proxy(pbx.lab.http_port) as between,
        serving(pbx, nothing, ari_url=between.url) as (app, seen),
    ):
        hub = app._hubs[0]
        monkeypatch.setattr(app, "take", lambda call: None)  # its loop does not turn
        to_fallback, cuts = Places.to_fallback, 0

        async def cut(places: Places, call_id: str, slug: str | None) -> None:
            nonlocal cuts
            cuts += 1
            if cuts == 1:
                between.cut()
            await to_fallback(places, call_id, slug)

        monkeypatch.setattr(Places, "to_fallback", cut)
        if why == "blocked":
            pbx.call()
            await until(lambda: seen.names() == ["call_started"])
            hub.give_back(app)
        else:
            hub.leave(app.app_name)
            pbx.call()
        await until(lambda: cuts and hub.connected)
        await until(lambda: not [row for row in pbx.channels() if row["dialplan"]["app_name"] == "Stasis"])
        await until(lambda: not hub.sessions)
        assert len(seen.ends()) == seen.names().count("call_started")
