"""Apps that come and go while a node is served, on the real Asterisk: each brings a websocket with it, and
many are brought together on few while calls come."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from tests.live.conftest import NodeDocument
from tests.live.pbx import Pbx, pushed, serving, until
from tests.tools.proxy import proxy
from voxtractl.ari.stream import EventStream
from voxtractl.errors import AriError
from voxtractl.lab import Lab
from voxtractl.runtime import websockets
from voxtractl.runtime.hub import Hub
from voxtractl.runtime.session import CallSession
from voxtractl.runtime.websockets import STREAMS_MAX

APPS = [f"voxtra-t{number:02d}" for number in range(3 * STREAMS_MAX)]


@pytest.fixture
async def pbx(lab: Lab, node_document: NodeDocument) -> AsyncIterator[Pbx]:
    async with pushed(lab, node_document) as pbx:
        yield pbx


def of_asterisk(pbx: Pbx) -> set[str]:
    """The apps it knows; it cannot tell while one of them goes."""
    status, text = pbx.ari("GET", "applications")
    return {row["name"] for row in json.loads(text)} if status == 200 else set()


def comes(pbx: Pbx, app: str, far: str = "far-soon") -> None:
    status, text = pbx.ari("POST", "channels", endpoint=f"Local/s@{far}", app=app)
    assert status == 200, text


def of_streams(hub: Hub) -> list[str]:
    return sorted(app for stream in hub._web.streams for app in stream.apps)


async def waits(call: CallSession) -> None:
    await call.wait_ended()


async def test_apps_that_come_one_by_one_share_few_websockets_and_lose_no_call(pbx: Pbx) -> None:
    async with serving(pbx, waits) as (app, seen):
        hub = app._hubs[0]
        served = [app.app_name]
        taken: Counter[str] = Counter()

        async def calls() -> None:
            for number in range(400):
                name = served[number % len(served)]
                await asyncio.to_thread(comes, pbx, name)
                taken[name] += 1

        calling = [asyncio.create_task(calls()) for _ in range(2)]
        most = 0
        for name in APPS:
            hub.serve(name, app)
            await hub.register()
            most = max(most, len(hub._web.streams))
            served.append(name)
            await asyncio.sleep(0.05)
        for task in calling:
            task.cancel()
        await asyncio.wait(calling)
        assert most == STREAMS_MAX
        assert of_streams(hub) == sorted(served)
        comes(pbx, APPS[0])
        comes(pbx, APPS[-1])
        await until(lambda: seen.names().count("call_started") >= taken.total() + 2)
        await until(lambda: not hub.sessions, most=30)
    order: dict[str, list[str]] = {}
    for event in seen.events:
        order.setdefault(event["call_id"], []).append(event["event"])
    assert {tuple(name for name in names if name != "call_answered") for names in order.values()} == {
        ("call_started", "call_ended")
    }
    assert {event["cause"] for event in seen.ends()} == {16}


async def test_a_tenant_that_is_gone_gives_back_its_websocket_when_its_calls_are_over(pbx: Pbx) -> None:
    async with serving(pbx, waits) as (app, seen):
        hub = app._hubs[0]
        gone, busy = APPS[:2]
        for name in APPS[: STREAMS_MAX - 1]:
            hub.serve(name, app)
            await hub.register()
        comes(pbx, busy, "far-wait")
        call = await seen.call
        hub.leave(gone)
        hub.leave(busy)
        hub.serve("voxtra-new", app)
        await hub.register()  # one too many
        assert of_streams(hub) == sorted([app.app_name, *APPS[1 : STREAMS_MAX - 1], "voxtra-new"])
        assert len(hub._web.streams) == 2
        await until(lambda: gone not in of_asterisk(pbx))
        await call.hangup()
        await seen.ended()


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_cut_while_apps_move_loses_none_and_no_end(
    pbx: Pbx, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    monkeypatch.setattr(websockets, "MOVE_SECONDS", 1.0)
    async with (
        proxy(pbx.lab.http_port) as between,
        serving(pbx, waits, ari_url=between.url) as (app, seen),
    ):
        hub = app._hubs[0]
        for name in APPS[: STREAMS_MAX - 1]:
            hub.serve(name, app)
            await hub.register()
        comes(pbx, APPS[3], "far-wait")
        call = await seen.call
        start, cuts = EventStream.start, 0

        async def cut(stream: EventStream) -> None:
            nonlocal cuts
            if len(stream.apps) > 1 and not cuts:
                cuts += 1
                if moment == "before":
                    between.cut()
                    await asyncio.to_thread(pbx.ari, "DELETE", f"channels/{call.id}")
                await start(stream)
                between.cut()
                await asyncio.to_thread(pbx.ari, "DELETE", f"channels/{call.id}")
                return
            await start(stream)

        monkeypatch.setattr(EventStream, "start", cut)
        hub.serve("voxtra-new", app)
        while hub.waiting:  # as the supervisor does
            with suppress(AriError):
                await hub.register()
            await asyncio.sleep(0.05)
        assert cuts == 1
        await seen.ended()
        await until(lambda: hub.connected)
        names = [app.app_name, *APPS[: STREAMS_MAX - 1], "voxtra-new"]
        assert of_streams(hub) == sorted(names)
        assert not hub.taken
        for name in names:
            comes(pbx, name)
        await until(lambda: seen.names().count("call_ended") == 1 + len(names), most=30)


async def test_after_a_cut_no_app_is_deaf(pbx: Pbx) -> None:
    """Asterisk takes the old websocket down app by app while the new one registers them again."""
    names = [f"voxtra-{number:03d}" for number in range(300)]
    async with (
        proxy(pbx.lab.http_port) as between,
        serving(pbx, waits, ari_url=between.url) as (app, seen),
    ):
        hub = app._hubs[0]
        for name in names:
            hub.serve(name, app)
        await hub.register()
        for _ in range(3):
            between.cut()
            await until(lambda: not hub.connected)
            await until(lambda: hub.connected and set(names) <= of_asterisk(pbx), most=60)
        assert seen.events == []
