"""The listening server of an app and the breaker before Asterisk's media channels."""

import asyncio
from contextlib import suppress
from uuid import uuid4

import pytest

from voxtractl.audio import server as server_module
from voxtractl.errors import LocalProtocolError
from voxtractl.runtime.app import CALL, VoxtraApp
from voxtractl.runtime.event_loop import new_tenant_loop
from voxtractl.runtime.media import Breaker


async def test_the_first_legs_of_an_app_may_come_at_once() -> None:
    """They share one server, and each gets it listening; the second must not get it half begun."""
    app = VoxtraApp()
    servers = await asyncio.gather(*(app.audio_server() for _ in range(5)))
    assert len({id(server) for server in servers}) == 1
    leg = servers[0].expect(uuid4(), 8000)
    await app.shut_down()
    assert leg.why == "ours"


async def test_apps_of_one_loop_listen_and_stop_on_their_own() -> None:
    one, two = VoxtraApp(audio_host="127.0.0.2"), VoxtraApp(audio_host="127.0.0.3")
    first, second = (await one.audio_server()).address, (await two.audio_server()).address
    assert first.startswith("127.0.0.2:")
    await one.shut_down()
    assert not await answers(first)
    assert await answers(second)
    await two.shut_down()
    assert not await answers(second)
    assert await answers((await one.audio_server()).address)  # it is started once more
    await one.shut_down()


async def test_asterisk_may_be_told_another_address_than_the_one_listened_on() -> None:
    app = VoxtraApp(audio_host="127.0.0.2", audio_bind="0.0.0.0")
    address = (await app.audio_server()).address
    assert address.startswith("127.0.0.2:")
    assert await answers(address)
    assert await answers(address.replace("127.0.0.2", "127.0.0.3"))
    await app.shut_down()


async def answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except ConnectionRefusedError:
        return False
    writer.close()
    return True


def test_what_the_port_for_sound_tells_is_not_of_the_call_that_opened_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[str | None] = []
    monkeypatch.setattr(server_module._log, "warning", lambda *_: calls.append(CALL.get()))

    async def tells() -> None:
        CALL.set("1")
        app = VoxtraApp()
        host, _, port = (await app.audio_server()).address.rpartition(":")
        assert CALL.get() == "1"
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        with suppress(ConnectionError):
            await reader.read()
        writer.close()
        await app.shut_down()

    with asyncio.Runner(loop_factory=new_tenant_loop) as runner:
        runner.run(tells())
    assert calls == [None]


async def test_a_server_that_cannot_begin_is_not_kept() -> None:
    app = VoxtraApp(audio_host="192.0.2.1")  # an address of nobody (RFC 5737)
    with pytest.raises(LocalProtocolError):
        await app.audio_server()
    app.audio_host = "127.0.0.1"
    await app.audio_server()
    await app.shut_down()


def test_a_breaker_opens_after_failures_in_a_row_and_lets_one_try_decide() -> None:
    breaker = Breaker(failures=3, rest=5.0)
    for good in (False, False, True, False, False):
        breaker.tell(0.0, good=good)
        assert breaker.check(0.0) == 0.0
    breaker.tell(1.0, good=False)
    assert breaker.check(2.0) == 4.0
    assert breaker.check(6.0) == 0.0
    breaker.tell(6.0, good=False)
    assert breaker.check(7.0) == 4.0
    breaker.tell(11.0, good=True)
    assert breaker.check(11.0) == 0.0
