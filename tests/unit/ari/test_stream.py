"""The event stream before servers that Asterisk is not: old ones, rude ones, wrong ones.
The real one: tests/live/test_ari_stream.py."""

import asyncio
import gc
import json
import socket
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from enum import StrEnum
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import WSMsgType, web
from hypothesis import given
from hypothesis import strategies as st

from tests.tools.proxy import proxy, reset
from voxtractl.ari import requests
from voxtractl.ari.backoff import Backoff
from voxtractl.ari.client import ARIClient
from voxtractl.ari.requests import Answer, Request
from voxtractl.ari.stream import MESSAGE_MAX, EventStream, State, _Connection, _message
from voxtractl.errors import AppReplaced, AriAuthFailed, AriUnreachable, UsageFault
from voxtractl.settings import Secret

SOON = Backoff(first=0.001, most=0.01)
Script = Callable[[web.WebSocketResponse], Awaitable[None]]


@asynccontextmanager
async def serving(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/ari/events", handler)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def scripted(*scripts: Script) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """A handler that runs one script for each connection, the last one for all that follow."""
    rest = list(scripts)

    async def handle(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(autoping=False)
        await socket.prepare(request)
        await (rest.pop(0) if len(rest) > 1 else rest[0])(socket)
        return socket

    return handle


async def mute(socket: web.WebSocketResponse) -> None:
    """Asterisk before 20.14: pings are answered, requests are read and forgotten."""
    async for message in socket:
        if message.type is WSMsgType.PING:
            await socket.pong(message.data)


def answered(asked: dict[str, Any], body: object = None, status: int = 200) -> str:
    return json.dumps(
        {
            "type": "RESTResponse",
            "request_id": asked["request_id"],
            "status_code": status,
            "message_body": json.dumps(body),
        }
    )


async def polite(socket: web.WebSocketResponse) -> None:
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            asked = json.loads(message.data)
            await socket.send_str(answered(asked, {"uri": asked["uri"]}))
        elif message.type is WSMsgType.PING:
            await socket.pong(message.data)


class Told:
    def __init__(self) -> None:
        self.events: asyncio.Queue[Any] = asyncio.Queue()
        self.downs: asyncio.Queue[str] = asyncio.Queue()
        self.ups: asyncio.Queue[None] = asyncio.Queue()

    async def up(self) -> None:
        self.ups.put_nowait(None)


@asynccontextmanager
async def streaming(url: str, **more: Any) -> AsyncIterator[tuple[EventStream, Told]]:
    told = Told()
    words: dict[str, Any] = {
        "on_event": told.events.put_nowait,
        "on_up": told.up,
        "on_down": told.downs.put_nowait,
        "backoff": SOON,
    } | more
    stream = EventStream(url, "user", "secret", ["app"], **words)
    await stream.start()
    try:
        yield stream, told
    finally:
        await stream.close()


# --- requests -----------------------------------------------------------------------------------------------


async def test_an_old_asterisk_is_asked_over_http() -> None:
    async with serving(scripted(mute)) as url, streaming(url) as (stream, _):
        assert stream.connected
        assert not stream.takes(requests.ping())
        with pytest.raises(AriUnreachable, match=r"no answer within 0 s.*unknown"):
            await stream.ask(requests.ping(), timeout=0.05)
        assert not stream.takes(requests.ping())


async def test_what_the_stream_takes() -> None:
    async with serving(scripted(polite)) as url, streaming(url) as (stream, _):
        await stream.ask(requests.ping())
        assert stream.takes(requests.ping())
        assert not stream.takes(requests.reload_module("x.so"))
        big = Request("POST", "/x", body={"y": "z" * MESSAGE_MAX})
        assert not stream.takes(big)
        with pytest.raises(UsageFault, match="a websocket takes 65535"):
            await stream.ask(big)
    assert not stream.takes(requests.ping())


async def test_answers_in_any_order_find_their_requests() -> None:
    async def backwards(socket: web.WebSocketResponse) -> None:
        asked = [json.loads(await socket.receive_str()) for _ in range(11)]
        for one in reversed(asked):
            await socket.send_str(answered(one, one["uri"]))
        await mute(socket)

    async with serving(scripted(backwards)) as url, streaming(url) as (stream, _):
        answers = await asyncio.gather(*(stream.ask(requests.channel(str(n))) for n in range(10)))
        assert [answer.body for answer in answers] == [f"channels/{n}" for n in range(10)]


async def test_a_late_answer_is_nobodys() -> None:
    go = asyncio.Event()

    async def late(socket: web.WebSocketResponse) -> None:
        asked = [json.loads(await socket.receive_str()) for _ in range(2)]
        await go.wait()
        for one in asked:
            await socket.send_str(answered(one))
        await polite(socket)

    async with serving(scripted(late)) as url, streaming(url) as (stream, _):
        with pytest.raises(AriUnreachable):
            await stream.ask(requests.ping(), timeout=0.02)
        go.set()
        assert (await stream.ask(requests.channels())).body == {"uri": "channels"}


async def test_what_is_posted_is_told_once_answered_late_or_lost(caplog: pytest.LogCaptureFixture) -> None:
    async def first_only(socket: web.WebSocketResponse) -> None:
        asked = [json.loads(await socket.receive_str()) for _ in range(3)]
        await socket.send_str(answered(asked[1], "yes"))
        asked.append(json.loads(await socket.receive_str()))
        await given_up.wait()
        await socket.send_str(answered(asked[3], "late"))
        await socket.close()

    given_up = asyncio.Event()
    told: asyncio.Queue[tuple[int, Any]] = asyncio.Queue()

    def tell(number: int, answer: Any) -> None:
        told.put_nowait((number, answer))
        raise RuntimeError("not for me")

    async with serving(scripted(first_only, mute)) as url, streaming(url) as (stream, _):
        for number in (0, 2):
            stream.post(requests.ping(), partial(tell, number))
        found = [await told.get()]
        stream.post(requests.ping(), partial(tell, 1), timeout=0.02)
        found.append(await told.get())
        given_up.set()
        found.append(await told.get())
        assert [number for number, _ in found] == [0, 1, 2]
        assert found[0][1] == Answer(200)
        assert "no answer within 0 s" in str(found[1][1])
        assert "the event connection was lost" in str(found[2][1])
        await stream.close()
        assert stream._clock is None
        with pytest.raises(AriUnreachable, match="nothing was sent"):
            stream.post(requests.ping(), partial(tell, 9))
        assert told.empty()
    assert caplog.text.count("the answer to GET /asterisk/ping was not handled") == 3


@given(
    st.text(max_size=20),
    st.lists(st.tuples(st.text(max_size=9), st.text(max_size=9)), max_size=3),
    st.none() | st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=3),
)
def test_a_message_holds_the_whole_request(
    path: str, query: list[tuple[str, str]], body: dict[str, str] | None
) -> None:
    message = json.loads(_message(Request("POST", "/" + path, tuple(query), body), "7"))
    assert (message["type"], message["request_id"], message["uri"]) == ("RESTRequest", "7", path)
    assert [(p["name"], p["value"]) for p in message.get("query_strings", [])] == query
    assert (json.loads(message["message_body"]) if body is not None else None) == body


@pytest.mark.parametrize(
    ("query", "body", "why"),
    [
        ((("name", "half \ud83d"),), None, "surrogates not allowed"),
        ((), {"variables": {"NAME": "half \ude00"}}, "surrogates not allowed"),
        ((), {"variables": {"NAME": {"a set"}}}, "set is not JSON serializable"),
        ((), {"share": float("nan")}, "not JSON compliant"),
    ],
)
async def test_what_has_no_bytes_is_refused_before_it_is_sent(query: Any, body: Any, why: str) -> None:
    request = Request("POST", "/x", query, body)
    with pytest.raises(UsageFault, match=f"what POST /x is given cannot be sent: .*{why}"):
        _message(request, "7")
    async with serving(scripted(polite)) as url, ARIClient(url, "u", "p") as ari:
        with pytest.raises(UsageFault, match=f"what POST /x is given cannot be sent: .*{why}"):
            await ari.ask(request)


def test_a_name_that_is_a_member_of_an_enumeration_is_text() -> None:
    class Name(StrEnum):
        TENANT = "TENANT_ID"

    message = json.loads(
        _message(Request("POST", "/x", ((Name.TENANT, Name.TENANT),), {Name.TENANT: 1}), "7")
    )
    assert message["query_strings"] == [{"name": "TENANT_ID", "value": "TENANT_ID"}]
    assert json.loads(message["message_body"]) == {"TENANT_ID": 1}


# --- events -------------------------------------------------------------------------------------------------


async def test_an_exception_in_on_event_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def three(socket: web.WebSocketResponse) -> None:
        for n in range(3):
            await socket.send_str(json.dumps({"type": "StasisEnd", "n": n}))
        await mute(socket)

    seen: asyncio.Queue[Any] = asyncio.Queue()

    def fussy(event: Any) -> None:
        seen.put_nowait(event["n"])
        if event["n"] == 1:
            raise KeyError("not for me")

    async with serving(scripted(three)) as url, streaming(url, on_event=fussy) as (stream, _):
        assert [await seen.get() for _ in range(3)] == [0, 1, 2]
        assert stream.connected
    assert "an event of type StasisEnd was not handled" in caplog.text


async def test_exceptions_in_the_other_callbacks_end_nothing(caplog: pytest.LogCaptureFixture) -> None:
    again = asyncio.Event()

    async def short(socket: web.WebSocketResponse) -> None:
        await socket.close()

    async def long(socket: web.WebSocketResponse) -> None:
        again.set()
        await mute(socket)

    async def up() -> None:
        raise RuntimeError("up")

    def down(reason: str) -> None:
        raise RuntimeError(reason)

    async with serving(scripted(short, short, long)) as url, streaming(url, on_up=up, on_down=down):
        await again.wait()
    assert "on_up of the event stream" in caplog.text
    assert "on_down of the event stream" in caplog.text


@pytest.mark.parametrize("rubbish", ["", "{", "[]", "7", '{"kind": "x"}', "\0"])
async def test_rubbish_is_a_lost_connection_and_not_the_end(rubbish: str) -> None:
    async def rude(socket: web.WebSocketResponse) -> None:
        await socket.send_str(rubbish)
        await mute(socket)

    async with serving(scripted(rude, polite)) as url, streaming(url) as (stream, told):
        assert "no event of ARI" in await told.downs.get()
        await told.ups.get()
        assert (await stream.ask(requests.ping())).status == 200


async def test_an_answer_that_is_none_is_a_lost_connection() -> None:
    async def rude(socket: web.WebSocketResponse) -> None:
        await socket.send_str('{"type": "RESTResponse"}')
        await mute(socket)

    async with serving(scripted(rude, polite)) as url, streaming(url) as (_, told):
        assert "no event of ARI" in await told.downs.get()
        await told.ups.get()


async def test_an_answer_whose_body_is_rubbish_loses_the_connection_and_leaves_nobody_waiting() -> None:
    async def rude(socket: web.WebSocketResponse) -> None:
        await socket.receive_str()
        asked = json.loads(await socket.receive_str())
        await socket.send_str(answered(asked).replace('"null"', '"{"'))
        await mute(socket)

    async with serving(scripted(rude, polite)) as url, streaming(url) as (stream, _):
        with pytest.raises(AriUnreachable, match="the event connection was lost"):
            await stream.ask(requests.channels(), timeout=3600)


@pytest.mark.parametrize("code", [1000, 1001, 1011, 4001])
async def test_a_farewell_of_the_other_side_is_told_with_its_code(code: int) -> None:
    async def leave(socket: web.WebSocketResponse) -> None:
        await socket.close(code=code)

    async with serving(scripted(leave, mute)) as url, streaming(url) as (_, told):
        assert await told.downs.get() == f"Asterisk closed it ({code})"


async def test_on_up_is_ended_by_the_next_loss() -> None:
    lose = asyncio.Event()
    ended: asyncio.Queue[str] = asyncio.Queue()

    async def short(socket: web.WebSocketResponse) -> None:
        await socket.close()

    async def until_told(socket: web.WebSocketResponse) -> None:
        await lose.wait()
        await socket.close()

    async def up() -> None:
        lose.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.put_nowait("cancelled")
            raise

    async with serving(scripted(short, until_told, mute)) as url, streaming(url, on_up=up):
        assert await ended.get() == "cancelled"


async def test_on_up_may_close_the_stream() -> None:
    async def short(socket: web.WebSocketResponse) -> None:
        await socket.close()

    async with serving(scripted(short, mute)) as url:
        stream = EventStream(
            url, "u", "p", ["app"], on_event=lambda event: None, on_up=lambda: stream.close(), backoff=SOON
        )
        await stream.start()
        assert await asyncio.wait_for(stream.wait_failed(), 5) is None
        assert stream.state is State.CLOSED


@pytest.mark.parametrize("frame", [b"\x83\x00", b"\x81\x7f" + (2**40).to_bytes(8)])
async def test_a_broken_protocol_is_told_as_such(frame: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def rude(socket: web.WebSocketResponse) -> None:
        assert socket._req is not None
        assert socket._req.transport is not None
        socket._req.transport.write(frame)
        await mute(socket)

    async with serving(scripted(rude, mute)) as url, streaming(url) as (_, told):
        why = await told.downs.get()
        assert why.startswith("it is no websocket any more: ")
        await told.ups.get()
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_pings_of_the_other_side_are_answered() -> None:
    pong: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def pinging(socket: web.WebSocketResponse) -> None:
        await socket.ping(b"there?")
        async for message in socket:
            if message.type is WSMsgType.PONG and not pong.done():
                pong.set_result(message.data)

    async with serving(scripted(pinging)) as url, streaming(url):
        assert await pong == b"there?"


# --- connecting ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 101 Switch", b"HTTP/1.1 101 Switching Protocols\r\n"])
@pytest.mark.parametrize("end", [asyncio.Transport.close, asyncio.Transport.abort, reset])
async def test_a_connection_that_ends_before_it_is_a_websocket_is_tried_again(
    end: Callable[[asyncio.Transport], None], said: bytes
) -> None:
    """So Asterisk ends it when it dies or is about to begin; the first time, and when it was there before."""
    times = [0]

    async def begin(request: web.Request) -> web.StreamResponse:
        times[0] += 1
        if times[0] % 4:
            assert request.transport is not None
            request.transport.write(said)
            end(request.transport)
            return web.Response()
        return await scripted(short if times[0] == 4 else polite)(request)

    async def short(socket: web.WebSocketResponse) -> None:
        await socket.close()

    async with serving(begin) as url, streaming(url) as (stream, told):
        assert "closed it" in await told.downs.get()
        await told.ups.get()
        assert times == [8]
        assert (await stream.ask(requests.ping())).status == 200


async def test_connections_that_are_reset_at_once_are_tried_again() -> None:
    async with serving(scripted(polite)) as url, proxy(int(url.rpartition(":")[2])) as between:
        between.resets = 100
        async with streaming(between.url) as (stream, told):
            assert between.connections == 101
            between.resets = 100
            between.cut()
            await told.ups.get()
            assert (await stream.ask(requests.ping())).status == 200
        assert between.connections == 202


async def test_a_fault_of_ours_is_told_and_ends_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def faulty(self: EventStream, connection: object) -> str:
        monkeypatch.undo()
        raise AssertionError("a fault")

    monkeypatch.setattr(EventStream, "_attend", faulty)
    async with serving(scripted(polite)) as url, streaming(url) as (stream, told):
        assert "voxtractl itself failed" in await told.downs.get()
        await told.ups.get()
        assert (await stream.ask(requests.ping())).status == 200
    assert "a fault" in caplog.text


async def test_the_password_goes_into_the_header_and_nowhere_else() -> None:
    seen: list[web.Request] = []

    async def look(request: web.Request) -> web.StreamResponse:
        seen.append(request)
        return await scripted(mute)(request)

    async with serving(look) as url:
        stream = EventStream(url, "user", Secret("pä:ss"), ["a b", "c"], on_event=lambda event: None)
        await stream.start()
        await stream.close()
    (request,) = seen
    assert request.query == {"app": "a b,c"}
    assert "ss" not in request.path_qs
    assert b64decode(request.headers["Authorization"].removeprefix("Basic ")).decode() == "user:pä:ss"
    assert "Sec-WebSocket-Extensions" not in request.headers  # nothing is compressed


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refusal_is_final_and_shows_no_password(status: int) -> None:
    async def refuse(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status)

    async with serving(refuse) as url:
        stream = EventStream(url, "user", "secret", ["app"], on_event=lambda event: None, timeout=3600)
        with pytest.raises(AriAuthFailed) as failed:
            await stream.start()
    assert failed.value.status == status
    assert stream.state is State.FAILED
    assert failed.value.__cause__ is None
    assert failed.value.__suppress_context__


@pytest.mark.parametrize("way", ["ask", "post"])
async def test_a_401_to_a_request_ends_the_attached_stream_for_good(way: str) -> None:
    async def sour(socket: web.WebSocketResponse) -> None:
        for _ in range(2):
            await socket.send_str(answered(json.loads(await socket.receive_str())))
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await socket.send_str(answered(json.loads(message.data), status=401))

    async with serving(scripted(sour)) as url, ARIClient(url, "user", "secret") as ari:
        downs: list[str] = []
        stream = ari.stream(["app"], on_event=lambda event: None, on_down=downs.append)
        await stream.start()
        ari.attach(stream)
        await stream.ask(requests.ping())
        if way == "post":
            assert ari.post(requests.ping(), lambda answer: None)
        else:
            with pytest.raises(AriAuthFailed):
                await ari.ask(requests.ping())
        assert isinstance(await stream.wait_failed(), AriAuthFailed)
        assert stream.state is State.FAILED
        assert downs == [str(stream.failure)]
        await stream.close()
        assert stream.state is State.FAILED


@pytest.mark.parametrize("status", [200, 404, 500, 503])
async def test_what_is_no_websocket_is_tried_again_and_told_with_its_status(status: int) -> None:
    tries = 0

    async def other(request: web.Request) -> web.StreamResponse:
        nonlocal tries
        tries += 1
        return web.Response(status=status)

    async with serving(other) as url:
        stream = EventStream(
            url, "user", "secret", ["app"], on_event=lambda event: None, timeout=0.3, backoff=SOON
        )
        with pytest.raises(AriUnreachable, match=str(status)):
            await stream.start()
    assert tries > 1


async def test_start_can_be_given_up() -> None:
    asked = asyncio.Event()

    async def never(request: web.Request) -> web.StreamResponse:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with serving(never) as url:
        stream = EventStream(url, "user", "secret", ["app"], on_event=lambda event: None)
        starting = asyncio.create_task(stream.start())
        await asked.wait()
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
    assert stream.state is State.CLOSED


@pytest.mark.parametrize("given_up", ["closed", "timed out", "cancelled"])
async def test_a_stream_that_ends_in_its_handshake_stays_ended(given_up: str) -> None:
    """An Asterisk that stood still answers when it goes on."""
    asked, go_on = asyncio.Event(), asyncio.Event()
    ended = asyncio.Event()

    async def frozen(request: web.Request) -> web.StreamResponse:
        asked.set()
        socket = web.WebSocketResponse()
        try:
            await go_on.wait()
            with suppress(ConnectionError):
                await socket.prepare(request)
                await socket.send_str(json.dumps({"type": "StasisStart"}))
                await socket.receive()
        finally:
            ended.set()
        return socket

    told = Told()
    async with serving(frozen) as url:
        stream = EventStream(
            url,
            "u",
            "p",
            ["app"],
            on_event=told.events.put_nowait,
            on_up=told.up,
            timeout=0.2 if given_up == "timed out" else 60,
        )
        starting = asyncio.create_task(stream.start())
        await asked.wait()
        if given_up == "closed":
            await stream.close()
        elif given_up == "cancelled":
            starting.cancel()
        with pytest.raises((AriUnreachable, asyncio.CancelledError)):
            await asyncio.wait_for(starting, 5)
        go_on.set()
        await asyncio.wait_for(ended.wait(), 5)
    assert stream.state is State.CLOSED
    assert told.events.empty()
    assert told.ups.empty()


async def test_a_stream_that_is_given_up_as_it_becomes_a_websocket_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The websocket opens between the cancel and its arrival; uvloop closes it, as `create_connection` was
    cancelled, and refuses to write: with Ctrl-C in that moment a command never ended. That order is made
    here, for the moment cannot be met."""

    def refuse(*_: object) -> None:
        raise RuntimeError(
            "unable to perform operation on <TCPTransport closed=True …>; the handler is closed"
        )

    async with serving(scripted(mute)) as url:
        stream = EventStream(url, "u", "p", ["app"], on_event=lambda event: None)

        def part(connection: _Connection) -> Any:
            assert stream._first is not None
            assert connection.socket is not None
            stream._opened(stream._first, connection.socket)
            connection.socket = SimpleNamespace(send_close=refuse)  # type: ignore[assignment]
            return parts(connection)

        parts = _Connection.part
        await stream.start()
        monkeypatch.setattr(_Connection, "part", part)
        await asyncio.wait_for(stream.close(), 5)
        assert stream.state is State.CLOSED


async def test_an_app_that_our_own_older_handshake_took_is_taken_back_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries = 0

    async def begin(request: web.Request) -> web.StreamResponse:
        nonlocal tries
        tries += 1
        if tries == 1:
            monkeypatch.setattr("voxtractl.ari.stream.HANDSHAKE", 30.0)  # for the next ones
            await asyncio.Event().wait()
        return await scripted(replaced)(request)

    async def replaced(socket: web.WebSocketResponse) -> None:
        await socket.send_str(json.dumps({"type": "ApplicationReplaced", "application": "app"}))
        await mute(socket)

    monkeypatch.setattr("voxtractl.ari.stream.HANDSHAKE", 0.3)
    async with serving(begin) as url, streaming(url) as (stream, told):
        assert "an older try of ours" in await told.downs.get()
        assert isinstance(await stream.wait_failed(), AppReplaced)  # this one is somebody else's
        assert tries == 3


async def test_one_that_is_parting_reads_on_when_its_apps_are_gone() -> None:
    asked = asyncio.Event()

    async def parts(socket: web.WebSocketResponse) -> None:
        await asked.wait()
        for event in ({"type": "ApplicationReplaced", "application": "app"}, {"type": "StasisEnd"}):
            await socket.send_str(json.dumps(event))
        await mute(socket)

    taken: list[str] = []
    async with serving(scripted(parts)) as url, streaming(url, on_taken=taken.append) as (stream, told):
        stream.parting = True
        asked.set()
        assert (await told.events.get())["type"] == "StasisEnd"
        assert taken == ["app"]
        assert stream.connected


async def test_streams_of_one_asterisk_begin_one_after_the_other() -> None:
    at_once = most = 0

    async def slow(request: web.Request) -> web.StreamResponse:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.02)
        at_once -= 1
        return await scripted(mute)(request)

    async with serving(slow) as url, ARIClient(url, "user", "secret") as ari:
        streams = [ari.stream([f"app-{number}"], on_event=lambda event: None) for number in range(5)]
        await asyncio.gather(*(stream.start() for stream in streams))
        assert most == 1
        for stream in streams:
            await stream.close()


def test_many_apps_get_more_time_for_their_handshake() -> None:
    one, many = (
        EventStream("http://pbx", "u", "p", [f"app-{number}" for number in range(count)], on_event=print)
        for count in (1, 200)
    )
    assert many.patience > 2 * one.patience


async def test_handshakes_that_are_given_up_leave_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("voxtractl.ari.stream.HANDSHAKE", 0.05)
    opened = 0
    over: asyncio.Queue[None] = asyncio.Queue()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        with suppress(ConnectionError):
            await reader.read(-1)  # until the other side ends it
        writer.close()
        over.put_nowait(None)

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        stream = EventStream(url, "u", "p", ["app"], on_event=lambda event: None, timeout=0.5, backoff=SOON)
        with pytest.raises(AriUnreachable, match="no answer to the websocket within"):
            await stream.start()
        assert opened > 1
        async with asyncio.timeout(3):  # picows' own patience is 5 s
            for _ in range(opened):
                await over.get()


@pytest.mark.parametrize(
    ("apps", "why"),
    [
        ([], "at least one"),
        ([""], "no name"),
        (["a,b"], "no name"),
        (["x" * 74], "no name"),
        (["ö" * 37], "no name"),
        (["x" * 70] * 60, "60 apps make a request line of"),
    ],
)
def test_names_that_asterisk_cannot_take(apps: list[str], why: str) -> None:
    with pytest.raises(UsageFault, match=why):
        EventStream("http://127.0.0.1:1", "u", "p", apps, on_event=lambda event: None)


async def test_close_before_start_and_start_twice() -> None:
    async with serving(scripted(mute)) as url:
        stream = EventStream(url, "u", "p", ["app"], on_event=lambda event: None)
        await stream.start()
        with pytest.raises(RuntimeError, match="it is up"):
            await stream.start()
        await stream.close()
        unused = EventStream(url, "u", "p", ["app"], on_event=lambda event: None)
        await unused.close()
        assert await unused.wait_failed() is None


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_nobody_there_is_told_in_words_while_it_waits_and_at_the_end(
    host: str, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"http://{host}:{taken.getsockname()[1]}"
        stream = EventStream(url, "a", "b", ["app"], on_event=lambda event: None, timeout=0.5)
        with caplog.at_level("INFO", "voxtractl"), pytest.raises(AriUnreachable) as told:
            await stream.start()
    assert told.value.message.endswith(": connection refused")
    assert told.value.__suppress_context__  # how we waited is nobody's matter
    waits = [line for line in caplog.messages if line.startswith("waiting for Asterisk")]
    assert waits == [f"waiting for Asterisk at {url}: connection refused"]
