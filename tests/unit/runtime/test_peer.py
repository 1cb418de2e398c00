"""What a file of the peer library imports: every name is there, routes go as they go there, and what it
cannot have is an error when it is loaded."""

import asyncio
from pathlib import Path

import pytest

from voxtractl.audio.g711 import pcm_to_ulaw
from voxtractl.audio.leg import MemoryLeg
from voxtractl.errors import CallEnded, HandlerFault, OriginateFailed, QueueUnknown, SpeechUnavailable
from voxtractl.runtime import app as ours
from voxtractl.runtime import peer
from voxtractl.runtime.loading import Code
from voxtractl.runtime.session import CallSession

APP = "from voxtra import VoxtraApp\napp = VoxtraApp()\n"


def loaded(folder: Path, text: str) -> peer.VoxtraApp:
    (folder / "handler.py").write_text(text)
    app = Code("handler.py:app", "acme", folder).load()
    assert isinstance(app, peer.VoxtraApp)
    return app


def test_every_name_of_the_table_is_imported_from_its_module(tmp_path: Path) -> None:
    lines = [f"from {module} import {', '.join(names)}" for module, names in peer.MODULES.items()]
    loaded(tmp_path, "\n".join([*lines, "import voxtra.ari.client", APP, "voxtra.ari.client.ARIClient"]))


def test_a_connection_of_its_own_and_settings_without_a_meaning_here_are_taken(tmp_path: Path) -> None:
    app = loaded(
        tmp_path,
        "from voxtra import VoxtraApp\n"
        "app = VoxtraApp('http://x', 'u', 'p', app_name='mine', reconnect_interval=1.0, debug=True)\n"
        "assert VoxtraApp.with_asterisk(ari_url='http://x', ari_user='u', ari_password='p').app_name\n",
    )
    assert app.app_name == "mine"


@pytest.mark.parametrize("given", ["llm=1", "telephony=None", "reconect_interval=1"])
def test_what_an_app_cannot_have_here_is_told_with_its_line(tmp_path: Path, given: str) -> None:
    with pytest.raises(HandlerFault, match="unexpected keyword argument") as caught:
        loaded(tmp_path, f"from voxtra import VoxtraApp\napp = VoxtraApp({given})\n")
    assert str(caught.value.where).endswith("handler.py:2")


@pytest.mark.parametrize(
    "last",
    [
        "app.run()",
        "asyncio.run(app.start())",
        "asyncio.run(app.run_async())",
        "if __name__ == '__main__':\n    1 / 0",
    ],
)
def test_however_a_file_starts_itself_it_is_loaded_only(tmp_path: Path, last: str) -> None:
    assert not loaded(tmp_path, f"import asyncio\n{APP}{last}\n").is_running


ROUTES = (
    APP
    + """
@app.route(number="+265888111111", metadata={"vip": True})
async def vip(call): ...

@app.route(extension="1000")
async def support(call): ...

@app.on_call(extension="2000")
async def sales(call): ...

@app.route(number="+265*", name="home")
async def home(call): ...

@app.on_call
async def others(call): ...
"""
)


@pytest.mark.parametrize(
    ("called", "caller", "name"),
    [
        ("1000", "+265888111111", "vip"),
        ("+265888111111", "+49301", "vip"),
        ("1000", "+265999", "support"),
        ("2000", "+49301", "sales"),
        ("3000", "+265999", "home"),
        ("+265999000001", "+49301", "others"),
    ],
)
def test_the_first_route_that_fits_takes_the_call(
    tmp_path: Path, called: str, caller: str, name: str
) -> None:
    route = loaded(tmp_path, ROUTES)._router.find(called, caller)
    assert route is not None
    assert getattr(route.handler, "__name__", "") == name
    assert dict(route.metadata) == ({"vip": True} if name == "vip" else {})


def test_a_router_of_its_own_without_a_default_takes_what_it_knows(tmp_path: Path) -> None:
    text = "from voxtra.router import Router\nfrom voxtra import VoxtraApp\nroutes = Router()\n"
    text += "@routes.route(extension='1000')\nasync def one(call): ...\napp = VoxtraApp(router=routes)\n"
    router = loaded(tmp_path, text)._router
    assert router.find("1000", "")
    assert router.find("1001", "") is None


def test_who_catches_its_exceptions_catches_ours() -> None:
    names = peer.MODULES["voxtra.exceptions"]
    raised: dict[str, list[Exception]] = {
        "TelephonyError": [
            CallEnded("answer"),
            QueueUnknown("no"),
            OriginateFailed("no", disposition="busy"),
        ],
        "VoxtraError": [HandlerFault("no", tenant="acme")],
        "CallError": [CallEnded("answer")],
        "TTSError": [SpeechUnavailable("no")],
    }
    for name, errors in raised.items():
        for error in errors:
            assert isinstance(error, names[name]), name  # type: ignore[arg-type]


async def test_sound_is_ulaw_in_chunks_and_any_codec_out() -> None:
    leg = MemoryLeg(8000, speed=100)
    socket = peer.AudioSocketConnection(leg)
    pcm = bytes([0, 0x20]) * 160
    leg.say(pcm)
    received = socket.receive()
    chunk = await anext(received)
    assert (chunk.data, chunk.n_samples, chunk.duration_ms) == (pcm_to_ulaw(pcm), 160, 20.0)
    await socket.send(chunk)
    await socket.send(peer.AudioChunk(data=pcm, codec=peer.AudioCodec.PCM_S16LE))
    await leg.drained()
    assert len(leg.played) >= 2 * len(pcm)
    await socket.close()
    assert socket.is_closed
    assert peer.AudioChunk().is_empty
    with pytest.raises(AttributeError, match="on_hangup"):
        socket.on_hangup = socket.close  # type: ignore[attr-defined]


def test_sound_is_turned_from_any_codec_into_any() -> None:
    every = bytes(range(256))  # each value there is, zero twice
    codecs = peer.AudioCodec
    assert peer.convert_audio(every, from_codec=codecs.ULAW, to_codec=codecs.ULAW) == every
    pcm = peer.convert_audio(every, from_codec=codecs.ALAW, to_codec=codecs.PCM_S16LE)
    assert peer.convert_audio(pcm, from_codec=codecs.PCM_S16LE, to_codec=codecs.ALAW) == every
    ulaw = peer.convert_audio(every, from_codec=codecs.ALAW, to_codec=codecs.ULAW)
    assert ulaw == pcm_to_ulaw(pcm)


async def test_a_sink_that_fails_costs_no_other_sink(caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []

    class Fails(peer.RecordingSink):
        async def on_recording_complete(self, metadata: peer.RecordingMetadata) -> None:
            raise ZeroDivisionError

    class Takes(peer.RecordingSink):
        async def on_recording_complete(self, metadata: peer.RecordingMetadata) -> None:
            told.append(metadata.name)

    sinks = peer.CompositeSink(Fails(), peer.LocalFileSink(), Takes())
    await sinks.on_recording_complete(peer.RecordingMetadata("c1", "song"))
    assert told == ["song"]
    assert "a recording sink failed for song" in caplog.text


# --- ours, whoever wrote the file -------------------------------------------------------------------------


def test_what_an_app_is_not_given_the_environment_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOXTRA_ARI_URL", "http://pbx.example:8088")
    monkeypatch.setenv("VOXTRA_ARI_USER", "from-the-environment")
    assert ours.VoxtraApp().ari.url == "http://pbx.example:8088"
    assert ours.VoxtraApp("http://given:8088").ari.url == "http://given:8088"
    assert "from-the-environment" in str(vars(ours.VoxtraApp().ari)["_user"])


async def test_hooks_run_in_their_order_sync_and_async_and_once() -> None:
    app, ran = ours.VoxtraApp(), []
    app.on_startup(lambda: ran.append("up"))

    @app.on_startup
    async def second() -> None:
        await asyncio.sleep(0)
        ran.append("up too")

    @app.on_shutdown
    def fails() -> None:
        ran.append("down")
        raise SystemExit("a fault of the hook")

    @app.on_shutdown
    async def last() -> None:
        ran.append("down too")

    await app.shut_down()
    assert ran == []
    await app.start_up()
    await app.start_up()
    await app.retire()
    await app.shut_down()
    assert ran == ["up", "up too", "down", "down too"]


def test_a_session_of_the_peer_is_one_of_ours() -> None:
    assert issubclass(peer.CallSession, CallSession)
    assert peer.VoxtraApp.session_type is peer.CallSession
