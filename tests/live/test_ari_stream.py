"""The event stream against the real Asterisk: what it carries, how it is lost and found again.

Times are never asserted; a wait that never ends is ended by its own timeout and fails.
"""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from tests.live.conftest import LabFactory, needs
from tests.live.pbx import until
from tests.tools.proxy import proxy
from voxtractl.ari import addresses, requests
from voxtractl.ari.backoff import Backoff
from voxtractl.ari.client import ARIClient
from voxtractl.ari.events import Event
from voxtractl.ari.release import REQUESTS
from voxtractl.ari.requests import Request
from voxtractl.ari.stream import MESSAGE_MAX, EventStream, State
from voxtractl.errors import AppReplaced, AriAuthFailed, AriUnreachable, UsageFault
from voxtractl.lab import Lab

SOON = Backoff(first=0.02, most=0.2)


class Watch:
    """Everything a stream tells, in order: events, ("down", why), ("up",)."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[Any] = asyncio.Queue()

    def event(self, event: Event) -> None:
        self.told.put_nowait(event)

    def down(self, reason: str) -> None:
        self.told.put_nowait(("down", reason))

    async def up(self) -> None:
        self.told.put_nowait(("up",))

    def taken(self, app: str) -> None:
        self.told.put_nowait(("taken", app))

    async def next(self, wanted: Callable[[Any], bool], seconds: float = 30) -> Any:
        async with asyncio.timeout(seconds):
            while not wanted(found := await self.told.get()):
                pass
            return found

    async def went_down(self) -> str:
        found = await self.next(lambda told: isinstance(told, tuple))
        assert found[0] == "down"
        return str(found[1])

    async def came_up(self) -> None:
        assert await self.next(lambda told: isinstance(told, tuple)) == ("up",)

    async def start_of(self, channel: str) -> Any:
        return await self.next(
            lambda told: (
                isinstance(told, dict) and told["type"] == "StasisStart" and told["channel"]["id"] == channel
            )
        )


def an_app() -> str:
    return f"stream-{uuid4().hex}"


@asynccontextmanager
async def streaming(
    lab: Lab, *apps: str, url: str | None = None, timeout: float = 20
) -> AsyncIterator[tuple[EventStream, Watch]]:
    watch = Watch()
    stream = EventStream(
        url or lab.ari_url,
        lab.ari_user,
        lab.ari_password,
        apps or (an_app(),),
        on_event=watch.event,
        on_up=watch.up,
        on_down=watch.down,
        on_taken=watch.taken,
        timeout=timeout,
        backoff=SOON,
    )
    await stream.start()
    try:
        yield stream, watch
    finally:
        await stream.close()


def _of(lab: Lab, apps: list[str], *, url: str | None = None, **more: Any) -> EventStream:
    """A stream that nobody watches, not started."""
    return EventStream(
        url or lab.ari_url, lab.ari_user, lab.ari_password, apps, on_event=lambda event: None, **more
    )


@asynccontextmanager
async def calling(lab: Lab, app: str) -> AsyncIterator[tuple[ARIClient, str]]:
    """A client over HTTP, and a channel that was sent to the app; hung up afterwards."""
    async with ARIClient(lab.ari_url, lab.ari_user, lab.ari_password) as ari:
        id = uuid4().hex
        await ari.request(requests.create("Local/s@default", app, channel_id=id))
        try:
            yield ari, id
        finally:
            await ari.ask(requests.hangup(id))


# --- what it carries --------------------------------------------------------------------------------------


async def test_events_of_several_apps_come_in_order(lab: Lab) -> None:
    needs(lab, REQUESTS)
    apps = [an_app(), an_app()]
    async with streaming(lab, *apps) as (stream, watch):
        for app in apps:
            async with calling(lab, app) as (_, id):
                start = await watch.start_of(id)
                assert start["application"] == app
                names = [f"N{n}" for n in range(100)]
                for name in names:
                    await stream.ask(requests.set_variable(id, name, name))
                seen: list[str] = []
                while len(seen) < len(names):  # of this channel: the end of the one before may be told late
                    told = await watch.next(lambda told: told["type"] == "ChannelVarset")
                    if told["channel"]["id"] == id:
                        seen.append(told["variable"])
                assert seen == names


async def test_a_thousand_requests_at_once_get_their_own_answers(lab: Lab) -> None:
    needs(lab, REQUESTS)
    async with streaming(lab) as (stream, _):
        names = [f"T{n}" for n in range(1000)]
        asked = [Request("GET", "/deviceStates/Stasis%3A" + name) for name in names]
        answers = await asyncio.gather(*(stream.ask(request) for request in asked))
        assert [answer.body["name"] for answer in answers] == [f"Stasis:{name}" for name in names]


async def test_the_longest_message_is_taken(lab: Lab) -> None:
    """One byte more and Asterisk drops the connection; so `takes` says no."""
    needs(lab, REQUESTS)
    async with streaming(lab) as (stream, watch):
        await stream.ask(requests.ping())

        def padded(size: int) -> Request:
            return Request("POST", "/nowhere", body={"x": "y" * size})

        size = next(n for n in range(MESSAGE_MAX, 0, -1) if stream.takes(padded(n)))
        assert (await stream.ask(padded(size))).status == 404
        assert not stream.takes(padded(size + 1))
        assert stream.connected
        assert watch.told.empty()


async def test_as_many_apps_as_the_request_line_holds(lab: Lab) -> None:
    """The line's limit is exact: a list of names that fills it is registered whole."""
    names = [f"{n:03}" + "x" * 69 for n in range(55)]  # 55 * 73 bytes with their commas: 4015

    def fits(size: int) -> bool:
        try:
            _of(lab, [*names, "y" * size])
        except UsageFault:
            return False
        return True

    longest = "y" * max(size for size in range(1, 74) if fits(size))
    assert not fits(len(longest) + 1)
    async with streaming(lab, *names, longest):
        async with ARIClient(lab.ari_url, lab.ari_user, lab.ari_password) as ari:
            registered = {row["name"] for row in await ari.request(requests.applications())}
        assert registered >= {*names, longest}


async def test_the_client_sends_over_the_stream_what_it_takes(lab: Lab) -> None:
    needs(lab, REQUESTS)
    async with (
        proxy(lab.http_port) as between,
        ARIClient(between.url, lab.ari_user, lab.ari_password) as ari,
    ):
        stream = ari.stream([an_app()], on_event=lambda event: None)
        await stream.start()
        ari.attach(stream)
        await stream.ask(requests.ping())
        assert between.connections == 1
        for _ in range(10):
            await ari.request(requests.ping())
        assert between.connections == 1
        await ari.reload("app_queue.so")  # slow, so over HTTP
        assert between.connections == 2
        await stream.close()
        assert await ari.request(requests.ping())  # the stream is gone, HTTP is there


# --- how it is lost and found -----------------------------------------------------------------------------


async def test_a_cut_is_told_and_the_stream_comes_back(lab: Lab) -> None:
    app = an_app()
    async with proxy(lab.http_port) as between, streaming(lab, app, url=between.url) as (_, watch):
        for _ in range(3):
            between.cut()
            await watch.went_down()
            await watch.came_up()
            async with calling(lab, app) as (_, id):
                await watch.start_of(id)
        assert between.connections == 4


async def test_one_that_is_not_to_come_back_ends_with_its_connection(lab: Lab) -> None:
    async with proxy(lab.http_port) as between, streaming(lab, url=between.url) as (stream, watch):
        stream.parting = True
        between.cut()
        await watch.went_down()
        assert await asyncio.wait_for(stream.wait_failed(), 10) is None
        assert stream.state is State.CLOSED
        assert between.connections == 1


async def test_what_was_on_its_way_when_it_was_cut_fails_at_once(lab: Lab) -> None:
    needs(lab, REQUESTS)
    async with proxy(lab.http_port) as between, streaming(lab, url=between.url) as (stream, watch):
        await stream.ask(requests.ping())
        between.freeze()
        waiting = [asyncio.create_task(stream.ask(requests.ping(), timeout=3600)) for _ in range(20)]
        await asyncio.sleep(0)
        between.cut()
        for ended in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(ended, AriUnreachable)
            assert "unknown" in str(ended)
        between.thaw()
        await watch.went_down()
        await watch.came_up()
        assert (await stream.ask(requests.ping())).status == 200


async def test_connections_that_are_reset_are_tried_again(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    needs(lab, REQUESTS)
    async with proxy(lab.http_port) as between:
        between.resets = 20
        async with streaming(lab, url=between.url) as (stream, watch):
            between.resets = 20
            between.cut()
            await watch.went_down()
            await watch.came_up()
            assert (await stream.ask(requests.ping())).status == 200
        assert between.connections == 42
    assert "the event stream of" not in caplog.text  # no fault of ours


async def test_a_silent_network_is_noticed(lab: Lab) -> None:
    async with proxy(lab.http_port) as between, streaming(lab, url=between.url) as (_, watch):
        between.freeze()
        assert "pings" in await watch.went_down()
        between.thaw()
        await watch.came_up()


async def test_a_quiet_asterisk_is_not_taken_for_dead(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("voxtractl.ari.stream.PING", 0.2)
    async with proxy(lab.http_port) as between, streaming(lab, url=between.url) as (stream, watch):
        await asyncio.sleep(2)  # ten pings long nothing happens; that is the test
        assert stream.connected
        assert watch.told.empty()
        assert between.connections == 1


def stands_still(pid: int) -> bool:
    """Whether SIGSTOP has reached every thread: one on another core runs on for a moment, and answers."""
    stats = [(task / "stat").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)


async def test_a_frozen_asterisk_is_noticed_and_found_again(own_lab: LabFactory) -> None:
    lab = own_lab()
    assert lab.pid is not None
    app = an_app()
    async with streaming(lab, app) as (stream, watch):
        os.kill(lab.pid, signal.SIGSTOP)
        try:
            await until(partial(stands_still, lab.pid))
            asked = asyncio.create_task(stream.ask(requests.ping(), timeout=3600))
            await watch.went_down()
            with pytest.raises(AriUnreachable, match="unknown"):
                await asked
        finally:
            os.kill(lab.pid, signal.SIGCONT)
        await watch.came_up()
        async with calling(lab, app) as (_, id):
            await watch.start_of(id)


async def test_a_killed_asterisk_is_found_again(own_lab: LabFactory) -> None:
    lab = own_lab()
    app = an_app()
    async with streaming(lab, app) as (stream, watch):
        lab.kill()
        await watch.went_down()
        assert stream.state is State.DOWN
        with pytest.raises(AriUnreachable, match="nothing was sent"):
            await stream.ask(requests.ping())
        await asyncio.to_thread(lab.start)
        await watch.came_up()
        async with calling(lab, app) as (_, id):
            await watch.start_of(id)


# --- how it ends ------------------------------------------------------------------------------------------


async def test_a_wrong_password_ends_the_start_at_once(lab: Lab) -> None:
    stream = EventStream(
        lab.ari_url, lab.ari_user, "wrong", [an_app()], on_event=lambda event: None, timeout=3600
    )
    with pytest.raises(AriAuthFailed, match="wrong name or password") as failed:
        await stream.start()
    assert stream.state is State.FAILED
    assert await stream.wait_failed() is failed.value
    assert "wrong" not in repr(failed.value.__cause__)


async def test_a_password_that_is_refused_later_ends_the_stream(own_lab: LabFactory) -> None:
    lab = own_lab()
    async with proxy(lab.http_port) as between, streaming(lab, url=between.url) as (stream, watch):
        ari_conf = lab.config_dir / "ari.conf"
        ari_conf.write_text(ari_conf.read_text().replace(lab.ari_password.reveal(), "another"))
        lab.cli("module reload res_ari.so")
        between.cut()
        await watch.went_down()
        assert "password" in await watch.went_down()
        assert isinstance(await stream.wait_failed(), AriAuthFailed)
        assert (stream.state, between.connections) == (State.FAILED, 2)


async def test_an_app_taken_by_another_process_ends_the_stream(lab: Lab) -> None:
    app = an_app()
    async with streaming(lab, app) as (first, watch), streaming(lab, app) as (second, other):
        assert await watch.next(lambda told: isinstance(told, tuple)) == ("taken", app)
        assert app in await watch.went_down()
        assert isinstance(await first.wait_failed(), AppReplaced)
        assert first.state is State.FAILED
        async with calling(lab, app) as (_, id):
            await other.start_of(id)
        assert second.connected


async def test_of_two_apps_one_may_be_taken_and_the_other_stays(lab: Lab) -> None:
    mine, other = an_app(), an_app()
    async with streaming(lab, mine, other) as (stream, watch):
        async with streaming(lab, other) as (_, theirs):
            assert await watch.next(lambda told: isinstance(told, tuple)) == ("taken", other)
            assert stream.apps == (mine,)
            async with calling(lab, other) as (_, id):
                await theirs.start_of(id)
            async with calling(lab, mine) as (_, id):
                await watch.start_of(id)
        assert stream.state is State.UP


async def test_nobody_there_is_told_after_the_timeout(lab: Lab) -> None:
    async with proxy(1) as between:  # nobody listens on port 1
        stream = _of(lab, [an_app()], url=between.url, timeout=0.2)
        with pytest.raises(AriUnreachable, match="no event connection within"):
            await stream.start()
        assert stream.state is State.CLOSED


@contextmanager
def dead_end() -> Iterator[tuple[str, int]]:
    """An address that answers nobody, like one behind a firewall: as many as may wait there do."""
    with contextlib.ExitStack() as sockets:
        full = sockets.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        yield full.getsockname()


async def test_an_address_that_does_not_answer_holds_up_nobody(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs(lab, REQUESTS)
    tcp = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
    url = urlsplit(lab.ari_url)
    with dead_end() as dead:

        async def two(host: str, port: int) -> list[tuple[Any, ...]]:
            assert (host, port) == ("pbx.example", url.port)
            return [(*tcp, dead), (*tcp, (url.hostname, url.port))]

        monkeypatch.setattr(addresses, "_addresses", two)
        named = f"http://pbx.example:{url.port}"
        async with ARIClient(named, lab.ari_user, lab.ari_password, timeout=20) as ari:
            assert "system" in await ari.request(requests.info())
        async with streaming(lab, url=named) as (stream, _):
            assert (await stream.ask(requests.info())).status == 200
        monkeypatch.setattr(addresses, "NEXT", 20.0)  # as asyncio does it: for this one nobody waits so long
        async with ARIClient(named, lab.ari_user, lab.ari_password, timeout=1) as ari:
            with pytest.raises(AriUnreachable, match="no answer within 1 s"):
                await ari.request(requests.info())


async def test_it_starts_with_an_asterisk_that_starts_later(own_lab: LabFactory) -> None:
    lab = own_lab()
    lab.kill()
    stream = _of(lab, [an_app()], timeout=60, backoff=SOON)
    starting = asyncio.create_task(stream.start())
    await asyncio.to_thread(lab.start)
    await starting
    assert stream.connected
    await stream.close()


async def test_close_is_final_and_may_be_said_twice(lab: Lab) -> None:
    async with streaming(lab) as (stream, watch):
        await stream.close()
        await stream.close()
        assert stream.state is State.CLOSED
        assert await stream.wait_failed() is None
        assert watch.told.empty()
        with pytest.raises(RuntimeError, match="it is closed"):
            await stream.start()
        with pytest.raises(AriUnreachable):
            await stream.ask(requests.ping())
