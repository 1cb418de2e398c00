"""Every builder of requests.py, asked of the real Asterisk over HTTP and over the websocket alike.

A wrong path is a 404 without Asterisk's word on the thing, a wrong parameter is dropped without a word: so
each request is followed by a look at what it did, where Asterisk shows it.
"""

import asyncio
import inspect
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.live.conftest import needs
from voxtractl.ari import requests
from voxtractl.ari.client import ARIClient
from voxtractl.ari.events import Event
from voxtractl.ari.release import REQUESTS
from voxtractl.ari.requests import Request
from voxtractl.ari.resources import Bridge, Channel, Playback, StoredRecording
from voxtractl.ari.stream import EventStream
from voxtractl.errors import AriError, Conflict
from voxtractl.lab import Lab

DIALPLAN = """
[ari-test]
exten => talk,1,Answer()
 same => n,Wait(60)
exten => ring,1,Ringing()
 same => n,Wait(60)
exten => busy,1,Busy(1)
exten => told,1,Stasis(${APP},${A},${B},${C},${CALLERID(name)},${CALLERID(num)})
exten => back,1,Stasis(${APP},back)
"""


@pytest.fixture(scope="module")
def phones(lab: Lab) -> Iterator[Lab]:
    """The lab with extensions to call."""
    path = lab.config_dir / "extensions.conf"
    path.write_text(path.read_text() + DIALPLAN)
    lab.cli("dialplan reload")
    try:
        yield lab
    finally:
        lab.restore()


class Desk:
    """A client whose requests go one way, the events of its app, and what was asked."""

    def __init__(self, ari: ARIClient, stream: EventStream, app: str, events: "asyncio.Queue[Event]") -> None:
        self.ari, self.stream, self.app, self.events = ari, stream, app, events

    async def ask(self, request: Request, status: int = 204) -> Any:
        answer = await self.ari.ask(request)
        assert answer.status == status, f"{request} was answered with {answer}"
        return answer.body

    async def until(self, status: int, request: Request) -> None:
        """Ask until this is the answer."""
        async with asyncio.timeout(20):
            while (await self.ari.ask(request)).status != status:
                pass

    async def gone(self, request: Request) -> None:
        """Wait until Asterisk does not find it: it tells an end before it forgets what has ended."""
        await self.until(404, request)

    async def event(self, kind: str, **wanted: str) -> Any:
        """The next event of a type about these ids: ``channel="…"``."""
        async with asyncio.timeout(20):
            while True:
                event: Any = await self.events.get()
                if event["type"] == kind and all(event[k]["id"] == v for k, v in wanted.items()):
                    return event

    async def call(self, extension: str = "talk") -> Channel:
        """A channel in the app, up."""
        channel = await self.ari.originate(endpoint=f"Local/{extension}@ari-test", app=self.app)
        await self.event("StasisStart", channel=channel.id)
        return channel

    async def hang_up_all(self) -> None:
        for channel in await self.ari.request(requests.channels()):
            await self.ari.ask(requests.hangup(channel["id"]))


@asynccontextmanager
async def at_desk(lab: Lab, way: str) -> AsyncIterator[Desk]:
    async with ARIClient(lab.ari_url, lab.ari_user, lab.ari_password) as ari:
        events: asyncio.Queue[Event] = asyncio.Queue()
        app = f"desk-{uuid4().hex}"
        stream = ari.stream([app], on_event=events.put_nowait)
        await stream.start()
        if way == "websocket":
            needs(lab, REQUESTS)
            await stream.ask(requests.ping())
            ari.attach(stream)
        desk = Desk(ari, stream, app, events)
        try:
            yield desk
        finally:
            await desk.hang_up_all()
            await stream.close()


@pytest.fixture(params=["http", "websocket"])
async def desk(phones: Lab, request: pytest.FixtureRequest) -> AsyncIterator[Desk]:
    async with at_desk(phones, request.param) as desk:
        yield desk


def an_id() -> str:
    return uuid4().hex


# --- channels ---------------------------------------------------------------------------------------------


async def test_a_channel_is_called_found_and_hung_up(desk: Desk) -> None:
    call = await desk.call()
    assert Channel.of(await desk.ask(requests.channel(call.id), 200)).app_data == desk.app
    other_half = Channel.of(await desk.ask(requests.channel(f"{call.id};2"), 200))
    assert (other_half.id, other_half.exten) == (f"{call.id};2", "talk")
    assert call.id in [row["id"] for row in await desk.ask(requests.channels(), 200)]
    await desk.ask(requests.hangup(call.id, "busy"))
    assert (await desk.event("ChannelDestroyed", channel=call.id))["cause"] == 17
    await desk.ask(requests.hangup(call.id), 404)


@pytest.mark.parametrize("reason", requests.HANGUP_REASONS)
async def test_every_reason_to_hang_up(desk: Desk, reason: str) -> None:
    await desk.ask(requests.hangup((await desk.call()).id, reason))


async def test_a_hangup_with_a_cause(desk: Desk) -> None:
    call = await desk.call()
    await desk.ask(requests.hangup(call.id, cause=21))
    assert (await desk.event("ChannelDestroyed", channel=call.id))["cause"] == 21


async def test_what_a_channel_is_told(desk: Desk) -> None:
    id = (await desk.call()).id
    for request in (
        requests.answer(id),
        requests.ring(id),
        requests.ring_stop(id),
        requests.mute(id, "in"),
        requests.unmute(id, "in"),
        requests.hold(id),
        requests.unhold(id),
        requests.moh_start(id),
        requests.moh_start(id, "default"),
        requests.moh_stop(id),
        requests.silence_start(id),
        requests.silence_stop(id),
        requests.redirect(id, "Local/ring@ari-test"),
    ):
        await desk.ask(request)
    await desk.ask(requests.redirect(id, "PJSIP/x"), 422)
    await desk.ask(requests.mute(id, "sideways"), 400)


async def test_digits_reach_the_other_half(desk: Desk) -> None:
    id = (await desk.call()).id
    other = f"{id};2"
    await desk.ask(requests.subscribe(desk.app, [f"channel:{other}"]), 200)
    await desk.ask(requests.dtmf(id, "4*", between=60, duration=120))
    digits = [await desk.event("ChannelDtmfReceived", channel=other) for _ in "4*"]
    assert [(d["digit"], d["duration_ms"] >= 120) for d in digits] == [("4", True), ("*", True)]


async def test_variables_are_kept_whole(desk: Desk) -> None:
    id = (await desk.call()).id
    text = 'a,b;"c" ${EXTEN}\n' * 300  # too long for a request line
    await desk.ask(requests.set_variable(id, "NOTE", text))
    assert await desk.ask(requests.get_variable(id, "NOTE"), 200) == {"value": text}
    await desk.ask(requests.set_variable(id, "CALLERID(name)", "Ann"))
    assert await desk.ask(requests.get_variable(id, "CALLERID(name)"), 200) == {"value": "Ann"}
    await desk.ask(requests.get_variable(id, "NOT_SET"), 404)


async def test_an_originate_into_the_dialplan_takes_variables_and_caller_id_along(desk: Desk) -> None:
    made = await desk.ari.originate(
        endpoint="Local/talk@ari-test",
        context="ari-test",
        extension="told",
        caller_id='"Acmé" <+265888000001>',
        timeout=9,
        variables={"APP": desk.app, "A": True, "B": "x;é 名", "C": 2.5},
    )
    told = (await desk.event("StasisStart", channel=made.id))["args"]
    assert told == ["1", "x;é 名", "2.5", "Acmé", "+265888000001"]


async def test_create_and_dial(desk: Desk) -> None:
    id = an_id()
    await desk.ask(
        requests.create(
            "Local/talk@ari-test",
            desk.app,
            channel_id=id,
            app_args=["a,b"],
            formats=["slin"],
            variables={"V": "é 名"},
        ),
        200,
    )
    assert (await desk.event("StasisStart", channel=id))["args"] == ["a,b"]
    assert await desk.ask(requests.get_variable(id, "V"), 200) == {"value": "é 名"}
    await desk.ask(requests.dial(id, timeout=5))
    while (await desk.event("Dial", peer=id))["dialstatus"] != "ANSWER":
        pass
    await desk.ask(requests.dial(id), 409)


async def test_a_channel_continues_in_the_dialplan_and_comes_back(desk: Desk) -> None:
    id = (await desk.call()).id
    await desk.ask(requests.set_variable(id, "APP", desk.app))
    await desk.ask(requests.continue_in_dialplan(id, "ari-test", "back", 1))
    assert (await desk.event("StasisStart", channel=id))["args"] == ["back"]
    await desk.ask(requests.continue_in_dialplan(id))


async def test_a_channel_moves_to_another_app(desk: Desk) -> None:
    id = (await desk.call()).id
    await desk.ask(requests.move(id, desk.app, ['(x "y" \\z', "last"]))
    assert (await desk.event("StasisStart", channel=id))["args"] == ['(x "y" \\z', "last"]
    await desk.ask(requests.move(id, "nobody-is-here"))
    assert (await desk.event("ApplicationMoveFailed", channel=id))["destination"] == "nobody-is-here"


async def test_a_snoop_and_external_media_are_channels_in_the_app(desk: Desk) -> None:
    id = (await desk.call()).id
    ear, line = an_id(), an_id()
    made = await desk.ask(
        requests.snoop(id, ear, app=desk.app, app_args=["ear"], spy="in", whisper="none"), 200
    )
    assert Channel.of(made).name.startswith(f"Snoop/{id}")
    assert (await desk.event("StasisStart", channel=ear))["args"] == ["ear"]

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()
        parted.set()

    parted = asyncio.Event()
    async with await asyncio.start_server(take, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        made = await desk.ask(
            requests.external_media(
                line,
                app=desk.app,
                format="slin16",
                external_host=f"127.0.0.1:{port}",
                encapsulation="audiosocket",
                transport="tcp",
                data=str(uuid4()),
                variables={"V": 1},
            ),
            200,
        )
        assert Channel.of(made).name.startswith(f"AudioSocket/127.0.0.1:{port}")
        await desk.event("StasisStart", channel=line)
        assert await desk.ask(requests.get_variable(line, "V"), 200) == {"value": "1"}
        await desk.ask(requests.hangup(line), 204)
        await asyncio.wait_for(parted.wait(), 10)


NASTY = [
    "plain",
    "a,b",
    "a\\,b",
    "\\",
    '"',
    '"all"',
    "",
    " edge ",
    "(",
    ")",
    "[",
    "]",
    "[x,",
    "),(",
    "é",
    ";",
    "\n",
    "%2C",
]


@pytest.mark.parametrize("how", ["originate", "create", "snoop"])
async def test_arguments_of_an_app_come_back_as_they_were(desk: Desk, how: str) -> None:
    heard = (await desk.call()).id
    for arg in NASTY if how == "snoop" else [*NASTY, "${EXTEN}", "$[1+1]"]:
        id, args = an_id(), ["first", arg, "last"]
        match how:
            case "originate":
                request = requests.originate(
                    "Local/talk@ari-test", app=desk.app, app_args=args, channel_id=id
                )
            case "create":
                request = requests.create("Local/talk@ari-test", desk.app, app_args=args, channel_id=id)
            case _:
                request = requests.snoop(heard, id, app=desk.app, app_args=args, spy="in")
        await desk.ask(request, 200)
        assert (await desk.event("StasisStart", channel=id))["args"] == args
        await desk.ask(requests.hangup(id))


async def test_an_originate_asterisk_cannot_make_is_an_error_also_after_a_true_conflict(desk: Desk) -> None:
    with pytest.raises(AriError, match="Allocation failed"):
        await desk.ari.originate(endpoint="PJSIP/nobody", app=desk.app)
    call = await desk.call()
    with pytest.raises(Conflict, match="already exists"):
        await desk.ari.originate(endpoint="Local/talk@ari-test", app=desk.app, channel_id=call.id)
    with pytest.raises(AriError) as failed:  # Asterisk says 409 again on this connection
        await desk.ari.originate(endpoint="PJSIP/nobody", app=desk.app)
    assert not isinstance(failed.value, Conflict)


async def test_what_waits_for_a_sound_holds_up_nobody_else(desk: Desk) -> None:
    """The reason for `Request.slow`."""
    id, playback, bridge = (await desk.call()).id, an_id(), an_id()
    await desk.ask(requests.create_bridge(bridge), 200)
    await desk.ask(requests.play(id, playback, "tone:350+440"), 201)
    async with asyncio.TaskGroup() as group:
        waiting = [
            group.create_task(desk.ask(request))
            for request in (
                requests.answer(id),
                requests.add_to_bridge(bridge, [id]),
            )
        ]
        for _ in range(20):
            await desk.ask(requests.ping(), 200)
        assert not any(task.done() for task in waiting)
        await desk.ask(requests.stop_playback(playback))
    await desk.ask(requests.remove_from_bridge(bridge, [id]))
    await desk.ask(requests.destroy_bridge(bridge))


# --- sounds -----------------------------------------------------------------------------------------------


async def test_a_playback_from_its_start_to_its_end(desk: Desk) -> None:
    id, playback = (await desk.call()).id, an_id()
    made = await desk.ask(requests.play(id, playback, ["tone:350/100,0/100", "sound:beep"], lang="en"), 201)
    assert (made["media_uri"], made["next_media_uri"]) == ("tone:350/100,0/100", "sound:beep")
    found = Playback.of(await desk.ask(requests.playback(playback), 200))
    assert (found.id, found.target, found.language) == (playback, f"channel:{id}", "en")
    await desk.event("PlaybackStarted", playback=playback)
    async with asyncio.timeout(20):  # announced is not begun: until then it is refused
        while (await desk.ari.ask(requests.control_playback(playback, "pause"))).status == 500:
            pass
    for operation in ("unpause", "restart"):
        await desk.ask(requests.control_playback(playback, operation))
    await desk.ask(requests.stop_playback(playback))
    await desk.event("PlaybackFinished", playback=playback)
    await desk.gone(requests.playback(playback))


@pytest.mark.parametrize("media", ["digits:123456789", "number:12345", "characters:abcdef"])
async def test_what_asterisk_speaks_itself_cannot_be_stopped(desk: Desk, media: str) -> None:
    id, playback = (await desk.call()).id, an_id()
    await desk.ask(requests.play(id, playback, media), 201)
    await desk.event("PlaybackStarted", playback=playback)
    answer = await desk.ari.ask(requests.stop_playback(playback))
    assert (answer.status, answer.message) == (500, "Could not stop playback")


async def test_a_recording_is_kept_or_thrown_away(desk: Desk) -> None:
    id, name = (await desk.call()).id, f"r/{an_id()} x"
    request = requests.record(id, name, "wav", max_duration=9.5, max_silence=3, beep=False, terminate_on="#")
    await desk.ask(request, 201)
    assert (await desk.ask(requests.recording(name), 200))["target_uri"] == f"channel:{id}"
    await desk.ask(requests.stop_recording(name))
    await desk.event("RecordingFinished")
    assert StoredRecording.of(await desk.ask(requests.stored(name), 200)) == StoredRecording(name, "wav")
    answer = await desk.ari.ask(requests.stored_file(name))
    assert (answer.status, answer.body, answer.content[:4]) == (200, None, b"RIFF")
    again = requests.record(id, name, "wav")
    await desk.ask(again, 409)
    await desk.ask(requests.delete_stored(name))
    await desk.ask(requests.stored(name), 404)
    # RecordingFinished comes a moment before Asterisk forgets the recording.
    await desk.until(201, again)
    # Before its file is there, a moment after RecordingStarted, cancelling it is answered with a 500.
    await desk.until(200, requests.stored(name))
    await desk.ask(requests.cancel_recording(name))
    await desk.event("RecordingFinished")
    await desk.ask(requests.stored(name), 404)


async def test_a_bridge_and_what_it_plays(desk: Desk) -> None:
    bridge, playback = an_id(), an_id()
    one, two = (await desk.call()).id, (await desk.call()).id
    await desk.ask(requests.create_bridge(bridge, "mixing", "acme's room"), 200)
    await desk.ask(requests.add_to_bridge(bridge, [one, two], role="participant"))
    found = Bridge.of(await desk.ask(requests.bridge(bridge), 200))
    assert (found.name, found.type, sorted(found.channels)) == ("acme's room", "mixing", sorted([one, two]))
    assert bridge in [row["id"] for row in await desk.ask(requests.bridges(), 200)]
    await desk.ask(requests.play_bridge(bridge, playback, "tone:ring", lang="en"), 201)
    await desk.event("PlaybackStarted", playback=playback)
    await desk.ask(requests.stop_playback(playback))
    await desk.ask(requests.remove_from_bridge(bridge, [one]))
    await desk.ask(requests.remove_from_bridge(bridge, [one]), 422)
    await desk.ask(requests.destroy_bridge(bridge))


# --- applications -----------------------------------------------------------------------------------------


async def test_an_app_subscribes_and_filters(desk: Desk) -> None:
    app, device = desk.app, f"Stasis:{an_id()}"
    assert app in [row["name"] for row in await desk.ask(requests.applications(), 200)]
    await desk.ask(requests.subscribe(app, [f"deviceState:{device}"]), 200)
    assert device in (await desk.ask(requests.application(app), 200))["device_names"]
    await desk.ask(requests.unsubscribe(app, [f"deviceState:{device}"]), 200)
    assert device not in (await desk.ask(requests.application(app), 200))["device_names"]
    found = await desk.ask(requests.event_filter(app, ["ChannelVarset"]), 200)
    assert found["events_disallowed"] == [{"type": "ChannelVarset"}]
    found = await desk.ask(requests.event_filter(app, allowed=["StasisStart"]), 200)
    assert {"type": "StasisStart"} in found["events_allowed"]
    await desk.ask(requests.ping(), 200)  # the answer is not filtered
    await desk.ask(requests.event_filter(app), 200)


async def test_an_app_is_told_a_word(desk: Desk) -> None:
    await desk.ask(requests.user_event("word", desk.app), 204)
    event = await desk.event("ChannelUserevent")
    assert (event["eventname"], event["application"]) == ("word", desk.app)
    await desk.ask(requests.user_event("word", an_id()), 404)


async def test_a_global_variable(desk: Desk) -> None:
    await desk.ask(requests.set_global("ARI_TEST", "x, y"))
    assert await desk.ask(requests.get_global("ARI_TEST"), 200) == {"value": "x, y"}


async def test_what_the_proof_asks_goes_both_ways(desk: Desk) -> None:
    for request, status in (
        (requests.info(), 200),
        (requests.modules(), 200),
        (requests.module("pbx_config.so"), 200),
        (requests.reload_module("pbx_config.so"), 204),
        (requests.endpoint("nobody"), 404),
        (requests.aor("nobody"), 404),
        (requests.device_state("Stasis:x"), 200),
        (requests.mark("pjsip", "x"), 404),
        (requests.probe_label("ari-test", "talk", "nowhere"), 404),
    ):
        await desk.ask(request, status)


async def test_too_much_for_the_websocket_goes_over_http_which_refuses_it(desk: Desk) -> None:
    """65,535 bytes are a message, 40,959 a body: what fits neither is an answer, and not the end of both."""
    id = (await desk.call()).id

    def note(size: int) -> Request:
        return requests.play(id, an_id(), ["sound:" + "x" * size])._replace(path="/nowhere")

    assert desk.stream.takes(note(100)) == desk.stream.takes(requests.ping())
    assert not desk.stream.takes(note(70_000))
    assert (await desk.ari.ask(note(70_000))).status == 413
    await desk.ask(requests.ping(), 200)


# --- the list is whole ------------------------------------------------------------------------------------


def test_every_builder_is_asked_above() -> None:
    builders = {
        name
        for name, found in vars(requests).items()
        if inspect.isfunction(found)
        and name in requests.__all__
        and found.__annotations__["return"] is Request
    }
    asked = set(re.findall(r"requests\.(\w+)\(", Path(__file__).read_text()))
    assert builders
    assert builders <= asked
