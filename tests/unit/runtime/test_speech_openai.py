"""Speech over the OpenAI audio API, against a server on loopback that can be a good one and a bad one."""

import asyncio
import io
import json
import struct
import traceback
import wave
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from itertools import pairwise

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tools.spoken import UNDERSTOOD, spoken
from voxtractl.errors import SpeechUnavailable
from voxtractl.runtime.speech import OpenAISpeech, SpeechToText, TextToSpeech
from voxtractl.runtime.speech.openai import _NotSound, _Pace, _Sound
from voxtractl.settings import Secret

KEY = "sk-canary-4711"
TEXT = "The secret of this caller is a canary."
SOUND = struct.pack("<24000h", *range(-12000, 12000))  # a second
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """The API as ``answer`` makes it; ``asked`` holds what came: path, headers, fields."""

    def __init__(self) -> None:
        self.answer: Answer = sound
        self.asked: list[tuple[str, dict[str, str], dict[str, object]]] = []
        self.connections: set[object] = set()
        self.url = ""

    async def take(self, request: web.Request) -> web.StreamResponse:
        self.connections.add(request.transport)
        if request.content_type == "application/json":
            fields: dict[str, object] = await request.json()
        else:
            form = await request.post()
            fields = {}
            for name, field in form.items():
                if isinstance(field, web.FileField):
                    with field.file as file:
                        fields[name] = file.read()
                else:
                    fields[name] = field
        self.asked.append((request.path, dict(request.headers), fields))
        return await self.answer(request)


async def sound(request: web.Request) -> web.StreamResponse:
    """PCM in chunks that end in the middle of samples."""
    response = web.StreamResponse(headers={"Content-Type": "audio/pcm"})
    await response.prepare(request)
    for at in range(0, len(SOUND), 999):
        await response.write(SOUND[at : at + 999])
    return response


def status(number: int, **headers: str) -> Answer:
    """An error as such servers send it: with the key and the text in its body."""
    body = {"error": {"message": f"Incorrect API key provided: {KEY}, for {TEXT}"}}

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.json_response(
            body, status=number, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )

    return answer


def plain(body: bytes, kind: str) -> Answer:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(body=body, headers={"Content-Type": kind})

    return answer


async def cut(request: web.Request) -> web.StreamResponse:
    response = await begun(request)
    assert request.transport is not None
    request.transport.abort()
    return response


async def stuck(request: web.Request) -> web.StreamResponse:
    response = await begun(request)
    await asyncio.Event().wait()
    return response


async def silent(_: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    return web.Response()


async def trickling(request: web.Request) -> web.StreamResponse:
    """Each byte in time, and a second of sound in hours."""
    response = await begun(request)
    for _ in range(1000):
        await response.write(b"ab")
        await asyncio.sleep(0.05)
    return response


async def endless(request: web.Request) -> web.StreamResponse:
    response = await begun(request)
    while True:
        await response.write(bytes(480_000))


async def foul(request: web.Request) -> web.StreamResponse:
    """What aiohttp quotes in its error."""
    assert request.transport is not None
    request.transport.write(f"HTTP/1.1 200 OK\r\nX-Key: {KEY}\0\r\n\r\n".encode())
    request.transport.close()
    return web.Response()


async def begun(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "audio/pcm"})
    await response.prepare(request)
    await response.write(SOUND[:9600])
    return response


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.router.add_post("/v1/audio/speech", server.take)
    app.router.add_post("/v1/audio/transcriptions", server.take)
    runner = web.AppRunner(app, shutdown_timeout=0.01)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    yield server
    await runner.cleanup()


@pytest.fixture
async def provider(server: Server) -> AsyncIterator[OpenAISpeech]:
    provider = OpenAISpeech(server.url, model="tts-1", voice="alloy", language="en", api_key=Secret(KEY))
    yield provider
    await provider.close()


async def all_of(provider: OpenAISpeech, text: str = TEXT) -> bytes:
    return b"".join([pcm async for pcm in provider.synthesize(text)])


def wav(pcm: bytes, rate: int, *, size: int | None = None, channels: int = 1, extra: bytes = b"") -> bytes:
    """A WAV by hand, since the interesting ones are those that Python's module does not write."""
    form = struct.pack("<HHIIHH", 1, channels, rate, 2 * rate * channels, 2 * channels, 16)
    head = b"WAVE" + b"fmt " + struct.pack("<I", len(form)) + form + extra
    data = b"data" + struct.pack("<I", len(pcm) if size is None else size) + pcm
    return b"RIFF" + struct.pack("<I", len(head) + len(data)) + head + data


# --- what works -------------------------------------------------------------------------------------------


async def test_it_is_both(provider: OpenAISpeech) -> None:
    assert isinstance(provider, TextToSpeech)
    assert isinstance(provider, SpeechToText)
    assert KEY not in repr(provider)


async def test_a_text_becomes_its_sound(server: Server, provider: OpenAISpeech) -> None:
    assert await all_of(provider) == SOUND
    ((path, headers, fields),) = server.asked
    assert path == "/v1/audio/speech"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert fields == {"model": "tts-1", "voice": "alloy", "input": TEXT, "response_format": "pcm"}


async def test_the_first_sound_comes_before_the_last_is_made(server: Server, provider: OpenAISpeech) -> None:
    server.answer = stuck
    pieces = provider.synthesize(TEXT)
    assert (await anext(pieces)) == SOUND[:4800]
    assert (await anext(pieces)) == SOUND[4800:9600]
    await pieces.aclose()  # type: ignore[attr-defined]


async def test_one_connection_serves_one_prompt_after_another(server: Server, provider: OpenAISpeech) -> None:
    for _ in range(3):
        await all_of(provider)
    assert len(server.connections) == 1


async def test_what_met_the_end_of_a_kept_connection_is_asked_once_more(
    server: Server, provider: OpenAISpeech
) -> None:
    used = Counter[object]()

    async def idle_no_longer(request: web.Request) -> web.StreamResponse:
        """It serves each connection once; who asks again over it finds it closed."""
        assert request.transport is not None
        used[request.transport] += 1
        if used[request.transport] > 1:
            request.transport.abort()
        if request.path.endswith("speech"):
            return await sound(request)
        return web.json_response({"text": UNDERSTOOD[1]})

    server.answer = idle_no_longer
    for _ in range(2):
        assert await all_of(provider) == SOUND
        assert await provider.transcribe(SOUND, 8000) == UNDERSTOOD[1]
    assert list(used.values()) == [2, 2, 2, 1]


@pytest.mark.parametrize("before", [0, 1])
async def test_a_server_that_closes_every_connection_is_not_asked_for_ever(
    server: Server, provider: OpenAISpeech, before: int
) -> None:
    async def closes(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    for _ in range(before):
        await all_of(provider)
    server.answer = closes
    with pytest.raises(SpeechUnavailable, match=r"the connection failed \(ServerDisconnectedError\)"):
        await all_of(provider)
    assert len(server.asked) == 1 + 2 * before


async def test_a_prompt_that_is_left_in_the_middle_does_not_spoil_the_next(
    server: Server, provider: OpenAISpeech
) -> None:
    pieces = provider.synthesize(TEXT)
    await anext(pieces)
    await pieces.aclose()  # type: ignore[attr-defined]
    assert await all_of(provider) == SOUND


async def test_a_wav_is_taken_though_pcm_was_asked_for(server: Server, provider: OpenAISpeech) -> None:
    server.answer = plain(wav(SOUND, 24000), "audio/wav")
    assert await all_of(provider) == SOUND


async def test_a_wav_of_another_rate_is_made_24_khz(server: Server, provider: OpenAISpeech) -> None:
    voice = spoken(UNDERSTOOD[1], 16000)
    server.answer = plain(wav(voice, 16000, size=0xFFFFFFFF), "audio/x-wav")
    assert len(await all_of(provider)) == pytest.approx(len(voice) * 1.5, abs=20)


@pytest.mark.parametrize("kind", ["audio/L16;rate=16000;channels=1", 'audio/pcm; Rate="16000"'])
async def test_raw_sound_of_the_rate_that_is_told_is_made_24_khz(
    server: Server, provider: OpenAISpeech, kind: str
) -> None:
    voice = spoken(UNDERSTOOD[1], 16000)
    server.answer = plain(voice, kind)
    assert len(await all_of(provider)) == pytest.approx(len(voice) * 1.5, abs=20)


async def test_a_recording_becomes_words(server: Server, provider: OpenAISpeech) -> None:
    server.answer = plain(
        json.dumps({"text": " Good morning. ", "language": "english"}).encode(), "application/json"
    )
    words = await provider.transcribe(SOUND, 8000)
    assert words == "Good morning."
    assert (words.language, words.confidence) == ("english", None)
    ((path, headers, fields),) = server.asked
    assert path == "/v1/audio/transcriptions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    file = fields.pop("file")
    assert fields == {"model": "tts-1", "language": "en", "response_format": "json"}
    assert isinstance(file, bytes)
    with wave.open(io.BytesIO(file)) as read:
        assert (read.getnchannels(), read.getsampwidth(), read.getframerate()) == (1, 2, 8000)
        assert read.readframes(read.getnframes()) == SOUND


async def test_a_server_of_ones_own_needs_no_key(server: Server) -> None:
    provider = OpenAISpeech(server.url + "/", model="m")
    await all_of(provider)
    await provider.close()
    await provider.close()
    assert "Authorization" not in server.asked[0][1]
    assert server.asked[0][0] == "/v1/audio/speech"


async def test_it_may_be_used_again_after_close(provider: OpenAISpeech) -> None:
    await all_of(provider)
    await provider.close()
    assert await all_of(provider) == SOUND


# --- what does not ----------------------------------------------------------------------------------------

BAD_FOR_BOTH = {
    "401": (status(401), "answered with status 401"),
    "403": (status(403), "answered with status 403"),
    "404": (status(404), "answered with status 404"),
    "429": (status(429, Retry_After="20"), "answered with status 429; it asks to wait 20 s"),
    "429 with a text": (status(429, Retry_After=TEXT), "answered with status 429"),
    "500": (status(500), "answered with status 500"),
    "redirect": (status(302, Location="http://127.0.0.1:1/"), "answered with status 302"),
    "silent": (silent, "answer"),
    "stuck": (stuck, "answer"),
    "foul": (foul, "the connection failed"),
    "cut": (cut, "the connection failed (ClientPayloadError)"),
}
BAD_SOUND = {
    "JSON": (plain(b'{"error": "no"}', "application/json"), "sent application/json instead of PCM or WAV"),
    "a page": (plain(b"<html>", "text/html"), "sent text/html instead of PCM or WAV"),
    "an MP3": (
        plain(b"\xff\xfb\x90\x64" + bytes(999), "audio/mpeg"),
        "sent audio/mpeg instead of PCM or WAV",
    ),
    "an Ogg": (plain(b"OggS" + bytes(999), "application/octet-stream"), "instead of PCM or WAV"),
    "a bare MP3": (
        plain(b"\xff\xfb\x90\x64" + bytes(999), "application/octet-stream"),
        "instead of PCM or WAV",
    ),
    "a bare page": (plain(b"\n<html>", "application/octet-stream"), "instead of PCM or WAV"),
    "bare JSON": (plain(b'{"error": "no"}', "application/octet-stream"), "instead of PCM or WAV"),
    "a problem": (plain(b'{"title": "no"}', "application/problem+json"), "sent application/problem+json"),
    "a WAV cut short": (plain(wav(SOUND, 24000, size=len(SOUND) + 2), "audio/wav"), "a WAV that breaks off"),
    "nothing": (plain(b"", "audio/pcm"), "sent no sound"),
    "stereo": (
        plain(wav(SOUND, 24000, channels=2), "audio/wav"),
        "sent a WAV of 2 channels, 16 bits, 24000 Hz",
    ),
    "0 Hz": (plain(wav(SOUND, 0), "audio/wav"), "0 Hz"),
    "raw stereo": (plain(SOUND, "audio/pcm;channels=2"), "PCM that is not one channel"),
    "raw at no rate": (plain(SOUND, "audio/pcm;rate=24k"), "not one channel of 4000 to 192000 Hz"),
    "half a WAV": (plain(wav(SOUND, 8000)[:30], "audio/wav"), "sent a WAV without sound"),
    "an endless head": (plain(wav(SOUND, 8000, extra=b"LIST\xff\xff\xff\x7f"), "audio/wav"), "without sound"),
    "no format": (plain(b"RIFF____WAVEdata\x04\0\0\0abcd", "audio/wav"), "does not say its format"),
}
BAD_WORDS = {
    "no JSON": (plain(f"{KEY} {TEXT}".encode(), "application/json"), 'no JSON with "text"'),
    "deep JSON": (plain(b"[" * 200_000, "application/json"), 'no JSON with "text"'),
    "no text": (plain(json.dumps({"error": TEXT}).encode(), "application/json"), 'no JSON with "text"'),
    "a list": (plain(b"[]", "application/json"), 'no JSON with "text"'),
    "too much": (plain(b"x" * 1_100_000, "application/json"), "answered with more than 1048576 bytes"),
}


def patience(case: str) -> float:
    """Seconds for the server: few where they are to pass, else more than a slow machine takes."""
    return 1.0 if case in {"silent", "stuck"} else 20.0


def must_say(error: SpeechUnavailable, url: str, sentence: str) -> None:
    assert str(error).startswith(url)
    assert sentence in str(error)
    assert error.hint
    assert error.details["url"] == url
    told = "".join(traceback.format_exception(error)) + f"{error.hint} {error.details} {error!r}"
    assert KEY not in told
    assert TEXT not in told
    assert error.__cause__ is None
    assert error.__context__ is None  # aiohttp's error holds the request with its headers


@pytest.mark.parametrize("case", [*BAD_FOR_BOTH, *BAD_SOUND])
async def test_a_prompt_that_fails_says_where_and_why(server: Server, case: str) -> None:
    server.answer, sentence = {**BAD_FOR_BOTH, **BAD_SOUND}[case]
    key = Secret(KEY)
    provider = OpenAISpeech(server.url, model="m", voice="v", api_key=key, timeout=patience(case))
    with pytest.raises(SpeechUnavailable) as told:
        await all_of(provider)
    must_say(told.value, f"{server.url}/audio/speech", sentence)
    server.answer = sound
    assert await all_of(provider) == SOUND  # the next one is well
    await provider.close()


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [(trickling, "takes more than 4 s for a second of sound"), (endless, "sent more than 2 s of sound")],
)
async def test_a_prompt_that_comes_too_slowly_or_never_ends_is_given_up(
    server: Server, answer: Answer, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hurried(_Pace):
        """Its seconds are short, those of the connection are not."""

        def __init__(self, timeout: float) -> None:
            super().__init__(timeout)
            clock = self._clock
            self._clock = lambda: 50 * clock()
            self.waits()

    monkeypatch.setattr("voxtractl.runtime.speech.openai._Pace", Hurried if answer is trickling else _Pace)
    monkeypatch.setattr("voxtractl.runtime.speech.openai.LONGEST", 2)
    server.answer = answer
    provider = OpenAISpeech(server.url, model="m", voice="v", api_key=Secret(KEY), timeout=20.0)
    with pytest.raises(SpeechUnavailable) as told:
        await all_of(provider)
    must_say(told.value, f"{server.url}/audio/speech", sentence)
    await provider.close()


async def test_a_prompt_that_is_played_slowly_is_no_fault_of_the_server(
    server: Server,
) -> None:
    provider = OpenAISpeech(server.url, model="m", voice="v", timeout=0.4)
    got = b""
    async for pcm in provider.synthesize(TEXT):
        got += pcm
        await asyncio.sleep(0.05)
    assert got == SOUND
    await provider.close()


@pytest.mark.parametrize("case", [*BAD_FOR_BOTH, *BAD_WORDS])
async def test_a_recording_that_fails_says_where_and_why(server: Server, case: str) -> None:
    server.answer, sentence = {**BAD_FOR_BOTH, **BAD_WORDS}[case]
    key = Secret(KEY)
    provider = OpenAISpeech(server.url, model="m", voice="v", api_key=key, timeout=patience(case))
    with pytest.raises(SpeechUnavailable) as told:
        await provider.transcribe(SOUND, 24000)
    must_say(told.value, f"{server.url}/audio/transcriptions", sentence)
    await provider.close()


async def test_the_status_is_there_for_a_script(server: Server, provider: OpenAISpeech) -> None:
    server.answer = status(401)
    with pytest.raises(SpeechUnavailable) as told:
        await all_of(provider)
    assert told.value.details["status"] == 401
    assert told.value.hint == "check the API key"


async def test_a_server_that_is_not_there(unused_tcp_port: int) -> None:
    provider = OpenAISpeech(f"http://127.0.0.1:{unused_tcp_port}/v1", model="m", api_key=Secret(KEY))
    with pytest.raises(SpeechUnavailable, match="the connection failed") as told:
        await all_of(provider)
    must_say(told.value, f"http://127.0.0.1:{unused_tcp_port}/v1/audio/speech", "ClientConnectorError")
    await provider.close()


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8000",
        "ftp://host/v1",
        f"http://user:{KEY}@host/v1",
        f"http://host/v1?api_key={KEY}",
        "http://",
    ],
)
def test_a_url_that_is_none_or_holds_a_secret_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="the URL of a speech server") as told:
        OpenAISpeech(url, model="m")
    assert KEY not in str(told.value)


def test_a_key_that_no_header_carries_is_refused() -> None:
    with pytest.raises(ValueError, match="no HTTP header") as told:
        OpenAISpeech("http://host/v1", model="m", api_key=Secret(f"{KEY}\r\nX: y"))
    assert KEY not in str(told.value)


# --- sound in pieces --------------------------------------------------------------------------------------

SHORT = SOUND[:400]
WAVS = (
    wav(SHORT, 24000),
    wav(SHORT, 24000, size=0),
    wav(SHORT, 24000, size=0xFFFFFFFF),
    wav(SHORT, 24000, extra=b"LIST\x03\0\0\0abc\0") + b"LIST\x04\0\0\0tail",
)


@settings(deadline=None)
@given(st.sampled_from((SHORT, *WAVS)), st.lists(st.integers(0, 450), max_size=30))
def test_any_split_gives_the_same_sound(body: bytes, cuts: list[int]) -> None:
    reader = _Sound("audio/pcm")
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    assert b"".join(reader.feed(body[at:to]) for at, to in pairwise(edges)) + reader.end() == SHORT


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_whatever_comes_is_sound_or_refused(body: bytes) -> None:
    for sent in (body, b"RIFF____WAVE" + body, wav(b"", 24000, extra=body)):
        reader = _Sound("audio/wav")
        with suppress(_NotSound):
            assert len(reader.feed(sent) + reader.end()) % 2 == 0
