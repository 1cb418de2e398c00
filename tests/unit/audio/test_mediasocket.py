"""The media websocket against a fake of Asterisk's side that does what the real one cannot be made to do."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from voxtractl.audio import mediasocket
from voxtractl.audio.mediasocket import WebsocketLeg, connect
from voxtractl.errors import CallEnded, MediaFailed, RemoteProtocolError

START = {"event": "MEDIA_START", "format": "slin", "optimal_frame_size": 320, "ptime": 20}
Script = Callable[[web.WebSocketResponse], Awaitable[None]]


@asynccontextmanager
async def asterisk(script: Script) -> AsyncIterator[str]:
    """The URL of a fake whose side of the conversation is ``script``."""

    async def handler(request: web.Request) -> web.WebSocketResponse:
        assert request.match_info["id"] == "c-1"
        socket = web.WebSocketResponse(protocols=("media",))
        await socket.prepare(request)
        await script(socket)
        return socket

    app = web.Application()
    app.router.add_get("/pbx/media/{id}", handler)
    async with asyncio.timeout(20), TestServer(app) as server:
        yield str(server.make_url("/pbx/"))


async def all_commands(socket: web.WebSocketResponse) -> list[Any]:
    """What we say until we close: commands as their names, sounds as their lengths."""
    said: list[Any] = []
    async for message in socket:
        said.append(len(message.data) if message.type is aiohttp.WSMsgType.BINARY else message.json())
    return said


async def test_xoff_stops_what_is_sent_until_xon() -> None:
    said: list[Any] = []
    go_on = asyncio.Event()

    async def script(socket: web.WebSocketResponse) -> None:
        await socket.send_json(START)
        await socket.send_json({"event": "MEDIA_XOFF"})
        await socket.send_bytes(b"ab")
        await go_on.wait()
        assert (await socket.receive()).json() == {"command": "FLUSH_MEDIA"}
        await socket.send_json({"event": "MEDIA_XON"})
        said.extend(await all_commands(socket))

    async with asterisk(script) as url, await connect(url, "c-1", rate=8000) as leg:
        assert await leg.receive() == b"ab"  # XOFF came before it
        forgotten = asyncio.create_task(leg.send(bytes(320)))
        await asyncio.sleep(0)  # it has begun, and waits
        assert leg.queued == 0.02
        assert leg.clear() == 0.02
        await forgotten
        sending = asyncio.create_task(leg.send(bytes(640)))
        go_on.set()
        await sending
        await leg.close()
    assert said == [{"command": "START_MEDIA_BUFFERING"}, 640]


async def test_what_is_sent_after_clear_is_not_flushed() -> None:
    said: list[Any] = []

    async def script(socket: web.WebSocketResponse) -> None:
        await socket.send_json(START)
        said.extend(await all_commands(socket))

    async with asterisk(script) as url, await connect(url, "c-1", rate=8000) as leg:
        await leg.send(bytes(8000))
        leg.clear()
        leg.clear()
        await leg.send(bytes(322))
        await leg.close()
    names = [each["command"] if isinstance(each, dict) else each for each in said]
    assert names == ["START_MEDIA_BUFFERING", 8000, "FLUSH_MEDIA", "START_MEDIA_BUFFERING", 322]


async def test_a_long_sound_goes_in_messages_that_asterisk_can_read() -> None:
    said: list[Any] = []

    async def script(socket: web.WebSocketResponse) -> None:
        await socket.send_json(START | {"optimal_frame_size": 1920})
        said.extend(await all_commands(socket))

    async with asterisk(script) as url, await connect(url, "c-1", rate=48000) as leg:
        await leg.send(bytes(96000))
        assert leg.counters.sent == 51  # the messages end within a frame; Asterisk joins them
        await leg.close()
    assert said == [{"command": "START_MEDIA_BUFFERING"}, 32000, 32000, 32000]


async def test_an_error_of_asterisk_is_logged_and_nonsense_is_ignored(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def script(socket: web.WebSocketResponse) -> None:
        await socket.send_json(START)
        for text in ('{"event": "ERROR", "error_text": "no such thing"}', "XON", "[]", '{"event": "NEW"}'):
            await socket.send_str(text)
        await socket.send_json({"event": "MEDIA_BUFFERING_COMPLETED", "correlation_id": "77"})
        await socket.send_bytes(b"ab")
        await all_commands(socket)

    async with asterisk(script) as url, await connect(url, "c-1", rate=8000) as leg:
        assert await leg.receive() == b"ab"
        assert not leg.closed
    assert "refuses a command: no such thing" in caplog.text


async def test_a_connection_that_breaks_is_eof() -> None:
    async def script(socket: web.WebSocketResponse) -> None:
        await socket.send_json(START)
        assert socket._req is not None
        assert socket._req.transport is not None
        socket._req.transport.abort()

    async with asterisk(script) as url, await connect(url, "c-1", rate=8000) as leg:
        assert await leg.wait_closed() == "eof"


@pytest.mark.parametrize("before", ["", "clear"])
async def test_a_peer_that_stops_reading_holds_up_neither_send_nor_close(
    before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mediasocket, "GOODBYE_SECONDS", 0.1)
    over = asyncio.Event()

    async def script(socket: web.WebSocketResponse) -> None:
        await socket.send_json(START)
        assert socket._req is not None
        transport = cast("asyncio.Transport", socket._req.transport)
        transport.pause_reading()
        await over.wait()
        transport.abort()

    async def speak(leg: WebsocketLeg) -> None:
        while True:
            await leg.send(bytes(16000))

    async with asterisk(script) as url:
        leg = await connect(url, "c-1", rate=8000)
        speaking = asyncio.create_task(speak(leg))
        sent = -1
        while sent != leg.counters.sent or not leg._writing.locked():
            sent = leg.counters.sent
            leg._silent_at = 0  # as if it had been played
            leg._wake_sender()
            await asyncio.sleep(0.001)
        if before == "clear":
            leg.clear()
        assert leg._transport is not None
        async with asyncio.timeout(5):
            await leg.close()
            with pytest.raises(CallEnded):
                await speaking
        assert leg._transport.is_closing()
        assert leg.why == "ours"
        over.set()


async def test_a_sound_that_is_cleared_before_it_is_sent_is_not_heard() -> None:
    said: list[Any] = []

    async def script(socket: web.WebSocketResponse) -> None:
        await socket.send_json(START)
        said.extend(await all_commands(socket))

    async with asterisk(script) as url, await connect(url, "c-1", rate=8000) as leg:
        await leg.send(bytes(8000))
        leg.clear()
        cleared = asyncio.create_task(leg.send(bytes(320)))
        await asyncio.sleep(0)  # it has begun, and waits until Asterisk was told to forget
        leg.clear()
        await cleared
        await leg.send(bytes(642))
        await leg.close()
    names = [each["command"] if isinstance(each, dict) else each for each in said]
    assert names == ["START_MEDIA_BUFFERING", 8000, "FLUSH_MEDIA", "START_MEDIA_BUFFERING", 642]


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        ("[" * 200_000, "error: the media websocket sends JSON that is nested too deep"),
        (b"x" * 2**23, "error: "),
    ],
)
async def test_what_cannot_be_read_is_an_error_of_the_leg(sent: str | bytes, why: str) -> None:
    async def script(socket: web.WebSocketResponse) -> None:
        await socket.send_json(START)
        await (socket.send_str(sent) if isinstance(sent, str) else socket.send_bytes(sent))
        await all_commands(socket)

    async with asterisk(script) as url, await connect(url, "c-1", rate=8000) as leg:
        assert (await leg.wait_closed()).startswith(why)


async def test_a_session_of_the_caller_stays_open() -> None:
    async def script(socket: web.WebSocketResponse) -> None:
        await socket.send_json(START)
        await all_commands(socket)

    async with asterisk(script) as url, aiohttp.ClientSession() as session:
        for _ in range(2):
            leg = await connect(url, "c-1", rate=8000, session=session)
            assert isinstance(leg, WebsocketLeg)
            await leg.close()
        with pytest.raises(MediaFailed, match="it knows no such connection"):
            await connect(f"{url}elsewhere", "c-1", rate=8000, session=session)
        assert not session.closed


@pytest.mark.parametrize(
    ("first", "says"),
    [
        ("MEDIA_START connection_id:1 optimal_frame_size:320", "begins with 'MEDIA_START connection_id:1"),
        ('{"event": "STATUS"}', "not with MEDIA_START in JSON"),
        ('{"event": "MEDIA_START", "format": "ulaw", "optimal_frame_size": 160}', "160 bytes of ulaw"),
    ],
)
async def test_what_is_no_media_of_ours_is_refused(first: str, says: str) -> None:
    async def script(socket: web.WebSocketResponse) -> None:
        await socket.send_str(first)
        await all_commands(socket)

    async with asterisk(script) as url:
        with pytest.raises(RemoteProtocolError, match=says) as caught:
            await connect(url, "c-1", rate=8000)
        assert caught.value.hint


async def test_asterisk_that_says_nothing_is_given_up() -> None:
    async def script(socket: web.WebSocketResponse) -> None:
        await all_commands(socket)

    async with asterisk(script) as url:
        with pytest.raises(MediaFailed, match=r"does not answer within 0\.1 s"):
            await connect(url, "c-1", rate=8000, timeout=0.1)


async def test_asterisk_that_refuses_is_named_with_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=500)

    app = web.Application()
    app.router.add_get("/media/c-1", refuse)
    async with TestServer(app) as server:
        with pytest.raises(MediaFailed, match="it answers 500"):
            await connect(str(server.make_url("/")), "c-1", rate=8000)


async def test_the_backlog_stays_below_what_asterisk_keeps() -> None:
    got = 0
    full = asyncio.Event()

    async def script(socket: web.WebSocketResponse) -> None:
        nonlocal got
        await socket.send_json(START)
        async for message in socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                got += len(message.data)
                if got >= mediasocket.BACKLOG_MAX * 16000:
                    full.set()

    async with asterisk(script) as url, await connect(url, "c-1", rate=8000, backlog=60) as leg:
        sending = asyncio.create_task(leg.send(bytes(16000 * 60)))
        await full.wait()
        assert not sending.done()
        assert leg.clear() > 30
        await sending
        assert got < 16000 * 30
