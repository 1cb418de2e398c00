"""`voxtractl run` as an operator starts it: a process of its own, a document, signals, the real Asterisk."""

import asyncio
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.live.carrier import Carrier
from tests.live.conftest import LabFactory, NodeDocument, needs
from tests.live.pbx import ACME, BETA, Far, Pbx, until
from tests.tools.proxy import proxy
from voxtractl.ari.release import Feature
from voxtractl.lab import Lab
from voxtractl.runtime.websockets import STREAMS_MAX

GAMMA = "+265999000003"

WAITS = """\
from voxtractl import VoxtraApp

app = VoxtraApp()

@app.default()
async def handler(call):
    await call.answer()
    await call.listen_dtmf(timeout=60)
"""
ADOPTS = "\n@app.on_adopt\nasync def adopted(call):\n    await call.listen_dtmf(timeout=60)\n"
SAYS_BYE = WAITS.replace("await call.listen_dtmf(timeout=60)", "await call.hangup()")
# Written for the peer library: its import, its run() at the end.
PEERS = """\
from voxtra import VoxtraApp

app = VoxtraApp(ari_url="http://127.0.0.1:1", ari_user="nobody", ari_password="nothing", app_name="other")

@app.route(extension="+265999000002")
async def beta(call):
    await call.answer()
    await call.hangup()

app.run()
"""

# A whole application for the peer library, as its documentation has one write it.
SHOP = """\
import json
from pathlib import Path

from voxtra import CallSession, VoxtraApp
from voxtra.exceptions import TelephonyError
from voxtra.types import CallState

app = VoxtraApp(ari_user="asterisk", ari_password="secret", reconnect_interval=2.0, debug=True)
cases = {}


def note(at, **values):
    with Path(__file__).with_suffix(".notes").open("a") as notes:
        notes.write(json.dumps({"at": at, **values}) + "\\n")


@app.on_startup
async def load_cases():
    cases["+265700000001"] = 7
    note("startup", channels=len(await app.ari.list_channels()))


@app.on_shutdown
async def close_cases():
    note("shutdown", cases=len(cases), running=app.is_running)


@app.route(number="+49*", metadata={"language": "de"})
async def german(call):
    await call.answer()
    note("german", **call.metadata)
    await call.hangup(reason="normal")


@app.route(extension="+265999000001", metadata={"line": "shop", "tries": 0})
async def menu(call: CallSession) -> None:
    @call.on_hangup
    async def closed():
        note("closed", seconds=call.duration > 1, state=call.state, **call.metadata)

    states = [call.state]
    note("call", caller=call.caller_id, to=call.called_number, way=call.direction)
    call.metadata["case"] = cases[call.caller_id]
    await call.answer()
    states.append(call.state)
    name = await call.record_start(fmt="ulaw")
    await call.play_file("hello-world", lang="")
    call.metadata["tries"] += 1
    call.metadata["choice"] = await call.listen_dtmf(max_digits=1, timeout=5.0)
    await call.hold(moh_class="default")
    states.append(call.state)
    await call.unhold()
    assert call.state == CallState.ANSWERED and app.get_session(call.id) is call
    recorded = await call.record_stop()
    await app.ari.set_channel_var(call.id, "CHOICE", call.metadata["choice"])
    try:
        await call.transfer_to_queue("nowhere")
    except TelephonyError as error:
        note("refused", states=states, recorded=recorded == name, why=str(error))
    await call.transfer_to_queue("desk", metadata={"intent": "billing, now", "vip": True, "turns": 3})
    await call.hangup()


@app.default_route()
async def others(call):
    await call.hangup()


if __name__ == "__main__":
    app.run()
"""
# Sound as the peer library has it: chunks of µ-law.
SINGS = """\
from voxtra import AudioChunk, RecordingSink, VoxtraApp


class Told(RecordingSink):
    async def on_recording_complete(self, metadata):
        print("sink", metadata.session_id, metadata.name, metadata.format, flush=True)


app = VoxtraApp(recording_sink=Told())


@app.on_call
async def sing(call):
    await call.answer()
    await call.record_start("song")
    await call.open_audio_socket()
    heard, tone = 0, (bytes([0x10] * 4) + bytes([0x90] * 4)) * 10  # 10 ms of 1 kHz, loud
    async for chunk in call.audio_stream():
        await call.send_audio(AudioChunk(data=tone))
        await call.send_audio_bytes(tone)
        heard += min(code & 0x7F for code in chunk.data) < 0x40  # in µ-law the small ones are loud
        if heard == 20:
            break
    print("heard", chunk.codec, chunk.sample_rate, chunk.n_samples, flush=True)
"""

# Every request the peer library's client has by name, of its calls and of a client of one's own.
ASKS = """\
import asyncio

from voxtra import ARIClient, VoxtraApp
from voxtra.exceptions import TelephonyError

app = VoxtraApp()


@app.default()
async def ask(call):
    if call.called_number != "+265999000001":
        await call.wait_ended()
        return
    ari = app.ari
    await ari.answer_channel(call.id)
    channel = await ari.get_channel(call.id)
    place = (channel.dialplan_context, channel.dialplan_exten, channel.dialplan_priority)
    assert (channel.state, channel.connected_name, *place) == ("Up", "", "from-trunk", call.called_number, 2)
    assert channel.creationtime
    assert call.id in [channel.id for channel in await ari.list_channels()]
    playing = await ari.play_on_channel(call.id, "tone:busy")
    assert (playing.media_uri, playing.target_uri) == ("tone:busy", f"channel:{call.id}")
    await call.stop_playback(playing.id)
    assert (await call.play_file(filename="hello-world")).ok
    playing = await ari.play_on_channel(call.id, "sound:hello-world", lang="en")
    await ari.stop_playback(playing.id)
    await call.stop_playback(playing.id)  # it is over
    await ari.moh_start(call.id)
    await ari.moh_stop(call.id)
    await ari.send_dtmf(call.id, "12")
    made = await ari.originate("Local/s@far-wait/n", priority=None)  # into the app: the default takes it
    while not (other := app.get_session(made.id)):
        await asyncio.sleep(0.02)
    assert (other.app_name, made.dialplan_exten) == (call.app_name, "s")
    await ari.hangup_channel(made.id)
    await other.wait_ended()
    made = await ari.originate("Local/s@far-wait/n", context="far-soon")
    assert made.dialplan_context == "far-wait"
    bridge = await ari.create_bridge(name="meeting")
    assert (bridge.bridge_type, bridge.bridge_class) == ("mixing", "stasis")
    await ari.add_to_bridge(bridge.id, [call.id])
    await ari.remove_from_bridge(bridge.id, [call.id])
    await ari.destroy_bridge(bridge.id)
    assert any(row["name"] == "pbx_config.so" for row in await ari.list_modules())
    await ari.reload_module("pbx_config.so")
    for what in (call.transfer_to("nobody"), ari.get_channel("nobody"), ari.stop_recording("nothing")):
        try:
            await what
        except TelephonyError as error:
            print("refused:", error, flush=True)
    async with ARIClient(base_url=URL, username=USER, password=WORD, app_name="voxtra") as own:
        assert "build" in await own.connect()
        await own.hangup_channel(call.id, reason="busy")
    await call.wait_ended()
    print("asked all", flush=True)
"""


def document(**handlers: str) -> str:
    dids = {"acme": ACME, "beta": BETA, "gamma": GAMMA}
    return "\n".join(
        f'[tenants.{slug}]\ndids = ["{dids[slug]}"]\nhandler = "{handler}"\n'
        for slug, handler in handlers.items()
    )


@pytest.fixture
async def pbx(lab: Lab, node_document: NodeDocument) -> AsyncIterator[Pbx]:
    pbx = Pbx(lab, await asyncio.to_thread(node_document))
    pbx.write_far_contexts()
    yield pbx
    for row in pbx.channels():
        pbx.ari("DELETE", f"channels/{row['id']}")
    await pbx.empty()


class Running:
    """A `voxtractl run` process, its events and what it said."""

    def __init__(self, pbx: Pbx, process: subprocess.Popen[str], events: Path, log: Path) -> None:
        self.pbx, self.process, self.file, self._log = pbx, process, events, log

    @property
    def events(self) -> list[dict[str, Any]]:
        whole, _, _ = self.file.read_text().rpartition("\n")  # the last line may be half written
        return [json.loads(line) for line in whole.splitlines()]

    def of(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == name]

    @property
    def log(self) -> str:
        return self._log.read_text()

    async def says(self, words: str) -> None:
        await until(lambda: words in self.log or self.process.poll() is not None)
        assert words in self.log, self.log

    async def ends(self, code: int = 0) -> None:
        await until(lambda: self.process.poll() is not None, most=30)
        assert self.process.returncode == code, self.log

    async def forced(self) -> None:
        """Stop it by two signals; calls are ended, not waited for."""
        self.process.terminate()
        await self.says("draining")
        self.process.terminate()
        await self.ends()


@asynccontextmanager
async def running(pbx: Pbx, *words: str, number: int = 1) -> AsyncIterator[Running]:
    folder = pbx.config.parent
    events, log = folder / f"events-{number}.jsonl", folder / f"log-{number}"
    events.touch()
    with log.open("w") as stream:
        process = subprocess.Popen(  # noqa: ASYNC220  starting takes a millisecond
            [
                sys.executable,
                "-m",
                "voxtractl",
                "-c",
                str(pbx.config),
                "run",
                "--events",
                str(events),
                *words,
            ],
            stdout=stream,
            stderr=stream,
            text=True,
        )
        run = Running(pbx, process, events, log)
        try:
            await run.says("serving")
            yield run
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def write(pbx: Pbx, tenants: str, **files: str) -> None:
    """The document's tenants and the handler files, pushed."""
    text = pbx.config.read_text().partition("\n[tenants")[0].partition("\n[defaults")[0]
    pbx.config.write_text(f"{text}\n{tenants}")
    for name, content in files.items():
        write_file(pbx, name, content)


def write_file(pbx: Pbx, name: str, content: str) -> None:
    (pbx.config.parent / f"{name}.py").write_text(content)


async def pushed(pbx: Pbx) -> None:
    words = ("dialplan", "push", "--yes", "--allow-deletes", "9", "--allow-move")
    await asyncio.to_thread(pbx.voxtractl, *words)


async def test_every_tenant_has_its_own_handler_and_a_peers_file_runs_unchanged(pbx: Pbx) -> None:
    write(pbx, document(acme="acme.py:app", beta="beta.py:app"), acme=SAYS_BYE, beta=PEERS)
    await pushed(pbx)
    async with running(pbx) as run:
        await run.says("serving 2 of 2 tenants on lab")
        pbx.call(ACME)
        pbx.call(BETA)
        await until(lambda: len(run.of("call_ended")) == 2)
        ends = {event["tenant"]: event for event in run.of("call_ended")}
        assert ends["acme"]["did"] == ACME
        assert ends["beta"]["did"] == BETA
        assert {end["ended_by"] for end in ends.values()} == {"handler"}
        assert {event["node"] for event in run.events} == {"lab"}
        run.process.terminate()
        await run.ends()


async def test_an_application_of_the_peer_library_runs_whole(pbx: Pbx) -> None:
    queue = '[tenants.acme.queues.desk]\nmembers = ["Local/s@far-desk/n"]\n'
    write(pbx, document(acme="shop.py:app") + queue, shop=SHOP)
    await pushed(pbx)
    async with running(pbx) as run:
        pbx.call(ACME, "far-dtmf", "4")
        await until(lambda: len(run.of("call_ended")) == 1)
        pbx.call(ACME, caller="+4930123")
        await until(lambda: len(run.of("call_ended")) == 2)
        run.process.terminate()
        await run.ends()
        assert run.of("handler_failed") == []
        assert run.of("call_ended")[0]["queue_status"] == "ANSWERED"
    met = [json.loads(line) for line in (pbx.config.parent / "shop.notes").read_text().splitlines()]
    assert met == [
        {"at": "startup", "channels": 0},
        {"at": "call", "caller": "+265700000001", "to": ACME, "way": "inbound"},
        {
            "at": "refused",
            "states": ["ringing", "answered", "on_hold"],
            "recorded": True,
            "why": "there is no queue 'nowhere' here",
        },
        {
            "at": "closed",
            "seconds": True,
            "state": "completed",
            "line": "shop",
            "tries": 1,
            "case": 7,
            "choice": "4",
        },
        {"at": "german", "language": "de"},
        {"at": "shutdown", "cases": 1, "running": True},
    ]
    seen = json.loads(pbx.ari("GET", "asterisk/variable", variable="SEEN")[1])["value"]
    assert seen == "billing, now/True/3"


async def test_sound_of_the_peer_library_goes_both_ways(pbx: Pbx) -> None:
    write(pbx, document(acme="sings.py:app"), sings=SINGS)
    await pushed(pbx)
    async with running(pbx) as run:
        pbx.call(ACME, "far-echo")
        await until(lambda: len(run.of("call_ended")) == 1)
        await run.says("heard ulaw 8000 160")
        await run.says(f"sink {run.events[0]['call_id']} song wav")
        assert run.of("handler_failed") == []
        run.process.terminate()
        await run.ends()


async def test_a_call_that_is_sent_on_to_another_tenant_becomes_a_call_of_that_tenant(pbx: Pbx) -> None:
    sends = SAYS_BYE.replace("call.hangup()", f'call.continue_in_dialplan("from-trunk", "{BETA}")')
    waits = sends + "    await call.wait_ended()\n    print('acme has seen its end', flush=True)\n"
    write(pbx, document(acme="acme.py:app", beta="beta.py:app"), acme=waits, beta=SAYS_BYE)
    await pushed(pbx)
    async with running(pbx) as run:
        for _ in range(2):
            pbx.call(ACME)
            await until(lambda: run.events and run.events[-1]["event"] == "call_ended")
            await pbx.empty()
        await until(lambda: len(run.of("call_ended")) == 4)
        starts = [(event["tenant"], event["did"]) for event in run.of("call_started")]
        assert starts == [("acme", ACME), ("beta", BETA)] * 2
        acme, beta = run.of("call_ended")[:2]
        assert (acme["tenant"], acme["ended_by"], beta["tenant"]) == ("acme", "asterisk", "beta")
        assert acme["detail"] == "it went on to the Stasis app voxtra-beta"
        assert run.of("handler_failed") == []
        await run.says("acme has seen its end")
        run.process.terminate()
        await run.ends()


async def test_digits_of_a_call_that_went_on_to_another_tenant_count_once(pbx: Pbx) -> None:
    sends = SAYS_BYE.replace("call.hangup()", f'call.continue_in_dialplan("from-trunk", "{BETA}")')
    hears = WAITS.replace(
        "listen_dtmf(timeout=60)", "set_variable('X', await call.listen_dtmf(4, timeout=5))"
    )
    says = hears + "    print('heard', await call.get_variable('X'), flush=True)\n"
    write(pbx, document(acme="acme.py:app", beta="beta.py:app"), acme=sends, beta=says)
    await pushed(pbx)
    async with running(pbx) as run:
        far = pbx.call(ACME)
        await until(lambda: "beta" in {event["tenant"] for event in run.of("call_started")})
        far.goes("far-dtmf", "12")
        await run.says("heard 12\n")
        assert [event["digit"] for event in run.of("dtmf")] == ["1", "2"]
        run.process.terminate()
        await run.ends()


async def test_an_app_of_an_installed_module_is_one_tenants_also_when_it_is_loaded_again(
    pbx: Pbx, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = pbx.config.parent / "installed" / "firm"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("from .calls import app\n")
    hooks = "\n@app.on_shutdown\ndef shut():\n    print('shut down', flush=True)\n"
    (installed / "calls.py").write_text(SAYS_BYE + hooks)
    monkeypatch.setenv("PYTHONPATH", f"{installed.parent}:{Path.cwd()}")
    tenants = document(acme="firm:app", beta="firm:app")
    write(pbx, tenants)
    await pushed(pbx)
    async with running(pbx) as run:
        await run.says("an installed module is shared")
        told = re.search(r"the handler of (\w+) has the VoxtraApp of (\w+)", run.log)  # who was loaded last
        assert told is not None
        pbx.config.write_text(pbx.config.read_text().replace("dids", "max_channels = 5\ndids"))
        await run.says("reloaded: 1 tenants served, 2 changed")
        await asyncio.sleep(3)  # what is replaced is shut down within 2 s
        pbx.call(BETA)
        pbx.call(ACME)
        await until(lambda: run.of("call_ended"))
        served = {"acme": ACME, "beta": BETA}[told[2]]
        assert {(event["tenant"], event["did"]) for event in run.events} == {(told[2], served)}
        assert "shut down" not in run.log
        run.process.terminate()
        await run.ends(7)
        assert run.log.count("shut down") == 1


async def test_a_startup_hook_that_fails_costs_its_tenant_only(pbx: Pbx) -> None:
    hook = "\n@app.on_startup\nasync def connect():\n    {}\n"
    write(
        pbx,
        document(acme="acme.py:app", beta="beta.py:app", gamma="gamma.py:app"),
        acme=SAYS_BYE + hook.format("print('acme is up', flush=True)"),
        beta=SAYS_BYE + hook.format("1 / 0"),
        gamma=SAYS_BYE + hook.format("raise SystemExit('no database')"),
    )
    await pushed(pbx)
    async with running(pbx) as run:
        await run.says("serving 1 of 3 tenants on lab; without a handler: beta, gamma")
        assert "acme is up" in run.log
        assert "a startup hook of beta failed: ZeroDivisionError: division by zero" in run.log
        assert "a startup hook of gamma failed: SystemExit: no database" in run.log
        assert 'beta.py", line 12, in connect' in run.log  # its traceback
        far = pbx.call(BETA)
        await until(lambda: not far.up)
        pbx.call(ACME)
        await until(lambda: len(run.of("call_ended")) == 1)
        (pbx.config.parent / "beta.py").write_text(SAYS_BYE + hook.format("pass"))
        run.process.send_signal(signal.SIGHUP)
        await run.says("reloaded: 2 tenants served")
        pbx.call(BETA)
        await until(lambda: len(run.of("call_ended")) == 2)
        run.process.terminate()
        await run.ends(7)


async def test_a_replaced_app_shuts_down_after_its_last_call(pbx: Pbx) -> None:
    hooks = """
@app.on_startup
def up():
    print("up {0}", flush=True)

@app.on_shutdown
def down():
    print("down {0}", flush=True)
"""
    write(pbx, document(acme="acme.py:app"), acme=WAITS + hooks.format(1))
    await pushed(pbx)
    async with running(pbx) as run:
        far = pbx.call(ACME)
        await until(lambda: run.of("call_answered"))
        (pbx.config.parent / "acme.py").write_text(SAYS_BYE + hooks.format(2))
        await run.says("up 2")
        await run.says("reloaded: 1 tenants served")
        pbx.call(ACME)
        await until(lambda: run.of("call_ended"))
        assert "down" not in run.log
        far.hangup()
        await run.says("down 1")
        assert "down 2" not in run.log
        run.process.terminate()
        await run.ends()
        assert run.log.count("down 1") == run.log.count("down 2") == 1


async def test_a_dialler_that_a_startup_hook_begins_calls_as_soon_as_calls_can_be_made(pbx: Pbx) -> None:
    dials = """
import asyncio

async def dial():
    call = await app.originate("Local/s@far-soon/n", timeout=10)
    print("called", (await call.wait_ended()).disposition, flush=True)

@app.on_startup
async def begin():
    begin.task = asyncio.create_task(dial())
"""
    write(pbx, document(acme="acme.py:app"), acme=WAITS + dials)
    await pushed(pbx)
    async with running(pbx) as run:
        await run.says("called answered")
        assert [event["direction"] for event in run.of("call_started")] == ["outbound"]
        run.process.terminate()
        await run.ends()


async def test_a_handler_reaches_asterisk_itself_from_its_own_thread(pbx: Pbx) -> None:
    asks = """\
    channel = await app.ari.originate(
        endpoint="Local/s@far-wait/n", app=None, context="far-variables", extension="s",
        caller_id="+265888000001", variables={"MY_CALL_ID": call.called_number, "MY_RECORD": "1"},
    )
    print("made", channel.id, flush=True)
"""
    write(pbx, document(acme="acme.py:app"), acme=SAYS_BYE + asks)
    await pushed(pbx)
    async with running(pbx) as run:
        pbx.call(ACME)
        await until(lambda: run.of("call_ended"))
        await run.says("made ")
        seen: Callable[[], str] = lambda: pbx.ari("GET", "asterisk/variable", variable="SEEN")[1]
        await until(lambda: f"{ACME}/1" in seen())
        run.process.terminate()
        await run.ends()


async def test_what_is_done_for_a_call_is_done_at_its_node(pbx: Pbx, own_lab: LabFactory) -> None:
    text = WAITS.replace(
        "await call.listen_dtmf(timeout=60)",
        """
    @call.on_hangup
    async def tell():
        seen = {"MY_CALL_ID": app.tenant, "MY_RECORD": call.node}
        await app.ari.originate("Local/s@far-wait/n", context="far-variables", extension="s", variables=seen)

    other = await app.originate("Local/s@far-soon/n", node={"lab": "there", "there": "lab"}[call.node])
    try:
        await call.bridge_with(other)
    except CallError as error:
        assert f"is at the node {other.node}, this one at {call.node}" in str(error)
    other = await app.originate("Local/s@far-soon/n")
    assert other.node == call.node
    await call.bridge_with(other)
    try:
        await app.originate("Local/s@far-soon/n", node="nowhere")
    except UsageFault as error:
        print("told:", error, error.hint, flush=True)""",
    )
    there = Pbx(await asyncio.to_thread(own_lab), pbx.config)
    here = pbx.config.read_text()
    more = "".join(
        f"{key} = {value!r}\n"
        for key, value in {
            "ari": there.lab.ari_url,
            "ari_user": there.lab.ari_user,
            "ari_password_file": str(there.lab.ari_password_file),
            "store": f"local:{there.lab.store_dir}",
        }.items()
    )
    pbx.config.write_text(f"{here}\n[nodes.there]\n{more}")
    write(
        pbx, document(acme="acme.py:app"), acme=f"from voxtractl.errors import CallError, UsageFault\n{text}"
    )
    await asyncio.to_thread(pbx.voxtractl, "node", "init", "there", "--yes")
    there.write_far_contexts()
    await pushed(pbx)
    async with running(pbx) as run:
        for node, name in ((pbx, "lab"), (there, "there")):
            node.call(ACME)
            ask, word = partial(node.ari, "GET", "asterisk/variable", variable="SEEN"), f"acme/{name}"
            await until(partial(lambda ask, word: word in ask()[1] or run.of("handler_failed"), ask, word))
        assert run.of("handler_failed") == []
        await until(lambda: run.log.count("told: acme has no node 'nowhere' one of lab, there") == 2)
        await run.forced()


async def test_every_request_the_peer_library_has_by_name_is_taken_by_asterisk(pbx: Pbx) -> None:
    url, user, word = (pbx.account[name] for name in ("ari_url", "ari_user", "ari_password"))
    write(pbx, document(acme="asks.py:app"), asks=f"URL, USER, WORD = {(url, user, word)!r}\n{ASKS}")
    await pushed(pbx)
    async with running(pbx) as run:
        pbx.call(ACME)
        await until(lambda: run.of("call_ended"))
        await until(lambda: "asked all" in run.log or run.of("handler_failed"))
        assert run.of("handler_failed") == []
        assert run.log.count("refused:") == 3
        assert "PJSIP/nobody cannot be called" in run.log
        run.process.terminate()
        await run.ends()


async def test_every_kind_of_verb_works_from_a_tenants_own_thread(pbx: Pbx) -> None:
    text = WAITS.replace(
        "await call.listen_dtmf(timeout=60)",
        """await call.play_file("hello-world")
    leg = await call.open_leg(8000)
    await call.send_audio(bytes(3200))
    await leg.drained()
    await leg.close()
    name = await call.record_start()
    digit = await call.listen_dtmf(timeout=5)
    recorded = await call.record_stop(name)
    other = await call.consult("Local/s@far-soon/n")
    found = (str(digit), recorded.name == name, await other.get_variable("GROUP(voxtra)"))
    assert found == ("5", True, "acme"), found
    await call.bridge_with(other)""",
    )
    write(pbx, document(acme="acme.py:app"), acme=text)
    await pushed(pbx)
    async with running(pbx) as run:
        far = pbx.call(ACME)
        await until(lambda: run.of("call_answered"))
        await until(lambda: any("Snoop/" in row["name"] for row in pbx.channels()))
        far.goes("far-dtmf", "5")
        await until(lambda: len(run.of("call_ended")) == 2)
        assert run.of("handler_failed") == [], run.log
        assert {event["direction"] for event in run.of("call_ended")} == {"inbound", "outbound"}
        run.process.terminate()
        await run.ends()
        await pbx.empty()


async def test_a_transfer_to_a_number_keeps_to_the_tenants_rules(pbx: Pbx) -> None:
    text = WAITS.replace(
        "await call.listen_dtmf(timeout=60)",
        """for to in ("+4930", "+265700000001"):
        try:
            await call.transfer(to, timeout=5)
        except CallError as exc:
            print("told:", type(exc).__name__, getattr(exc, "disposition", ""), flush=True)""",
    )
    with Carrier("127.0.0.9", pbx.lab.sip_port) as carrier:
        rules = f"""
[tenants.acme.trunk]
host = "127.0.0.9"
port = {carrier.port}
[tenants.acme.outbound]
caller_ids = ["+265888000001"]
allow = ["+265"]
"""
        text = "from voxtractl.errors import CallError\n" + text
        write(pbx, document(acme="acme.py:app") + rules, acme=text)
        await pushed(pbx)
        async with running(pbx) as run:
            pbx.call(ACME)
            dialled = await asyncio.to_thread(carrier.receive)
            assert (dialled.number, dialled.caller) == ("+265700000001", "+265888000001")
            await until(lambda: len(run.of("call_ended")) == 2)
            assert [line for line in run.log.splitlines() if line.startswith("told:")] == [
                "told: CallError ",
                "told: OriginateFailed busy",
            ]
            run.process.terminate()
            await run.ends()


async def test_a_handler_that_cannot_load_costs_its_own_tenant_only(pbx: Pbx) -> None:
    write(
        pbx,
        document(acme="acme.py:app", beta="broken.py:app", gamma="nowhere.py:app"),
        acme=SAYS_BYE,
        broken="import nothing_of_that_name\n",
    )
    await pushed(pbx)
    async with running(pbx) as run:
        await run.says("serving 1 of 3 tenants on lab; without a handler: beta, gamma")
        assert "broken.py:1" in run.log
        assert "No module named 'nothing_of_that_name'" in run.log
        far = pbx.call(BETA)  # the dialplan's own fallback: cause 34
        await until(lambda: not far.up)
        pbx.call(ACME)
        await until(lambda: len(run.of("call_ended")) == 1)
        run.process.terminate()
        await run.ends(7)


async def test_a_handler_that_never_loads_costs_its_own_tenant_only(pbx: Pbx) -> None:
    go = pbx.config.parent / "go"
    write(
        pbx,
        document(acme="acme.py:app", beta="stuck.py:app", gamma="slow.py:app"),
        acme=SAYS_BYE,
        stuck="import time\ntime.sleep(1000)\n",
        slow=f"import pathlib, time\nwhile not pathlib.Path({str(go)!r}).exists(): time.sleep(0.1)\n"
        + SAYS_BYE,
    )
    await pushed(pbx)
    async with running(pbx) as run:
        await run.says("serving 1 of 3 tenants on lab; still loading: beta, gamma")
        assert "the handler of beta is slow to load, at " in run.log
        assert "stuck.py:2" in run.log
        pbx.call(ACME)
        await until(lambda: len(run.of("call_ended")) == 1)
        far = pbx.call(BETA)  # the dialplan's own fallback
        await until(lambda: not far.up)
        go.touch()
        await run.says("serving 2 of 3 tenants on lab; still loading: beta")
        pbx.call(GAMMA)
        await until(lambda: len(run.of("call_ended")) == 2)
        await until(lambda: "the handler of beta was not ready within" in run.log, most=60)
        run.process.send_signal(signal.SIGHUP)
        await run.says("reloaded: 2 tenants served, 0 changed")  # it still sleeps: no second thread does
        write_file(pbx, "stuck", SAYS_BYE)
        await run.says("reloaded: 3 tenants served, 1 changed")
        pbx.call(BETA)
        await until(lambda: len(run.of("call_ended")) == 3)
        run.process.terminate()  # and does not wait for the thread that sleeps
        await run.ends()


async def test_changed_modules_beside_a_handler_are_loaded_and_a_fault_is_told_once(pbx: Pbx) -> None:
    """Calls that are up go on with the old code, also with modules it imports only now."""
    by_words = WAITS.replace(
        "await call.answer()",
        "import words\n    await call.answer()\n    print('said:', words.NAME, flush=True)",
    ).replace("timeout=60)", "timeout=60)\n    import late\n    print('late:', late.NAME, flush=True)")
    write(pbx, document(acme="acme.py:app"), acme=by_words, words="NAME = 'old'\n", late="NAME = 'late'\n")
    await pushed(pbx)
    async with running(pbx) as run:
        first = pbx.call(ACME)
        await run.says("said: old")
        write_file(pbx, "acme", by_words + "\n1 / 0\n")
        await run.says("ZeroDivisionError")
        await asyncio.sleep(5)  # it is looked at every 2 s
        assert run.log.count("the handler of acme cannot be loaded") == 1
        pbx.call(ACME)  # the last code that could be loaded
        await until(lambda: run.log.count("said: old") == 2)
        write_file(pbx, "words", "NAME = 'new'\n")
        write_file(pbx, "acme", by_words)
        await until(lambda: run.log.count("1 changed") == 2)
        pbx.call(ACME)
        await run.says("said: new")
        write_file(pbx, "words", "NAME = 'newest'\n")  # a module, and nothing else
        await until(lambda: run.log.count("1 changed") == 3)
        pbx.call(ACME)
        await run.says("said: newest")
        first.goes("far-dtmf", "1")
        await run.says("late: late")
        await run.forced()


async def test_a_handler_file_that_configures_logging_silences_nobody(pbx: Pbx) -> None:
    silences = "import logging.config\nlogging.config.dictConfig({'version': 1})\n"
    write(pbx, document(acme="acme.py:app", beta="beta.py:app"), acme=silences + WAITS, beta=SAYS_BYE)
    async with running(pbx) as run:
        write_file(pbx, "beta", "1 / 0\n")
        await run.says("ZeroDivisionError")
        assert "the handler of beta cannot be loaded" in run.log


async def test_what_needs_a_restart_is_told_once(pbx: Pbx) -> None:
    write(pbx, document(acme="acme.py:app"), acme=SAYS_BYE)
    async with running(pbx) as run:
        other = '[nodes.other]\nari = "http://127.0.0.1:9"\nari_user = "x"\nari_password_env = "HOME"\n'
        write(pbx, f'{other}store = "memory:other"\n' + document(acme="acme.py:app"))
        await run.says("the document has other nodes now (other): restart to serve them")
        for times in (2, 3):
            write(pbx, document(acme="acme.py:app") + "# again\n")
            run.process.send_signal(signal.SIGHUP)
            await until(lambda times=times: run.log.count("reloaded: ") >= times)  # type: ignore[misc]
        assert run.log.count("restart to serve them") == 1
        run.process.terminate()
        await run.ends()


async def test_it_has_as_many_open_files_as_the_system_gives(pbx: Pbx) -> None:
    write(pbx, document(acme="acme.py:app"), acme=SAYS_BYE)
    files = resource.RLIMIT_NOFILE
    soft, hard = resource.getrlimit(files)
    resource.setrlimit(files, (min(hard, 256), hard))
    try:
        async with running(pbx) as run:
            assert resource.prlimit(run.process.pid, files) == (hard, hard)
            run.process.terminate()
            await run.ends()
    finally:
        resource.setrlimit(files, (soft, hard))


async def test_events_go_on_in_a_new_file_after_the_old_one_was_moved_away(pbx: Pbx) -> None:
    write(pbx, document(acme="acme.py:app"), acme=SAYS_BYE)
    await pushed(pbx)
    async with running(pbx) as run:
        pbx.call(ACME)
        await until(lambda: len(run.of("call_ended")) == 1)
        moved = run.file.rename(run.file.with_suffix(".1"))
        run.process.send_signal(signal.SIGHUP)
        await until(run.file.exists)
        pbx.call(ACME)
        await until(lambda: len(run.of("call_ended")) == 1)
        assert moved.read_text().count("call_ended") == 1
        run.process.terminate()
        await run.ends()


async def test_a_tenant_hears_of_its_own_calls_only_in_its_own_thread(pbx: Pbx) -> None:
    hears = (
        SAYS_BYE
        + """
@app.on_event
def told(event):
    print("told:", event["tenant"], event["event"], flush=True)
    if event["event"] == "call_ended":
        import time
        time.sleep(20)
"""
    )
    write(pbx, document(acme="acme.py:app", beta="beta.py:app"), acme=SAYS_BYE, beta=hears)
    await pushed(pbx)
    async with running(pbx) as run:
        write_file(pbx, "beta", f"{hears}\n")  # code that is replaced hears nothing any more
        await run.says("reloaded: 2 tenants served, 1 changed")
        pbx.call(BETA)
        await run.says("told: beta call_ended")
        for _ in range(3):
            pbx.call(ACME)
        await until(lambda: len(run.of("call_ended")) == 4)
        assert "told: acme" not in run.log
        assert run.log.count("told: beta call_ended") == 1
        await run.forced()


async def test_media_legs_of_a_tenant_are_limited_by_the_document(pbx: Pbx) -> None:
    hears = WAITS.replace(
        "await call.listen_dtmf(timeout=60)",
        "async for _ in call.audio_stream():\n        call.metadata['heard'] = True",
    )
    limited = document(acme="acme.py:app", beta="acme.py:app").replace(
        "handler", "max_media_legs = 1\nhandler", 1
    )
    write(pbx, limited, acme=hears)
    await pushed(pbx)
    async with running(pbx) as run:
        first = pbx.call(ACME)
        await until(lambda: len(run.of("call_answered")) == 1)
        await until(lambda: any(row["name"].startswith("AudioSocket/") for row in pbx.channels()))
        refused = pbx.call(ACME)
        await until(lambda: run.of("handler_failed"))
        assert "acme has all of its 1 media legs open" in run.of("handler_failed")[0]["error"]
        await run.says("max_media_legs in the document")
        await until(lambda: not refused.up)
        assert first.up
        for _ in range(2):  # another tenant has a limit of its own
            pbx.call(BETA)
        await until(lambda: len(run.of("call_answered")) == 4 and len(run.of("call_ended")) == 1)
        await run.forced()


async def test_a_handler_that_blocks_or_raises_stops_no_other_tenant(pbx: Pbx) -> None:
    blocks = WAITS.replace("await call.listen_dtmf(timeout=60)", "import time; time.sleep(20)")
    write(
        pbx,
        document(acme="acme.py:app", beta="beta.py:app", gamma="gamma.py:app"),
        acme=SAYS_BYE,
        beta=blocks,
        gamma=WAITS.replace("await call.listen_dtmf(timeout=60)", "1 / 0"),
    )
    await pushed(pbx)
    async with running(pbx) as run:
        pbx.call(BETA)
        pbx.call(GAMMA)
        await until(lambda: run.of("handler_failed"))
        assert run.of("handler_failed")[0]["error"] == "ZeroDivisionError: division by zero"
        for _ in range(5):
            pbx.call(ACME)
        await until(lambda: len([e for e in run.of("call_ended") if e["tenant"] == "acme"]) == 5)
        await run.says("tenant beta: its handler blocks its event loop, at ")
        assert "beta.py:8 in" in run.log
        await run.forced()
        await pbx.empty()


async def test_a_tenant_that_asks_what_takes_long_holds_up_no_other(pbx: Pbx) -> None:
    asked: list[asyncio.StreamWriter] = []
    slow = await asyncio.start_server(lambda _, writer: asked.append(writer), "127.0.0.1", 0)
    curl = f"CURL(http://127.0.0.1:{slow.sockets[0].getsockname()[1]}/)"
    asks = WAITS.replace(
        "await call.listen_dtmf(timeout=60)",
        f"import asyncio; await asyncio.gather(*(call.get_variable('{curl}') for _ in range(80)))",
    )
    sets = SAYS_BYE.replace("await call.hangup()", "await call.set_variable('X', '1'); await call.hangup()")
    write(pbx, document(acme="acme.py:app", beta="beta.py:app"), acme=asks, beta=sets)
    await pushed(pbx)
    for module in ("res_curl", "func_curl"):
        assert pbx.ari("POST", f"asterisk/modules/{module}.so")[0] == 204
    try:
        async with running(pbx) as run:
            pbx.call(ACME)
            await until(lambda: len(asked) == 16)
            pbx.call(BETA)
            await until(lambda: run.of("call_ended"), most=8)  # the others have 10 s
            assert run.of("call_ended")[0]["tenant"] == "beta"
            run.process.kill()
    finally:
        slow.close()
        for writer in asked:
            writer.transport.abort()
        for module in ("func_curl", "res_curl"):
            await until(lambda m=module: pbx.ari("DELETE", f"asterisk/modules/{m}.so")[0] == 204)  # type: ignore[misc]


async def test_garbage_of_handlers_goes_as_in_any_program(pbx: Pbx) -> None:
    told = "import gc\nprint('threshold', *gc.get_threshold(), flush=True)\n"
    write(pbx, document(acme="acme.py:app"), acme=told + SAYS_BYE)
    async with running(pbx) as run:
        assert "threshold 700 10 10" in run.log
        run.process.terminate()
        await run.ends()


async def test_while_a_handler_blocks_calls_take_the_fallback_and_repaired_code_takes_them(pbx: Pbx) -> None:
    blocks = WAITS.replace("await call.listen_dtmf(timeout=60)", "import time; time.sleep(1000)")
    write(pbx, document(acme="acme.py:app", beta="beta.py:app"), acme=blocks, beta=WAITS)
    await pushed(pbx)
    async with running(pbx) as run:
        first = pbx.call(ACME)
        await until(lambda: run.of("call_answered"))
        early = pbx.call(ACME)  # before it is known
        await until(lambda: len(run.of("call_started")) == 2)
        await run.says("tenant acme: its handler blocks its event loop, at ")
        late = pbx.call(ACME)  # the dialplan's own fallback
        await until(lambda: not early.up and not late.up)
        assert first.up
        await until(lambda: run.of("call_ended"))
        assert len(run.of("call_started")) == 2
        write_file(pbx, "acme", SAYS_BYE)
        await run.says("1 changed")
        pbx.call(ACME)
        await until(lambda: [end["ended_by"] for end in run.of("call_ended")][1:] == ["handler"])
        write_file(pbx, "beta", SAYS_BYE)
        await until(lambda: run.log.count("1 changed") == 2, most=6)  # no look waits 5 s for what blocks
        await run.forced()
        await pbx.empty()


async def test_a_call_that_took_the_fallback_is_not_begun_when_its_loop_turns_again(pbx: Pbx) -> None:
    blocks = WAITS.replace(
        "await call.listen_dtmf(timeout=60)",
        "print('begun', flush=True)\n    import time\n    time.sleep(6)",
    )
    write(pbx, document(acme="acme.py:app"), acme=blocks)
    await pushed(pbx)
    async with running(pbx) as run:
        pbx.call(ACME)
        await until(lambda: run.of("call_answered"))
        pbx.call(ACME)
        await run.says("took the fallback: its handler came too late")
        await until(lambda: len(run.of("call_ended")) == 2)
        assert run.log.count("begun") == 1
        await asyncio.sleep(2)  # it turns again, and that is seen within a second
        pbx.call(ACME)
        await until(lambda: run.log.count("begun") == 2)
        await run.forced()


async def test_a_thread_of_a_handler_does_not_hold_the_end(pbx: Pbx) -> None:
    waits = WAITS.replace(
        "await call.listen_dtmf(timeout=60)",
        "import asyncio, time; await asyncio.to_thread(time.sleep, 1000)",
    )
    write(pbx, document(acme="acme.py:app"), acme=waits)
    await pushed(pbx)
    async with running(pbx, "--drain", "0") as run:
        pbx.call(ACME)
        await until(lambda: run.of("call_answered"))
        run.process.terminate()
        await run.ends()


async def test_a_pool_of_threads_of_a_handler_does_not_hold_the_end(pbx: Pbx) -> None:
    waits = WAITS.replace(
        "await call.listen_dtmf(timeout=60)",
        "import asyncio, time, concurrent.futures as futures\n"
        "    pool = futures.ThreadPoolExecutor(1)\n"
        "    await asyncio.get_running_loop().run_in_executor(pool, time.sleep, 1000)",
    )
    write(pbx, document(acme="acme.py:app"), acme=waits)
    await pushed(pbx)
    async with running(pbx, "--drain", "0") as run:
        pbx.call(ACME)
        await until(lambda: run.of("call_answered"))
        run.process.terminate()
        await run.ends()


async def test_a_handler_that_ends_the_process_ends_its_call(pbx: Pbx) -> None:
    exits = WAITS.replace(
        "await call.listen_dtmf(timeout=60)",
        """\
import sys
    call.on_hangup(sys.exit)
    if call.caller_number.endswith("7"):
        sys.exit("done")
    await call.listen_dtmf(timeout=60)
""",
    )
    write(pbx, document(acme="acme.py:app"), acme=exits)
    await pushed(pbx)
    async with running(pbx) as run:
        first = pbx.call(ACME)
        await until(lambda: run.of("call_answered"))
        pbx.call(ACME, caller="+265700000007")
        await until(lambda: run.of("call_ended"))
        assert [event["error"] for event in run.of("handler_failed")] == ["SystemExit: done"]
        assert run.of("call_ended")[0]["cause"] == 38
        assert first.up
        first.goes("far-dtmf", "1")  # its tenant's loop turns
        await until(lambda: len(run.of("call_ended")) == 2)
        run.process.terminate()
        await run.ends()


async def test_providers_of_speech_are_closed_with_their_app(pbx: Pbx) -> None:
    speaks = """
class Voice:
    rate = 8000

    async def synthesize(self, text):
        yield bytes(3200)

    async def close(self):
        print("closed:", NUMBER, flush=True)

NUMBER = 1
app.tts = app.stt = Voice()
"""
    write(pbx, document(acme="acme.py:app"), acme=WAITS + speaks)
    await pushed(pbx)
    async with running(pbx) as run:
        far = pbx.call(ACME)
        await until(lambda: run.of("call_answered"))
        write(pbx, document(acme="acme.py:app"), acme=WAITS + speaks.replace("= 1", "= 2"))
        await run.says("reloaded: 1 tenants served, 1 changed")
        assert "closed:" not in run.log  # its call is up
        far.hangup()
        await run.says("closed: 1")
        run.process.terminate()
        await run.ends()
        assert [run.log.count(f"closed: {number}") for number in (1, 2)] == [1, 1]


async def test_a_drain_lets_calls_finish_and_ends_the_rest(pbx: Pbx) -> None:
    write(pbx, document(acme="acme.py:app"), acme=WAITS)
    await pushed(pbx)
    async with running(pbx, "--drain", "1") as run:
        for _ in range(3):
            pbx.call(ACME)
        await until(lambda: len(run.of("call_answered")) == 3)
        run.process.terminate()
        await run.says("draining")
        late = pbx.call(ACME)  # takes the fallback
        await until(lambda: not late.up)
        await run.ends()
        ends = run.of("call_ended")
        assert [end["ended_by"] for end in ends] == ["operator"] * 3
        assert len(run.of("call_started")) == 3
        assert "3 calls were ended" in run.log
        await pbx.empty()


async def test_signals_to_the_very_end_change_no_exit_code(pbx: Pbx) -> None:
    write(pbx, document(acme="acme.py:app"), acme=WAITS)
    await pushed(pbx)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        async with running(pbx) as run:
            pbx.call(ACME)
            await until(lambda: run.of("call_answered"))
            run.process.terminate()
            await run.says("draining")
            while run.process.poll() is None:
                run.process.send_signal(number if number is not signal.SIGHUP else signal.SIGTERM)
                run.process.send_signal(number)
                await asyncio.sleep(0.001)
            await run.ends()
            assert "calls served: 1" in run.log
            run.file.write_text("")


async def test_a_changed_document_is_served_without_dropping_a_call(pbx: Pbx) -> None:
    write(pbx, document(acme="acme.py:app"), acme=WAITS)
    await pushed(pbx)
    async with running(pbx) as run:
        far = pbx.call(ACME)
        await until(lambda: len(run.of("call_answered")) == 1)
        write(pbx, document(acme="acme.py:app", beta="beta.py:app"), acme=SAYS_BYE, beta=SAYS_BYE)
        await pushed(pbx)
        run.process.send_signal(signal.SIGHUP)
        await run.says("reloaded: 2 tenants served")
        pbx.call(BETA)
        pbx.call(ACME)
        await until(lambda: len(run.of("call_ended")) == 2)
        assert far.up
        write(pbx, document(acme="acme.py:app") + "dids = 1\n")  # by itself, and not valid
        await run.says("tenants.toml:11:9: this is not TOML")
        write(pbx, document(beta="beta.py:app"))
        await run.says("reloaded: 1 tenants served")
        assert far.up
        await run.forced()


async def test_a_document_that_cannot_be_used_holds_up_no_repaired_handler_and_ends_no_tenant(
    pbx: Pbx,
) -> None:
    write(pbx, document(acme="acme.py:app"), acme="1 / 0\n")
    await pushed(pbx)
    text = pbx.config.read_text()
    write_file(pbx, "acme", WAITS)
    async with running(pbx) as run:
        pbx.config.write_text(f"{text}\nbroken = [\n")
        await run.says("this is not TOML")
        write_file(pbx, "acme", SAYS_BYE)
        await run.says("reloaded: 1 tenants served, 1 changed")
        write_file(pbx, "acme", "1 / 0\n")
        await run.says("served as before: acme")
        pbx.config.write_text("")  # what is left of a file that was copied onto a full disk
        await run.says("tenants.toml has a handler to run")
        pbx.call(ACME)
        await until(lambda: [end["ended_by"] for end in run.of("call_ended")] == ["handler"])
        assert run.log.count("this is not TOML") == 1
        run.process.terminate()
        await run.ends()


async def test_a_tenant_that_moves_to_a_node_of_later_is_served_where_its_calls_come(pbx: Pbx) -> None:
    write(pbx, document(acme="acme.py:app", beta="acme.py:app"), acme=SAYS_BYE)
    await pushed(pbx)
    async with running(pbx) as run:
        other = '[nodes.other]\nari = "http://127.0.0.1:9"\nari_user = "x"\nari_password_env = "HOME"\n'
        moved = document(beta="acme.py:app", acme="acme.py:app") + 'nodes = ["other"]\n'
        write(pbx, f'{other}store = "memory:other"\n{moved}')
        await run.says("restart to serve them")
        await run.says("reloaded: 2 tenants served")
        pbx.call(ACME)  # nothing is pushed yet
        await until(lambda: [end["ended_by"] for end in run.of("call_ended")] == ["handler"])
        run.process.terminate()
        await run.ends()


async def test_until_the_push_calls_over_the_old_app_reach_the_handler(pbx: Pbx) -> None:
    hooks = """
db = []
app.on_startup(lambda: db.append("open"))
app.on_shutdown(db.clear)
"""
    tells = "print(call.app, *db, flush=True)\n    await call.answer()"
    handler = WAITS.replace("await call.answer()", tells)
    write(pbx, document(acme="acme.py:app"), acme=handler + hooks)
    await pushed(pbx)
    async with running(pbx) as run:
        write(pbx, document(acme="acme.py:app") + 'app = "acme-new"\n')
        await run.says("reloaded: 1 tenants served, 1 changed")
        await asyncio.sleep(3)  # what was replaced is shut down at the next look
        pbx.call(ACME)
        await run.says("\nvoxtra-acme open\n")
        await pushed(pbx)
        pbx.call(ACME)
        await run.says("\nacme-new open\n")
        await run.forced()


async def test_shared_apps_bring_the_tenant_as_an_argument(pbx: Pbx) -> None:
    shared = '[defaults]\napps = "shared"\napp_name = "voxtra"\n'
    write(pbx, shared + document(acme="acme.py:app", beta="beta.py:app"), acme=SAYS_BYE, beta="1 / 0\n")
    await pushed(pbx)
    async with running(pbx) as run:
        pbx.call(ACME)
        await until(lambda: len(run.of("call_ended")) == 1)
        assert (run.events[0]["tenant"], run.events[0]["did"]) == ("acme", ACME)
        far = pbx.call(BETA)  # nobody serves beta: its fallback, not acme's handler
        await until(lambda: not far.up)
        assert len(run.of("call_started")) == 1
        run.process.terminate()
        await run.ends(7)


async def test_more_apps_than_a_websocket_takes(pbx: Pbx) -> None:
    many = "".join(
        f'[tenants.t{n:03d}]\ndids = ["+2658{n:07d}"]\nhandler = "same.py:app"\n' for n in range(410)
    )
    write(pbx, many, same=SAYS_BYE)
    await pushed(pbx)
    async with running(pbx) as run:
        await run.says("serving 410 of 410 tenants on lab")
        for number in (0, 405, 409):
            pbx.call(f"+2658{number:07d}")
        await until(lambda: len(run.of("call_ended")) == 3)
        assert {event["tenant"] for event in run.of("call_ended")} == {"t000", "t405", "t409"}
        run.process.terminate()
        await run.ends()


async def test_tenants_that_come_one_by_one_share_the_connections_of_their_node(pbx: Pbx) -> None:
    """Each came with a websocket of its own, and Asterisk takes 100 connections when nothing else is said."""

    def tenants(count: int) -> str:
        return document(acme="acme.py:app") + "".join(
            f'[tenants.t{n:02d}]\ndids = ["+2658{n:07d}"]\nhandler = "same.py:app"\n' for n in range(count)
        )

    most = 2 * STREAMS_MAX + 3
    write(pbx, tenants(most), acme=WAITS, same=SAYS_BYE)
    await pushed(pbx)
    write(pbx, tenants(0))
    async with running(pbx) as run:
        far = pbx.call(ACME)
        await until(lambda: len(run.of("call_answered")) == 1)
        for count in range(1, most + 1):
            write(pbx, tenants(count))
            run.process.send_signal(signal.SIGHUP)
            await run.says(f"reloaded: {count + 1} tenants served")
        await until(lambda: connections(run.process.pid, pbx.lab.http_port) < most, most=40)  # HTTP's too
        for number in range(most):
            pbx.call(f"+2658{number:07d}")
        await until(lambda: len(run.of("call_ended")) == most)
        assert {event["tenant"] for event in run.of("call_started")} == {"acme"} | {
            f"t{number:02d}" for number in range(most)
        }
        assert far.up
        far.hangup()
        await until(lambda: run.of("call_ended")[-1]["tenant"] == "acme")
        assert run.of("call_ended")[-1]["ended_by"] == "caller"
        assert "another process" not in run.log
        run.process.terminate()
        await run.ends()


def connections(pid: int, port: int) -> int:
    """How many a process has to a port of this machine (proc(5): /proc/net/tcp, IPv4 in hexadecimal)."""
    own = {os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir()}
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[2].endswith(f":{port:04X}") and f"socket:[{row[9]}]" in own for row in rows)


FORKS = """\
import asyncio
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

from voxtractl import VoxtraApp

app = VoxtraApp()
pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork"))

@app.default()
async def handler(call):
    await call.answer()
    async for chunk in call.audio_stream():
        break
    print("child", await asyncio.get_running_loop().run_in_executor(pool, os.getpid))
    async for chunk in call.audio_stream():
        pass
"""


async def test_a_child_of_a_handler_has_no_connection_of_a_process_that_died(pbx: Pbx) -> None:
    write(pbx, document(acme="acme.py:app"), acme=FORKS)
    await pushed(pbx)
    async with running(pbx, "--monitor", "0") as run:
        pbx.call(ACME, "far-tone")
        await run.says("child ")
        child = int(re.findall("child ([0-9]+)", run.log)[0])
        port = re.findall(r"127\.0\.0\.1:([0-9]+)/metrics", run.log)[0]
        try:
            run.process.kill()
            await until(lambda: len(pbx.channels()) == 2)  # that of its sound is gone
            far = pbx.call(ACME)
            await until(lambda: not far.up)  # the fallback
            async with running(pbx, "--monitor", port, number=2) as again:
                await again.forced()
        finally:
            os.kill(child, signal.SIGKILL)


async def test_a_worker_takes_the_calls_of_one_that_died(pbx: Pbx) -> None:
    workers = "[defaults]\nworkers = 2\n"
    write(
        pbx,
        workers + document(acme="acme.py:app"),
        acme=WAITS + ADOPTS,
    )
    await pushed(pbx)
    async with running(pbx, "--worker", "1/2") as one, running(pbx, "--worker", "2/2", number=2) as two:
        for _ in range(3):
            pbx.call(ACME)
        await until(lambda: len(one.of("call_answered")) + len(two.of("call_answered")) == 3)
        await a_call_at(one, two)
        theirs, hers = len(one.of("call_started")), len(two.of("call_started"))
        one.process.kill()
        await until(lambda: len(two.of("call_adopted")) == theirs, most=30)
        assert all(event["did"] == ACME for event in two.of("call_adopted"))
        pbx.call(ACME)
        await until(lambda: len(two.of("call_started")) == hers + 1)
        async with running(pbx, "--worker", "1/2", number=3) as three:
            await asyncio.sleep(3)  # signs of life go out every second
            two.process.terminate()
            await two.says("draining")
            for _ in range(6):  # some of them meet the one that drains, and are handed on
                pbx.call(ACME)
            await until(lambda: len(three.of("call_answered")) == 6)
            two.process.terminate()
            await two.ends()
            assert len(two.of("call_started")) == hers + 1
            await three.forced()


async def test_a_worker_that_comes_back_leaves_its_moved_calls_where_they_are(pbx: Pbx) -> None:
    write(pbx, "[defaults]\nworkers = 2\n" + document(acme="acme.py:app"), acme=WAITS + ADOPTS)
    await pushed(pbx)
    async with running(pbx, "--worker", "1/2") as one, running(pbx, "--worker", "2/2", number=2) as two:
        fars = []
        while not one.of("call_answered"):  # the dialplan shares calls out by chance
            fars.append(pbx.call(ACME))
            await until(lambda: len(one.of("call_answered")) + len(two.of("call_answered")) == len(fars))
        one.process.kill()
        await until(lambda: len(two.of("call_adopted")) == 1, most=30)
        async with running(pbx, "--worker", "1/2", number=3) as three:
            two.process.kill()  # what it had goes to the one that came back, each call once
            await until(lambda: len(three.of("call_adopted")) == len(fars), most=30)
            assert three.of("call_ended") == []
            assert all(far.up for far in fars)
            await three.forced()
            await until(lambda: not pbx.channels())


RINGS = WAITS.replace(
    "    await call.listen_dtmf",
    "    await call.record_start()\n    await call.play_tone('ring')\n    await call.listen_dtmf",
)


async def test_a_worker_that_takes_calls_which_hear_a_tone_goes_on_to_give_signs_of_life(pbx: Pbx) -> None:
    adopts = (
        "\n@app.on_adopt\nasync def adopted(call):\n    await call.set_variable('GLOBAL(SEEN)', call.id)\n"
    )
    write(pbx, "[defaults]\nworkers = 3\n" + document(acme="acme.py:app"), acme=RINGS + adopts)
    await pushed(pbx)
    async with (
        running(pbx, "--worker", "1/3") as one,
        running(pbx, "--worker", "2/3", number=2) as two,
        running(pbx, "--worker", "3/3", number=3) as three,
    ):
        await a_call_at(one, two, three)
        theirs = {event["call_id"] for event in one.of("call_started")}
        one.process.kill()
        await until(lambda: len(two.of("call_ended")) >= len(theirs), most=30)
        assert {event["call_id"] for event in two.of("call_adopted")} == theirs
        await asyncio.sleep(6)  # longer than it takes to be taken for dead
        assert not three.of("call_adopted")
        await two.forced()
        await three.forced()
    for row in json.loads(pbx.ari("GET", "recordings/stored")[1]):
        pbx.ari("DELETE", f"recordings/stored/{row['name']}")


QUEUES = """\
from voxtractl import VoxtraApp

app = VoxtraApp()

@app.default()
async def handler(call):
    await call.answer()
    queued = await call.transfer_to_queue("desk", timeout=%s)
    await call.play_file("beep")
    await call.hangup("busy")
"""
DESK = "[tenants.acme.queues.desk]\nmembers = []\n"


@pytest.mark.parametrize("apps", ["per-tenant", "shared"])
async def test_a_caller_whom_no_agent_has_answered_comes_back_to_its_worker(pbx: Pbx, apps: str) -> None:
    defaults = f'[defaults]\nworkers = 2\napps = "{apps}"\n'
    defaults += 'app_name = "voxtra"\n' if apps == "shared" else ""
    write(pbx, defaults + document(acme="acme.py:app") + DESK, acme=QUEUES % 1)
    await pushed(pbx)
    async with running(pbx, "--worker", "1/2") as one, running(pbx, "--worker", "2/2", number=2) as two:
        both = one, two
        for _ in range(8):
            pbx.call(ACME)
        await until(lambda: sum(len(run.of("call_ended")) for run in both) == 8)
        ends = [end for run in both for end in run.of("call_ended")]
        told = {(end["queue_status"], end["ended_by"], end["did"]) for end in ends}
        assert told == {("TIMEOUT", "handler", ACME)}
        assert not [event for run in both for event in run.events if event["event"] == "call_adopted"]
        for run in both:
            run.process.terminate()
            await run.ends()


async def test_a_caller_who_waits_in_a_queue_while_its_process_is_replaced_is_adopted(pbx: Pbx) -> None:
    write(pbx, document(acme="acme.py:app") + DESK, acme=QUEUES % 5 + ADOPTS)
    await pushed(pbx)
    async with running(pbx) as run:
        far = pbx.call(ACME)
        await until(lambda: run.of("transferred"))
        run.process.kill()
        async with running(pbx, number=2) as again:
            await until(lambda: again.of("call_adopted"))
            assert far.up
            assert again.of("call_adopted")[0]["did"] == ACME
            assert again.of("call_started") == []
            await again.forced()
            assert len(again.of("call_ended")) == 1


async def test_a_caller_who_waits_in_a_queue_while_its_worker_dies_is_adopted_by_another(pbx: Pbx) -> None:
    write(pbx, "[defaults]\nworkers = 3\n" + document(acme="acme.py:app") + DESK, acme=QUEUES % 3 + ADOPTS)
    await pushed(pbx)
    async with running(pbx, "--worker", "1/3") as one, running(pbx, "--worker", "3/3", number=2) as three:
        await a_call_at(one, three)
        theirs = len(one.of("call_started"))
        one.process.kill()
        await until(lambda: len(three.of("call_adopted")) == theirs)
        assert {event["did"] for event in three.of("call_adopted")} == {ACME}
        await three.forced()


async def test_a_caller_whom_no_agent_has_answered_takes_the_fallback_when_no_process_is_there(
    pbx: Pbx,
) -> None:
    """Here the same queue: no time is set any more, and whom it does not take is hung up."""
    acme = document(acme="acme.py:app") + 'fallback = { queue = "desk" }\n'
    write(pbx, acme + DESK + "max_callers = 1\n", acme=QUEUES % 2)
    await pushed(pbx)
    async with running(pbx) as run:
        far = pbx.call(ACME)
        await until(lambda: run.of("transferred"))
        run.process.kill()
    await asyncio.sleep(3)
    assert far.up
    assert "1 calls" in pbx.lab.cli("queue show acme-desk")
    late = pbx.call(ACME)  # the queue is full, and the caller over
    await until(lambda: not late.up)
    assert far.up


async def a_call_at(run: Running, *others: Running) -> None:
    """Call until this worker has a call: the dialplan shares them out by chance."""

    def answered() -> int:
        return sum(len(one.of("call_answered")) for one in (run, *others))

    while not run.of("call_answered"):
        before = answered()
        run.pbx.call(ACME)
        await until(lambda before=before: answered() > before)  # type: ignore[misc]


PAIRS = """\
from voxtractl import VoxtraApp

app = VoxtraApp()
waiting = []

@app.default()
async def handler(call):
    await call.answer()
    if waiting:
        await call.bridge_with(waiting.pop())
    waiting.append(call)
    await call.wait_ended()
"""


async def test_calls_that_a_dead_worker_had_connected_are_each_on_its_own(pbx: Pbx) -> None:
    """Asterisk leaves a moved call in its bridge, and the bridge when it is empty."""
    write(pbx, "[defaults]\nworkers = 2\n" + document(acme="acme.py:app"), acme=PAIRS + ADOPTS)
    await pushed(pbx)
    async with running(pbx, "--worker", "1/2") as one, running(pbx, "--worker", "2/2", number=2) as two:
        fars = []
        while not any(bridge["name"] == "voxtra-acme-1" for bridge in pbx.bridges()):
            fars.append(pbx.call(ACME))
            await until(lambda: len(one.of("call_answered")) + len(two.of("call_answered")) == len(fars))
            await asyncio.sleep(0.5)
        one.process.kill()
        await until(lambda: len(two.of("call_adopted")) == len(one.of("call_started")), most=30)
        await until(lambda: {bridge["name"] for bridge in pbx.bridges()} <= {"voxtra-acme-2"})
        assert all(far.up for far in fars)
        await two.forced()
        await until(lambda: not pbx.bridges())


async def test_a_call_whose_worker_is_back_before_its_sound_ends_is_not_moved(pbx: Pbx) -> None:
    """It is adopted there; who waits for the end of its sound to move it must see that."""
    plays = "play(*['sound:hello-world'] * 15, wait=False)\n    print('plays')\n    await call.wait_ended()"
    long = WAITS.replace("listen_dtmf(timeout=60)", plays)
    quiet = "    await call.play('sound:hello-world')\n    print('quiet')\n    await call.listen"
    adopts = ADOPTS.replace("    await call.listen", quiet)
    write(pbx, "[defaults]\nworkers = 2\n" + document(acme="acme.py:app"), acme=long + adopts)
    await pushed(pbx)
    async with running(pbx, "--worker", "1/2") as one, running(pbx, "--worker", "2/2", number=2) as two:
        await asyncio.sleep(3)  # signs of life go out every second
        await a_call_at(one, two)
        await one.says("plays")
        one.process.kill()
        await asyncio.sleep(7)  # longer than it takes to be taken for dead
        async with running(pbx, "--worker", "1/2", number=3) as three:
            theirs = len(one.of("call_started"))
            await until(lambda: len(three.of("call_adopted")) == theirs)
            await until(lambda: three.log.count("quiet") == theirs, most=30)
            await asyncio.sleep(2)
            assert two.of("call_adopted") == three.of("call_ended") == []
            await two.forced()
            await three.forced()


async def test_the_calls_of_a_dead_worker_do_not_wait_for_one_that_drains(pbx: Pbx) -> None:
    write(pbx, "[defaults]\nworkers = 3\n" + document(acme="acme.py:app"), acme=WAITS + ADOPTS)
    await pushed(pbx)
    async with (
        running(pbx, "--worker", "1/3") as one,
        running(pbx, "--worker", "2/3", number=2) as two,
        running(pbx, "--worker", "3/3", number=3) as three,
    ):
        await a_call_at(one, two, three)
        await a_call_at(two, one, three)
        one.process.kill()
        two.process.terminate()
        await two.says("draining")
        await until(lambda: len(three.of("call_adopted")) == len(one.of("call_started")), most=25)
        assert two.process.poll() is None
        two.process.terminate()
        await two.ends()
        await three.forced()


async def test_when_all_workers_drain_the_calls_of_a_dead_one_take_the_fallback(pbx: Pbx) -> None:
    write(pbx, "[defaults]\nworkers = 2\n" + document(acme="acme.py:app"), acme=WAITS + ADOPTS)
    await pushed(pbx)
    async with running(pbx, "--worker", "1/2") as one, running(pbx, "--worker", "2/2", number=2) as two:
        await a_call_at(one, two)
        await a_call_at(two, one)
        theirs = {event["call_id"] for event in one.of("call_started")}
        one.process.kill()
        two.process.terminate()
        await two.says("draining")
        await until(lambda: not theirs & {row["id"] for row in pbx.channels()}, most=25)  # it hangs up
        assert two.process.poll() is None
        assert two.of("call_ended") == []
        two.process.terminate()
        await two.ends()


async def test_a_worker_that_cannot_reach_one_node_keeps_its_calls_at_another(pbx: Pbx) -> None:
    adopts = "\n@app.on_adopt\nasync def adopted(call):\n    await call.listen_dtmf(timeout=60)\n"
    write(
        pbx,
        "[defaults]\nworkers = 2\n" + document(acme="acme.py:app", beta="acme.py:app"),
        acme=WAITS + adopts,
    )
    await pushed(pbx)
    async with proxy(pbx.lab.http_port) as way:
        here, _, tenants = pbx.config.read_text().partition("\n[defaults]")
        there = re.sub('store = ".*"', 'store = "memory:other"', here.replace("[nodes.lab]", "[nodes.other]"))
        rest = f'[defaults]{tenants}nodes = ["other"]\n'.replace(
            "[tenants.beta]", 'nodes = ["lab"]\n[tenants.beta]'
        )
        pbx.config.write_text(f"{there}\n{here}\n{rest}")
        folder = pbx.config.parent / "one"
        folder.mkdir()
        away = Pbx(pbx.lab, folder / "tenants.toml")
        away.config.write_text(f"{there.replace(pbx.lab.ari_url, way.url)}\n{here}\n{rest}")
        write_file(away, "acme", WAITS + adopts)
        async with running(away, "--worker", "1/2") as one, running(pbx, "--worker", "2/2", number=2) as two:
            await a_call_at(one, two)
            await asyncio.sleep(3)  # signs of life go out every second
            way.freeze()
            await asyncio.sleep(9)
            assert not two.of("call_adopted")
            assert not one.of("call_ended")
            way.thaw()


async def test_a_worker_that_was_only_away_leaves_its_moved_calls_alone(pbx: Pbx) -> None:
    goes_on = WAITS.replace("timeout=60)", "timeout=5)\n    await call.play_file('hello-world')")
    write(pbx, "[defaults]\nworkers = 2\n" + document(acme="acme.py:app"), acme=goes_on + ADOPTS)
    await pushed(pbx)
    async with proxy(int(pbx.lab.ari_url.rpartition(":")[2])) as way:
        text = pbx.config.read_text()
        pbx.config.write_text(text.replace(pbx.lab.ari_url, way.url))
        async with running(pbx, "--worker", "2/2", number=2) as two:
            pbx.config.write_text(text)
            async with running(pbx, "--worker", "1/2") as one:
                await a_call_at(two, one)
                way.freeze()
                way.cut()
                await until(lambda: len(one.of("call_adopted")) == 1, most=30)
                await two.says("AriUnreachable")  # its handler fails
                way.thaw()
                await two.says("was moved to the Stasis app voxtra-acme-1: it goes on there")
                await until(lambda: two.of("call_ended"))
                two.process.terminate()
                await two.ends()
                (adopted,) = one.of("call_adopted")
                assert adopted["call_id"] not in {end["call_id"] for end in one.of("call_ended")}
                await one.forced()


async def test_a_worker_that_stood_still_leaves_its_moved_calls_alone(pbx: Pbx) -> None:
    goes_on = WAITS.replace("timeout=60)", "timeout=10)\n    await call.hangup()")
    write(pbx, "[defaults]\nworkers = 2\n" + document(acme="acme.py:app"), acme=goes_on + ADOPTS)
    await pushed(pbx)
    async with running(pbx, "--worker", "1/2") as one, running(pbx, "--worker", "2/2", number=2) as two:
        await a_call_at(two, one)
        two.process.send_signal(signal.SIGSTOP)
        try:
            await until(lambda: len(one.of("call_adopted")) == 1, most=30)
        finally:
            two.process.send_signal(signal.SIGCONT)
        await until(lambda: two.of("call_ended"))
        await asyncio.sleep(5)  # until its handler would have hung up
        (adopted,) = one.of("call_adopted")
        assert adopted["call_id"] not in {end["call_id"] for end in one.of("call_ended")}
        two.process.kill()
        await one.forced()


# On 9 it leaves Asterisk with half a header of its sound, and stands still: Asterisk waits for the rest with
# the lock of that channel, as it does now and then by itself (docs/decisions/0007).
STANDS_STILL = """\
import os, signal

from voxtractl import VoxtraApp

app = VoxtraApp()

@app.default()
async def handler(call):
    await call.answer()
    while await call.listen_dtmf(timeout=60) != "9":
        pass
    leg = await call.open_leg(8000)
    os.write(leg._connection._fd, b"\\x10")
    os.kill(os.getpid(), signal.SIGSTOP)
"""


async def test_the_service_manager_hears_what_the_process_does(
    pbx: Pbx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(pbx, document(acme="acme.py:app"), acme=WAITS)
    await pushed(pbx)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(15)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "100000")

        async def hears(word: str, status: str = "") -> None:
            """Between signs of life, which come all the time."""
            heard = ["WATCHDOG=1"]
            while heard == ["WATCHDOG=1"]:
                heard = (await asyncio.to_thread(manager.recv, 4096)).decode().split("\n")
            assert heard[0] == word
            assert not status or heard[1] == f"STATUS={status}"

        async with running(pbx) as run:
            await hears("READY=1", "serving 1 of 1 tenants on lab")
            run.process.send_signal(signal.SIGHUP)
            await hears("RELOADING=1")
            await hears("READY=1", "serving 1 of 1 tenants on lab")
            run.process.terminate()
            await hears("STOPPING=1", "draining")
            await run.ends()


# Before, it ends the channel at once ("Failed to read data length"; seen on 20.13), and no lock is held.
WAITS_FOR_A_FRAME = Feature("wait for the rest of an AudioSocket header", {20: 17, 22: 7})


async def test_who_stands_still_with_a_lock_of_asterisk_takes_nobody_with_it(pbx: Pbx) -> None:
    needs(pbx.lab, WAITS_FOR_A_FRAME)
    write(pbx, "[defaults]\nworkers = 2\n" + document(acme="acme.py:app"), acme=STANDS_STILL + ADOPTS)
    await pushed(pbx)
    async with running(pbx, "--worker", "1/2") as one, running(pbx, "--worker", "2/2", number=2) as two:
        fars: dict[str, Far] = {}
        while not one.of("call_answered") or len(two.of("call_answered")) < 2:
            far = pbx.call(ACME)
            fars[f"{far.id.partition(';')[0]};2"] = far
            await until(lambda: len(one.of("call_answered") + two.of("call_answered")) == len(fars))
        mine, theirs = one.of("call_answered")[0]["call_id"], two.of("call_answered")
        fars[theirs[0]["call_id"]].goes("far-dtmf", "9")
        await one.says("no answer to ")
        await asyncio.sleep(12)  # a websocket that is not read is lost within that
        assert "is down" not in one.log
        two.process.kill()  # as its supervisor does
        await until(lambda: len(one.of("call_adopted")) == len(theirs), most=60)
        fars[mine].goes("far-dtmf", "1")
        await until(lambda: [event["call_id"] for event in one.of("dtmf")] == [mine])
        await until(lambda: not pbx.bridges(), most=60)
        assert "is down" not in one.log
        await one.forced()


async def test_a_call_that_no_worker_can_take_is_not_sent_to_and_fro(pbx: Pbx) -> None:
    shared = '[defaults]\napps = "shared"\napp_name = "voxtra"\nworkers = 2\n'
    write(pbx, shared + document(acme="acme.py:app", beta="beta.py:app"), acme=SAYS_BYE, beta="1 / 0\n")
    await pushed(pbx)
    async with running(pbx, "--worker", "1/2") as one, running(pbx, "--worker", "2/2", number=2) as two:
        await asyncio.sleep(3)  # signs of life go out every second
        far = pbx.call(BETA)
        await until(lambda: not far.up)
        for run in (one, two):
            run.process.terminate()
            await run.ends(7)


async def test_an_app_that_another_process_takes_costs_its_tenant_only_and_comes_back(pbx: Pbx) -> None:
    write(pbx, document(acme="acme.py:app", beta="beta.py:app"), acme=WAITS, beta=SAYS_BYE)
    await pushed(pbx)
    async with running(pbx) as all_of_them:
        kept = pbx.call(ACME)
        await until(lambda: all_of_them.of("call_answered"))
        async with running(pbx, "beta", number=2) as other:
            await all_of_them.says("another process took the Stasis app voxtra-beta")
            pbx.call(BETA)
            await until(lambda: other.of("call_ended"))
            pbx.call(ACME)
            await until(lambda: len(all_of_them.of("call_answered")) == 2)
            all_of_them.process.send_signal(signal.SIGHUP)  # the operator's word: take it back
            await other.ends(4)
            assert "another process took the Stasis app 'voxtra-beta'" in other.log
        pbx.call(BETA)
        await until(lambda: all_of_them.of("call_ended"))
        async with running(pbx, "beta", number=3) as other:
            await until(lambda: all_of_them.log.count("another process took") == 2)
            other.process.terminate()
            await other.ends()
        await until(lambda: all_of_them.log.count("serving again") == 2)
        pbx.call(BETA)
        await until(lambda: len(all_of_them.of("call_ended")) == 2)
        assert {event["tenant"] for event in all_of_them.of("call_ended")} == {"beta"}
        assert kept.up
        await all_of_them.forced()


async def test_calls_of_an_app_that_is_taken_and_taken_back_are_handled(pbx: Pbx) -> None:
    write(pbx, document(acme="acme.py:app", beta="beta.py:app"), acme=WAITS, beta=WAITS + ADOPTS)
    await pushed(pbx)
    async with running(pbx) as first:
        pbx.call(BETA)
        await until(lambda: first.of("call_answered"))
        async with running(pbx, "beta", number=2) as second:
            await until(lambda: second.of("call_adopted"))
            first.process.send_signal(signal.SIGHUP)
            await second.ends(4)
            await until(lambda: first.of("call_adopted"))
        await first.forced()


async def test_health_metrics_and_a_json_log_without_secrets(pbx: Pbx) -> None:
    leak = pbx.lab.ari_password.reveal()
    told = f'import logging; logging.getLogger("acme").warning("the word is %s", {leak!r})'
    told += f"; import threading; threading.Thread(target=int, args=[{leak!r}]).start()"
    write(
        pbx,
        document(acme="acme.py:app"),
        acme=SAYS_BYE.replace(
            "await call.hangup()", f"{told}; await call.hangup(); raise KeyError({leak!r})"
        ),
    )
    await pushed(pbx)
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    async with running(pbx, "--monitor", str(port), "--log-json", "-v") as run:
        pbx.call(ACME)
        await until(lambda: len(run.of("call_ended")) == 1)
        assert get(port, "healthz") == (200, "ok\n")
        assert get(port, "readyz") == (200, "ready\n")
        status, text = get(port, "metrics")
        assert status == 200
        assert 'voxtractl_calls_started_total{direction="inbound",node="lab",tenant="acme"} 1.0' in text
        assert 'disposition="answered",ended_by="handler"' in text
        assert 'voxtractl_node_connected{node="lab"} 1.0' in text
        run.process.terminate()
        await run.ends()
        assert leak not in run.log
        assert [event["error"] for event in run.of("handler_failed")] == ["KeyError: '****'"]
        told_lines = run.log.splitlines()
        told_lines.remove("calls served: 1")  # on stdout; the log is written by a thread
        lines = [json.loads(line) for line in told_lines]
        (line,) = [line for line in lines if line["logger"] == "acme"]
        assert line["message"] == "the word is ****"
        assert (line["level"], line["tenant"]) == ("warning", "acme")
        assert line["call_id"] == run.events[0]["call_id"]
        said = [line["message"].partition(" ")[0] for line in lines if line["logger"] == "voxtractl.cli.run"]
        assert said == ["health", "serving", "draining:"]


async def test_whatever_is_done_for_a_call_logs_its_tenant_and_call(pbx: Pbx) -> None:
    tells = """\
import logging
from voxtractl import VoxtraApp

app, log = VoxtraApp(), logging.getLogger("told")

@app.on_event
def event(event):
    log.info("event")

@app.default()
async def handler(call):
    async def later(*_):
        log.info("async")

    for place in (call.on_hangup, call.on_dtmf):
        place(later)
        place(lambda *_: log.info("sync"))
    await call.answer()
    await call.listen_dtmf(timeout=5)
"""
    write(pbx, document(acme="acme.py:app"), acme=tells)
    await pushed(pbx)
    async with running(pbx, "--log-json") as run:
        pbx.call(ACME, "far-dtmf", "1")
        await until(lambda: run.of("call_ended"))
        run.process.terminate()
        await run.ends()
        lines = [json.loads(line) for line in run.log.splitlines() if '"told"' in line]
        assert sorted({line["message"] for line in lines}) == ["async", "event", "sync"]
        call = run.events[0]["call_id"]
        assert {(line["tenant"], line["call_id"]) for line in lines} == {("acme", call)}


@pytest.mark.parametrize("words", [["run", "--events", "-"], ["-o", "json", "run"]])
async def test_what_handlers_print_is_not_among_what_programs_read(pbx: Pbx, words: list[str]) -> None:
    prints = SAYS_BYE.replace("await call.answer()", "print('for people'); await call.answer()")
    write(pbx, document(acme="acme.py:app"), acme=prints)
    await pushed(pbx)
    with (
        (pbx.config.parent / "out").open("w+") as out,
        (pbx.config.parent / "err").open("w+") as err,
        subprocess.Popen(  # noqa: ASYNC220  starting takes a millisecond
            [sys.executable, "-m", "voxtractl", "-c", str(pbx.config), *words], stdout=out, stderr=err
        ) as process,
    ):
        told: Callable[[], str] = (pbx.config.parent / "err").read_text
        try:
            await until(lambda: "serving" in told())
            pbx.call(ACME)
            await pbx.empty()
            process.terminate()
            await until(lambda: process.poll() is not None)
        finally:
            process.kill()
    assert "for people" in told()
    lines = [json.loads(line) for line in (pbx.config.parent / "out").read_text().splitlines()]
    if "-o" in words:
        assert lines == [{"ok": True, "calls": 1}]
    else:
        assert [line["event"] for line in lines] == ["call_started", "call_answered", "call_ended"]


async def test_a_log_that_nobody_reads_holds_up_no_call_and_not_the_end(pbx: Pbx) -> None:
    tells = "import logging\n    for _ in range(3000): logging.getLogger('acme').warning('x' * 100)"
    tells = SAYS_BYE.replace("await call.hangup()", f"{tells}\n    await call.hangup()")
    write(pbx, document(acme="acme.py:app", beta="beta.py:app"), acme=tells, beta=SAYS_BYE)
    await pushed(pbx)
    events = pbx.config.parent / "events"
    words = ["-c", str(pbx.config), "run", "--events", str(events)]
    with (
        (pbx.config.parent / "out").open("w") as out,
        subprocess.Popen(  # noqa: ASYNC220  starting takes a millisecond
            [sys.executable, "-m", "voxtractl", *words], stdout=out, stderr=subprocess.PIPE
        ) as process,
    ):
        assert process.stderr is not None
        try:
            assert b"serving" in await asyncio.to_thread(process.stderr.readline)
            for number in (ACME, BETA):
                pbx.call(number)
                await until(lambda n=number: events.read_text().count(n) == 3)  # type: ignore[misc]
            process.terminate()
            await until(lambda: process.poll() is not None)
            assert process.returncode == 0
        finally:
            process.kill()


async def test_a_tenant_is_added_while_one_of_two_nodes_is_away(pbx: Pbx) -> None:
    write(pbx, document(acme="acme.py:app", beta="acme.py:app", gamma="acme.py:app"), acme=SAYS_BYE)
    await pushed(pbx)
    async with proxy(int(pbx.lab.ari_url.rpartition(":")[2])) as way:
        here = pbx.config.read_text().partition("\n[tenants")[0]
        there = here.replace("[nodes.lab]", "[nodes.other]").replace(pbx.lab.ari_url, way.url)
        there = re.sub('store = ".*"', 'store = "memory:other"', there)
        on: Callable[[str, str], str] = lambda slug, node: (
            document(**{slug: "acme.py:app"}) + f'nodes = ["{node}"]\n'
        )
        pbx.config.write_text(f"{here}\n{there}\n{on('acme', 'other')}")
        async with running(pbx) as run:
            way.freeze()
            way.cut()
            await run.says("is down")
            with pbx.config.open("a") as more:
                more.write(on("beta", "lab") + on("gamma", "other"))
            await run.says("reloaded: 3 tenants served")
            pbx.call(BETA)
            await until(lambda: run.of("call_ended"))
            way.thaw()
            await until(lambda: "voxtra-gamma" in pbx.ari("GET", "applications")[1])
            pbx.call(GAMMA)
            await until(lambda: len(run.of("call_ended")) == 2)
            assert [(end["tenant"], end["node"]) for end in run.of("call_ended")] == [
                ("beta", "lab"),
                ("gamma", "other"),
            ]
            run.process.terminate()
            await run.ends()


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["nobody"], 2, 'there is no tenant "nobody"'),
        (["beta"], 3, "the handler file of beta does not exist"),
        (["gamma"], 2, "has a handler to run"),
        (["--worker", "3/2"], 2, "not a process of several"),
        (["--worker", "1/3"], 2, "workers = 1"),
        (["--events", "/nowhere/x"], 2, "--events /nowhere/x"),
    ],
)
async def test_what_cannot_be_served_is_told_before_anything_starts(
    pbx: Pbx, words: list[str], code: int, says: str
) -> None:
    nobody = f'[tenants.gamma]\ndids = ["{GAMMA}"]\n'
    write(pbx, document(acme="acme.py:app", beta="beta.py:app") + nobody, acme=WAITS)
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "voxtractl", "-c", str(pbx.config), "run", *words],
        capture_output=True,
        text=True,
        env=dict(os.environ),
    )
    assert done.returncode == code, done.stderr
    assert says in done.stderr
